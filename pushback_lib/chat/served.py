"""Streams both voices from a server, Ollama's own or any OpenAI-compatible one."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from ..core.common import BASELINE, FRICTION, OLLAMA_URL, PushbackError
from ..core.records import Message
from ..measure.prompts import load_prompts
from ..model.reach import CONNECT_SECONDS, NUM_CTX, api_key, checked_url, cut_prompt, made, no_answer, refused, words
from ..model.recipe import PLAIN_SAMPLING, SYSTEM
from ..model.server import ollama_fields, plain_sampling, spoken
from .backend import Backend, Event, Preset, Put, Settings, in_thread, plain, presets_from

if TYPE_CHECKING:
    import httpx

SILENCE_SECONDS = 120.0  # without a byte, after which a server is given up
STOP_CHECK_SECONDS = 0.05  # between two looks at the stop sign
ENDS = ("stop", "length")  # any other reason to finish is an error


@dataclass(frozen=True)
class Served:
    """A model on a server. A `url` that ends in /v1 speaks the OpenAI protocol, any other Ollama's own.

    `prefilled`: the server's template opens the thinking, so that text begins inside it and no opening tag comes; False: it
    does not. Where it is not known, what an OpenAI-compatible server sends before any tag is shown as the answer, as thought
    once the limit has cut it.
    """

    model: str
    url: str = OLLAMA_URL
    prefilled: bool | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "url", checked_url(self.url))

    @property
    def speaks_openai(self) -> bool:
        return self.url.endswith("/v1")


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
            ended, waiting = await asyncio.wait(waiting, timeout=STOP_CHECK_SECONDS)
            for task in ended:
                task.result()  # raises what went wrong in explaining an error

    async def _ask(self, voice: str, messages: list[Message], settings: Settings, start: float, put: Put) -> None:
        """One voice's events. Pieces are counted as tokens until the server says how many there were."""
        served, tokens, prompt, end, error = self.served[voice], 0, 0, "", ""

        def event(**news: Any) -> Event:
            return Event(voice, time.perf_counter() - start, tokens=tokens, **{"prefilled": bool(served.prefilled)} | news)

        try:
            ask = _openai if served.speaks_openai else _ollama
            async for piece in ask(served, messages, settings):
                tokens = piece.tokens or tokens + bool(piece.thought or piece.text)
                prompt, end = piece.prompt or prompt, piece.end or end
                put(event(thought=piece.thought, text=piece.text))
            end, error = _judged(served, end, cut_prompt(messages, prompt, 0 if served.speaks_openai else NUM_CTX))
        except Exception as failure:  # in a task it would be invisible: it belongs into the voice's pane
            end, error = "error", _explained(served, failure)
        # without a tag before the limit, all may be a thought that the template opened; Ollama's own protocol keeps it apart
        cut = served.prefilled is None and end == "length" and served.speaks_openai
        put(event(end=end, error=error, prefilled=bool(served.prefilled) or cut))


class Piece(NamedTuple):
    """A piece of a reply, and what the server says of it: tokens of reply and prompt (0: not yet), its reason to end."""

    thought: str = ""
    text: str = ""
    tokens: int = 0
    prompt: int = 0
    end: str = ""


def _judged(served: Served, end: str, cut: str) -> tuple[str, str]:
    """How a reply ended, and what is wrong with that."""
    if end not in ENDS:
        why = f"with the reason {end!r}" if end else "without a reason"
        return "error", f"The server at {served.url} ended the reply {why}. Look at its log, then send again."
    return ("error", f"The reply is not to this prompt: {cut}.") if cut else (end, "")


async def _openai(served: Served, messages: list[Message], settings: Settings) -> AsyncIterator[Piece]:
    asked = {"model": served.model, "messages": messages, "seed": settings.seed, "temperature": settings.temperature,
             "max_tokens": settings.max_tokens, "stream": True, "stream_options": {"include_usage": True},
             **plain_sampling(served.url)}  # fmt: skip
    async for chunk in _chunks(served, "/chat/completions", asked):
        for choice in chunk.get("choices") or ():
            if failure := choice.get("error"):
                raise _Said(words(json.dumps(failure)))
            whole = choice.get("message")  # of a server that does not stream; it need not say why it ended
            end = choice.get("finish_reason") or ("stop" if whole else "")
            yield Piece(*spoken(whole or choice.get("delta") or {}), end=str(end))
        usage = chunk.get("usage") or {}
        yield Piece(tokens=usage.get("completion_tokens") or 0, prompt=usage.get("prompt_tokens") or 0)


async def _ollama(served: Served, messages: list[Message], settings: Settings) -> AsyncIterator[Piece]:
    """Asks for the thinking apart, and without it where the model cannot think."""
    options = {"seed": settings.seed, "temperature": settings.temperature, "num_predict": settings.max_tokens, **PLAIN_SAMPLING}
    asked = {"model": served.model, "messages": messages, **ollama_fields(options), "stream": True}
    for think in ({"think": True}, {}):
        try:
            async for part in _chunks(served, "/api/chat", asked | think):
                end = (part.get("done_reason") or "stop") if part.get("done") else ""
                count, prompt = part.get("eval_count") or 0, part.get("prompt_eval_count") or 0
                yield Piece(*spoken(part.get("message") or {}), tokens=count, prompt=prompt, end=str(end))
            return
        except PushbackError as error:
            if not think or "does not support thinking" not in str(error):
                raise


class _Said(Exception):
    """An error that the server sent in the middle of a reply, in its words."""


async def _chunks(served: Served, path: str, asked: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    """The JSON objects of a reply: one, where the server does not stream. Raises PushbackError, _Said, ValueError, httpx's."""
    import httpx

    headers = {"Authorization": f"Bearer {key}"} if (key := api_key()) else {}
    limits = httpx.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS)
    client = made(lambda: httpx.AsyncClient(headers=headers, timeout=limits, follow_redirects=True))
    async with client, client.stream("POST", served.url + path, json=asked) as answer:
        if answer.is_error:
            said = words(await answer.aread() or answer.reason_phrase)
            raise PushbackError(refused(served.url, served.model, answer.status_code, said))
        kind = answer.headers.get("content-type", "")
        events = served.speaks_openai and "json" not in kind and "html" not in kind
        async for chunk in _events(answer) if events else _values(answer):
            if not isinstance(chunk, dict):
                raise ValueError(str(chunk))
            if chunk.get("error") or chunk.get("detail") or isinstance(chunk.get("message"), str):
                raise _Said(words(json.dumps(chunk)))
            yield chunk


async def _events(answer: httpx.Response) -> AsyncIterator[Any]:
    """The JSON values in server-sent events."""
    from httpx_sse import EventSource

    answer.headers["content-type"] = "text/event-stream"  # some servers call it otherwise, or not at all
    async for event in EventSource(answer).aiter_sse():
        if event.data.startswith("[DONE]"):
            return
        if event.data:  # else it only keeps the connection open
            yield json.loads(event.data)


async def _values(answer: httpx.Response) -> AsyncIterator[Any]:
    """The JSON values of a body: one in each line, or one over several; their strings may hold any character."""
    rest, decoder = "", json.JSONDecoder()
    async for text in answer.aiter_text():
        rest = (rest + text).lstrip()
        while rest:
            try:
                value, end = decoder.raw_decode(rest)
            except ValueError:
                break  # it may go on in the next text
            yield value
            rest = rest[end:].lstrip()
    if rest:
        raise json.JSONDecodeError("no JSON", rest, 0)


def _explained(served: Served, error: Exception) -> str:
    """What failed, in plain words, and what to do. The key appears in none."""
    import httpx

    if isinstance(error, httpx.TransportError):
        start = "its own start command" if served.speaks_openai else "`ollama serve`, then `ollama list`"
        return no_answer(served.url, error, start)
    if isinstance(error, _Said):
        return f"The server at {served.url} gave up: {error}. Look at its log, then send again."
    if isinstance(error, ValueError):
        line = error.doc if isinstance(error, json.JSONDecodeError) else str(error)
        return (
            f"The server at {served.url} sent what is no piece of a chat: {words(line)[:120]!r}. Check that the URL is that of "
            "a chat server; one that speaks the OpenAI protocol mostly ends in /v1."
        )
    return plain(error)
