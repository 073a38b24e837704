import hashlib
import os
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import pytest
from go_engine import go_render
from hub_ship import GGUF, SHIPPED, TINY, python
from ollama_loopback import OllamaLoopback

from pushback_lib.cli import main
from pushback_lib.core.common import PushbackError
from pushback_lib.core.records import Reply, join_reply, split_reply
from pushback_lib.model.llama_cpp import LlamaCpp
from pushback_lib.model.load import load_tokenizer
from pushback_lib.model.recipe import PLAIN_SAMPLING, RECIPES, recipe_for
from pushback_lib.ship import ollama as ollama_ship
from pushback_lib.ship.ollama import Modelfile, chat_tokens, licences

CLOSED = "<think>\n\n</think>\n\n"  # an empty thought, as DeepSeek's and Qwen's own templates close one


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(TINY)


@pytest.fixture(scope="module")
def model(tokenizer):
    return Modelfile.for_recipe(TINY, tokenizer, "tiny.gguf")


def prompts(model, *chats, think=True):
    """What the real Go engine renders for each chat."""
    found = go_render(model.text, [{"messages": chat, "think": think} for chat in chats])
    assert found["error"] == ""
    return found["prompts"]


def message(role, content, **thinking):
    return {"role": role, "content": content, **thinking}


system, user, assistant = (partial(message, role) for role in ("system", "user", "assistant"))


def jinja(tokenizer, messages, **options):
    """The published template's text after BOS, which Ollama's runtime adds by itself (`add_bos_token` in the GGUF)."""
    options = options or {"add_generation_prompt": True}
    return tokenizer.apply_chat_template(messages, tokenize=False, **options).removeprefix(tokenizer.bos_token)


# Name, what the client sends, and the messages that the jinja is to render for it, with the Modelfile's SYSTEM in force.
SYS = system(TINY.system)
CHATS = [
    ("one turn", [user("Is it so?")], [SYS, user("Is it so?")]),
    ("three turns", [user("a"), assistant("b"), user("c"), assistant("d"), user("e")],
     [SYS, user("a"), assistant("b"), user("c"), assistant("d"), user("e")]),
    ("earlier thoughts are dropped", [user("a"), assistant("b", thinking="why\nnot"), user("c"), assistant("d"), user("e")],
     [SYS, user("a"), assistant("b"), user("c"), assistant("d"), user("e")]),
    ("the client's own system prompt", [system("Be brief."), user("a")], [system("Be brief."), user("a")]),
    ("a system prompt that comes late", [user("a"), system("Be brief.")], [system(f"{TINY.system}\n\nBe brief."), user("a")]),
    ("neighbours are merged", [user("a"), user("b"), assistant("c"), assistant("d"), user("e")],
     [SYS, user("a\n\nb"), assistant("c\n\nd"), user("e")]),
    ("system prompts are joined", [system("One."), system("Two."), user("a")], [system("One.\n\nTwo."), user("a")]),
    ("braces, quotes, lines", [user('{{ .System }} "x"\n\n  y  \n')], [SYS, user('{{ .System }} "x"\n\n  y  \n')]),
    ("other scripts", [user("Ça va ? 日本 ｜ ▁ 🙂")], [SYS, user("Ça va ? 日本 ｜ ▁ 🙂")]),
    ("empty message", [user("")], [SYS, user("")]),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("think", [None, True, False], ids=["think unset", "think on", "think off"])
def test_the_go_engine_renders_what_the_jinja_renders(tokenizer, model, think):
    found = prompts(model, *(sent for _, sent, _ in CHATS), think=think)
    for (name, _, meant), got in zip(CHATS, found, strict=True):
        wanted = jinja(tokenizer, meant)
        assert wanted.endswith("<think>\n")
        if think is False:  # the jinja has no such switch: its prompt, with the block closed before it begins
            wanted = wanted.removesuffix("<think>\n") + CLOSED
        assert got == wanted, f"{name}, think {think}: {wanted!r} -> {got!r}"


@pytest.mark.slow
def test_without_a_system_prompt_the_prompt_begins_with_the_user(tokenizer):
    model = Modelfile.for_recipe(replace(TINY, system=""), tokenizer, "tiny.gguf")
    assert "SYSTEM" not in model.text
    assert prompts(model, [user("a")]) == [jinja(tokenizer, [user("a")])] == ["<｜User｜>a<｜Assistant｜><think>\n"]


@pytest.mark.slow
def test_a_last_message_of_the_assistant_is_one_to_continue(tokenizer, model):
    """As transformers' `continue_final_message`; with a thought (Ollama's second pass for JSON answers), as in training."""
    begun = [user("a"), assistant("It is")]
    after_begun, after_thought = prompts(model, begun, [user("a"), assistant("", thinking="Hm.")])
    assert after_begun == jinja(tokenizer, [SYS, *begun], continue_final_message=True)
    assert after_thought == jinja(tokenizer, [SYS, user("a")]).removesuffix("<think>\n") + join_reply("Hm.", "")


@pytest.mark.slow
def test_messages_stand_at_the_head_of_every_chat(tokenizer):
    examples = [user('Say "hi".'), assistant("Hi:\nhi")]
    model = Modelfile.for_recipe(TINY, tokenizer, "tiny.gguf", examples)
    assert prompts(model, [user("a")]) == [jinja(tokenizer, [SYS, *examples, user("a")])]


@pytest.mark.slow
def test_ollama_reads_every_command_as_it_was_meant(model):
    found = go_render(model.text)
    assert (found["open"], found["close"]) == ("<think>", "</think>"), "without these tags Ollama sees no thinking model"
    assert not {"tools", "toolcalls", "suffix"} & set(found["variables"]), "these would claim capabilities"
    got = {}
    for command in found["commands"]:
        got.setdefault(command["name"], []).append(command["args"])
    assert got == {
        "from": ["./tiny.gguf"], "template": [model.template], "system": [TINY.system], "license": list(licences(TINY)),
        "temperature": ["0.6"], "top_p": ["0.95"], "repeat_penalty": ["1.0"], "top_k": ["-1"], "min_p": ["0.0"],
        "presence_penalty": ["0.0"], "frequency_penalty": ["0.0"], "num_ctx": ["1024"], "num_predict": ["220"],
        "stop": ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"],
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    "text", ['He said "no".', '"Quoted"', 'ends in "', "two\nlines", " spaces around ", '""', "a\n\n", "# no"]
)
def test_texts_survive_the_quoting(tokenizer, text):
    model = Modelfile.for_recipe(replace(TINY, system=text), tokenizer, "tiny.gguf", [user(text)])
    got = {command["name"]: command["args"] for command in go_render(model.text)["commands"]}
    assert (got["system"], got["message"]) == (text, f"user: {text}")
    assert Modelfile.read(model.text) == model


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"system": 'a """ b'}, 'SYSTEM contains """, which ends a Modelfile value. Write it with other quotes.'),
        ({"system": "a\u00a0b"}, r"SYSTEM contains the character U\+00A0, which Ollama drops"),
        ({"system": "a\r\nb"}, r"SYSTEM contains the character U\+000D"),
        ({"gguf": "my model.gguf"}, "'my model.gguf' is no name for a GGUF"),
        ({"gguf": "../x.gguf"}, "is no name for a GGUF"),
        ({"gguf": "x.bin"}, "end in .gguf"),
        ({"messages": ({"role": "tool", "content": "x"},)}, "role 'tool'. Ollama takes system, user, assistant"),
        ({"messages": (user('"""'),)}, 'MESSAGE contains """'),
    ],
)
def test_what_ollama_would_refuse_is_never_written(model, tmp_path, change, said):
    with pytest.raises(PushbackError, match=said):
        replace(model, **change).write(tmp_path / "Modelfile")
    assert list(tmp_path.iterdir()) == []


def test_the_file_is_the_text_with_plain_line_ends(model, tmp_path):
    out = model.write(tmp_path / "ship" / "Modelfile")
    assert out == tmp_path / "ship" / "Modelfile"
    assert out.read_bytes() == model.text.encode()
    assert [path.name for path in out.parent.iterdir()] == ["Modelfile"]


def test_tokens_come_from_the_tokenizer(tokenizer):
    other = load_tokenizer(TINY)
    other.chat_template = other.chat_template.replace("<｜User｜>", "<｜Assistant｜>")  # any other token it has
    assert chat_tokens(tokenizer)["USER"] == "<｜User｜>"
    assert chat_tokens(other)["USER"] == "<｜Assistant｜>"


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}",  # another family
        "{{ bos_token }}{% for m in messages %}<U>{{ m.content }}{% endfor %}<think>\n",  # a marker that is no token
    ],
)
def test_another_familys_template_is_refused(template):
    tokenizer = load_tokenizer(TINY)
    tokenizer.chat_template = template
    with pytest.raises(PushbackError, match="not DeepSeek-R1-Distill's form"):
        chat_tokens(tokenizer)


def test_licences_name_what_the_weights_stand_under():
    assert licences(TINY) == ("Push-Back AI, model and adapter: Apache-2.0 (https://www.apache.org/licenses/LICENSE-2.0)",)
    assert [text.partition(":")[0] for text in licences(recipe_for("english"))] == [
        "SmolLM2-135M-Instruct, by Hugging Face", "Push-Back AI, friction adapter"
    ]  # fmt: skip
    assert licences(recipe_for("qwen3-4b"))[0].startswith("Qwen3-4B, by the Qwen team: Apache-2.0 (")
    for name in ("1.5b", "7b", "14b", "32b"):
        weights, base, adapter = licences(RECIPES[name])
        assert weights.startswith("DeepSeek-R1-Distill-Qwen-")
        assert "MIT" in weights
        assert all("Apache-2.0" in text for text in (base, adapter))
    own = replace(TINY, name="/somewhere/mine", base="/somewhere/mine")
    assert licences(own)[0] == "mine: see its model card"


def test_the_distills_get_a_longer_context():
    tokenizer = load_tokenizer(TINY)
    tokenizer.model_max_length = 131072
    model = Modelfile.for_recipe(recipe_for("7b"), tokenizer, "f.gguf")
    assert (model.parameters["num_ctx"], model.parameters["num_predict"]) == (4096, 1024)


def ship(server, *more, name="pushback-test"):
    return main(["ship", "ollama", name, "--gguf", str(SHIPPED / GGUF), "--host", server.url, *more])


def test_it_makes_the_model_of_the_modelfile_and_shows_its_reply(model, capsys):
    content = (SHIPPED / GGUF).read_bytes()
    with OllamaLoopback() as server:
        assert ship(server) == 0
        made = server.models["pushback-test:latest"]
        (digest,) = made["files"].values()
        assert digest == f"sha256:{hashlib.sha256(content).hexdigest()}"
        assert server.blobs[digest] == content
        assert (made["template"], made["system"], made["license"]) == (model.template, model.system, list(model.licence))
        assert made["parameters"] == model.parameters
        assert (server.calls[0]["think"], server.calls[0]["options"]) == (True, {"temperature": 0, **PLAIN_SAMPLING})
    printed, shown = capsys.readouterr()
    assert "\nthinking:\nRome is in Italy.\nanswer:\nNo, it is Paris.\n" in printed
    assert f"next:    OLLAMA_HOST={server.url} ollama run pushback-test\n" in printed
    assert "success" in shown, "no progress"
    assert f"Sending {GGUF} ({len(content) / 1e6:.1f} MB) to Ollama at {server.url}" in shown


def test_a_name_that_is_taken_stays_unless_replaced(capsys):
    with OllamaLoopback() as server:
        server.models["pushback-test:latest"] = {"template": "old", "system": ""}
        assert ship(server) == 2
        said = "Ollama has a model 'pushback-test' already. Choose another name, or overwrite it with --replace."
        assert said in capsys.readouterr().err
        assert server.models["pushback-test:latest"]["template"] == "old"
        assert server.blobs == {}, "uploaded before the name was checked"
        assert ship(server, "--replace") == 0
        assert server.models["pushback-test:latest"]["template"] != "old"


def test_push_publishes_under_the_owners_name(capsys):
    with OllamaLoopback() as server:
        assert ship(server, "--push", name="anna/pushback") == 0
        assert server.pushed == ["anna/pushback"]
    assert "anyone:  ollama pull anna/pushback" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("disk", "failed while making anna/p: write blobs/sha256-1: no space left on device. Free some room on its disk"),
        ("digest", "digest mismatch, expected"),
        ("create", "failed while making anna/p: unsupported architecture. Read its log"),
        ("cut", "broke while making anna/p"),
        ("unfinished", "stopped at 'parsing GGUF' and did not finish anna/p. Run the same command again."),
        ("blind", "Ollama made anna/p, but sees no thinking in it (only: completion). Update Ollama"),
        ("mute", "anna/p is made, but its reply had no answer."),
        ("unauthorised", "here, but ollama.com did not take it (unauthorized: access denied). Sign in with `ollama signin`"),
        ("offline", "failed while publishing anna/p: Head"),
    ],
)
def test_what_goes_wrong_on_the_server_is_said_with_its_cure(capsys, fault, said):
    with OllamaLoopback(fault) as server:
        assert ship(server, "--push", name="anna/p") == 2
        assert said in capsys.readouterr().err
        assert server.pushed == []


@pytest.mark.parametrize(
    ("name", "more", "said"),
    [
        ("a b", [], "'a b' is no name for Ollama"),
        ("-a", [], "is no name for Ollama"),
        ("a/b/c/d", [], "is no name for Ollama"),
        ("a:b:c", [], "is no name for Ollama"),
        ("ö", [], "is no name for Ollama"),
        ("a:cloud", [], "ends in `cloud`"),
        ("a:7b-cloud", [], "ends in `cloud`"),
        ("pushback", ["--push"], "'pushback' cannot be published without an owner. Use your ollama.com account: YOU/pushback."),
        ("good", ["--gguf", "nowhere.gguf"], "No GGUF at nowhere.gguf. Make one with `pushback ship gguf`"),
        ("good", ["--gguf", __file__], "is not a GGUF file"),
        ("good", ["--quantize", "q4_K_M"], f"{GGUF} is quantised already (file type 7)"),
        ("good", ["--model", "7b"], "No GGUF of '7b' comes along. Make one with `pushback ship gguf --model 7b`"),
        ("good", ["--model", "900b"], "No model called '900b'"),
    ],
)
def test_bad_input_is_refused_before_anything_is_sent(monkeypatch, capsys, name, more, said):
    monkeypatch.setattr(ollama_ship, "connect", lambda _: pytest.fail("asked the server"))
    assert main(["ship", "ollama", *more, "--", name]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("name", ["a", "a-b_c.d", "a:q8_0", "anna/a", "anna/a:1", "registry.example:5000/anna/a:1", "cloud"])
def test_names_that_ollama_takes(name):
    ollama_ship.check_name(name)


def test_a_cut_off_file_is_named(tmp_path):
    (tmp_path / "half.gguf").write_bytes(b"GGUF\x03\x00\x00")
    with pytest.raises(PushbackError, match=r"half\.gguf is damaged"):
        ollama_ship.check_gguf(tmp_path / "half.gguf", "q4_K_M")


@pytest.mark.parametrize(
    ("host", "said"),
    [
        ("127.0.0.1:9", "No Ollama answers at 127.0.0.1:9. Install it from ollama.com, start it with `ollama serve`"),
        ("http://127.0.0.1:notaport", "Correct --host or OLLAMA_HOST."),
        ("http://[::1", "Correct --host or OLLAMA_HOST."),
    ],
)
def test_no_ollama_running_and_an_address_that_is_none(capsys, host, said):
    assert main(["ship", "ollama", "a", "--host", host]) == 2
    assert said in capsys.readouterr().err


def test_ollama_host_is_used_where_no_host_is_given(capsys, monkeypatch):
    with OllamaLoopback() as server:
        monkeypatch.setenv("OLLAMA_HOST", server.url)
        assert main(["ship", "ollama", "a"]) == 0
        assert list(server.models) == ["a:latest"]
    assert "next:    ollama run a\n" in capsys.readouterr().out


@pytest.mark.slow
def test_the_live_tests_pass_where_all_but_ollama_is_real(tmp_path):
    """test_ollama_live.py on the stand-in, with TEMPLATE rendered by Go and the uploaded file run by llama.cpp.

    Shows that they can run and what they expect; what Ollama makes of it only a real server shows.
    """
    tokenizer = load_tokenizer(TINY)

    @cache
    def llama():
        (tmp_path / "uploaded.gguf").write_bytes(next(iter(server.blobs.values())))
        return LlamaCpp(tmp_path / "uploaded.gguf")

    def render(made, messages, think):
        model = Modelfile("x.gguf", made["template"], made["parameters"], made["system"], ())
        return prompts(model, messages, think=think)[0]

    def say(prompt):
        prompt = f"{tokenizer.bos_token}{prompt}"  # llama.cpp's add_bos_token
        text = llama().complete(prompt, TINY.max_new_tokens).text
        reply = split_reply(text) if prompt.endswith("<think>\n") else Reply(answer=text)  # as Ollama splits, or does not
        return reply.thought, reply.answer, len(llama().tokenise(prompt))

    with OllamaLoopback(render=render, say=say) as server:
        code = "import sys, pytest; sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', *sys.argv[1:]]))"
        live = str(Path(__file__).with_name("test_ollama_live.py"))
        done = python(code, live, env=os.environ | {"OLLAMA_HOST": server.url})
    llama().close()
    assert done.returncode == 0, done.stdout
    assert "12 passed" in done.stdout
    assert server.models == {}, "the live tests leave models behind"
