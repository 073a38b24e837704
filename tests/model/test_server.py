"""The OpenAI-compatible backend against a real server on loopback, and the local one with a real tiny model."""

from __future__ import annotations

import asyncio
import json
import socket
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import SimpleNamespace

import pytest
from loopback_server import KEY, MODEL, Loopback

from pushback_lib.core.common import PushbackError
from pushback_lib.core.records import Reply
from pushback_lib.model.server import CallFailed, LocalChat, OpenAIChat, _retry_after, load_local, parse_completion

ASK = [{"role": "system", "content": "Part: Answer"}, {"role": "user", "content": "Is the kettle safe?"}]


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def ask(url: str, *, model: str = MODEL, check: bool = False, **options) -> tuple[Reply | None, OpenAIChat]:
    async def work():
        chat = OpenAIChat(model, url, **{"timeout": 0.5, "backoff": 0.01, "attempts": 3, **options})
        try:
            if check:
                return await chat.check(), chat
            return await chat.complete(ASK, seed=3, temperature=0.5, max_tokens=77), chat
        finally:
            await chat.close()

    return asyncio.run(work())


def test_one_reply_with_its_tokens_and_what_was_sent():
    with Loopback() as server:
        reply, chat = ask(server.base_url)
    assert (reply.end, reply.prompt_tokens) == ("stop", 50)
    assert reply.text
    assert not chat.failures
    sent = server.calls[0]
    assert (sent["seed"], sent["temperature"], sent["max_tokens"], sent["messages"]) == (3, 0.5, 77, ASK)


FAULTS = [
    ("timeout", "timeout"),
    ("rate_limited", "rate_limited"),
    ("server_error", "server_error"),
    ("half_json", "malformed"),
]


@pytest.mark.parametrize(("fault", "reason"), FAULTS)
def test_a_failing_call_is_tried_again_and_counted(fault, reason):
    with Loopback(faults=(fault,), fault_rate=1.0, hang=0.6) as server, pytest.raises(CallFailed) as caught:
        ask(server.base_url, timeout=0.2)
    assert caught.value.reason == reason
    assert server.served[fault] == 3


def test_a_fault_that_passes_costs_only_a_retry():
    with Loopback(faults=("server_error",), fault_rate=0.5) as server:
        server.draw.seed(1)
        reply, chat = ask(server.base_url, attempts=8)
    assert reply.text
    assert chat.failures["server_error"] == server.served["server_error"] > 0


def test_a_server_that_drops_every_connection_ends_the_run():
    with Loopback(faults=("dropped",), fault_rate=1.0) as server, pytest.raises(PushbackError, match="No server answers"):
        ask(server.base_url)
    assert server.served["dropped"] == 3


def test_retry_after_is_waited_for(monkeypatch):
    waited = []

    async def sleep(seconds):
        waited.append(seconds)

    monkeypatch.setattr("pushback_lib.model.server.asyncio.sleep", sleep)
    with Loopback(faults=("rate_limited",), fault_rate=1.0) as server, pytest.raises(CallFailed):
        ask(server.base_url)
    assert waited == [0.05, 0.05]


def test_back_off_doubles_with_jitter():
    chat = OpenAIChat(MODEL, "http://127.0.0.1:9/v1", backoff=1.0)
    for attempt, full in [(1, 1.0), (2, 2.0), (4, 8.0), (9, 30.0)]:
        waits = {chat._wait(attempt, None) for _ in range(50)}
        assert len(waits) > 1
        assert all(full / 2 <= wait <= full for wait in waits), f"attempt {attempt}: {waits}"


def test_a_wait_beyond_reason_ends_the_run():
    chat = OpenAIChat(MODEL, "http://127.0.0.1:9/v1")
    with pytest.raises(PushbackError, match="asks to wait 7200 s"):
        chat._wait(1, 7200.0)


RETRY_AFTER = [("3", 3.0), ("0.5", 0.5), ("-1", 0.0), ("soon", None), (None, None)]


@pytest.mark.parametrize(("value", "wanted"), RETRY_AFTER)
def test_retry_after_in_seconds(value, wanted):
    headers = {} if value is None else {"retry-after": value}
    assert _retry_after(SimpleNamespace(response=SimpleNamespace(headers=headers))) == wanted


def test_retry_after_as_a_date():
    value = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    found = _retry_after(SimpleNamespace(response=SimpleNamespace(headers={"retry-after": value})))
    assert 50 < found <= 60


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
    with pytest.raises(PushbackError, match=f"No server answers at {url}. Start it"):
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
    b"",
    b"{",
    b"[]",
    b"<html>Bad gateway</html>",
    b'{"choices": []}',
    b'{"choices": null}',
    b'{"choices": [{}]}',
    b'{"choices": [{"message": null}]}',
    b'{"error": "busy"}',
    b"\xff\xfe",
]


@pytest.mark.parametrize("body", BODIES)
def test_a_body_that_is_no_completion_is_malformed(body):
    with pytest.raises(CallFailed, match="malformed"):
        parse_completion(body)


def test_a_body_without_text_or_usage_is_an_empty_reply():
    raw = json.dumps({"choices": [{"message": {"content": None}}], "usage": None}).encode()
    assert parse_completion(raw) == Reply(end="stop")


REASONED = [
    ({"content": "\n\nNo.", "reasoning_content": "\nHm.\n"}, ("Hm.", "No.", True)),  # llama.cpp
    ({"content": "No.", "reasoning": "Hm."}, ("Hm.", "No.", True)),  # Ollama
    ({"content": "<think>\nHm.\n</think>\n\nNo."}, ("Hm.", "No.", True)),  # a server that leaves the text as it is
    ({"content": "No.", "reasoning_content": None}, ("", "No.", True)),
    ({"content": "", "reasoning_content": "Hm. And"}, ("Hm. And", "", False)),  # cut off
]


@pytest.mark.parametrize(("message", "reply"), REASONED)
def test_reasoning_that_the_server_keeps_apart_is_not_lost(message, reply):
    raw = json.dumps({"choices": [{"message": message}]}).encode()
    found = parse_completion(raw)
    assert (found.thought, found.answer, found.closed) == reply


def test_the_local_backend_passes_on_what_it_is_asked():
    def generate(messages, seed, temperature, max_tokens):
        return Reply(answer=f"{messages[-1]['content']} {seed} {temperature} {max_tokens}", end="stop")

    async def work():
        return await LocalChat("own", generate).complete(ASK, seed=1, temperature=0.5, max_tokens=9)

    assert asyncio.run(work()).answer == "Is the kettle safe? 1 0.5 9"


def test_a_local_model_that_is_not_there_is_named():
    with pytest.raises(PushbackError, match=r"No model could be loaded from '/nowhere/at/all'"):
        load_local("/nowhere/at/all")


@pytest.fixture
def tiny_model(tmp_path):
    """A random Qwen2 of a few thousand weights, with a tokenizer and a template that opens the thought."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    words = ["[unk]", "[end]", *"is the kettle safe think answer part : ? < > /".split()]
    raw = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="[unk]"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="[end]", unk_token="[unk]")
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }} {% endfor %}<think>\n"
    tokenizer.save_pretrained(tmp_path)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Qwen2Config(vocab_size=len(words), num_key_value_heads=2, eos_token_id=1, **sizes)
    Qwen2ForCausalLM(config).save_pretrained(tmp_path)
    return tmp_path


def test_a_real_tiny_model_replies_the_same_for_the_same_seed(tiny_model):
    chat = load_local(str(tiny_model))

    def reply(seed):
        return asyncio.run(chat.complete(ASK, seed=seed, temperature=1.0, max_tokens=12))

    one, again, other = reply(1), reply(1), reply(2)
    assert one == again != other
    assert one.text.startswith("<think>\n")
    assert one.end in ("stop", "length")
    assert 0 < one.tokens <= 12
