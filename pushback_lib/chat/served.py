"""Stream both voices from a server, Ollama's or any OpenAI-compatible one."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from ..core.common import BASELINE, FRICTION, PushbackError
from ..core.records import Message
from ..model.recipe import SYSTEM
from .backend import Event, Preset, Put, Settings, ThoughtSplitter, in_thread


@dataclass(frozen=True)
class Piece:
    """What one line brings. `tokens` is the server's own count, where it gives one; `end` is "stop" or "length"."""

    thought: str = ""
    content: str = ""
    tokens: int = 0
    end: str = ""


def url_of(base: str) -> str:
    """Where to post: `/chat/completions` below an OpenAI-compatible `…/v1`, else Ollama's `/api/chat`."""
    parts = urlsplit(base)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise PushbackError(
            f"{base!r} is not the URL of a server. Pass one like http://localhost:11434 or http://localhost:8080/v1."
        )
    base = base.rstrip("/")
    return f"{base}/chat/completions" if base.endswith("/v1") else f"{base}/api/chat"


def body_of(url: str, model: str, messages: list[Message], settings: Settings) -> dict[str, Any]:
    """The request, in the protocol that the URL speaks."""
    if url.endswith("/api/chat"):
        options = {"seed": settings.seed, "temperature": settings.temperature, "num_predict": settings.max_tokens}
        return {"model": model, "messages": messages, "stream": True, "options": options}
    return {"model": model, "messages": messages, "stream": True, "stream_options": {"include_usage": True},
            "seed": settings.seed, "temperature": settings.temperature, "max_tokens": settings.max_tokens}  # fmt: skip


def piece_of(row: dict[str, Any]) -> Piece:
    """One line of Ollama's stream or one event of an OpenAI-compatible one.

    Raises PushbackError with the server's own words where the line is an error.
    """
    if row.get("error"):
        error = row["error"]
        said = error.get("message", error) if isinstance(error, dict) else error
        raise PushbackError(f"The server gave up: {str(said)[:200]}. Look at its log, then send again.")
    if "message" in row:  # Ollama
        message = row["message"]
        end = "" if not row.get("done") else "length" if row.get("done_reason") == "length" else "stop"
        return Piece(message.get("thinking") or "", message.get("content") or "", int(row.get("eval_count") or 0), end)
    tokens = int((row.get("usage") or {}).get("completion_tokens") or 0)
    if not row["choices"]:
        return Piece(tokens=tokens)
    choice = row["choices"][0]
    delta = choice.get("delta") or {}
    reason = choice.get("finish_reason") or ""
    thought = delta.get("reasoning_content") or delta.get("reasoning") or ""
    return Piece(thought, delta.get("content") or "", tokens, "length" if reason == "length" else "stop" if reason else "")


OLLAMA = "http://localhost:11434"
SILENCE = 120.0  # seconds without a byte after which a server is given up
POLL = 0.05  # seconds between two looks at the stop sign


@dataclass(frozen=True)
class Served:
    """A model on a server. A `url` that ends in /v1 speaks the OpenAI protocol, any other Ollama's own.

    `prefilled`: the server's template opens the thinking, so that text begins inside it and no opening tag comes.
    """

    model: str
    url: str = OLLAMA
    prefilled: bool = False


class ServedVoices:
    """Baseline and friction as two served models; a key is read from OPENAI_API_KEY and appears nowhere."""

    recorded = False
    dial: float | None = None
    note = ""

    def __init__(self, baseline: Served, friction: Served, *, system: str = SYSTEM, max_tokens: int = 1024,
                 presets: Sequence[Preset] | None = None) -> None:  # fmt: skip
        from ..measure.prompts import load_prompts
        from .local import chosen

        self.served = {BASELINE: baseline, FRICTION: friction}
        self.urls = {voice: url_of(served.url) for voice, served in self.served.items()}
        self.system, self.max_tokens = system, max_tokens
        self.name = f"{baseline.model} and {friction.model}"
        self.presets = chosen(load_prompts()) if presets is None else presets

    def hint(self, user: str) -> str:
        """Nothing is known about the prompt."""
        return ""

    def stream(self, conversations: Mapping[str, list[Message]], settings: Settings, stop: threading.Event) -> Iterator[Event]:
        """Both servers' events as they come; a voice that fails ends with its error, the other goes on."""
        return in_thread(partial(self._produce, conversations, settings, stop, time.perf_counter()), stop, tuple(conversations))

    def _produce(
        self, conversations: Mapping[str, list[Message]], settings: Settings, stop: threading.Event, start: float, put: Put
    ) -> None:
        asyncio.run(self._together(conversations, settings, stop, start, put))

    async def _together(self, conversations: Mapping[str, list[Message]], settings: Settings, stop: threading.Event,
                        start: float, put: Put) -> None:  # fmt: skip
        import httpx

        limits = httpx.Timeout(SILENCE, connect=10.0)
        async with httpx.AsyncClient(timeout=limits, headers=_key()) as client:
            tellers = {voice: _Teller(voice, start, put, self.served[voice]) for voice in conversations}
            tasks = [
                asyncio.create_task(self._voice(client, messages, settings, tellers[voice]))
                for voice, messages in conversations.items()
            ]
            while not all(task.done() for task in tasks) and not stop.is_set():
                await asyncio.wait(tasks, timeout=POLL)
            for task in tasks:
                task.cancel()  # closes its connection, so that the server stops generating
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _voice(self, client: Any, messages: list[Message], settings: Settings, tell: _Teller) -> None:
        import httpx

        served, url = self.served[tell.voice], self.urls[tell.voice]
        try:
            async with client.stream("POST", url, json=body_of(url, served.model, messages, settings)) as response:
                if response.status_code >= 400:
                    raise PushbackError(_refused(served, url, response.status_code, await response.aread()))
                async for piece in _pieces(response, url):
                    tell(piece)
            tell.end()
        except PushbackError as error:
            tell.end(error=str(error))
        except httpx.ConnectError:
            cure = "`ollama serve`, then `ollama list`" if "/api/" in url else "its own start command"
            tell.end(error=f"No server answers at {served.url}. Start it ({cure}), or mend the URL.")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            tell.end(error=f"The connection to {served.url} broke ({type(error).__name__}). What came so far is shown; "
                           "send the prompt again.")  # fmt: skip


class _Teller:
    """Turns one server's pieces into events."""

    def __init__(self, voice: str, start: float, put: Put, served: Served) -> None:
        self.voice, self.start, self.put = voice, start, put
        self.splitter = ThoughtSplitter(prefilled=served.prefilled)
        self.tokens, self.ended = 0, "stop"

    def __call__(self, piece: Piece) -> None:
        """Tells what one piece brings. Pieces are counted as tokens until the server says how many there were."""
        self.tokens = piece.tokens or self.tokens + bool(piece.thought or piece.content)
        self.ended = piece.end or self.ended
        if piece.thought:
            self.splitter.prefilled = False  # thinking comes apart: the content is answer from its first letter
            self._say(piece.thought, "", False)
        if piece.content:
            self._say(*self.splitter.feed(piece.content))
        elif piece.tokens:
            self._say("", "", False)

    def end(self, error: str = "") -> None:
        """The last event."""
        self._say(*self.splitter.flush(), end="error" if error else self.ended, error=error)

    def _say(self, thought: str, answer: str, misfiled: bool, end: str = "", error: str = "") -> None:
        seconds = time.perf_counter() - self.start
        if thought or answer or misfiled or end:
            self.put(Event(self.voice, seconds, thought, answer, self.tokens, misfiled, end, error))


async def _pieces(response: Any, url: str) -> AsyncIterator[Piece]:
    """The pieces of a stream of server-sent events (OpenAI) or of JSON lines (Ollama). Raises PushbackError at a broken one."""
    async for line in response.aiter_lines():
        text = line.removeprefix("data:").strip() if not line.startswith("{") else line
        if not text or text == "[DONE]" or line.startswith((":", "event:", "id:", "retry:")):
            continue
        try:
            yield piece_of(json.loads(text))
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise PushbackError(
                f"The server at {url} sent a line that is no piece of a chat: {text[:120]!r}. Check that the URL is that of "
                "a chat server; one that speaks the OpenAI protocol mostly ends in /v1."
            ) from error


def _key() -> dict[str, str]:
    key = os.environ.get("OPENAI_API_KEY", "")
    return {"Authorization": f"Bearer {key}"} if key else {}


def _refused(served: Served, url: str, status: int, raw: bytes) -> str:
    said = " ".join(raw.decode("utf-8", "replace").split())[:200]
    key = os.environ.get("OPENAI_API_KEY", "")
    said = said.replace(key, "[key]") if key else said
    if status in (401, 403):
        return f"The server at {served.url} refused the key (HTTP {status}). Set OPENAI_API_KEY, then send again."
    if status == 404:
        return (
            f"The server at {served.url} does not know the model {served.model!r} (HTTP 404: {said}). Check its name "
            "(with Ollama: `ollama list`, `ollama pull`), and that the URL of an OpenAI-compatible server ends in /v1."
        )
    return f"The server at {served.url} answered HTTP {status}: {said}. Look at its log, then send again."
