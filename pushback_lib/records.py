"""The schema of one training example, on disk and as chat messages; knows nothing about how it was made."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, model_validator

from .errors import PushbackError
from .jsonl import read_models, write_jsonl
from .personas import PERSONA_NAMES
from .replies import join_reply

Subset = Literal["disagreement", "uncertainty", "reluctance", "plain"]
Behaviour = Literal["disagree", "clarify", "doubt", "refuse", "comply"]
Message = dict[str, str]

BEHAVIOURS: dict[str, tuple[str, ...]] = {
    "disagreement": ("disagree",),
    "uncertainty": ("clarify", "doubt"),
    "reluctance": ("refuse",),
    "plain": ("comply",),
}
SUBSET_OF = {behaviour: subset for subset, behaviours in BEHAVIOURS.items() for behaviour in behaviours}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)


class Turn(_Strict):
    """An earlier turn of the conversation, without its thoughts."""

    role: Literal["user", "assistant"]
    content: str


class Thought(_Strict):
    """One persona's thought. `friction` is the span of `thought` where the resistance sits; "" where there is none."""

    persona: Literal[
        "Problem Framer",
        "Memory Activator",
        "Mechanism Explorer",
        "Perspective Generator",
        "Limitation Acknowledger",
        "Synthesizer",
    ]
    thought: str
    friction: str = ""

    @model_validator(mode="after")
    def _friction_is_a_span(self) -> Thought:
        if not self.thought:
            raise ValueError(f"the thought of {self.persona} is empty")
        if self.friction not in self.thought:
            raise ValueError(f"friction {self.friction!r} is not part of the thought of {self.persona}")
        return self


class Provenance(_Strict):
    """Where a record comes from: `written` for the kit, or made by the debate `engine` or the `language` script."""

    source: Literal["written", "engine", "language"]
    model: str = ""
    base_url: str = ""
    seed: int | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    prompt_version: str = ""


class Record(_Strict):
    """One example: a request, six personas' thoughts (one to six where `subset` is `plain`), and the answer."""

    id: str
    subset: Subset
    behaviour: Behaviour
    scenario: str
    domain: str
    user_input: str
    thoughts: tuple[Thought, ...]
    answer: str
    provenance: Provenance
    history: tuple[Turn, ...] = ()

    @model_validator(mode="after")
    def _holds_together(self) -> Record:
        if self.behaviour not in BEHAVIOURS[self.subset]:
            raise ValueError(f"behaviour {self.behaviour!r} does not belong to subset {self.subset!r}")
        for field in ("id", "scenario", "domain", "user_input", "answer"):
            if not getattr(self, field):
                raise ValueError(f"{field} is empty")
        names = [thought.persona for thought in self.thoughts]
        if names != [name for name in PERSONA_NAMES if name in names]:
            raise ValueError(f"personas are repeated or out of order: {names}")
        if not names or (self.subset != "plain" and len(names) != len(PERSONA_NAMES)):
            raise ValueError(f"{len(names)} thoughts; {self.subset} needs {'one' if self.subset == 'plain' else 'six'}")
        return self


def thought_text(record: Record) -> str:
    """The inner debate as it stands inside `<think>`: one `Persona: thought` line each."""
    return "\n".join(f"{thought.persona}: {thought.thought}" for thought in record.thoughts)


def prompt_messages(user_input: str, system: str, history: Iterable[Turn] = ()) -> list[Message]:
    """System message (left out if empty), earlier turns, then the user's message."""
    messages = [{"role": "system", "content": system}] if system else []
    messages += [{"role": turn.role, "content": turn.content} for turn in history]
    return [*messages, {"role": "user", "content": user_input}]


def to_messages(record: Record, system: str) -> list[Message]:
    """System, earlier turns, user and assistant message (thought and answer) of one record."""
    reply = join_reply(thought_text(record), record.answer)
    return [
        *prompt_messages(record.user_input, system, record.history),
        {"role": "assistant", "content": reply},
    ]


def to_row(record: Record) -> dict[str, object]:
    """The record as a JSON object; `history` is left out where it is empty, so that single-turn files stay flat."""
    return record.model_dump(mode="json", exclude=None if record.history else {"history"})


def load_records(path: str | os.PathLike[str]) -> list[Record]:
    """Loads and checks every record. Raises PushbackError naming the file, the line and the broken rule."""
    records = [record for _, record in read_models(path, Record)]
    if not records:
        raise PushbackError(f"{Path(path)} holds no records. Make some with `pushback data make`.")
    return records


def save_records(path: str | os.PathLike[str], records: Iterable[Record]) -> int:
    """Writes records as JSON Lines (write aside, then rename); returns how many."""
    return write_jsonl(path, map(to_row, records))
