"""The protocol of a side-by-side chat: one prompt, events from two voices at once; knows no model and no widget.

A backend's `stream` yields `Event`s until both voices have ended. Text comes in deltas, already split into thought and
answer. Seconds count from the moment the prompt was sent.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ..core.common import VOICES, PushbackError
from ..core.records import CLOSE, OPEN, Message

END_OF = ("stop", "length", "stopped", "error")  # ended by itself, cut at the limit, by the person, by a failure
GRACE = 0.3  # seconds that a stopped backend gets to end by itself before its events are no longer awaited
HEARTBEAT = 0.1  # seconds without news after which an empty event is yielded, so that a clock on screen can go on


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


@dataclass(frozen=True)
class Event:
    """News from one voice: more of its thought, of its answer, or its end. `voice` "" means only that time has passed.

    `misfiled`: all that was sent as answer so far was thought (a closing tag came, with none that opened).
    `tokens` is the number generated so far; `end` is one of END_OF; `error` says in plain words what failed.
    """

    voice: str
    seconds: float
    thought: str = ""
    answer: str = ""
    tokens: int = 0
    misfiled: bool = False
    end: str = ""
    error: str = ""


class Backend(Protocol):
    """Two voices behind one prompt. `note` is shown on screen; `dial` is None where the adapter cannot be scaled.

    `recorded` says that the replies come from a file.
    """

    name: str
    note: str
    system: str
    recorded: bool
    dial: float | None
    presets: Sequence[Preset]
    max_tokens: int

    def stream(self, conversations: Mapping[str, list[Message]], settings: Settings, stop: threading.Event) -> Iterator[Event]:
        """Both voices' events, until each has ended. Ends soon after `stop` is set."""

    def hint(self, user: str) -> str:
        """What to know about the replies to this prompt, in a line above them; "" for nothing."""


@dataclass
class ThoughtSplitter:
    """Splits text that arrives in pieces into thought and answer, as `split_reply` splits the whole; time is linear.

    A piece that may be the beginning of a tag is held back until the next one tells. White space at both ends of thought
    and answer is left out.
    """

    prefilled: bool = True
    _state: str = field(default="head", init=False)
    _held: str = field(default="", init=False)
    _blank: str = field(default="", init=False)  # white space that counts only if more text follows
    _begun: bool = field(default=False, init=False)
    _opened: bool = field(default=False, init=False)

    def feed(self, text: str) -> tuple[str, str, bool]:
        """(more thought, more answer, whether what was sent as answer so far was thought)."""
        return self._take(self._held + text, last=False)

    def flush(self) -> tuple[str, str, bool]:
        """What was held back, once no more text comes."""
        return self._take(self._held, last=True)

    def _take(self, text: str, last: bool) -> tuple[str, str, bool]:
        self._held, thought, misfiled = "", "", False
        if self._state == "head":
            text = self._head(text, last)
        if self._state in ("thought", "unsure"):
            before, tag, rest = text.partition(CLOSE)
            if not tag and not last:
                before, self._held = _without_start_of(CLOSE, before)
            said = self._trimmed(before)
            thought, text = (said, "") if self._state == "thought" or tag else ("", said)
            if tag:
                misfiled = self._state == "unsure"
                self._state, self._begun, self._blank = "answer", False, ""
                text = self._trimmed(rest)
        elif self._state == "answer":
            text = self._trimmed(text)
        else:
            text = ""
        return thought, text, misfiled

    def _head(self, text: str, last: bool) -> str:
        """Decides how the reply begins; gives the text after an opening tag, or all of it."""
        head = text.lstrip()
        if not last and len(head) < len(OPEN) and OPEN.startswith(head):
            self._held = text
            return ""
        opened = head.startswith(OPEN)
        self._state = "thought" if opened or self.prefilled else "unsure"
        return head[len(OPEN) :] if opened else text

    def _trimmed(self, text: str) -> str:
        text = text if self._begun else text.lstrip()
        body = text.rstrip()
        if not body:
            self._blank += text if self._begun else ""
            return ""
        said, self._blank, self._begun = self._blank + body, text[len(body) :], True
        return said


def _without_start_of(tag: str, text: str) -> tuple[str, str]:
    """The text, and the end of it that could be the beginning of the tag."""
    for size in range(min(len(tag) - 1, len(text)), 0, -1):
        if tag.startswith(text[-size:]):
            return text[:-size], text[-size:]
    return text, ""


Put = Callable[[Event], None]


def in_thread(produce: Callable[[Put], None], stop: threading.Event, voices: Sequence[str] = VOICES) -> Iterator[Event]:
    """Yields the events that `produce(put)` puts from a thread of its own; a failure becomes each voice's last event.

    Once `stop` is set the thread gets GRACE seconds; what comes later is not heard.
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
            deadline = time.perf_counter() + GRACE
        try:
            event = events.get(timeout=HEARTBEAT)
        except queue.Empty:
            event = Event("", time.perf_counter() - start)
        if event is None:
            return
        yield event


def plain(error: Exception) -> str:
    """The error as one plain sentence: our own words as they are, others with their kind."""
    if isinstance(error, PushbackError):
        return str(error)
    return f"{type(error).__name__}: {error}. Run the cell of the chat again; if it comes back, restart the kernel."
