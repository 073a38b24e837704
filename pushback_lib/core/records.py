"""The record of the data set, the six personas, a voice's reply, and the chat messages that they become."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from .common import PushbackError
from .files import read_models, to_row, write_jsonl

OPEN, CLOSE = "<think>", "</think>"


class Reply(BaseModel):
    """One voice's reply: of a model, a server or a recording, complete or what came so far.

    `tokens` were generated; `first_token`, `thinking` (until the thought was closed) and `seconds` count from the sending;
    `timing` holds (seconds, more thought, more answer). `end` is "" while it goes on. Files leave out the last five:
    the raw `text`, its token `ids`, whether the thought was `closed`, the tokens of the prompt, and why a server `cut` it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    voice: Literal["", "baseline", "friction"] = ""
    thought: str = ""
    answer: str = ""
    tokens: int = 0
    first_token: float | None = None
    thinking: float | None = None
    seconds: float = 0.0
    end: Literal["", "stop", "length", "stopped", "error"] = ""
    error: str = ""
    timing: tuple[tuple[float, str, str], ...] = ()
    text: str = Field(default="", exclude=True)
    ids: tuple[int, ...] = Field(default=(), exclude=True)
    closed: bool = Field(default=True, exclude=True)
    prompt_tokens: int = Field(default=0, exclude=True)
    cut: str = Field(default="", exclude=True)

    @property
    def finished(self) -> bool:
        """Whether the model ended by itself."""
        return self.end == "stop"

    @property
    def tokens_per_second(self) -> float | None:
        """Of the tokens after the first, over the time from the first to the last."""
        if self.first_token is None or self.tokens < 2 or self.seconds <= self.first_token:
            return None
        return (self.tokens - 1) / (self.seconds - self.first_token)


def join_reply(thought: str, answer: str) -> str:
    """Gives the text of a complete assistant turn: `<think>`, thought, `</think>`, blank line, answer.

    Without a thought no blank line stands between the tags: it would be one token with the line feed that ends the prompt.
    """
    return "\n".join([OPEN, *filter(None, [thought.strip()]), CLOSE, "", answer.strip()])


def split_reply(text: str, *, prefilled: bool = True, **known: Any) -> Reply:
    """Splits generated text into thought and answer; `known` are the reply's other fields.

    DeepSeek-R1 generation prompts end in `<think>`, so text normally starts inside the thought. An opening tag
    in front is tolerated, and so is an empty thought. Where the closing tag is missing, everything is thought if the
    thought was opened (by a tag, or by the prompt: `prefilled`), else everything is answer.
    """
    head = text.lstrip()
    opened = head.startswith(OPEN)
    body = head[len(OPEN) :] if opened else text
    thought, tag, answer = body.partition(CLOSE)
    if tag:
        return Reply(thought=thought.strip(), answer=answer.strip(), text=text, **known)
    if opened or prefilled:
        return Reply(thought=body.strip(), text=text, closed=False, **known)
    return Reply(answer=body.strip(), text=text, **known)


@dataclass(frozen=True)
class Persona:
    """A voice in the debate: its name, and what it contributes."""

    name: str
    task: str


PERSONAS: tuple[Persona, ...] = (
    Persona("Problem Framer", "what is really asked, and what is assumed"),
    Persona("Memory Activator", "what experience or precedent says"),
    Persona("Mechanism Explorer", "how it would work, or fail"),
    Persona("Perspective Generator", "who would see it otherwise"),
    Persona("Limitation Acknowledger", "what is not known, and by whom"),
    Persona("Synthesizer", "what to do with all that"),
)

PERSONA_NAMES = tuple(persona.name for persona in PERSONAS)

Subset = Literal["disagreement", "uncertainty", "reluctance", "plain"]
Behaviour = Literal["disagree", "clarify", "doubt", "refuse", "comply"]
LEVELS = ("easy", "normal", "hard")
Level = Literal[("", *LEVELS)]  # type: ignore[valid-type]


class _Levelled(Protocol):
    @property
    def level(self) -> str: ...


Row = TypeVar("Row", bound=_Levelled)
Message = dict[str, str]

SPLITS = ("train", "validation", "test")
UNLABELLED = "unlabelled"  # subset, behaviour and domain of a record that was converted from a file of others
SUBSET_OF: dict[str, Subset] = {
    "disagree": "disagreement", "clarify": "uncertainty", "doubt": "uncertainty", "refuse": "reluctance", "comply": "plain",
}  # fmt: skip


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)


class Turn(_Strict):
    """An earlier turn of the conversation, without its thoughts."""

    role: Literal["user", "assistant"]
    content: str


class Thought(_Strict):
    """One persona's thought. `friction` is the span of `thought` where the resistance sits; "" where there is none.

    `persona` is "" only in a record without labels.
    """

    persona: Literal[("", *PERSONA_NAMES)]  # type: ignore[valid-type]
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
    """Where a record comes from: `written` for the kit, made by the debate `engine` or the `language` script, or `imported`."""

    source: Literal["written", "engine", "language", "imported"]
    model: str = ""
    base_url: str = ""
    seed: int | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    prompt_version: str = ""


class Record(_Strict):
    """One example: a request, its personas' thoughts, and the answer.

    `pair` is what a friction record and its twin share, `level` how hard it is; both are left out of files and checksums where
    they are empty. All six personas think about a request that gets friction; where it is `easy`, two to six do, as on plain
    ones (without a level, one to six). One that is `unlabelled` (subset and behaviour) may lack thoughts and the names of
    personas.
    """

    id: str
    subset: Subset | Literal["unlabelled"]
    behaviour: Behaviour | Literal["unlabelled"]
    scenario: str
    domain: str
    user_input: str
    thoughts: tuple[Thought, ...]
    answer: str
    provenance: Provenance
    history: tuple[Turn, ...] = ()
    pair: str = ""
    level: Level = ""

    LATER: ClassVar = ("pair", "level")

    @property
    def asked(self) -> str:
        """The request with its earlier turns, one a line."""
        return asked_text(self.history, self.user_input)

    @model_validator(mode="after")
    def _holds_together(self) -> Record:
        if SUBSET_OF.get(self.behaviour, UNLABELLED) != self.subset:
            raise ValueError(f"behaviour {self.behaviour!r} does not belong to subset {self.subset!r}")
        for field in ("id", "scenario", "domain", "user_input", "answer"):
            if not getattr(self, field):
                raise ValueError(f"{field} is empty")
        if self.subset == UNLABELLED:
            return self
        names = [thought.persona for thought in self.thoughts]
        if names != [name for name in PERSONA_NAMES if name in names]:
            raise ValueError(f"personas are missing, repeated or out of order: {names}")
        least = 6 if self.subset != "plain" and self.level != "easy" else 2 if self.level else 1
        if len(names) < least:
            kind = f"{self.level} {self.subset}".lstrip()
            raise ValueError(f"{len(names)} thoughts; {kind} needs {least} or more")
        return self


def asked_text(history: Iterable[Turn], last: str) -> str:
    """A request with its earlier turns, one a line."""
    return "\n".join([*(turn.content for turn in history), last])


def of_levels(rows: Sequence[Row], levels: Sequence[str]) -> list[Row]:
    """The records or prompts of these levels, or all where none is named.

    Raises PushbackError for a level that does not exist, and for one of which there is none.
    """
    if unknown := [level for level in levels if level not in LEVELS]:
        raise PushbackError(f"No level called {unknown[0]!r}. Choose of {', '.join(LEVELS)}, with commas between.")
    found = [row for row in rows if row.level in levels or not levels]
    if missing := [level for level in levels if all(row.level != level for row in found)]:
        raise PushbackError(f"None of {len(rows)} is of level {missing[0]!r}. Leave --levels out, or give each line its level.")
    return found


def thought_text(record: Record) -> str:
    """The inner debate as it is written inside `<think>`: one `Persona: thought` line each, or the thought alone."""
    return "\n".join(": ".join(filter(None, (thought.persona, thought.thought))) for thought in record.thoughts)


def prompt_messages(user_input: str, system: str, history: Iterable[Turn] = ()) -> list[Message]:
    """System message (left out if empty), earlier turns, then the user's message."""
    messages = [{"role": "system", "content": system}] if system else []
    messages += [{"role": turn.role, "content": turn.content} for turn in history]
    return [*messages, {"role": "user", "content": user_input}]


def to_messages(record: Record, system: str) -> list[Message]:
    """System, earlier turns, user and assistant message (thought and answer) of one record."""
    reply = join_reply(thought_text(record), record.answer)
    return [*prompt_messages(record.user_input, system, record.history), {"role": "assistant", "content": reply}]


def load_records(path: str | os.PathLike[str], split: str = "train") -> list[Record]:
    """Loads and checks every record of a file, or of a folder's `split`, `<split>.jsonl`.

    Raises PushbackError naming the file, the line and the broken rule.
    """
    path = split_file(path, split)
    records = [record for _, record in read_models(path, Record)]
    if not records:
        raise PushbackError(f"{path} holds no records. Make some with `pushback data make`.")
    return records


def split_file(path: str | os.PathLike[str], split: str) -> Path:
    """The path itself, or in a folder its file of that split, whether or not it is there."""
    return Path(path, f"{split}.jsonl") if Path(path).is_dir() else Path(path)


def save_records(path: str | os.PathLike[str], records: Iterable[Record]) -> int:
    """Writes records as JSON Lines (a new file, then renamed); returns how many."""
    return write_jsonl(path, map(to_row, records))
