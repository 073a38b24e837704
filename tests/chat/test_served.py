"""Both voices from a real streaming server on loopback, in both protocols."""

import threading
import time

import pytest
from chat_turns import listen
from streaming_server import StreamServer

from pushback_lib.chat.served import Served, ServedVoices
from pushback_lib.core.common import PushbackError
from pushback_lib.core.records import prompt_messages
from pushback_lib.model.recipe import PLAIN_SAMPLING
from pushback_lib.model.server import plain_sampling

ASKED = prompt_messages("Shall I?", "Think.")
BOTH_PROTOCOLS = pytest.mark.parametrize("path", ["", "/v1"])


@pytest.fixture(scope="module")
def server():
    with StreamServer() as running:
        yield running


def ask(url, baseline, friction, stop=None, **options):
    """Both replies; `stop` is set at the first event."""
    voices = ServedVoices(Served(baseline, url, **options), Served(friction, url, **options))
    return listen(voices, ASKED, stop, lambda _: stop and stop.set(), seed=4, temperature=0.5, max_tokens=77)


@pytest.mark.parametrize("path", ["", "/v1", "/v1/"])
@pytest.mark.parametrize("model", ["inline", "apart", "unopened", "prefilled", "together"])
def test_thinking_is_found_wherever_the_server_puts_it(server, path, model):
    for said in ask(server.url + path, model, model, prefilled=model == "prefilled").values():
        assert (said.thought, said.answer, said.end, said.tokens) == ("I wonder.", "No.", "stop", 42)


@BOTH_PROTOCOLS
def test_no_thinking_and_a_cut_off_reply_are_told(server, path):
    said = ask(server.url + path, "untagged", "cut")
    assert (said["baseline"].thought, said["baseline"].answer) == ("", "No.")
    assert (said["friction"].thought, said["friction"].answer, said["friction"].end) == ("I wonder", "", "length")


def test_both_are_asked_at_the_same_time_with_the_same_seed(server):
    """The server answers neither before both have come."""
    server.calls.clear()
    assert {said.end for said in ask(server.url + "/v1", "together", "together").values()} == {"stop"}
    expected = {"seed": 4, "temperature": 0.5, "max_tokens": 77, "messages": ASKED, **plain_sampling(server.url)}
    assert [{name: body[name] for name in expected} for _, body, _ in server.calls] == [expected] * 2


def test_ollama_gets_its_own_options_and_is_asked_to_think_where_the_model_can(server):
    server.calls.clear()
    said = ask(server.url, "no-thinking", "apart")
    assert (said["baseline"].answer, said["baseline"].end) == ("No.", "stop")
    assert {path for path, _, _ in server.calls} == {"/api/chat"}
    expected = {"seed": 4, "temperature": 0.5, "num_predict": 77, **PLAIN_SAMPLING}
    assert [{name: body["options"][name] for name in expected} for _, body, _ in server.calls] == [expected] * 3
    thinks = sorted((body["model"], body.get("think", False)) for _, body, _ in server.calls)
    assert thinks == [("apart", True), ("no-thinking", False), ("no-thinking", True)]


@BOTH_PROTOCOLS
def test_stop_closes_the_connection_so_that_the_server_stops(path):
    with StreamServer(pause=0.01) as slow:
        start = time.perf_counter()
        said = ask(slow.url + path, "endless", "endless", stop=threading.Event())
        assert time.perf_counter() - start < 30  # the complete reply would take a quarter of an hour
        assert "" in {one.end for one in said.values()}
        assert slow.broken.wait(20)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("http-401", "refused the key (HTTP 401). Set OPENAI_API_KEY"),
        ("http-404", "does not know the model 'http-404' (HTTP 404: "),
        ("http-500", "answered HTTP 500: "),
        ("bad-line", "no piece of a chat: 'this is no JSON'"),
        ("error-line", "gave up: out of memory. Look at its log"),
        ("error-text", "gave up: out of memory. Look at its log"),
        ("breaks-off", "ended the reply without a reason. Look at its log"),
        ("content_filter", "ended the reply with the reason 'content_filter'. Look at its log"),
        ("lost", "broke (RemoteProtocolError). What came so far is shown"),
    ],
)
@BOTH_PROTOCOLS
def test_a_voice_that_fails_says_why_and_the_other_goes_on(server, monkeypatch, path, model, words):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    said = ask(server.url + path, model, "apart")
    assert said["baseline"].end == "error"
    assert said["baseline"].answer == ("" if model.startswith("http-") else "No")
    assert words in said["baseline"].error
    assert "sk-secret" not in said["baseline"].error
    assert (said["friction"].answer, said["friction"].end) == ("No.", "stop")


@BOTH_PROTOCOLS
def test_the_key_is_sent_and_nothing_without_one(server, monkeypatch, path):
    for key, sent in (("sk-secret", "Bearer sk-secret"), ("", None)):
        monkeypatch.setenv("OPENAI_API_KEY", key)
        server.calls.clear()
        ask(server.url + path, "untagged", "untagged")
        assert server.calls[0][2].get("Authorization") == sent


@pytest.mark.parametrize(("path", "command"), [("", "ollama serve"), ("/v1", "its own start command")])
def test_no_server_is_told_with_what_to_do(path, command):
    with StreamServer() as gone:
        url = gone.url
    said = ask(url + path, "apart", "apart")
    assert all(f"No server answers at {url}{path}" in one.error and command in one.error for one in said.values())


@pytest.mark.parametrize("url", ["localhost:11434", "", "ftp://host/v1", "http://"])
def test_what_is_no_url_is_refused_at_once(url):
    with pytest.raises(PushbackError, match="is not the URL of a server"):
        ServedVoices(Served("a", url), Served("b", url))


def test_a_megabyte_comes_complete(server):
    said = ask(server.url + "/v1", "megabyte", "untagged")
    assert len(said["baseline"].answer) == 1_000_000


def test_the_chat_knows_both_models_and_has_prompts_to_choose_from():
    voices = ServedVoices(Served("calm"), Served("careful"))
    assert (voices.name, voices.hint("x"), voices.recorded, voices.dial) == ("calm and careful", "", False, None)
    assert {preset.behaviour for preset in voices.presets} >= {"disagree", "clarify", "doubt", "refuse"}
