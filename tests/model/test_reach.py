"""The key, the address, the environment, and the server's words; against real clients and a real server on loopback."""

import asyncio
import json
import threading

import certifi
import pytest
from loopback_server import MODEL
from streaming_server import StreamServer

from pushback_lib.chat.backend import Settings
from pushback_lib.chat.served import Served, ServedVoices
from pushback_lib.core.common import PushbackError
from pushback_lib.core.records import prompt_messages
from pushback_lib.model.reach import api_key, checked_url, cut_prompt, words
from pushback_lib.model.server import CallFailed, OpenAIChat

KEYS = [("sk-1\n", "sk-1"), (" sk-1\t", "sk-1"), ('"sk-1"', "sk-1"), ("'sk-1' \r\n", "sk-1"), ("", ""), ("\n", "")]


@pytest.mark.parametrize(("given", "key"), KEYS)
def test_a_key_is_stripped(monkeypatch, given, key):
    monkeypatch.setenv("OPENAI_API_KEY", given)
    assert api_key() == key


@pytest.mark.parametrize(("given", "odd"), [("“sk-1”", "“"), ("sk\n1", "\n"), ("sk 1", " "), ("sk-ü", "ü")])
def test_what_is_no_key_is_refused_by_the_variables_name_and_not_shown(monkeypatch, given, odd):
    monkeypatch.setenv("OPENAI_API_KEY", given)
    for use in (lambda: OpenAIChat(MODEL), api_key):
        with pytest.raises(PushbackError, match="OPENAI_API_KEY holds") as caught:
            use()
        assert repr(odd) in str(caught.value)
        assert "sk" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["localhost:11434/v1", "", " ", "ftp://host/v1", "http://", "http://[", "http://h:port", "http://a b/v1"]
)
def test_what_is_no_address_is_refused_before_anything(url):
    for use in (checked_url, lambda url: OpenAIChat(MODEL, url), lambda url: Served("a", url)):
        with pytest.raises(PushbackError, match=r"is not the URL of a server. Pass one like http://localhost:11434"):
            use(url)


def test_an_address_loses_its_blanks_and_its_last_slash():
    assert [checked_url(url) for url in (" http://h:1/v1/\n", "https://h")] == ["http://h:1/v1", "https://h"]


def check(url: str) -> str:
    """What `OpenAIChat.check` says."""

    async def work():
        chat = OpenAIChat(MODEL, url, timeout=5, attempts=1)
        try:
            await chat.check()
        finally:
            await chat.close()

    with pytest.raises(PushbackError) as caught:
        asyncio.run(work())
    return str(caught.value)


def chat(url: str, model: str = "untagged") -> str:
    """What a pane of the chat says."""
    voices = ServedVoices(Served(model, url), Served(model, url), presets=())
    said = voices.stream({"baseline": prompt_messages("Shall I?", "")}, Settings(), threading.Event())
    return next(event.error for event in said if event.end)


ENVIRONMENTS = [
    ("SSL_CERT_FILE", "/nowhere/certificates.pem", "FileNotFoundError"),
    ("SSL_CERT_FILE", __file__, "SSLError"),
    ("ALL_PROXY", "socks5://127.0.0.1:9", "ImportError: Using SOCKS proxy, but the 'socksio' package is not installed"),
    ("HTTPS_PROXY", "ftp://somewhere", "Unknown scheme for proxy URL"),
    ("HTTP_PROXY", "http://proxy:port", "port"),
    ("HTTP_PROXY", "http://me:secret@127.0.0.1:9", "ConnectionRefusedError: "),
]


@pytest.mark.parametrize("reach", [check, chat])
@pytest.mark.parametrize("path", ["", "/v1"])
@pytest.mark.parametrize(("name", "value", "detail"), ENVIRONMENTS)
def test_what_the_environment_spoils_is_told_with_the_variable_and_the_last_detail(
    monkeypatch, reach, path, name, value, detail
):
    """The server answers; it is the variable that keeps us from asking it."""
    monkeypatch.setenv(name, value)
    for variable in {"NO_PROXY", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR"} - {name}:
        monkeypatch.delenv(variable, raising=False)
    with StreamServer() as server:
        said = reach(server.url + path)
    assert f"This is set, and may be the cause: {name}={value.replace('me:secret@', '')}" in said
    assert detail in said
    assert "secret" not in said


def test_a_name_that_nobody_has_is_told_and_no_innocent_variable_blamed(monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", certifi.where())
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "nowhere.invalid")
    for reach in (check, chat):
        said = reach("http://nowhere.invalid/v1")
        assert "No server answers at http://nowhere.invalid/v1 (gaierror: " in said
        assert "This is set" not in said


WORDS = [
    ({"error": {"message": "out of\n memory"}}, "out of memory"),
    ({"error": "busy"}, "busy"),
    ({"message": "busy", "object": "error"}, "busy"),
    ({"detail": [{"loc": ["body", "seed"], "msg": "no integer"}]}, "no integer"),
    ([{"error": {"code": 400, "message": "busy"}}], "busy"),
    ({"odd": 1}, '{"odd": 1}'),
    ("<html><head><title>502</title></head><body><h1>Bad gateway</h1></body></html>", "Bad gateway"),
    ("upstream gone", "upstream gone"),
    ("x" * 500, "x" * 200),
    ("the key sk-loopback-secret is wrong", "the key [key] is wrong"),
    ("", "no words"),
]


@pytest.mark.parametrize(("body", "said"), WORDS)
def test_the_servers_words_are_found_in_a_body_of_any_form(monkeypatch, body, said):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-loopback-secret")
    text = body if isinstance(body, str) else json.dumps(body)
    assert words(text) == words(text.encode()) == said


STATUSES = [(400, "bad_request"), (401, "wants a key"), (403, "wants a key"), (404, "does not know the model"),
            (422, "bad_request"), (429, "rate_limited"), (500, "server_error"), (503, "server_error")]  # fmt: skip


@pytest.mark.parametrize(("status", "what"), STATUSES)
def test_the_words_of_every_status_are_told(monkeypatch, status, what):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)

    async def complete(url):
        chat = OpenAIChat(f"http-{status}", url, timeout=5, attempts=1)
        try:
            await chat.complete(prompt_messages("Shall I?", ""), seed=0, temperature=0.0, max_tokens=9)
        finally:
            await chat.close()

    with StreamServer() as server:
        with pytest.raises((PushbackError, CallFailed), match=what) as caught:
            asyncio.run(complete(f"{server.url}/v1"))
        for said in (str(caught.value), chat(server.url, f"http-{status}"), chat(f"{server.url}/v1", f"http-{status}")):
            assert f"HTTP {status}: the key sk-secret is <b>wrong</b>" in said


@pytest.mark.parametrize(("text", "counted", "limit", "cut"), [
    ("one two three", 3, 0, False), ("one two three", 2, 0, True), ("one two three", 0, 9, False), ("one", 9, 9, True),
    ("one", 9, 10, False), ("我认为这个计划不好", 1, 0, False),
])  # fmt: skip
def test_a_prompt_of_fewer_tokens_than_words_was_cut(text, counted, limit, cut):
    assert bool(cut_prompt([{"role": "user", "content": text}], counted, limit)) == cut
