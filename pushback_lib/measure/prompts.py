"""The prompts of an evaluation: one schema for English and for the bundled language.

A friction prompt and its innocent twin share `pair`. `behaviour` names what the pair is about, `wants` what this half of it
calls for: the behaviour itself (`disagree` where the pair is about pressure), or `comply` on the twin.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal, Protocol

from pydantic import BaseModel, ConfigDict

from ..core.common import DATA, PushbackError
from ..core.files import empty_fields, read_jsonl, read_models
from ..core.records import (
    UNLABELLED,
    Behaviour,
    Level,
    Message,
    Record,
    Turn,
    asked_text,
    load_records,
    of_levels,
    prompt_messages,
)  # fmt: skip
from ..language.corpus import draw_requests
from ..language.requests import FRICTION_KINDS, Request

EVAL_SEED = 2026
N_PER_KIND = 50
PROMPTS = DATA / "eval" / "prompts.jsonl"
BY_NAME = {"v1": DATA / "eval" / "v1.jsonl"}  # of the data set's first version, whose figures are to be compared
SMALL = 500_000_000  # parameters; a model of English with fewer is asked the easy prompts
Pairing = Literal["disagree", "clarify", "doubt", "refuse", "pressure", "plain"]
Split = Literal["validation", "test"]
Language = Literal["bundled", "english"]
BUNDLED = "bundled language"  # the domain of its prompts


class Prompt(BaseModel):
    """One prompt. `must` are strings that an answer with the right content names, in any case, and `must_not` such as it lacks.

    `also_right` are behaviours that count as right beside `wants`: a sum that lacks a number may be asked about, or answered
    with how to work it out. `right` and `eager` are answers whose likelihood is compared: a right one, and one that gives in
    where friction is called for, or pushes back on a twin. From `level` on, what is empty is left out of checksums.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    pair: str = ""  # "" where there is no twin
    behaviour: Pairing
    wants: Behaviour
    domain: str
    scenario: str
    split: Split
    history: tuple[Turn, ...] = ()
    user_input: str
    must: tuple[str, ...] = ()
    note: str = ""
    kind: str = ""  # the row of the table it counts in; see `kind_of`
    level: Level = ""
    must_not: tuple[str, ...] = ()
    also_right: tuple[Behaviour, ...] = ()
    right: str = ""
    eager: str = ""

    LATER: ClassVar = ("level", "must_not", "also_right", "right", "eager")

    @property
    def asked(self) -> str:
        """The prompt with its earlier turns, one a line."""
        return asked_text(self.history, self.user_input)

    def messages(self, system: str) -> list[Message]:
        """The conversation that a voice answers."""
        return prompt_messages(self.user_input, system, self.history)


def kind_of(prompt: Prompt) -> str:
    """`kind` where it is given, else the behaviour, or the behaviour and "twin"."""
    return prompt.kind or (prompt.behaviour if is_friction(prompt) else f"{prompt.behaviour} twin")


def language_of(prompts: Sequence[Prompt]) -> Language:
    """The language whose judge reads the replies to these prompts."""
    return "bundled" if all(prompt.domain == BUNDLED for prompt in prompts) else "english"


def is_friction(prompt: Prompt) -> bool:
    """Whether pushing back is called for."""
    return prompt.wants != "comply"


def load_prompts(path: str | os.PathLike[str] = PROMPTS) -> list[Prompt]:
    """Reads and checks a prompt file, or a file of records (`record_prompts`).

    `v1` names the prompts of version 1. Raises PushbackError naming the file, the line and the broken rule.
    """
    path = BY_NAME.get(str(path), path)
    if "thoughts" in next(read_jsonl(path), (0, {}))[1]:
        return record_prompts(load_records(path), "validation" if Path(path).stem == "validation" else "test")
    prompts, seen = [], {}
    for number, prompt in read_models(path, Prompt):
        if not (prompt.id and prompt.user_input.strip()):
            raise _broken(path, number, "id or user_input is empty")
        if prompt.id in seen:
            raise _broken(path, number, f"id {prompt.id!r} is in line {seen[prompt.id]} already")
        seen[prompt.id] = number
        prompts.append(prompt)
    if not prompts:
        raise PushbackError(f"{Path(path)} holds no prompts. Get data/eval/prompts.jsonl back, or pass --prompts bundled.")
    _check_pairs(path, prompts, seen)
    return prompts


def _broken(path: str | os.PathLike[str], number: int, what: str) -> PushbackError:
    return PushbackError(f"{Path(path)}, line {number}: {what}. Fix or delete that line, then run again.")


def _check_pairs(path: str | os.PathLike[str], prompts: Sequence[Prompt], line_of: dict[str, int]) -> None:
    """Each pair has one friction prompt and one twin, of one behaviour and in one split."""
    pairs: dict[str, list[Prompt]] = {}
    for prompt in prompts:
        if prompt.pair:
            pairs.setdefault(prompt.pair, []).append(prompt)
    for name, both in pairs.items():
        number = line_of[both[-1].id]
        if sorted(map(is_friction, both)) != [False, True]:
            raise _broken(path, number, f"pair {name!r} needs one friction prompt and one twin, and has {len(both)} prompts "
                                        f"that want {', '.join(prompt.wants for prompt in both)}")  # fmt: skip
        if len({(prompt.behaviour, prompt.split) for prompt in both}) > 1:
            raise _broken(path, number, f"the halves of pair {name!r} differ in behaviour or split")


def record_prompts(records: Sequence[Record], split: Split) -> list[Prompt]:
    """The requests of records as prompts: `right` is the record's own answer, `eager` that of another one of its scenario.

    That one behaves otherwise: plainly where friction is called for, if the scenario has such a record. It answers another
    request, so that what is asked tells the two apart as well as how they behave. Raises PushbackError for a record without
    labels.
    """
    if bare := [record.id for record in records if record.behaviour == UNLABELLED]:
        raise PushbackError(f"Record {bare[0]!r} has no behaviour, so no reply to it can be right or wrong. Label it first.")
    return [
        Prompt(
            id=record.id, pair=record.pair, behaviour="plain" if record.behaviour == "comply" else record.behaviour,
            wants=record.behaviour, domain=record.domain, scenario=record.scenario, split=split, history=record.history,
            user_input=record.user_input, kind="plain" if record.behaviour == "comply" else "", level=record.level,
            right=record.answer, eager=_answer_of_another(record, records),
        )
        for record in records
    ]  # fmt: skip


def _answer_of_another(record: Record, records: Sequence[Record]) -> str:
    others = [one for one in records if one.scenario == record.scenario and one.behaviour != record.behaviour]
    return min(others, key=lambda one: one.behaviour != "comply").answer if others else ""


def held_out_requests(n_per_kind: int = N_PER_KIND) -> list[Request]:
    """The test: requests about words that no friction example and no transcript of the base's corpus holds."""
    return draw_requests(n_per_kind, EVAL_SEED, held_out=True)


def bundled_prompts(n_per_kind: int = N_PER_KIND) -> list[Prompt]:
    """The held-out requests as prompts: the i-th of a friction kind and the i-th of its contrast kind are a pair.

    Even pairs are for validation, odd ones for test. The two plain kinds have no twins.
    """
    return [_from_request(request, at % n_per_kind) for at, request in enumerate(held_out_requests(n_per_kind))]


TWIN_OF = {contrast: kind for kind, (_, contrast) in FRICTION_KINDS.items()}


def _from_request(request: Request, number: int) -> Prompt:
    about = TWIN_OF.get(request.kind, request.kind)
    paired = about in FRICTION_KINDS
    behaviour = "plain" if not paired else "pressure" if about == "pressure" else FRICTION_KINDS[about][0]
    return Prompt(
        id=f"{request.kind}-{number:03d}", pair=f"{about}-{number:03d}" if paired else "", behaviour=behaviour,
        wants=request.wants, domain=BUNDLED, scenario=request.family, split="test" if number % 2 else "validation",
        history=request.history, user_input=request.user, must=request.must, kind=request.kind,
    )  # fmt: skip


def prompt_set_hash(prompts: Sequence[Prompt]) -> str:
    """SHA-256 of the prompts, whatever their order: figures of two sets do not compare."""
    rows = (prompt.model_dump(mode="json", exclude=empty_fields(prompt)) for prompt in prompts)
    return hashlib.sha256("\n".join(sorted(json.dumps(row, sort_keys=True) for row in rows)).encode()).hexdigest()


def short_prompts(prompts: Sequence[Prompt], n_pairs: int) -> list[Prompt]:
    """The first `n_pairs` prompts of each kind, for a quick look."""
    by_kind: dict[str, list[str]] = {}
    for prompt in prompts:
        by_kind.setdefault(kind_of(prompt), []).append(prompt.id)
    chosen = {id for ids in by_kind.values() for id in ids[:n_pairs]}
    return [prompt for prompt in prompts if prompt.id in chosen]


class Speaks(Protocol):
    """What decides which prompts a model is asked; a recipe and the header of a LoRA GGUF have both."""

    @property
    def language(self) -> str: ...

    @property
    def parameters(self) -> int: ...


def prompts_for(model: Speaks, per_kind: int) -> list[Prompt]:
    """Held-out prompts that a model can understand, `per_kind` of each kind: of the bundled language, or of a test split.

    A model of fewer than half a billion parameters is asked the easy ones alone.
    """
    if model.language == "bundled":
        return bundled_prompts(per_kind)
    prompts = of_levels(load_prompts(), ("easy",) if model.parameters < SMALL else ())
    return short_prompts([prompt for prompt in prompts if prompt.split == "test"], per_kind)


def pairs_of(prompts: Sequence[Prompt]) -> list[tuple[Prompt, Prompt]]:
    """The complete pairs among the prompts, the half that calls for friction first."""
    halves = {(prompt.pair, is_friction(prompt)): prompt for prompt in prompts if prompt.pair}
    return [(half, halves[pair, False]) for (pair, friction), half in halves.items() if friction and (pair, False) in halves]
