"""A two-voice chat in a terminal or a pipe: a prompt, then both replies as they come, the thought set apart."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import TextIO

from ..core.common import VOICES, PushbackError
from ..core.records import Reply
from .backend import STOP_GRACE_SECONDS, Backend, ReplyBuffer, Settings
from .turns import ChatTurn, figures, messages_for

ASK = "> "
BAR = "| "  # before each line of a thought, so that it is told apart without dim letters too


def talk(backend: Backend, settings: Settings, *, remember: bool | None = None) -> int:
    """Asks both voices each line of the input until it ends; returns 0, or 1 if a reply failed.

    With `remember` they read earlier turns; by default they do but for a model of the small language, which cannot change the
    subject of a conversation. Raises PushbackError from a KeyboardInterrupt where the user stopped it.
    """
    remember = not backend.note if remember is None else remember
    turns: list[ChatTurn] = []
    failed = False
    stop = threading.Event()
    if sys.stdin.isatty():
        print(_greeting(backend, remember))
    try:
        for user in _prompts():
            said = _answer(backend, turns if remember else [], user, settings, stop)
            failed = failed or any(reply.error for reply in said)
            turns.append(ChatTurn(at=datetime.now(UTC).isoformat(timespec="seconds"), model=backend.name, user=user, said=said))
    except KeyboardInterrupt as stopped:
        stop.set()
        time.sleep(STOP_GRACE_SECONDS)  # a thread that computes while Python ends can crash it
        raise PushbackError("Stopped.") from stopped
    return int(failed)


def _greeting(backend: Backend, remember: bool) -> str:
    """What to know before the first prompt, with a few to begin with."""
    small = " It speaks a small language, and knows few prompts but such as these." if backend.note else ""
    alone = "" if remember else " Each prompt begins a new conversation."
    some = list({preset.behaviour: preset.text for preset in backend.presets}.values())[:4]
    return "\n".join([f"Both voices of {backend.name}; Ctrl-D ends the chat.{small}{alone} For example:", *some])


def _prompts() -> Iterator[str]:
    """The lines of the input that are not empty; asked for in a terminal, else printed as if they had been typed."""
    typed = sys.stdin.isatty()
    if typed:
        with suppress(ImportError):  # Windows has none
            import readline  # noqa: F401  # arrow keys, and earlier lines
    while True:
        try:
            line = input(ASK if typed else "").strip()
        except EOFError:
            return print() if typed else None
        except UnicodeDecodeError as error:
            raise PushbackError(f"The input is no text in {sys.stdin.encoding}. Give it in that encoding.") from error
        if line:
            if not typed:
                print(f"{ASK}{line}")
            yield line


def _answer(
    backend: Backend, turns: list[ChatTurn], user: str, settings: Settings, stop: threading.Event
) -> tuple[Reply, Reply]:
    """Asks both voices, and prints their replies one below the other: the first as it comes, the second as soon as it may."""
    buffers = {voice: ReplyBuffer(voice) for voice in VOICES}
    writers = {voice: Writer(voice, sys.stdout) for voice in VOICES}
    asked = {voice: messages_for(voice, backend.system, turns, user) for voice in VOICES}
    for event in backend.stream(asked, settings, stop):
        if event.voice:
            buffers[event.voice].add(event)
            _show(buffers, writers)
    if hint := backend.hint(user):
        print(hint, file=sys.stderr)
    return tuple(buffers[voice].reply() for voice in VOICES)


def _show(buffers: dict[str, ReplyBuffer], writers: dict[str, Writer]) -> None:
    """Brings up to date what is on screen, up to the first voice that has not ended."""
    for voice, writer in writers.items():
        writer.write(buffers[voice].reply())
        if not buffers[voice].end:
            break


class Writer:
    """Prints one voice's reply piece by piece: its name, the thought behind bars, a blank line, the answer, its figures."""

    def __init__(self, voice: str, out: TextIO) -> None:
        self.voice, self.out = voice, out
        self.plain = not out.isatty() or "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"
        self._shown = {"thought": "", "answer": ""}
        self._at = ""  # "" before the name, then "name", "thought", "answer", "end"

    def write(self, said: Reply) -> None:
        """Prints what a reply, complete or so far, has more than before."""
        if self._at == "end":
            return
        if not self._at:
            self._at = "name"
            self._put(f"\n{self._style('1', self.voice)}\n")
        self._more("thought", said.thought)
        self._more("answer", said.answer)
        if said.end:
            rest = f"Error: {said.error}" if said.error else "" if said.answer else "[no answer]"
            self._put(
                ("" if self._at == "name" else "\n") + (f"{rest}\n" if rest else "") + self._style("2", figures(said)) + "\n"
            )
            self._at = "end"

    def _more(self, part: str, text: str) -> None:
        more = _printable(text.removeprefix(self._shown[part]))
        self._shown[part] = text
        if not more:
            return
        bar = BAR if part == "thought" else ""
        if self._at != part:
            self._put({"name": "", "thought": "\n\n", "answer": "\n"}[self._at])
            self._at, more = part, bar + more
        self._put(self._style("2", more.replace("\n", f"\n{bar}")) if bar else more)

    def _put(self, text: str) -> None:
        self.out.write(text)
        self.out.flush()

    def _style(self, code: str, text: str) -> str:
        return text if self.plain else f"\x1b[{code}m{text}\x1b[0m"


def _printable(text: str) -> str:
    """Without the control characters by which a text could command the terminal."""
    return "".join(char if char.isprintable() or char in "\n\t" else "\ufffd" for char in text)
