"""Both voices from a real streaming server on loopback, in both protocols."""

import json
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
    for said in ask(server.url + path, model, model, prefilled=model == "prefilled" or None).values():
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
    wanted = {"seed": 4, "temperature": 0.5, "num_predict": 77, "num_ctx": 8192, **PLAIN_SAMPLING}
    assert [body["options"] for _, body, _ in server.calls] == [wanted] * 3
    assert all((body["truncate"], body["shift"]) == (False, False) for _, body, _ in server.calls)  # an error, not a cut prompt
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
        ("http-401", "refused the key in OPENAI_API_KEY (HTTP 401: the key [key] is <b>wrong</b>). Set"),
        ("http-404", "does not know the model 'http-404' (HTTP 404: "),
        ("http-500", "answered HTTP 500: "),
        ("bad-line", "no piece of a chat: 'this is no JSON"),
        ("error-line", "gave up: out of memory. Look at its log"),
        ("error-text", "gave up: out of memory. Look at its log"),
        ("breaks-off", "ended the reply without a reason. Look at its log"),
        ("content_filter", "ended the reply with the reason 'content_filter'. Look at its log"),
        ("lost", "broke (RemoteProtocolError: "),
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


TEXT = "No\u2028so\x85 – naïve 🙂."
SSE, JSON, LINES = "text/event-stream", "application/json", "application/x-ndjson"


def chunk(content=TEXT, end="stop", **more) -> str:
    """A piece of a reply as OpenAI sends it, in characters as they are."""
    return json.dumps({"choices": [{"delta": {"content": content}, "finish_reason": end, **more}]}, ensure_ascii=False)


def body(content=TEXT, **more) -> dict:
    return {"choices": [{"message": {"role": "assistant", "content": content}, **more}]}


def line(content=TEXT, **more) -> str:
    return json.dumps({"message": {"role": "assistant", "content": content}, "done": True, **more}, ensure_ascii=False)


PARTED = [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}, {"type": "text", "text": TEXT[:3]}, TEXT[3:]]
AS_PARTS = [{"type": "text", "text": TEXT}]
STREAMS = [
    ("/v1", SSE, f"data: {chunk()}\n\ndata: [DONE]\n\n"),
    ("/v1", SSE, f"data:{chunk()}\n\ndata:[DONE]\n\n"),  # no blank after the colon
    ("/v1", SSE, f"data: {chunk()}\r\n\r\ndata: [DONE]\r\n\r\n"),
    ("/v1", SSE, f"data: {chunk()}\r\rdata: [DONE]\r\r"),
    ("/v1", SSE, f": ping\n\nretry: 10\n\nevent: message\nid: 1\ndata: {chunk()}\n\n: ping\n\nevent: ping\n\n"),
    ("/v1", SSE, "data: " + chunk().replace(", ", ",\ndata: ", 1) + "\n\n"),  # over two lines
    ("/v1", SSE, f"data: {chunk(PARTED)}\n\n"),
    ("/v1", SSE, f"data: {chunk(AS_PARTS)}\n\n"),
    ("/v1", "text/plain", f"data: {chunk()}\n\n"),
    ("/v1", JSON, json.dumps(body(finish_reason="stop"))),  # a server that does not stream
    ("/v1", JSON, json.dumps(body(AS_PARTS), indent=2, ensure_ascii=False)),
    ("", LINES, line()),
    ("", LINES, line(done_reason="stop") + "\r\n\r\n"),
    ("", LINES, line(AS_PARTS) + "\n"),
    ("", JSON, json.dumps(json.loads(line()), indent=2, ensure_ascii=False)),
]


@pytest.mark.parametrize("size", [1, 100_000], ids=["bytes", "whole"])
@pytest.mark.parametrize(("path", "kind", "text"), STREAMS, ids=map(str, range(len(STREAMS))))
def test_every_valid_stream_is_read(server, path, kind, text, size):
    """Also where each byte comes alone, so that characters and line ends are torn apart."""
    raw = text.encode()
    server.raw["raw"] = (kind, [raw[at : at + size] for at in range(0, len(raw), size)])
    for said in ask(server.url + path, "raw", "raw").values():
        assert (said.answer, said.end, said.error) == (TEXT, "stop", ""), f"{path} {kind} {text!r}"


ODD = ("content_filter", "error", "tool_calls", "whatever")
REASONS = [("stop", "stop"), ("length", "length"), *((word, "error") for word in ODD)]


@pytest.mark.parametrize(("reason", "end"), [*REASONS, (None, "error")])
def test_only_stop_ends_a_streamed_reply(server, reason, end):
    """None: the stream ends without a reason, or is not done."""
    streamed = f"data: {chunk('No', None)}\n\ndata: {chunk('.', reason)}\n\ndata: [DONE]\n\n"
    lines = f"{line('No', done=False)}\n{line('.', done=reason is not None, done_reason=reason)}\n"
    for path, kind, text in (("/v1", SSE, streamed), ("", LINES, lines)):
        server.raw["raw"] = (kind, [text.encode()])
        said = ask(server.url + path, "raw", "raw")["baseline"]
        assert said.end == end, f"{path} {reason} -> {said.end}"
        assert bool(said.error) == (end == "error")
        assert (reason or "without a reason") in said.error or end != "error"


@pytest.mark.parametrize(("reason", "end"), [*REASONS, (None, "stop"), ("", "stop")])
def test_only_stop_or_nothing_ends_a_reply_in_one_piece(server, reason, end):
    server.raw["raw"] = (JSON, [json.dumps(body("No.", finish_reason=reason)).encode()])
    assert ask(server.url + "/v1", "raw", "raw")["baseline"].end == end


ERRORS = [
    {"error": {"message": "out of memory"}},
    {"error": "out of memory"},
    {"object": "error", "message": "out of memory", "code": 500},
    {"choices": [{"delta": {"content": ""}, "finish_reason": "error", "error": {"code": 502, "message": "out of memory"}}]},
]


@pytest.mark.parametrize("sent", ERRORS)
def test_an_error_in_mid_stream_is_shown_in_the_servers_words(server, sent):
    server.raw["raw"] = (SSE, [f"data: {chunk('No', None)}\n\nevent: error\ndata: {json.dumps(sent)}\n\n".encode()])
    said = ask(server.url + "/v1", "raw", "raw")["baseline"]
    assert (said.answer, said.end) == ("No", "error")
    assert "gave up: out of memory. Look at its log" in said.error


def test_a_web_page_is_told_from_a_chat(server):
    server.raw["raw"] = ("text/html", [b"<!DOCTYPE html><html><head><title>x</title></head><body>Sign in</body></html>"])
    for path in ("", "/v1"):
        assert "no piece of a chat: 'Sign in'" in ask(server.url + path, "raw", "raw")["baseline"].error


def test_what_is_cut_before_any_tag_is_a_thought_and_no_answer(server):
    """A server whose template opens the thinking sends no opening tag; cut before the closing one, all of it is thought."""
    server.raw["raw"] = (SSE, [f"data: {chunk('I wonder whether', 'length')}\n\n".encode()])
    said = ask(server.url + "/v1", "raw", "raw")["baseline"]
    assert (said.thought, said.answer, said.end) == ("I wonder whether", "", "length")


@pytest.mark.parametrize(("path", "counted", "cut"), [("", 8192, True), ("", 2, True), ("", 3, False), ("/v1", 2, True),
                                                      ("/v1", 8192, False), ("", 0, False), ("/v1", 0, False)])  # fmt: skip
def test_a_prompt_that_the_server_cut_is_an_error(server, path, counted, cut):
    """The prompt has three words. 8192 tokens are all that Ollama was asked to hold; 0 is no count."""
    usage = json.dumps({"choices": [], "usage": {"prompt_tokens": counted, "completion_tokens": 2}})
    text = f"data: {chunk('No.')}\n\ndata: {usage}\n\n" if path else line("No.", prompt_eval_count=counted)
    server.raw["raw"] = (SSE if path else LINES, [text.encode()])
    said = ask(server.url + path, "raw", "raw")["baseline"]
    assert (said.answer, said.end) == ("No.", "error" if cut else "stop")
    assert (f"read {counted:,} tokens of a prompt of 3 words" in said.error) == cut


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
    assert all(f"No server answers at {url}{path} (ConnectionRefusedError: " in one.error for one in said.values())
    assert all(command in one.error for one in said.values())


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


def test_what_is_cut_is_an_answer_where_the_template_is_known_to_open_no_thought(server):
    server.raw["raw"] = (SSE, [f"data: {chunk('I wonder whether', 'length')}\n\n".encode()])
    said = ask(server.url + "/v1", "raw", "raw", prefilled=False)["baseline"]
    assert (said.thought, said.answer, said.end) == ("", "I wonder whether", "length")
