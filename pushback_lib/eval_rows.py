"""One judged reply of an evaluation, where it comes from, and the file that holds it; knows nothing about models."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from . import __version__
from .errors import PushbackError
from .eval_set import Prompt, kind_of, prompt_set_hash
from .jsonl import read_jsonl
from .judging import Language, judge_answer
from .markers import MARKERS_VERSION
from .records import Message, Turn, prompt_messages
from .replies import split_reply
from .runfile import RunFile
from .voices import VOICES


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Origin(_Frozen):
    """What a reply depends on; rows of two origins do not go into one file. `template` is "" on a server."""

    backend: str
    model: str
    base_url: str = ""
    adapter: str = ""
    prompt_set: str
    template: str = ""
    system: str
    language: Language
    seed: int
    temperature: float
    max_tokens: int
    markers: str = MARKERS_VERSION
    kit: str = __version__


class Timings(_Frozen):
    """`seconds` of the call that made this reply, how many replies that call made, and this one's tokens."""

    seconds: float
    replies: int
    tokens: int


class Response(_Frozen):
    """One judged reply. `about` and `expected` are the prompt's behaviour and wish, `behaviour` is what the answer does."""

    id: str
    prompt_id: str
    pair: str
    kind: str
    about: str
    expected: str
    split: str
    domain: str
    voice: str
    sample: int
    history: tuple[Turn, ...] = ()
    prompt: str
    thought: str
    answer: str
    finished: bool
    behaviour: str
    right: bool
    right_content: bool
    markers: dict[str, Any]  # of the answer; `spans` count characters of the answer
    timings: Timings
    provenance: Origin

    @property
    def pushes_back(self) -> bool:
        return self.behaviour not in ("comply", "silent")


@dataclass(frozen=True)
class Job:
    """One reply that is to be had."""

    prompt: Prompt
    voice: str
    sample: int

    @property
    def id(self) -> str:
        return f"{self.prompt.id}/{self.voice}/{self.sample}"


def judged(job: Job, text: str, finished: bool, timings: Timings, origin: Origin, *, prefilled: bool) -> Response:
    """The row of one generated text; half surrogate pairs, which no file can hold, become U+FFFD.

    `prefilled`: the prompt opened the reasoning, so that a text without a closing tag is all reasoning.
    """
    prompt = job.prompt
    reply = split_reply(text.encode("utf-8", "replace").decode(), prefilled=prefilled)
    found = judge_answer(prompt.user_input, reply.answer, prompt.wants, prompt.must, origin.language, truncated=not finished)
    return Response(
        id=job.id, prompt_id=prompt.id, pair=prompt.pair, kind=kind_of(prompt), about=prompt.behaviour,
        expected=prompt.wants, split=prompt.split, domain=prompt.domain, voice=job.voice, sample=job.sample,
        history=prompt.history, prompt=prompt.user_input, thought=reply.thought, answer=reply.answer, finished=finished,
        behaviour=found.behaviour, right=found.right, right_content=found.right_content, markers=found.markers.to_dict(),
        timings=timings, provenance=origin,
    )  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """What a run asks: every prompt of every voice, `samples` times; and the origin of each voice's replies."""

    prompts: tuple[Prompt, ...]
    origins: dict[str, Origin]
    samples: int = 1

    def jobs(self) -> Iterator[Job]:
        """Every reply, sample by sample, prompt by prompt."""
        for sample in range(self.samples):
            for prompt in self.prompts:
                yield from (Job(prompt, voice, sample) for voice in VOICES)

    def messages(self, prompt: Prompt, voice: str) -> list[Message]:
        """The conversation a voice answers."""
        return prompt_messages(prompt.user_input, self.origins[voice].system, prompt.history)


def plan_for(prompts: Sequence[Prompt], samples: int, **origins: dict[str, Any]) -> Plan:
    """A plan whose origins carry the hash of these prompts."""
    known = prompt_set_hash(prompts)
    return Plan(tuple(prompts), {voice: Origin(prompt_set=known, **origin) for voice, origin in origins.items()}, samples)


class EvalFile(RunFile):
    """The finished replies of one run, each whole and on disk; `done` are their ids."""

    def __init__(self, path: str | os.PathLike[str], plan: Plan) -> None:
        """Raises PushbackError if the file holds a reply twice, or one that this plan did not ask for."""
        self.done: set[str] = set()
        self._plan, self._ids = plan, {job.id for job in plan.jobs()}
        super().__init__(path, self._seen)

    def _seen(self, row: Response) -> None:
        origin = self._plan.origins.get(row.voice)
        if row.id not in self._ids or row.provenance != origin:
            raise PushbackError(
                f"{self.path} holds {row.id!r} of another run ({_difference(row, origin)}). Go on with that run's settings, "
                "or choose another --out."
            )
        if row.id in self.done:
            raise PushbackError(f"{self.path} holds {row.id!r} twice. Delete one of the lines, then run again.")
        self.done.add(row.id)

    def append(self, row: Response) -> None:
        """Writes one reply and waits until it is on disk."""
        super().append(row)
        self.done.add(row.id)

    def missing(self) -> list[Job]:
        """The replies still to be had."""
        return [job for job in self._plan.jobs() if job.id not in self.done]

    def _record(self, line: bytes, number: int) -> Response:
        return _parsed(self.path, line, number)


def _parsed(path: Path, line: bytes, number: int) -> Response:
    try:
        return Response.model_validate_json(line)
    except ValidationError as error:
        raise PushbackError(
            f"{path}, line {number}: not a reply of `pushback eval` ({error.errors()[0]['msg']}). Mend or delete that line, "
            "or choose another --out."
        ) from error


def _difference(row: Response, origin: Origin | None) -> str:
    if origin is None:
        return f"voice {row.voice!r}"
    then, now = row.provenance.model_dump(), origin.model_dump()
    changed = [f"{name}: {str(then[name])[:40]}, now {str(now[name])[:40]}" for name in now if then[name] != now[name]]
    return "; ".join(changed) or "a prompt or sample that is not asked for now"


def load_responses(path: str | os.PathLike[str]) -> list[Response]:
    """Reads the rows of a run. Raises PushbackError naming the file and the line that is not one."""
    import json

    rows = [_parsed(Path(path), json.dumps(row).encode(), number) for number, row in read_jsonl(path)]
    if not rows:
        raise PushbackError(f"{Path(path)} holds no replies. Make some with `pushback eval`.")
    return rows
