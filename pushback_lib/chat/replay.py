"""Plays a recorded transcript as a backend, with the timing it was recorded with: no model, no network."""

from __future__ import annotations

import heapq
import os
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..core.common import DATA, PushbackError
from ..core.records import Message, Reply
from .backend import Backend, Event, Preset, Settings
from .turns import ChatTurn, load_turns

RECORDED = DATA / "tiny" / "recorded.jsonl"


class RecordedVoices(Backend):
    """Replays the turns of a transcript; `speed` 2 is twice as fast as recorded, 0 as fast as it can be shown.

    A prompt that was not recorded is answered with an error that says so: nothing is made up. Seed, temperature and dial
    have no effect. Of several recorded turns with the same prompt, the next one is played each time.
    """

    recorded = True

    def __init__(self, path: str | os.PathLike[str] = RECORDED, *, speed: float = 1.0) -> None:
        if speed < 0:
            raise PushbackError(
                f"The speed of a replay is {speed:g}. Use 1 for the recorded one, 2 for twice as fast, 0 for at once."
            )
        self.path, self.speed = Path(path), speed
        self.turns = [turn for turn in load_turns(path) if not any(said.error for said in turn.said)]
        if not self.turns:
            raise PushbackError(f"{self.path} holds failed turns only. Record a chat that works, and export it.")
        self.name = f"a recording of {self.turns[0].model}"
        self.note = (
            f"Recorded: these replies come from {self.path.name} ({self.turns[0].model}, {self.turns[0].at[:10]}), nothing is "
            "generated. Choose one of the recorded prompts; the settings have no effect."
        )
        self.presets = tuple(Preset("recorded", user) for user in dict.fromkeys(turn.user for turn in self.turns))
        self.max_tokens = max(turn.max_tokens for turn in self.turns) or 1
        self._played: dict[str, int] = {}

    def hint(self, user: str) -> str:
        """Which recording was played, where there are several of the prompt."""
        found, played = self._recordings(user), self._played.get(user, 0)
        if len(found) < 2 or not played:
            return ""
        return f"Recording {(played - 1) % len(found) + 1} of {len(found)} of this prompt."

    def stream(self, conversations: Mapping[str, list[Message]], settings: Settings, stop: threading.Event) -> Iterator[Event]:
        """The recorded events of the prompt, in their order; waits between them unless `stop` is set."""
        turn = self._next(next(iter(conversations.values()))[-1]["content"])
        start = time.perf_counter()
        for event in heapq.merge(*(_events(turn.of(voice)) for voice in conversations), key=lambda event: event.seconds):
            due = start + (event.seconds / self.speed if self.speed else 0.0)
            while (left := due - time.perf_counter()) > 0 and not stop.wait(min(left, 0.1)):
                yield Event("", (time.perf_counter() - start) * (self.speed or 1.0))
            if stop.is_set():
                return
            yield event

    def _recordings(self, user: str) -> list[ChatTurn]:
        return [turn for turn in self.turns if turn.user == user]

    def _next(self, user: str) -> ChatTurn:
        found, at = self._recordings(user), self._played.get(user, 0)
        if not found:
            raise PushbackError(
                f"Nothing is recorded for {user[:80]!r}. Choose one of the {len(self.presets)} recorded prompts."
            )
        self._played[user] = at + 1
        return found[at % len(found)]


def _events(said: Reply) -> Iterator[Event]:
    """One voice's deltas as they were recorded; tokens are spread over them evenly, and exact at the end."""
    for number, (seconds, thought, answer) in enumerate(said.timing, 1):
        yield Event(said.voice, seconds, thought, answer, tokens=said.tokens * number // len(said.timing))
    thought, answer = ("", "") if said.timing else (said.thought, said.answer)
    yield Event(said.voice, said.seconds, thought, answer, tokens=said.tokens, end=said.end or "stop")
