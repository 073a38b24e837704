"""Both voices from a real streaming server on loopback, in both protocols."""

import threading
import time

import pytest
from streaming_server import StreamServer

from pushback_lib.chat.backend import Settings
from pushback_lib.chat.served import Served, ServedVoices
from pushback_lib.chat.turns import ReplyBuffer
from pushback_lib.core.common import VOICES, PushbackError
from pushback_lib.core.records import prompt_messages

ASKED = dict.fromkeys(VOICES, prompt_messages("Shall I?", "Think."))
SETTINGS = Settings(seed=4, temperature=0.5, max_tokens=77)


@pytest.fixture(scope="module")
def server():
    with StreamServer() as running:
        yield running


def ask(url, baseline, friction, stop=None, **options):
    voices = ServedVoices(Served(baseline, url, **options), Served(friction, url, **options))
    buffers = {voice: ReplyBuffer(voice) for voice in VOICES}
    for event in voices.stream(ASKED, SETTINGS, stop or threading.Event()):
        if event.voice:
            buffers[event.voice].add(event)
            if stop:
                stop.set()
    return {voice: buffer.reply() for voice, buffer in buffers.items()}


@pytest.mark.parametrize("path", ["", "/v1", "/v1/"])
@pytest.mark.parametrize("model", ["inline", "apart", "unopened", "prefilled", "together"])
def test_thinking_is_found_wherever_the_server_puts_it(server, path, model):
    for said in ask(server.url + path, model, model, prefilled=model == "prefilled").values():
        assert (said.thought, said.answer, said.end, said.tokens) == ("I wonder.", "No.", "stop", 42)


@pytest.mark.parametrize("path", ["", "/v1"])
def test_no_thinking_and_a_cut_off_reply_are_told(server, path):
    said = ask(server.url + path, "untagged", "cut")
    assert (said["baseline"].thought, said["baseline"].answer) == ("", "No.")
    assert (said["friction"].thought, said["friction"].answer, said["friction"].end) == ("I wonder", "", "length")


def test_both_are_asked_at_the_same_time_with_the_same_seed(server):
    """The server answers neither before both have come."""
    server.calls.clear()
    assert {said.end for said in ask(server.url + "/v1", "together", "together").values()} == {"stop"}
    sent = [{k: body[k] for k in ("seed", "temperature", "max_tokens", "messages")} for _, body, _ in server.calls]
    assert sent == [{"seed": 4, "temperature": 0.5, "max_tokens": 77, "messages": ASKED["baseline"]}] * 2


def test_ollama_gets_its_own_options(server):
    server.calls.clear()
    ask(server.url, "untagged", "untagged")
    path, body, _ = server.calls[0]
    assert path == "/api/chat"
    assert body["options"] == {"seed": 4, "temperature": 0.5, "num_predict": 77}


@pytest.mark.parametrize("path", ["", "/v1"])
def test_stop_closes_the_connection_so_that_the_server_stops(path):
    with StreamServer(pause=0.01) as slow:
        start = time.perf_counter()
        said = ask(slow.url + path, "endless", "endless", stop=threading.Event())
        assert time.perf_counter() - start < 30  # the whole would take a quarter of an hour
        assert "" in {one.end for one in said.values()}
        assert slow.broken.wait(20)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("http-401", "refused the key (HTTP 401). Set OPENAI_API_KEY"),
        ("http-404", "does not know the model 'http-404'"),
        ("http-500", "answered HTTP 500"),
        ("bad-line", "no piece of a chat: 'this is no JSON'"),
        ("error-line", "The server gave up: out of memory. Look at its log"),
    ],
)
@pytest.mark.parametrize("path", ["", "/v1"])
def test_a_voice_that_fails_says_why_and_the_other_goes_on(server, monkeypatch, path, model, words):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    said = ask(server.url + path, model, "apart")
    assert said["baseline"].end == "error"
    assert words in said["baseline"].error
    assert "sk-secret" not in said["baseline"].error
    assert (said["friction"].answer, said["friction"].end) == ("No.", "stop")


def test_the_key_is_sent_and_nothing_without_one(server, monkeypatch):
    for key, sent in (("sk-secret", "Bearer sk-secret"), ("", None)):
        monkeypatch.setenv("OPENAI_API_KEY", key)
        server.calls.clear()
        ask(server.url + "/v1", "untagged", "untagged")
        assert server.calls[0][2].get("Authorization") == sent


@pytest.mark.parametrize(("path", "cure"), [("", "ollama serve"), ("/v1", "its own start command")])
def test_no_server_is_told_with_its_cure(path, cure):
    with StreamServer() as gone:
        url = gone.url
    said = ask(url + path, "apart", "apart")
    assert all(f"No server answers at {url}{path}" in one.error and cure in one.error for one in said.values())


@pytest.mark.parametrize("url", ["localhost:11434", "", "ftp://host/v1", "http://"])
def test_what_is_no_url_is_refused_at_once(url):
    with pytest.raises(PushbackError, match="is not the URL of a server"):
        ServedVoices(Served("a", url), Served("b", url))


def test_a_megabyte_comes_whole(server):
    said = ask(server.url + "/v1", "megabyte", "untagged")
    assert len(said["baseline"].answer) == 1_000_000
