"""Streams both voices from a server, Ollama's own or any OpenAI-compatible one."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from ..core.common import BASELINE, FRICTION, OLLAMA_URL, PushbackError
from ..core.records import Message
from ..measure.prompts import load_prompts
from ..model.recipe import PLAIN_SAMPLING, SYSTEM
from ..model.server import plain_sampling
from .backend import Backend, Event, Preset, Put, Settings, in_thread, plain, presets_from

SILENCE_SECONDS = 120.0  # without a byte, after which a server is given up
CONNECT_SECONDS = 10.0
STOP_CHECK_SECONDS = 0.05  # between two looks at the stop sign
ENDS = ("stop", "length")  # any other reason to finish is an error


@dataclass(frozen=True)
class Served:
    """A model on a server. A `url` that ends in /v1 speaks the OpenAI protocol, any other Ollama's own.

    `prefilled`: the server's template opens the thinking, so that text begins inside it and no opening tag comes.
    """

    model: str
    url: str = OLLAMA_URL
    prefilled: bool = False

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise PushbackError(
                f"{self.url!r} is not the URL of a server. Pass one like {OLLAMA_URL} or http://localhost:8080/v1."
            )

    @property
    def speaks_openai(self) -> bool:
        return self.url.rstrip("/").endswith("/v1")


class ServedVoices(Backend):
    """Baseline and friction as two served models; a key is read from OPENAI_API_KEY and appears nowhere."""

    def __init__(self, baseline: Served, friction: Served, *, system: str = SYSTEM, max_tokens: int = 1024,
                 presets: Sequence[Preset] | None = None) -> None:  # fmt: skip
        self.served = {BASELINE: baseline, FRICTION: friction}
        self.system, self.max_tokens = system, max_tokens
        self.name = f"{baseline.model} and {friction.model}"
        self.presets = presets_from(load_prompts()) if presets is None else presets

    def stream(self, conversations: Mapping[str, list[Message]], settings: Settings, stop: threading.Event) -> Iterator[Event]:
        """Both servers' events as they come; a voice that fails ends with its error, the other continues."""
        start = time.perf_counter()
        return in_thread(
            lambda put: asyncio.run(self._ask_all(conversations, settings, stop, start, put)), stop, tuple(conversations)
        )

    async def _ask_all(self, conversations: Mapping[str, list[Message]], settings: Settings, stop: threading.Event,
                       start: float, put: Put) -> None:  # fmt: skip
        """Waits for both voices; `asyncio.run` then cancels what `stop` cut short, which closes its connection."""
        waiting = {asyncio.create_task(self._ask(voice, said, settings, start, put)) for voice, said in conversations.items()}
        while waiting and not stop.is_set():
            _, waiting = await asyncio.wait(waiting, timeout=STOP_CHECK_SECONDS)

    async def _ask(self, voice: str, messages: list[Message], settings: Settings, start: float, put: Put) -> None:
        """One voice's events. Pieces are counted as tokens until the server says how many there were."""
        served, tokens, end, error = self.served[voice], 0, "", ""

        def event(**news: str) -> Event:
            return Event(voice, time.perf_counter() - start, tokens=tokens, prefilled=served.prefilled, **news)

        try:
            ask = _openai if served.speaks_openai else _ollama
            async for thought, text, counted, reason in ask(served, messages, settings):
                tokens, end = counted or tokens + bool(thought or text), reason or end
                put(event(thought=thought, text=text))
            if end not in ENDS:
                why = f"with the reason {end!r}" if end else "without a reason"
                end, error = "error", f"The server at {served.url} ended the reply {why}. Look at its log, then send again."
        except Exception as failure:  # in a task it would be invisible: it belongs into the voice's pane
            end, error = "error", _explained(served, failure)
        put(event(end=end, error=error))


Piece = tuple[str, str, int, str]  # thought, text, the server's own count of tokens (0: not yet), its reason to finish


async def _openai(served: Served, messages: list[Message], settings: Settings) -> AsyncIterator[Piece]:
    import openai

    limits = openai.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS)
    no_key = {} if _key() else {"Authorization": openai.Omit()}
    async with openai.AsyncOpenAI(api_key=_key() or "none", base_url=served.url, timeout=limits, max_retries=0) as client:
        chunks = await client.chat.completions.create(
            model=served.model, messages=messages, seed=settings.seed, temperature=settings.temperature,
            max_tokens=settings.max_tokens, stream=True, stream_options={"include_usage": True}, extra_headers=no_key,
            extra_body=plain_sampling(served.url),
        )  # fmt: skip
        async for chunk in chunks:
            for choice in chunk.choices or ():
                apart = choice.delta.model_extra or {}
                thought = apart.get("reasoning_content") or apart.get("reasoning") or ""
                yield thought, choice.delta.content or "", 0, choice.finish_reason or ""
            if chunk.usage:
                yield "", "", chunk.usage.completion_tokens, ""


async def _ollama(served: Served, messages: list[Message], settings: Settings) -> AsyncIterator[Piece]:
    """Asks for the thinking apart, and without it where the model cannot think."""
    import httpx
    import ollama

    options = {"seed": settings.seed, "temperature": settings.temperature, "num_predict": settings.max_tokens, **PLAIN_SAMPLING}
    headers = {"Authorization": f"Bearer {_key()}"} if _key() else {}
    limits = httpx.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS)
    async with ollama.AsyncClient(served.url, headers=headers, timeout=limits) as client:
        think: bool | None = True
        while True:
            try:
                async for part in await client.chat(served.model, messages, stream=True, think=think, options=options):
                    end = (part.done_reason or "stop") if part.done else ""
                    yield part.message.thinking or "", part.message.content or "", part.eval_count or 0, end
                return
            except ollama.ResponseError as error:
                if not think or "does not support thinking" not in str(error):
                    raise
                think = None


def _key() -> str:
    return os.environ.get("OPENAI_API_KEY", "")


def _explained(served: Served, error: Exception) -> str:
    """What failed, in plain words, and what to do; for the errors of both clients. The key appears in none."""
    import httpx
    import ollama
    import openai

    if isinstance(error, openai.APIConnectionError | httpx.TransportError):
        kind = type(error.__cause__ or error).__name__
        if kind.startswith("Connect"):
            command = "its own start command" if served.speaks_openai else "`ollama serve`, then `ollama list`"
            return f"No server answers at {served.url}. Start it ({command}), or correct the URL."
        return f"The connection to {served.url} broke ({kind}). What came so far is shown; send the prompt again."
    if isinstance(error, ollama.ResponseError):
        status, said = error.status_code, str(error.error)
    elif isinstance(error, openai.APIStatusError):
        status, said = error.status_code, error.response.text
    elif isinstance(error, openai.APIError):
        status, said = -1, error.body if isinstance(error.body, str) else error.message
    elif isinstance(error, ValueError):
        line = error.doc if isinstance(error, json.JSONDecodeError) else str(error)
        return (
            f"The server at {served.url} sent a line that is no piece of a chat: {line[:120]!r}. Check that the URL is that of "
            "a chat server; one that speaks the OpenAI protocol mostly ends in /v1."
        )
    else:
        return plain(error)
    said = " ".join((said.replace(_key(), "[key]") if _key() else said).split())[:200]
    if status in (401, 403):
        return f"The server at {served.url} refused the key (HTTP {status}). Set OPENAI_API_KEY, then send again."
    if status == 404:
        return (
            f"The server at {served.url} does not know the model {served.model!r} (HTTP 404: {said}). Check its name "
            "(with Ollama: `ollama list`, `ollama pull`), and that the URL of an OpenAI-compatible server ends in /v1."
        )
    what = f"answered HTTP {status}" if status > 0 else "gave up"
    return f"The server at {served.url} {what}: {said}. Look at its log, then send again."
