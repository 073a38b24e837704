"""Turns of a side-by-side chat: what was said, blind votes, export."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from ..core.common import BASELINE, FRICTION, VOICES, PushbackError
from ..core.files import read_models, replacing, write_jsonl
from ..core.records import Message, Reply, Turn, prompt_messages
from ..core.stats import Rate, wilson
from .backend import Event

PANES = ("A", "B")
TIE, BOTH_BAD = "tie", "both bad"
CHOICES = (*PANES, TIE, BOTH_BAD)


def shuffled(rng: random.Random) -> tuple[str, str]:
    """The voices of pane A and pane B, each order as likely as the other."""
    first, second = VOICES if rng.random() < 0.5 else VOICES[::-1]
    return first, second


def preferred(order: tuple[str, str], choice: str) -> str:
    """What a vote says once the names are known: a voice, `tie` or `both bad`. Raises PushbackError for any other vote."""
    if choice not in CHOICES:
        raise PushbackError(f"{choice!r} is no vote. Vote one of: {', '.join(CHOICES)}.")
    return order[PANES.index(choice)] if choice in PANES else choice


@dataclass(frozen=True)
class Tally:
    """How often each voice was preferred, and how often neither."""

    friction: int = 0
    baseline: int = 0
    ties: int = 0
    both_bad: int = 0

    @property
    def decided(self) -> int:
        return self.friction + self.baseline

    @property
    def rate(self) -> Rate | None:
        """Votes for friction among the decided ones, with Wilson's interval; None before the first."""
        return wilson(self.friction, self.decided) if self.decided else None

    def __str__(self) -> str:
        counts = f"friction {self.friction}, baseline {self.baseline}, tie {self.ties}, both bad {self.both_bad}"
        if self.rate is None:
            return f"{counts}; no vote for either voice yet"
        return f"{counts}; friction preferred in {self.rate} decided votes (95 % interval, Wilson)"


def tally(preferences: Iterable[str]) -> Tally:
    """Counts what `preferred` gave for each vote."""
    counts = Counter(preferences)
    return Tally(counts[FRICTION], counts[BASELINE], counts[TIE], counts[BOTH_BAD])


Voice = Literal["baseline", "friction"]


class _Value(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ChatTurn(_Value):
    """One prompt and both replies. `panes` names the voices of pane A and B; `vote` was cast while they were hidden."""

    at: str  # ISO 8601, UTC
    model: str
    user: str
    said: tuple[Reply, Reply]
    seed: int = 0
    temperature: float = 0.0
    max_tokens: int = 0
    dial: float | None = None
    dial_moved_to: float | None = None  # where it stood at the end, if it was moved while they spoke
    number: int = 1  # which turn of its conversation
    regenerated: bool = False
    recorded: bool = False  # replayed from a file, not generated
    blind: bool = False
    panes: tuple[Voice, Voice] = ("baseline", "friction")
    vote: Literal["", "A", "B", "tie", "both bad"] = ""

    def of(self, voice: str) -> Reply:
        """The reply of one voice."""
        return next(said for said in self.said if said.voice == voice)

    def voted(self, choice: str) -> ChatTurn:
        """The same turn with a vote. Raises PushbackError if it is none of the four."""
        preferred(self.panes, choice)
        return self.model_copy(update={"vote": choice})

    @property
    def preferred(self) -> str:
        """The voice that got the vote, `tie`, `both bad`, or "" where there was no vote."""
        return preferred(self.panes, self.vote) if self.vote else ""

    def __repr__(self) -> str:
        return f"<turn {self.number} with {self.model}: {self.user[:60]!r}>"

    def _repr_html_(self) -> str:
        """Both replies side by side, as the last line of a cell."""
        from .view import turn_table

        return turn_table(self)


class ReplyBuffer:
    """Collects one voice's events into its reply so far."""

    def __init__(self, voice: str) -> None:
        self.voice, self.tokens, self.end, self.error = voice, 0, "", ""
        self.first_token: float | None = None
        self.thinking: float | None = None
        self.seconds = 0.0
        self._thought: list[str] = []
        self._answer: list[str] = []
        self._timing: list[tuple[float, str, str]] = []

    def add(self, event: Event) -> None:
        """Adds what one event brings."""
        self.tokens, self.seconds = max(self.tokens, event.tokens), event.seconds
        if event.misfiled:
            self._thought, self._answer = self._answer, []
            self._timing = [(seconds, thought + answer, "") for seconds, thought, answer in self._timing]
        self._thought += [event.thought] if event.thought else []
        self._answer += [event.answer] if event.answer else []
        if self.first_token is None and (event.tokens or event.thought or event.answer):
            self.first_token = event.seconds
        if event.answer and self.thinking is None and self._thought:
            self.thinking = event.seconds
        if event.thought or event.answer:
            self._timing.append((round(event.seconds, 3), event.thought, event.answer))
        self.end, self.error = event.end or self.end, event.error or self.error

    @property
    def thought(self) -> str:
        self._thought = ["".join(self._thought)]
        return self._thought[0]

    @property
    def answer(self) -> str:
        self._answer = ["".join(self._answer)]
        return self._answer[0]

    def reply(self, *, timing: bool = False) -> Reply:
        """The reply as it stands; its timing is left out where it only is to be shown."""
        first, thinking = (None if value is None else round(value, 3) for value in (self.first_token, self.thinking))
        return Reply(voice=self.voice, thought=self.thought, answer=self.answer, tokens=self.tokens, first_token=first,
                    thinking=thinking, seconds=round(self.seconds, 3), end=self.end, error=self.error,
                    timing=tuple(self._timing) if timing else ())  # fmt: skip


def messages_for(voice: str, system: str, turns: Sequence[ChatTurn], user: str) -> list[Message]:
    """One voice's conversation: earlier turns with its own answers, thoughts dropped as the model's template demands.

    A turn in which it gave no answer (stopped while it thought, failed) is left out.
    """
    history = []
    for turn in turns:
        answer = turn.of(voice).answer
        if answer.strip():
            history += [Turn(role="user", content=turn.user), Turn(role="assistant", content=answer)]
    return prompt_messages(user, system, history)


def save_turns(path: str | os.PathLike[str], turns: Iterable[ChatTurn]) -> int:
    """Writes one JSON line a turn; returns how many."""
    return write_jsonl(path, (turn.model_dump(mode="json") for turn in turns))


def load_turns(path: str | os.PathLike[str]) -> list[ChatTurn]:
    """Reads a transcript. Raises PushbackError naming the file, the line and the broken rule, or if there is no turn."""
    turns = [turn for _, turn in read_models(path, ChatTurn)]
    if not turns:
        raise PushbackError(f"{Path(path)} holds no turns. Export one from a chat, or replay another file.")
    return turns


def as_markdown(turns: Sequence[ChatTurn]) -> str:
    """The transcript for people: figures and text of every turn, text in fences so that nothing in it is markup."""
    votes = [turn.preferred for turn in turns if turn.vote]
    parts = ["# Transcript of a side-by-side chat", *([f"Votes: {tally(votes)}."] if votes else [])]
    for number, turn in enumerate(turns, 1):
        dial = "" if turn.dial is None else f", dial {turn.dial:g}"
        parts.append(f"## Turn {number}" + (" (recorded)" if turn.recorded else ""))
        parts.append(f"{_code(turn.model)}, {turn.at}, seed {turn.seed}, temperature {turn.temperature:g}, "
                     f"at most {turn.max_tokens} tokens{dial}")  # fmt: skip
        parts.append(fenced(turn.user))
        if turn.blind:
            vote = f"voted {turn.vote}, so {turn.preferred}" if turn.vote else "no vote"
            parts.append(f"Blind: A was {turn.panes[0]}, B was {turn.panes[1]}; {vote}.")
        for said in turn.said:
            parts += [f"### {said.voice}", _figures(said)]
            parts += [f"Thought:\n\n{fenced(said.thought)}"] if said.thought else []
            parts += [f"Answer:\n\n{fenced(said.answer)}"] if said.answer else ["No answer."]
            parts += [f"Error:\n\n{fenced(said.error)}"] if said.error else []
    return "\n\n".join(parts) + "\n"


def save_markdown(path: str | os.PathLike[str], turns: Sequence[ChatTurn]) -> None:
    """Writes `as_markdown` aside, then renames."""
    with replacing(path) as part:
        part.write_text(as_markdown(turns), encoding="utf-8")


def fenced(text: str) -> str:
    """The text in a code fence longer than any run of backticks in it."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}text\n{text}\n{fence}"


def _code(text: str) -> str:
    return f"`{' '.join(text.replace('`', ' ').split())}`"


def _figures(said: Reply) -> str:
    first = "no token" if said.first_token is None else f"first token after {said.first_token:.2f} s"
    speed = f", {said.tokens_per_second:.0f} tokens/s" if said.tokens_per_second else ""
    ended = {"length": ", cut off at the limit", "stopped": ", stopped", "error": ", failed"}.get(said.end, "")
    return f"{said.tokens} tokens, {first}{speed}{ended}"
