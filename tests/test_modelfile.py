from dataclasses import replace

import pytest
from go_engine import go_render

from pushback_lib.errors import PushbackError
from pushback_lib.modelfile import Modelfile, chat_tokens, licences, modelfile, write_modelfile
from pushback_lib.models import load_tokenizer
from pushback_lib.recipe import RECIPES, recipe_for
from pushback_lib.replies import join_reply

TINY = recipe_for("tiny")
CLOSED = join_reply("", "")  # a reply whose thought is empty: what a closed block looked like, had training shown one


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(TINY)


def user(text):
    return {"role": "user", "content": text}


def system(text):
    return {"role": "system", "content": text}


def assistant(text, thinking=""):
    return {"role": "assistant", "content": text, "thinking": thinking}


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
    ("earlier thoughts are dropped", [user("a"), assistant("b", "why\nnot"), user("c"), assistant("d"), user("e")],
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
def test_the_go_engine_renders_what_the_jinja_renders(tokenizer, think):
    text = modelfile(TINY, tokenizer, "tiny.gguf").text
    found = go_render(text, [{"messages": sent, "think": think} for _, sent, _ in CHATS])
    assert found["error"] == ""
    for (name, _, meant), got in zip(CHATS, found["prompts"], strict=True):
        wanted = jinja(tokenizer, meant)
        assert wanted.endswith("<think>\n")
        if think is False:  # the jinja has no such switch: its prompt, with the block closed before it begins
            wanted = wanted.removesuffix("<think>\n") + CLOSED
        assert got == wanted, f"{name}, think {think}: {wanted!r} -> {got!r}"


@pytest.mark.slow
def test_without_a_system_prompt_the_prompt_begins_with_the_user(tokenizer):
    text = modelfile(replace(TINY, system=""), tokenizer, "tiny.gguf").text
    assert "SYSTEM" not in text
    found = go_render(text, [{"messages": [user("a")], "think": True}])
    assert found["prompts"] == [jinja(tokenizer, [user("a")])] == ["<｜User｜>a<｜Assistant｜><think>\n"]


@pytest.mark.slow
def test_a_last_message_of_the_assistant_is_one_to_go_on_with(tokenizer):
    """As transformers' `continue_final_message`; with a thought (Ollama's second pass for JSON answers), as in training."""
    text = modelfile(TINY, tokenizer, "tiny.gguf").text
    begun = [user("a"), assistant("It is")]
    thought = [user("a"), assistant("", "Hm.")]
    found = go_render(text, [{"messages": begun, "think": True}, {"messages": thought, "think": True}])
    assert found["prompts"][0] == jinja(tokenizer, [SYS, *begun], continue_final_message=True)
    assert found["prompts"][1] == jinja(tokenizer, [SYS, user("a")]).removesuffix("<think>\n") + join_reply("Hm.", "")


@pytest.mark.slow
def test_messages_stand_at_the_head_of_every_chat(tokenizer):
    examples = [user('Say "hi".'), assistant("Hi:\nhi")]
    text = modelfile(TINY, tokenizer, "tiny.gguf", messages=examples).text
    found = go_render(text, [{"messages": [user("a")], "think": True}])
    assert found["prompts"] == [jinja(tokenizer, [SYS, *examples, user("a")])]


@pytest.mark.slow
def test_ollama_reads_every_command_as_it_was_meant(tokenizer):
    model = modelfile(TINY, tokenizer, "tiny.gguf")
    found = go_render(model.text)
    assert (found["open"], found["close"]) == ("<think>", "</think>"), "without these tags Ollama sees no thinking model"
    assert not {"tools", "toolcalls", "suffix"} & set(found["variables"]), "these would claim capabilities"
    got = {}
    for command in found["commands"]:
        got.setdefault(command["name"], []).append(command["args"])
    assert got["from"] == ["./tiny.gguf"]
    assert got["template"] == [model.template]
    assert got["system"] == [TINY.system]
    assert got["stop"] == ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"]
    assert {name: got[name] for name in ("temperature", "top_p", "repeat_penalty", "num_ctx", "num_predict")} == {
        "temperature": ["0.6"], "top_p": ["0.95"], "repeat_penalty": ["1.0"], "num_ctx": ["1024"], "num_predict": ["220"],
    }  # fmt: skip
    assert got["license"] == list(licences(TINY))


@pytest.mark.slow
@pytest.mark.parametrize(
    "text", ['He said "no".', '"Quoted"', 'ends in "', "two\nlines", " spaces around ", '""', "a\n\n", "# no"]
)
def test_texts_survive_the_quoting(tokenizer, text):
    model = modelfile(replace(TINY, system=text), tokenizer, "tiny.gguf", messages=[user(text)])
    got = {command["name"]: command["args"] for command in go_render(model.text)["commands"]}
    assert (got["system"], got["message"]) == (text, f"user: {text}")


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
def test_what_ollama_would_refuse_is_never_written(tokenizer, tmp_path, monkeypatch, change, said):
    good = modelfile(TINY, tokenizer, "tiny.gguf")
    monkeypatch.setattr("pushback_lib.modelfile.modelfile", lambda *_, **__: replace(good, **change))
    with pytest.raises(PushbackError, match=said):
        write_modelfile(TINY, tokenizer, "tiny.gguf", tmp_path / "Modelfile")
    assert list(tmp_path.iterdir()) == []


def test_the_file_is_the_text_with_plain_line_ends(tokenizer, tmp_path):
    out = write_modelfile(TINY, tokenizer, "tiny.gguf", tmp_path / "ship" / "Modelfile")
    assert out == tmp_path / "ship" / "Modelfile"
    assert out.read_bytes() == modelfile(TINY, tokenizer, "tiny.gguf").text.encode()
    assert [path.name for path in out.parent.iterdir()] == ["Modelfile"]


def test_tokens_come_from_the_tokenizer(tokenizer):
    other = load_tokenizer(TINY)
    other.chat_template = other.chat_template.replace("<｜User｜>", "<｜Assistant｜>")  # any other token it has
    assert chat_tokens(tokenizer).user == "<｜User｜>"
    assert chat_tokens(other).user == "<｜Assistant｜>"


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
    for name in set(RECIPES) - {"tiny"}:
        weights, base, adapter = licences(RECIPES[name])
        assert weights.startswith("DeepSeek-R1-Distill-Qwen-")
        assert "MIT" in weights
        assert "Apache-2.0" in base
        assert "Apache-2.0" in adapter
    own = replace(TINY, name="/somewhere/mine", base="/somewhere/mine")
    assert licences(own)[0] == "mine: see its model card"


def test_the_distills_get_a_longer_context(tokenizer):
    tokenizer = load_tokenizer(TINY)
    tokenizer.model_max_length = 131072
    assert isinstance(model := modelfile(recipe_for("7b"), tokenizer, "f.gguf"), Modelfile)
    assert (model.parameters["num_ctx"], model.parameters["num_predict"]) == (4096, 1024)
