"""Asks both voices every prompt, from a local model or a server, and stores each judged reply; resumable.

It knows nothing about reports. A local model answers in batches of like length, both voices in one batch; a server is
asked by several workers at a time.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .chat import Chat
from .checks import adapter_fingerprint, fingerprint
from .eval_rows import EvalFile, Job, Plan, Response, Timings, judged, plan_for
from .eval_set import Prompt
from .eval_workers import ask_all
from .judging import Language
from .models import FRICTION
from .voices import BASELINE, VOICES, Speaker, Spoken

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
                        file.append(judged(job, spoken.text, spoken.finished, timings, plan.origins[job.voice], prefilled=True))
                        bar.update()
        return len(file.done) - had


def in_batches(plan: Plan, batch: int) -> list[list[Prompt]]:
    """The prompts in batches of like length, in the order of `Speaker.speak_all`."""
    order = sorted(plan.prompts, key=lambda prompt: sum(len(m["content"]) for m in plan.messages(prompt, FRICTION)))
    return [order[at : at + batch] for at in range(0, len(order), batch)]


def _answers(speaker: Speaker, plan: Plan, jobs: Sequence[Job]) -> list[tuple[Job, Spoken, Timings]]:
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
    timings = Timings(seconds=round(time.perf_counter() - start, 3), replies=1, tokens=reply.completion_tokens)
    return judged(job, reply.text, reply.finish_reason != "length", timings, origin, prefilled=False)


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
