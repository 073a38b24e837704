"""What stands between the kit and a server: the key, the address, proxies and certificates; and the server's own words."""

from __future__ import annotations

import json
import os
import re
import ssl
from collections.abc import Callable, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit
from urllib.request import proxy_bypass

from ..core.common import OLLAMA_URL, PushbackError
from ..core.records import Message

CONNECT_SECONDS = 10.0  # for a connection to be made
NUM_CTX = 8192  # tokens of prompt and reply that Ollama is asked to hold; it would take 4096, or less, by itself

T = TypeVar("T")


def api_key() -> str:
    """OPENAI_API_KEY without blanks and quotes around it, "" where none is set. Raises PushbackError for what is no key."""
    key = os.environ.get("OPENAI_API_KEY", "").strip("'\" \t\r\n")
    odd = [letter for letter in key if not "!" <= letter <= "~"]
    if odd:
        raise PushbackError(
            f"OPENAI_API_KEY holds {odd[0]!r}, which is part of no key. Set it to the bare key, then try again."
        )
    return key


def checked_url(url: str) -> str:
    """The address without blanks around it or a slash at its end. Raises PushbackError where it is none."""
    try:
        parts = urlsplit(url.strip())
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        good = False
    if not good or re.search(r"\s", url.strip()):
        raise PushbackError(f"{url!r} is not the URL of a server. Pass one like {OLLAMA_URL} or http://localhost:8080/v1.")
    return url.strip().rstrip("/")


def made(client: Callable[[], T]) -> T:
    """An HTTP client. Raises PushbackError, naming what is set, where the environment does not let one be made."""
    try:
        return client()
    except Exception as error:  # a missing file, a bad certificate, a missing package, an address: each raises its own kind
        raise PushbackError(f"No connection can be set up ({_named(error)}).{_blamed(error)}") from error


def no_answer(url: str, error: BaseException, start: str) -> str:
    """Why nothing came from the server, with the last detail; `start` says how one is started."""
    if {type(one).__name__ for one in _chain(error)} & {"ConnectError", "ConnectTimeout", "ProxyError", "LocalProtocolError"}:
        return f"No server answers at {url} ({_last(error)}).{_blamed(error, url)} Start it ({start}), or correct the URL."
    return f"The connection to {url} broke ({_last(error)}). Look at the server's log, then try again."


def refused(url: str, model: str, status: int, said: str) -> str:
    """What an HTTP status means, with the server's words, and what to do."""
    if status in (401, 403):
        given = "refused the key in OPENAI_API_KEY" if api_key() else "wants a key, and OPENAI_API_KEY is not set"
        return f"The server at {url} {given} (HTTP {status}: {said}). Set OPENAI_API_KEY, then try again."
    if status == 404:
        return (
            f"The server at {url} does not know the model {model!r} (HTTP 404: {said}). Check its name (with Ollama: "
            "`ollama list`, `ollama pull`), and the URL: that of an OpenAI-compatible server mostly ends in /v1."
        )
    return f"The server at {url} answered HTTP {status}: {said}. Look at its log, then try again."


def words(body: bytes | str) -> str:
    """A server's own words in the body of an error, JSON of any form or text: one line of at most 200 characters, no key."""
    text = body if isinstance(body, str) else body.decode("utf-8", "replace")
    try:
        text = _message(json.loads(text))
    except ValueError:
        text = re.sub(r"<(style|script|head).*?</\1>|<[^>]*>", " ", text, flags=re.DOTALL) if "<" in text[:50] else text
    key = api_key()
    return " ".join((text.replace(key, "[key]") if key else text).split())[:200] or "no words"


def _message(found: Any) -> str:
    """OpenAI sends {"error": {"message": …}}, Ollama {"error": …}, FastAPI {"detail": [{"msg": …}]}, Google a list."""
    if isinstance(found, list) and found:
        return _message(found[0])
    if isinstance(found, dict):
        inner = next((found[name] for name in ("error", "message", "detail", "msg") if found.get(name)), None)
        return json.dumps(found, ensure_ascii=False) if inner is None else _message(inner)
    return str(found)


def cut_prompt(messages: Sequence[Message], counted: int, limit: int = 0) -> str:
    """What to say where the server cannot have read all of the prompt; "" where it may have.

    It has not if it counted fewer tokens than there are words (no tokenizer joins words), or just as many as it holds
    (`limit`, if that is known). A count of 0 is none.
    """
    least = sum(len(message["content"].split()) for message in messages)
    if not counted or (counted >= least and not 0 < limit <= counted):
        return ""
    return (
        f"the server read {counted:,} tokens of a prompt of {least:,} words: the rest did not fit and was cut. Give it a "
        "larger context (with Ollama: num_ctx), or shorten the prompt"
    )


def _chain(error: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    while error and error not in found:
        found.append(error)
        inner = error.exceptions[-1] if isinstance(error, BaseExceptionGroup) else None  # of several addresses of a name
        error = inner or error.__cause__ or error.__context__  # type: ignore[assignment]
    return found


def _last(error: BaseException) -> str:
    """The first cause that says something."""
    chain = _chain(error)
    return _named(next((one for one in reversed(chain) if str(one)), chain[-1]))


def _named(error: BaseException) -> str:
    return f"{type(error).__name__}: {words(str(error))}"


def _blamed(error: BaseException, url: str = "") -> str:
    """The variables that may have spoilt it: for certificates, or else proxies (of this URL); without passwords."""
    certificates = any(isinstance(one, ssl.SSLError | FileNotFoundError) for one in _chain(error))
    parts = urlsplit(url)
    proxies = [f"{parts.scheme}_proxy", "all_proxy"] if url else ["http_proxy", "https_proxy", "all_proxy"]
    if proxy_bypass(parts.hostname or "") if url else certificates:
        proxies = []
    names = [*(["SSL_CERT_FILE", "SSL_CERT_DIR"] if certificates else []), *proxies]
    set_here = [(name, os.environ[name]) for low in names for name in (low, low.upper()) if os.environ.get(name)]
    shown = ", ".join(f"{name}={re.sub(r'//[^/]*@', '//', value)}" for name, value in dict(set_here).items())
    return f" This is set, and may be the cause: {shown}. Correct it or unset it." if shown else ""
