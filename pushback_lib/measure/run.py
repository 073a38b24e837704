"""Ask both voices every prompt and store each judged reply; resumes."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from ..core.common import BASELINE, FRICTION, VOICES, PushbackError, __version__
from ..core.files import RunFile, parsed_line, read_jsonl
from ..core.records import Message, Turn, prompt_messages
from ..model.checks import adapter_fingerprint, fingerprint
from ..model.server import Chat, ask_all
from ..model.voices import Reply, Speaker
from .judge import Language, judge_answer
from .markers.find import MARKERS_VERSION
from .prompts import Prompt, kind_of, prompt_set_hash


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


def judged(job: Job, reply: Reply, timings: Timings, origin: Origin) -> Response:
    """The row of one reply; half surrogate pairs, which no file can hold, become question marks."""
    prompt, finished = job.prompt, reply.end != "length"
    thought, answer = (text.encode("utf-8", "replace").decode() for text in (reply.thought, reply.answer))
    found = judge_answer(prompt.user_input, answer, prompt.wants, prompt.must, origin.language, truncated=not finished)
    return Response(
        id=job.id, prompt_id=prompt.id, pair=prompt.pair, kind=kind_of(prompt), about=prompt.behaviour,
        expected=prompt.wants, split=prompt.split, domain=prompt.domain, voice=job.voice, sample=job.sample,
        history=prompt.history, prompt=prompt.user_input, thought=thought, answer=answer, finished=finished,
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


REPLY = "a reply of `pushback eval`"


class EvalFile(RunFile[Response]):
    """The finished replies of one run, each whole and on disk; `done` are their ids."""

    def __init__(self, path: str | os.PathLike[str], plan: Plan) -> None:
        """Raises PushbackError if the file holds a reply twice, or one that this plan did not ask for."""
        self.done: set[str] = set()
        self._plan, self._ids = plan, {job.id for job in plan.jobs()}
        super().__init__(path, Response, self._seen, REPLY)

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


def _difference(row: Response, origin: Origin | None) -> str:
    if origin is None:
        return f"voice {row.voice!r}"
    then, now = row.provenance.model_dump(), origin.model_dump()
    changed = [f"{name}: {str(then[name])[:40]}, now {str(now[name])[:40]}" for name in now if then[name] != now[name]]
    return "; ".join(changed) or "a prompt or sample that is not asked for now"


def load_responses(path: str | os.PathLike[str]) -> list[Response]:
    """Reads the rows of a run. Raises PushbackError naming the file and the line that is not one."""
    import json

    rows = [parsed_line(Response, json.dumps(row).encode(), Path(path), number, REPLY) for number, row in read_jsonl(path)]
    if not rows:
        raise PushbackError(f"{Path(path)} holds no replies. Make some with `pushback eval`.")
    return rows


BATCH = 48  # prompts; two replies each. The demo's batches, so that its figures come out again to the token


@dataclass(frozen=True)
class Sampling:
    """How replies are drawn; the i-th sample of a prompt has seed `seed + i`."""

    seed: int = 0
    temperature: float = 0.0
    samples: int = 1
    max_tokens: int = 0  # 0: the recipe's, or 1024 on a server


def local_plan(speaker: Speaker, adapter: Path, prompts: Sequence[Prompt], language: Language, how: Sampling) -> Plan:
    """The plan of a local model: same base, system prompt and settings for both voices; only the adapter differs."""
    template = hashlib.sha256(speaker.tokenizer.chat_template.encode()).hexdigest()
    common = {
        "backend": "local", "model": fingerprint(speaker.recipe), "template": template, "system": speaker.recipe.system,
        "language": language, "seed": how.seed, "temperature": how.temperature,
        "max_tokens": how.max_tokens or speaker.recipe.max_new_tokens,
    }  # fmt: skip
    return plan_for(prompts, how.samples, **{BASELINE: common, FRICTION: {**common, "adapter": adapter_fingerprint(adapter)}})


def server_plan(chats: dict[str, Chat], system: str, prompts: Sequence[Prompt], language: Language, how: Sampling) -> Plan:
    """The plan of a server's two models."""
    common = {
        "backend": "server", "system": system, "language": language, "seed": how.seed, "temperature": how.temperature,
        "max_tokens": how.max_tokens or 1024,
    }  # fmt: skip
    of = {voice: {**common, "model": chat.model, "base_url": chat.base_url} for voice, chat in chats.items()}
    return plan_for(prompts, how.samples, **of)


def run_local(speaker: Speaker, plan: Plan, out: str | os.PathLike[str], *, batch: int = BATCH, progress: bool = True) -> int:
    """Fills `out` with every reply of the plan; returns how many were made now.

    Batches are cut from the whole plan and repeated whole where a stop left one half written, so that greedy replies are
    the same whether the run was interrupted or not.
    """
    with EvalFile(out, plan) as file, _bar(plan, file, progress) as bar:
        had = len(file.done)
        for sample in range(plan.samples):
            for chosen in in_batches(plan, batch):
                jobs = [Job(prompt, voice, sample) for prompt in chosen for voice in VOICES]
                if all(job.id in file.done for job in jobs):
                    continue
                for job, spoken, timings in _answers(speaker, plan, jobs):
                    if job.id not in file.done:
                        file.append(judged(job, spoken, timings, plan.origins[job.voice]))
                        bar.update()
        return len(file.done) - had


def in_batches(plan: Plan, batch: int) -> list[list[Prompt]]:
    """The prompts in batches of like length, in the order of `Speaker.speak_all`."""
    order = sorted(plan.prompts, key=lambda prompt: sum(len(m["content"]) for m in plan.messages(prompt, FRICTION)))
    return [order[at : at + batch] for at in range(0, len(order), batch)]


def _answers(speaker: Speaker, plan: Plan, jobs: Sequence[Job]) -> list[tuple[Job, Reply, Timings]]:
    """Both voices' replies to the prompts of one batch, and what the batch cost."""
    origin, start = plan.origins[FRICTION], time.perf_counter()
    asked = [plan.messages(job.prompt, FRICTION) for job in jobs[:: len(VOICES)]]
    spoken = speaker.speak(asked, VOICES, max_new_tokens=origin.max_tokens, temperature=origin.temperature,
                           seed=origin.seed + jobs[0].sample)  # fmt: skip
    flat = [by_voice[voice] for by_voice in spoken for voice in VOICES]
    seconds = round(time.perf_counter() - start, 3)
    return [(job, one, Timings(seconds=seconds, replies=len(jobs), tokens=one.tokens))
            for job, one in zip(jobs, flat, strict=True)]  # fmt: skip


async def run_server(
    chats: dict[str, Chat], plan: Plan, out: str | os.PathLike[str], *, concurrency: int = 8, progress: bool = True
) -> int:
    """Fills `out` from a server; returns how many replies were made now.

    Raises PushbackError, before the first prompt, for a server, key or model that is not there; when the server is gone; or
    as `ask_all` does. What is finished stays.
    """
    for chat in chats.values():
        await chat.check()
    with EvalFile(out, plan) as file, _bar(plan, file, progress) as bar:
        had = len(file.done)

        async def ask(job: Job) -> None:
            file.append(await _reply(chats[job.voice], plan, job))
            bar.update()

        await ask_all(file.missing(), ask, concurrency)
        return len(file.done) - had


async def _reply(chat: Chat, plan: Plan, job: Job) -> Response:
    origin, start = plan.origins[job.voice], time.perf_counter()
    reply = await chat.complete(plan.messages(job.prompt, job.voice), seed=origin.seed + job.sample,
                                temperature=origin.temperature, max_tokens=origin.max_tokens)  # fmt: skip
    timings = Timings(seconds=round(time.perf_counter() - start, 3), replies=1, tokens=reply.tokens)
    return judged(job, reply, timings, origin)


def _bar(plan: Plan, file: EvalFile, progress: bool):
    from tqdm import tqdm

    total = len(plan.prompts) * len(VOICES) * plan.samples
    return tqdm(total=total, initial=len(file.done), unit="reply", desc="eval", disable=not progress, mininterval=0.5,
                leave=False)  # fmt: skip


@dataclass(frozen=True)
class Bench:
    """Seconds for the same prompts, both voices, one prompt at a time and in one batch."""

    prompts: int
    one_by_one: float
    batched: float

    def __str__(self) -> str:
        return (f"{self.prompts} prompts, both voices: {self.one_by_one:.1f} s one at a time, {self.batched:.1f} s in a batch, "
                f"{self.one_by_one / self.batched:.1f} times as fast")  # fmt: skip


def bench(speaker: Speaker, plan: Plan, n: int = BATCH) -> Bench:
    """Times `n` prompts spread over the plan, first one at a time, then in one batch; a short warm-up before."""
    step = max(1, len(plan.prompts) // n)
    asked = [plan.messages(prompt, FRICTION) for prompt in plan.prompts[::step][:n]]
    speaker.speak(asked, max_new_tokens=8)
    start = time.perf_counter()
    for messages in asked:
        speaker.speak([messages])
    middle = time.perf_counter()
    speaker.speak_all(asked, batch=n)
    return Bench(len(asked), middle - start, time.perf_counter() - middle)
