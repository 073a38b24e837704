"""Convert training data of others (ShareGPT, Alpaca, chat messages) into records."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, cycle
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, BeforeValidator, Field

from ..core.common import PushbackError
from ..core.files import check_sound, first_rule, layout_of
from ..core.records import SUBSET_OF, UNLABELLED, Provenance, Record, Thought, Turn, save_records, split_reply

SHOWN = 20  # refused rows that are named
_ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "model": "assistant", "developer": "system"}


def _text(content: Any) -> Any:
    """The text of a message's content, which may be a list of parts. Raises ValueError for a part that is no text."""
    if not isinstance(content, list):
        return content
    if any(not isinstance(part, dict) or part.get("type") != "text" for part in content):
        raise ValueError("holds a part that is not text")
    return "".join(str(part["text"]) for part in content)


class _Message(BaseModel):
    role: Annotated[Literal["system", "user", "assistant"], BeforeValidator(lambda role: _ROLES.get(str(role), role))] = Field(
        validation_alias=AliasChoices("role", "from")
    )
    content: Annotated[str, BeforeValidator(_text)] = Field(validation_alias=AliasChoices("content", "value"))
    thought: str | None = Field("", validation_alias=AliasChoices("reasoning_content", "reasoning", "thinking"))
    tool_calls: None = None  # nor can the kit train any


class _Chat(BaseModel):
    messages: list[_Message] = Field(validation_alias=AliasChoices("messages", "conversations"))
    system: str | None = ""

    def said(self) -> list[_Message]:
        return self.messages


def _said_by(role: str) -> BeforeValidator:
    return BeforeValidator(lambda said: [{"role": role, "content": said}] if isinstance(said, str) else said)


class _PromptCompletion(BaseModel):
    prompt: Annotated[list[_Message], _said_by("user")]
    completion: Annotated[list[_Message], _said_by("assistant")]
    system: str | None = ""

    def said(self) -> list[_Message]:
        return [*self.prompt, *self.completion]


class _Alpaca(BaseModel):
    instruction: str
    input: str | None = ""
    output: str
    history: list[tuple[str, str]] = []
    system: str | None = ""

    def said(self) -> list[_Message]:
        asked = "\n\n".join(filter(None, (self.instruction, self.input)))
        texts = chain.from_iterable([*self.history, (asked, self.output)])
        return [_Message(role=role, content=text) for role, text in zip(cycle(("user", "assistant")), texts, strict=False)]


_LAYOUTS = {"sharegpt": _Chat, "alpaca": _Alpaca, "messages": _Chat}
FORMATS = (*_LAYOUTS, "records")  # the last: the kit's own, in another encoding or as a JSON array


@dataclass(frozen=True)
class Imported:
    """What was converted: the records, the rows by layout, what was refused (place, reason), and what was left out, counted."""

    source: Path
    out: Path
    records: tuple[Record, ...]
    read: Counter[str]
    refused: tuple[tuple[str, str], ...]
    left_out: Counter[str]

    def __str__(self) -> str:
        """What was read, refused and left out, and what a person must fill in."""
        kinds = ", ".join(f"{count} {name}" for name, count in self.read.items())
        lines = [f"{self.out}: {len(self.records)} records of {len(self.records) + len(self.refused)} rows ({kinds})"]
        lines += [f"refused: {place}: {why}" for place, why in self.refused[:SHOWN]]
        if len(self.refused) > SHOWN:
            lines.append(f"refused: {len(self.refused) - SHOWN} more")
        lines += [f"left out: {count} {what}" for what, count in self.left_out.most_common() if count]
        silent = sum(not record.thoughts for record in self.records)
        bare = sum(record.subset == UNLABELLED for record in self.records)
        if silent:
            lines.append(f"without a thought: {silent}. Trained on these, a model learns to answer without thinking: write the "
                         "thoughts, or fill in `behaviour` and pass the file to `pushback data make --prompts`.")  # fmt: skip
        if bare:
            lines.append(f"without labels: {bare}. They can be trained on as they are. To be filled in by hand: `subset`, "
                         f"`behaviour` ({', '.join(SUBSET_OF)}), `domain`; of thoughts `persona`, `friction`.")  # fmt: skip
        return "\n".join(lines)


def import_file(source: str | os.PathLike[str], out: str | os.PathLike[str] | None = None, layout: str = "") -> Imported:
    """Writes the records that a file of others holds to `out` (`<name>-records.jsonl` beside it), as far as they can be had.

    A conversation becomes one record: its last reply is the answer, what was before is history. Without `layout` (one of
    FORMATS) each row tells its own. Raises PushbackError if there is no such file, `out` is there already, or no row is left.
    """
    source = Path(source)
    if source.is_dir():
        raise PushbackError(f"{source} is a folder. Give the file in it that is to be converted.")
    out = Path(out) if out else source.with_name(f"{source.stem}-records.jsonl")
    if out.exists():
        raise PushbackError(f"{out} is there already, maybe with labels filled in by hand. Choose another --out.")
    found = Imported(source, out, *_converted(source, layout))
    if not found.records:
        why = "; ".join(map(": ".join, found.refused[:3])) or "it is empty"
        raise PushbackError(f"{source} holds no row that can be converted ({why}). Known layouts: {', '.join(FORMATS)}.")
    save_records(out, found.records)
    return found


def _converted(source: Path, layout: str) -> tuple[tuple[Record, ...], Counter[str], tuple, Counter[str]]:
    """The last four fields of `Imported`."""
    records, refused, read, left_out = [], [], Counter(), Counter()
    for place, value in _values(source):
        try:
            row = _sound(value)
            name = layout or layout_of(row) or ("records" if "thoughts" in row else "")
            records.append(_record(row, name, f"{source.stem}-{place.split()[1].zfill(6)}", left_out))
            read[name] += 1
        except RecursionError:  # brackets in brackets, made to break parsers
            refused.append((place, "nested too deeply"))
        except ValueError as error:
            refused.append((place, first_rule(error, Record)))
    return tuple(records), read, tuple(refused), left_out


def _values(source: Path) -> Iterator[tuple[str, Any]]:
    """Yields (`line 3`, its text), or (`entry 3`, value) of a JSON array."""
    if not source.is_file():
        raise PushbackError(f"No file at {source}. Check the path.")
    raw = source.read_bytes()
    try:
        text = raw.decode(json.detect_encoding(raw))
    except ValueError as error:
        raise PushbackError(f"{source} is no text in UTF-8 or UTF-16 ({error}). Save it as UTF-8.") from error
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):
        whole = None
    if isinstance(whole, list):
        yield from ((f"entry {number}", value) for number, value in enumerate(whole, 1))
    elif isinstance(whole, dict):  # one line, or one object over several
        yield "line 1", whole
    else:
        lines = enumerate((line.strip("\ufeff \t\r") for line in text.split("\n")), 1)
        yield from ((f"line {number}", line) for number, line in lines if line)


def _sound(value: Any) -> dict[str, Any]:
    """The row of a line. Raises ValueError for one that is no object, or holds what JSON in UTF-8 cannot."""
    row = json.loads(value) if isinstance(value, str) else value
    if not isinstance(row, dict):
        raise ValueError(f"a JSON {type(row).__name__}, not an object")
    check_sound(row)
    return row


def _record(row: dict[str, Any], layout: str, id: str, left_out: Counter[str]) -> Record:
    """The record of a row; counts what does not go into it."""
    if layout == "records":
        return Record.model_validate(row)
    if layout not in _LAYOUTS:
        raise ValueError(f"of no known layout (its fields: {', '.join(row)[:200]})")
    model = _PromptCompletion if layout == "messages" and "prompt" in row and "messages" not in row else _LAYOUTS[layout]
    found = model.model_validate(row)
    turns = [message for message in found.said() if message.role != "system"]
    if not turns or [turn.role for turn in turns] != ["user", "assistant"] * (len(turns) // 2):
        raise ValueError(f"does not alternate from user to assistant: {', '.join(turn.role for turn in turns)}"[:120])
    replies = [_reply(turn) for turn in turns[1::2]]
    record = _labelless(str(row.get("id") or id), f"imported/{id}", [turn.content for turn in turns[::2]], replies)
    left_out["system messages (training gives the recipe's own)"] += len(found.said()) - len(turns) + bool(found.system)
    left_out["earlier replies from the loss (they are history)"] += len(replies) - 1
    left_out["thoughts of earlier replies"] += sum(bool(thought) for thought, _ in replies[:-1])
    left_out.update(f"fields {name!r}" for name in row.keys() - model.model_fields.keys() - {"id", "conversations"})
    return record


def _labelless(id: str, scenario: str, asked: Sequence[str], replies: Sequence[tuple[str, str]]) -> Record:
    """A record of a conversation, whose last reply is the answer."""
    before = zip(asked[:-1], (answer for _, answer in replies), strict=False)
    history = [Turn(role=role, content=text) for pair in before for role, text in zip(("user", "assistant"), pair, strict=True)]
    thought, answer = replies[-1]
    return Record(
        id=id, subset=UNLABELLED, behaviour=UNLABELLED, domain=UNLABELLED, scenario=scenario, user_input=asked[-1],
        answer=answer, history=tuple(history), provenance=Provenance(source="imported"),
        thoughts=(Thought(persona="", thought=thought),) if thought.strip() else (),
    )  # fmt: skip


def _reply(message: _Message) -> tuple[str, str]:
    """(thought, answer). Raises ValueError for a thought that was cut off."""
    reply = split_reply(message.content, prefilled=False)
    if not reply.closed:
        raise ValueError("a thought is never closed (no </think>)")
    return message.thought or reply.thought, reply.answer
