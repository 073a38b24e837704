"""The OpenAI-compatible backend against a real server on loopback."""

import asyncio
import json
import socket

import pytest
from loopback_server import KEY, MODEL, Loopback
from ollama_loopback import OllamaLoopback

from pushback_lib.core.common import PushbackError
from pushback_lib.core.records import Reply
from pushback_lib.model.server import RETRIED, CallFailed, OpenAIChat, parse_completion, plain_sampling

ASK = [{"role": "system", "content": "Part: Answer"}, {"role": "user", "content": "Is the kettle safe?"}]


@pytest.fixture(autouse=True)
def waited(monkeypatch):
    """The key is set, and the seconds for which the openai library waits are noted, not slept."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    found = []

    async def sleep(seconds):
        found.append(seconds)

    monkeypatch.setattr("anyio.sleep", sleep)
    return found


def ask(
    url: str, *, model: str = MODEL, check: bool = False, check_first: bool = False, **options
) -> tuple[Reply | None, OpenAIChat]:
    async def work():
        chat = OpenAIChat(model, url, **{"timeout": 0.5, "attempts": 3, **options})
        try:
            if check:
                return await chat.check(), chat
            if check_first:
                await chat.check()
            return await chat.complete(ASK, seed=3, temperature=0.5, max_tokens=77), chat
        finally:
            await chat.close()

    return asyncio.run(work())


def test_one_reply_with_its_tokens_and_what_was_sent():
    with Loopback() as server:
        reply, chat = ask(server.base_url)
    assert (reply.end, reply.prompt_tokens) == ("stop", 12)
    assert reply.text
    assert not chat.failures
    sent = server.calls[0]
    assert (sent["seed"], sent["temperature"], sent["max_tokens"], sent["messages"]) == (3, 0.5, 77, ASK)
    assert "repeat_penalty" not in sent


def test_for_figures_a_server_is_told_to_punish_and_cut_nothing():
    with Loopback() as server:
        ask(server.base_url, plain=True)
    asked = {"top_p": 0.95, "top_k": -1, "min_p": 0.0, "repeat_penalty": 1.0, "repetition_penalty": 1.0,
             "presence_penalty": 0.0, "frequency_penalty": 0.0}  # fmt: skip
    assert {name: server.calls[0].get(name) for name in asked} == asked
    assert plain_sampling("https://api.openai.com/v1") == {}, "it refuses fields that it does not know"


FAULTS = [
    ("timeout", CallFailed, "timeout: no reply within 0.2 s", 3),
    ("rate_limited", CallFailed, "rate_limited: HTTP 429: slow down", 3),
    ("server_error", CallFailed, "server_error: HTTP 500: out of memory", 3),
    ("half_json", CallFailed, "malformed: ", 1),  # the debate asks again, with another seed
    ("dropped", PushbackError, r"The connection to http://\S+ broke \(RemoteProtocolError: peer closed", 3),
    ("out_of_quota", PushbackError, r"has no quota left .HTTP 429: slow down.", 3),
    ("come_back_later", PushbackError, "asks to wait 7200 s .HTTP 429: slow down.", 1),
]


@pytest.mark.parametrize(("fault", "error", "says", "calls"), FAULTS)
def test_a_failing_call_is_tried_again_and_named(fault, error, says, calls):
    with Loopback(faults=(fault,), fault_rate=1.0, hang=0.6) as server, pytest.raises(error, match=says) as caught:
        ask(server.base_url, timeout=0.2)
    assert server.served == {fault: calls}
    assert error is PushbackError or caught.value.reason == says.split(":")[0]


def test_a_fault_that_passes_costs_only_a_retry():
    with Loopback(faults=("server_error",), fault_rate=0.5) as server:
        server.draw.seed(1)
        reply, chat = ask(server.base_url, attempts=8)
    assert reply.text
    assert chat.failures == {RETRIED: server.served["server_error"]}
    assert server.served["server_error"] > 0


def test_a_server_that_sends_a_byte_now_and_then_is_given_up(monkeypatch):
    monkeypatch.setattr("pushback_lib.model.server.LONGEST_WAIT", 0)
    with Loopback(faults=("trickle",), fault_rate=1.0, hang=5) as server, pytest.raises(CallFailed, match="timeout"):
        ask(server.base_url, timeout=0.3, attempts=2)
    assert server.served == {"trickle": 1}


WAITS = [("rate_limited", [0.05] * 5, 1), ("server_error", [0.5, 1, 2, 4, 8], 0.7)]  # Retry-After; or doubled, with jitter


@pytest.mark.parametrize(("fault", "seconds", "least"), WAITS)
def test_the_waits_are_what_retry_after_says_or_double_with_jitter(waited, fault, seconds, least):
    with Loopback(faults=(fault,), fault_rate=1.0) as server, pytest.raises(CallFailed):
        ask(server.base_url, attempts=6)
    assert len(waited) == 5
    assert all(least * full <= wait <= full for wait, full in zip(waited, seconds, strict=True)), waited
    assert (waited == seconds) == (least == 1)


@pytest.mark.parametrize("check", [True, False])
def test_a_wrong_key_is_named_and_never_shown(monkeypatch, check):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong")
    with Loopback() as server, pytest.raises(PushbackError, match="refused the key in OPENAI_API_KEY") as caught:
        ask(server.base_url, check=check)
    assert "sk-wrong" not in str(caught.value)


@pytest.mark.parametrize("check", [True, False])
def test_an_unknown_model_is_named(check):
    with Loopback() as server, pytest.raises(PushbackError, match=r"does not know the model 'gpt-none'") as caught:
        ask(server.base_url, model="gpt-none", check=check)
    assert (f"It has: {MODEL}." in str(caught.value)) == check


def test_an_unreachable_server_is_named_with_the_cure():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(PushbackError, match=rf"No server answers at {url} \(ConnectionRefusedError: .*\). Start it"):
        ask(url, check=True)


def test_a_check_that_passes_costs_no_completion():
    with Loopback() as server:
        ask(server.base_url, check=True)
    assert not server.calls


def test_a_paid_server_without_a_key_is_refused_before_any_call(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(PushbackError, match="Set OPENAI_API_KEY"):
        OpenAIChat("gpt", "https://api.openai.com/v1")


BODIES = [
    *rb'|{|[]|<html>Bad gateway</html>|{"choices": []}|{"choices": null}|{"choices": [{}]}|{"message": "busy"}'.split(b"|"),
    b'{"choices": [{"message": null}]}',
    b"\xff\xfe",
]


@pytest.mark.parametrize("body", BODIES)
def test_a_body_that_is_no_completion_is_malformed(body):
    with pytest.raises(CallFailed, match="malformed"):
        parse_completion(body)


def test_a_body_without_text_or_usage_is_an_empty_reply():
    raw = json.dumps({"choices": [{"message": {"content": None}}], "usage": None}).encode()
    assert parse_completion(raw) == Reply(end="stop")


@pytest.mark.parametrize("body", [
    {"error": {"message": "out of memory", "code": 500}},
    {"error": "out of memory"},
    {"choices": [{"message": {"content": ""}, "finish_reason": "error", "error": {"message": "out of memory", "code": 502}}]},
])  # fmt: skip
def test_a_200_with_an_error_is_told_in_the_servers_words(body):
    with pytest.raises(CallFailed, match=r"error_body: out of memory$"):
        parse_completion(json.dumps(body).encode())


REPLIES = [
    ({"content": "\n\nNo.", "reasoning_content": "\nHm.\n"}, "stop", ("Hm.", "No.", True, "stop")),  # llama.cpp
    ({"content": "No.", "reasoning": "Hm."}, None, ("Hm.", "No.", True, "stop")),  # Ollama
    ({"content": "<think>\nHm.\n</think>\n\nNo."}, "stop", ("Hm.", "No.", True, "stop")),  # the text as it was generated
    (
        {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}, {"type": "text", "text": "No."}]},
        "stop",
        ("Hm.", "No.", True, "stop"),
    ),  # Mistral
    ({"content": None, "refusal": "No."}, "stop", ("", "No.", True, "stop")),  # OpenAI
    ({"content": "Hm. And", "reasoning_content": None}, "content_filter", ("Hm. And", "", False, "length")),
    ({"content": "Hm. And"}, "length", ("Hm. And", "", False, "length")),  # cut before a tag: a thought that nobody opened
    ({"content": "Hm.</think>No. And"}, "length", ("Hm.", "No. And", True, "length")),
    ({"content": None}, "tool_calls", ("", "", False, "length")),
    ({"content": "", "reasoning_content": "Hm. And"}, "length", ("Hm. And", "", False, "length")),
]


@pytest.mark.parametrize(("message", "finish", "wanted"), REPLIES)
def test_reasoning_is_not_lost_and_only_a_reply_that_the_model_ended_is_complete(message, finish, wanted):
    raw = json.dumps({"choices": [{"message": message, "finish_reason": finish}], "usage": None}).encode()
    found = parse_completion(raw)
    assert (found.thought, found.answer, found.closed, found.end) == wanted


ENDS = [
    ("stop", ""),
    (None, ""),
    ("", ""),
    *((word, word) for word in ("length", "content_filter", "error", "tool_calls", "odd")),
]


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize(("reason", "cut"), ENDS)
def test_only_stop_or_nothing_ends_a_reply(native, reason, cut):
    message, usage = {"content": "No."}, {"prompt_eval_count": 7, "eval_count": 3}
    body = (
        {"message": message, "done_reason": reason, **usage}
        if native
        else {"choices": [{"message": message, "finish_reason": reason}]}
    )
    found = parse_completion(json.dumps(body).encode())
    assert (found.finished, found.cut, found.answer) == (not cut, cut, "" if cut else "No.")
    assert (found.prompt_tokens, found.tokens) == ((7, 3) if native else (0, 0))


def test_a_server_that_is_slow_is_told_once(monkeypatch, capsys):
    monkeypatch.setattr("pushback_lib.model.server.QUIET_SECONDS", 0.05)
    with Loopback(faults=("timeout",), fault_rate=1.0, hang=0.4) as server, pytest.raises(CallFailed):
        ask(server.base_url, timeout=0.2, attempts=2)
    assert capsys.readouterr().err.count(f"The server at {server.base_url} has not replied for 0.05 s") == 1


def test_a_prompt_that_the_server_cut_is_a_failed_call(monkeypatch):
    monkeypatch.setattr("loopback_server.good_text", lambda body: "It is fine.")
    with Loopback() as server:
        server.window = 5
        with pytest.raises(CallFailed, match=r"prompt_cut: the server read 5 tokens of a prompt of 6 words"):
            ask(server.base_url)


def test_an_ollama_is_asked_by_its_own_protocol_with_room_for_the_prompt():
    with OllamaLoopback(say=lambda _: ("Hm.", "No.", 9)) as server:
        server.models[f"{MODEL}:latest"] = {"template": "", "system": ""}
        reply, _ = ask(f"{server.url}/v1", check_first=True)
        assert (reply.thought, reply.answer, reply.prompt_tokens, reply.end) == ("Hm.", "No.", 9, "stop")
        options = {"seed": 3, "temperature": 0.5, "num_predict": 77, "num_ctx": 8192}
        assert server.calls == [
            {"model": MODEL, "messages": ASK, "stream": False, "truncate": False, "shift": False, "options": options}
        ]
        server.say = lambda _: ("Hm.", "No.", 8192)
        with pytest.raises(CallFailed, match="prompt_cut"):
            ask(f"{server.url}/v1", check_first=True)
