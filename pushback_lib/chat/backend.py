"""What every source of a side-by-side chat has in common: its protocol, its events, and the replies they add up to."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from typing import Protocol

from ..core.common import PushbackError
from ..core.records import CLOSE, OPEN, Message, Reply, split_reply
from ..measure.prompts import Prompt

STOP_GRACE_SECONDS = 0.3  # that a stopped backend gets to end by itself; its later events are not awaited
TICK_SECONDS = 0.1  # without news, after which an empty event is yielded, so that a clock on screen keeps moving
PAIRS_EACH = 3  # so many friction prompts and as many twins for each behaviour


@dataclass(frozen=True)
class Settings:
    """What both voices are asked with; greedy at temperature 0. `min_tokens` keeps a reply from ending, to measure speed."""

    seed: int = 0
    temperature: float = 0.0
    max_tokens: int = 220
    min_tokens: int = 0


@dataclass(frozen=True)
class Preset:
    """A prompt to choose from a list, under the behaviour that it is about."""

    behaviour: str
    text: str


def presets_from(prompts: Iterable[Prompt], pairs_each: int = PAIRS_EACH) -> tuple[Preset, ...]:
    """The first pairs of each behaviour, halves side by side; prompts that need earlier turns are left out."""
    found: dict[str, dict[str, list[str]]] = {}
    for prompt in prompts:
        if not prompt.history:
            found.setdefault(prompt.behaviour, {}).setdefault(prompt.pair or prompt.id, []).append(prompt.user_input)
    return tuple(
        Preset(behaviour, text)
        for behaviour, pairs in found.items()
        for texts in sorted(pairs.values(), key=len, reverse=True)[:pairs_each]
        for text in texts
    )


@dataclass(frozen=True)
class Event:
    """News from one voice: more text, or its end. Seconds count from the sending; `voice` "" means only that time has passed.

    `text` is raw, tags included; `prefilled` says that it begins inside the thought. A source that keeps them apart gives
    `thought` and `answer`. `tokens` is the number generated so far; `end` is "stop", "length", "stopped" or "error".
    """

    voice: str
    seconds: float
    thought: str = ""
    answer: str = ""
    text: str = ""
    tokens: int = 0
    prefilled: bool = False
    end: str = ""
    error: str = ""


class Backend(Protocol):
    """Two voices behind one prompt. `note` is shown on screen; `dial` is None where the adapter cannot be scaled.

    `recorded` says that the replies come from a file, `dial_from` what a moved dial begins to count with.
    """

    name: str
    note: str = ""
    system: str = ""
    recorded: bool = False
    dial: float | None = None
    dial_from: str = "the next token"
    presets: Sequence[Preset]
    max_tokens: int

    def stream(self, conversations: Mapping[str, list[Message]], settings: Settings, stop: threading.Event) -> Iterator[Event]:
        """Both voices' events, until each has ended. Ends soon after `stop` is set."""

    def hint(self, user: str) -> str:
        """What to know about the replies to this prompt, in a line above them; "" for nothing."""
        return ""

    def close(self) -> None:
        """Gives back what it holds, where that is more than Python gives back by itself."""


class ReplyBuffer:
    """Collects one voice's events into its reply so far."""

    def __init__(self, voice: str) -> None:
        self.voice, self.tokens, self.end, self.error = voice, 0, "", ""
        self.first_token: float | None = None
        self.thinking: float | None = None
        self.seconds, self._prefilled = 0.0, False
        self._thought, self._answer, self._text = StringIO(), StringIO(), StringIO()
        self._events: list[Event] = []  # those that brought text

    def add(self, event: Event) -> None:
        """Adds what one event brings."""
        self.tokens, self.seconds = max(self.tokens, event.tokens), event.seconds
        self.end, self.error = event.end or self.end, event.error or self.error
        self._prefilled = self._prefilled or event.prefilled
        if event.thought or event.answer or event.text:
            self._events.append(event)
            self._thought.write(event.thought)
            self._answer.write(event.answer)
            self._text.write(event.text)
        if self.first_token is None and (event.tokens or self._events):
            self.first_token = event.seconds

    def reply(self, *, timing: bool = False) -> Reply:
        """The reply so far; its timing is left out where it is only to be shown."""
        text, thought = self._text.getvalue(), self._thought.getvalue()
        text = text if self.end else without_half_tag(text)
        split = split_reply(text, prefilled=self._prefilled and not thought)
        thought, answer = thought + split.thought, self._answer.getvalue() + split.answer
        begun = bool(thought and answer) and self.thinking is None
        pieces = tuple(self._pieces(text, split)) if timing or begun else ()
        if begun:
            self.thinking = next(seconds for seconds, _, more_answer in pieces if more_answer)
        return Reply(voice=self.voice, thought=thought, answer=answer, tokens=self.tokens,
                     first_token=None if self.first_token is None else round(self.first_token, 3), thinking=self.thinking,
                     seconds=round(self.seconds, 3), end=self.end, error=self.error,
                     timing=pieces if timing else ())  # fmt: skip

    def _pieces(self, text: str, split: Reply) -> Iterator[tuple[float, str, str]]:
        """What each event added: (seconds, more thought, more answer)."""
        thought_at = len(text.partition(CLOSE)[0].rstrip()) - len(split.thought)
        answer_at = len(text.rstrip()) - len(split.answer)
        start = end = 0
        for event in self._events:
            start, end = end, end + len(event.text)
            thought = event.thought + split.thought[max(0, start - thought_at) : max(0, end - thought_at)]
            answer = event.answer + split.answer[max(0, start - answer_at) : max(0, end - answer_at)]
            if thought or answer:
                yield round(event.seconds, 3), thought, answer


def without_half_tag(text: str) -> str:
    """The text without the beginning of a tag at its end, which the next piece may complete."""
    at = text.rfind("<", max(0, len(text) - len(CLOSE) + 1))
    return text[:at] if at >= 0 and (CLOSE.startswith(text[at:]) or OPEN.startswith(text[at:])) else text


Put = Callable[[Event], None]


def in_thread(produce: Callable[[Put], None], stop: threading.Event, voices: Sequence[str]) -> Iterator[Event]:
    """Yields the events that `produce(put)` puts from a thread of its own; a failure becomes each voice's last event.

    Once `stop` is set the thread gets STOP_GRACE_SECONDS; what comes later is dropped.
    """
    events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
    start = time.perf_counter()

    def work() -> None:
        try:
            produce(events.put)
        except Exception as error:  # a thread's exception is invisible in a notebook: show it in both panes
            seconds = time.perf_counter() - start
            for voice in voices:
                events.put(Event(voice, seconds, end="error", error=plain(error)))
        finally:
            events.put(None)

    threading.Thread(target=work, name="pushback-voices", daemon=True).start()
    deadline = None
    while deadline is None or time.perf_counter() < deadline:
        if deadline is None and stop.is_set():
            deadline = time.perf_counter() + STOP_GRACE_SECONDS
        try:
            event = events.get(timeout=TICK_SECONDS)
        except queue.Empty:
            event = Event("", time.perf_counter() - start)
        if event is None:
            return
        yield event


def plain(error: Exception) -> str:
    """The error as one plain sentence: our own words as they are, others with their kind."""
    if isinstance(error, PushbackError):
        return str(error)
    return f"{type(error).__name__}: {error}. Run the cell of the chat again; if the error returns, restart the kernel."


def fit(
    messages: list[Message], ids_of: Callable[[list[Message]], list[int]], window: int, max_tokens: int, name: str
) -> list[int]:
    """The prompt's ids, as `ids_of` gives them; the oldest turns are left out until prompt and reply fit the window.

    Raises PushbackError, before the slow part, if the last message alone does not.
    """
    room = window - max_tokens
    characters = len(messages[-1]["content"])
    head, turns = [m for m in messages if m["role"] == "system"], [m for m in messages if m["role"] != "system"]
    while characters < room * 40:  # no tokenizer here packs 40 characters into each token of a long text: spare it the work
        ids = ids_of([*head, *turns])
        if len(ids) <= room:
            return ids
        if len(turns) < 3:
            break
        turns = turns[2:]
    raise PushbackError(
        f"The prompt of {characters:,} characters is too long: with {max_tokens:,} tokens kept for the reply, "
        f"{name} has room for {max(room, 0):,} tokens. Shorten the prompt, or lower the maximum of tokens."
    )
