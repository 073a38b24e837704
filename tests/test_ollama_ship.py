import argparse
import hashlib
import os
import socket
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from go_engine import go_render
from ollama_loopback import OllamaLoopback

from pushback_lib import ollama_ship
from pushback_lib.errors import PushbackError
from pushback_lib.llama_cpp import LlamaCpp
from pushback_lib.modelfile import Modelfile, modelfile
from pushback_lib.models import load_tokenizer
from pushback_lib.recipe import recipe_for
from pushback_lib.replies import Reply, split_reply

TINY = recipe_for("tiny")


@pytest.fixture
def gguf(tmp_path):
    """A GGUF of one header field, enough for a server that does not run it."""
    from gguf import GGUFWriter

    path = tmp_path / "a-Q8_0.gguf"
    writer = GGUFWriter(path, "qwen2")
    writer.add_file_type(7)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def main(argv):
    """`pushback ship ollama`, and what the command line does with an error."""
    parser = argparse.ArgumentParser()
    ollama_ship.add_arguments(parser)
    try:
        return ollama_ship.run(parser.parse_args(argv))
    except PushbackError as error:
        print(f"pushback: {error}", file=sys.stderr)
        return 2


def ship(server: OllamaLoopback, gguf: Path, *more: str, name: str = "pushback-test") -> int:
    return main([name, "--gguf", str(gguf), "--host", server.host, *more])


def test_it_makes_the_model_of_the_modelfile_and_shows_its_reply(gguf, capsys):
    with OllamaLoopback() as server:
        assert ship(server, gguf) == 0
        made = server.models["pushback-test:latest"]
        (digest,) = made["files"].values()
        assert digest == f"sha256:{hashlib.sha256(gguf.read_bytes()).hexdigest()}"
        assert server.blobs[digest] == gguf.read_bytes()
        meant = modelfile(TINY, load_tokenizer(TINY), "model.gguf")
        assert (made["template"], made["system"], made["license"]) == (meant.template, meant.system, list(meant.licence))
        assert made["parameters"] == meant.parameters
        assert server.chats[0]["think"] is True
        assert server.chats[0]["options"] == {"temperature": 0}
    printed, shown = capsys.readouterr()
    assert "\nthinking:\nRome is in Italy.\nanswer:\nNo, it is Paris.\n" in printed
    assert f"next:    OLLAMA_HOST={server.host} ollama run pushback-test\n" in printed
    assert "success" in shown, "no progress"
    assert "upload: 100%" in shown


def test_a_name_that_is_taken_stays_unless_replaced(gguf, capsys):
    with OllamaLoopback() as server:
        server.models["pushback-test:latest"] = {"template": "old", "system": ""}
        assert ship(server, gguf) == 2
        assert "Ollama has a model 'pushback-test' already. Choose another name, or overwrite it with --replace." in (
            capsys.readouterr().err
        )
        assert server.models["pushback-test:latest"]["template"] == "old"
        assert server.blobs == {}, "uploaded before the name was checked"
        assert ship(server, gguf, "--replace") == 0
        assert server.models["pushback-test:latest"]["template"] != "old"


def test_push_publishes_under_the_owners_name(gguf, capsys):
    with OllamaLoopback() as server:
        assert ship(server, gguf, "--push", name="anna/pushback") == 0
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
        (
            "unauthorised",
            "works here, but ollama.com did not take it (unauthorized: access denied). Sign in with `ollama signin`",
        ),
        ("offline", "failed while publishing anna/p: Head"),
    ],
)
def test_what_goes_wrong_on_the_server_is_said_with_its_cure(gguf, capsys, fault, said):
    with OllamaLoopback(fault) as server:
        assert ship(server, gguf, "--push", name="anna/p") == 2
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
        ("good", ["--model", "7b"], "No GGUF of '7b' comes along. Make one with `pushback ship gguf --model 7b`"),
        ("good", ["--model", "900b"], "No model called '900b'"),
    ],
)
def test_bad_input_is_refused_before_anything_is_sent(monkeypatch, capsys, name, more, said):
    monkeypatch.setattr(ollama_ship, "connect", lambda _: pytest.fail("asked the server"))
    assert main([*more, "--", name]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("name", ["a", "a-b_c.d", "a:q8_0", "anna/a", "anna/a:1", "registry.example:5000/anna/a:1", "cloud"])
def test_names_that_ollama_takes(name):
    ollama_ship.check_name(name)


def test_a_quantised_file_is_not_quantised_again(gguf, capsys):
    with OllamaLoopback() as server:
        assert ship(server, gguf, "--quantize", "q4_K_M") == 2
        assert "a-Q8_0.gguf is quantised already (file type 7)" in capsys.readouterr().err
        assert server.blobs == {}


def test_a_cut_off_file_is_named(tmp_path):
    (tmp_path / "half.gguf").write_bytes(b"GGUF\x03\x00\x00")
    with pytest.raises(PushbackError, match=r"half\.gguf is damaged"):
        ollama_ship.check_gguf(tmp_path / "half.gguf", "q4_K_M")


def test_no_ollama_running(gguf, capsys):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert main(["a", "--gguf", str(gguf), "--host", f"127.0.0.1:{port}"]) == 2
    assert f"No Ollama answers at 127.0.0.1:{port}. Install it from ollama.com, start it with `ollama serve`" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize("host", ["http://127.0.0.1:notaport", "http://[::1"])
def test_an_address_that_is_none(gguf, capsys, host):
    assert main(["a", "--gguf", str(gguf), "--host", host]) == 2
    assert "Mend --host or OLLAMA_HOST." in capsys.readouterr().err


def test_ollama_host_is_used_where_no_host_is_given(gguf, capsys, monkeypatch):
    with OllamaLoopback() as server:
        monkeypatch.setenv("OLLAMA_HOST", server.host)
        assert main(["a", "--gguf", str(gguf)]) == 0
        assert list(server.models) == ["a:latest"]
    assert "next:    ollama run a\n" in capsys.readouterr().out


@pytest.mark.slow
def test_the_live_tests_pass_where_all_but_ollama_is_real(tmp_path):
    """tests/test_ollama_live.py on the stand-in, with TEMPLATE rendered by Go and the uploaded file run by llama.cpp.

    Shows that they can run and what they expect; what Ollama makes of it only a real server shows.
    """
    tokenizer = load_tokenizer(TINY)

    @cache
    def llama():
        (tmp_path / "uploaded.gguf").write_bytes(next(iter(server.blobs.values())))
        return LlamaCpp(tmp_path / "uploaded.gguf")

    def render(made, messages, think):
        text = Modelfile("x.gguf", made["template"], made["parameters"], made["system"], ()).text
        return go_render(text, [{"messages": messages, "think": think}])["prompts"][0]

    def say(prompt):
        prompt = f"{tokenizer.bos_token}{prompt}"  # llama.cpp's add_bos_token
        text = llama().complete(prompt, TINY.max_new_tokens).text
        reply = split_reply(text) if prompt.endswith("<think>\n") else Reply("", text, True)  # as Ollama splits, or does not
        return reply.thought, reply.answer, len(llama().tokenise(prompt))

    with OllamaLoopback(render=render, say=say) as server:
        live = str(Path(__file__).with_name("test_ollama_live.py"))
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", live],
            env=os.environ | {"OLLAMA_HOST": server.host}, capture_output=True, text=True, check=False,
        )  # fmt: skip
    llama().close()
    assert done.returncode == 0, done.stdout
    assert "12 passed" in done.stdout
    assert server.models == {}, "the live tests leave models behind"
