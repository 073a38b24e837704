"""Ask both voices every prompt and keep each judged reply; a stopped run resumes."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.common import BASELINE, FRICTION, VOICES, PushbackError
from ..core.files import RunFile, read_models, sha256_of, to_row, write_jsonl
from ..core.records import Message
from ..model.checks import adapter_fingerprint, fingerprint
from ..model.llama_cpp import Pair
from ..model.server import Chat, ask_all
from ..model.voices import Speaker
from .judge import Job, Origin, Response, Timings, generation, judge_reply
from .prompts import Prompt, bundled_prompts, language_of, prompt_set_hash

BATCH = 48  # prompts; two replies each. The batch decides the last digits, so other sizes may give other replies


@dataclass(frozen=True)
class Sampling:
    """How replies are drawn; the i-th sample of a prompt has seed `seed + i`."""

    seed: int = 0
    temperature: float = 0.0
    samples: int = 1
    max_tokens: int = 0  # 0: the recipe's, or 1024 on a server


GREEDY = Sampling()


@dataclass(frozen=True)
class EvalRun:
    """What is asked: every prompt of every voice, `samples` times; and the origin of each voice's replies."""

    prompts: tuple[Prompt, ...]
    origins: Mapping[str, Origin]
    samples: int = 1

    def jobs(self) -> Iterator[Job]:
        """Every reply, prompt by prompt."""
        for prompt in self.prompts:
            for sample in range(self.samples):
                yield from (Job(prompt, voice, sample) for voice in VOICES)

    def messages(self, prompt: Prompt, voice: str) -> list[Message]:
        """The conversation a voice answers."""
        return prompt.messages(self.origins[voice].system)

    def batches(self, size: int) -> list[list[Prompt]]:
        """The prompts in batches of similar length."""
        order = sorted(self.prompts, key=lambda prompt: sum(len(m["content"]) for m in self.messages(prompt, FRICTION)))
        return [order[at : at + size] for at in range(0, len(order), size)]


def _run(prompts: Sequence[Prompt], how: Sampling, common: dict[str, Any], **of_voice: dict[str, Any]) -> EvalRun:
    common |= {"prompt_set": prompt_set_hash(prompts), "language": language_of(prompts), "seed": how.seed,
               "temperature": how.temperature, "generation": generation(how.temperature, common["max_tokens"])}  # fmt: skip
    return EvalRun(tuple(prompts), {voice: Origin(**common, **own) for voice, own in of_voice.items()}, how.samples)


def local_run(speaker: Speaker, prompts: Sequence[Prompt], how: Sampling = GREEDY) -> EvalRun:
    """The run of a local model: same base, system prompt and settings for both voices; only the adapter differs."""
    common = {
        "backend": "local", "model": fingerprint(speaker.recipe), "system": speaker.recipe.system,
        "template": hashlib.sha256(speaker.tokenizer.chat_template.encode()).hexdigest(),
        "max_tokens": how.max_tokens or speaker.recipe.max_new_tokens,
    }  # fmt: skip
    return _run(prompts, how, common, **{BASELINE: {}, FRICTION: {"adapter": adapter_fingerprint(speaker.adapter)}})


def server_run(chats: Mapping[str, Chat], system: str, prompts: Sequence[Prompt], how: Sampling = GREEDY) -> EvalRun:
    """The run of a server's two models."""
    common = {"backend": "server", "system": system, "max_tokens": how.max_tokens or 1024}
    of_voice = {voice: {"model": chat.model, "base_url": chat.base_url} for voice, chat in chats.items()}
    return _run(prompts, how, common, **of_voice)


def llama_run(pair: Pair, prompts: Sequence[Prompt], how: Sampling = GREEDY) -> EvalRun:
    """The run of a base's GGUF file and an adapter's, as the adapter's header says it is to be asked."""
    header = pair.header
    common = {
        "backend": "llama.cpp", "model": f"sha256:{sha256_of(pair.gguf)}", "system": header.system,
        "template": hashlib.sha256(header.template.encode()).hexdigest(), "max_tokens": how.max_tokens or header.max_tokens,
    }  # fmt: skip
    return _run(prompts, how, common, **{BASELINE: {}, FRICTION: {"adapter": f"sha256:{sha256_of(pair.lora)}"}})


def load_responses(path: str | os.PathLike[str]) -> list[Response]:
    """Reads the rows of a run. Raises PushbackError naming the file and the line that is not one."""
    rows = [row for _, row in read_models(path, Response)]
    if not rows:
        raise PushbackError(f"{Path(path)} holds no replies. Make some with `pushback eval`.")
    return rows


def save_responses(path: str | os.PathLike[str], rows: Iterable[Response]) -> int:
    """Writes rows as JSON Lines (write aside, then rename); returns how many."""
    return write_jsonl(path, map(to_row, rows))


def evaluate(
    speaker: Speaker, prompts: Sequence[Prompt] | None = None, out: str | os.PathLike[str] | None = None,
    how: Sampling = GREEDY, batch: int = BATCH,
) -> list[Response]:  # fmt: skip
    """Both voices' judged replies, prompt by prompt; by default greedy, on the bundled held-out prompts.

    With a file `out`, each reply is on disk at once and a stopped run resumes. Batches are cut from all prompts, and one
    that a stop left half written is made again, so that greedy replies do not depend on interruptions.
    """
    run = local_run(speaker, bundled_prompts() if prompts is None else prompts, how)
    with _collecting(run, out) as (rows, keep):
        for sample in range(run.samples):
            for chosen in run.batches(batch):
                if any(Job(prompt, voice, sample).id not in rows for prompt in chosen for voice in VOICES):
                    for row in answers(speaker, run, chosen, sample=sample):
                        keep(row)
        return [rows[job.id] for job in run.jobs()]


def answers(
    speaker: Speaker, run: EvalRun, prompts: Sequence[Prompt], voices: Sequence[str] = VOICES, *, sample: int = 0,
    thoughts: Sequence[str] | None = None,
) -> list[Response]:  # fmt: skip
    """The judged replies of one batch; with `thoughts`, one for each prompt, every answer continues from that reasoning."""
    origin, start = run.origins[FRICTION], time.perf_counter()
    spoken = speaker.speak([run.messages(prompt, FRICTION) for prompt in prompts], voices, max_new_tokens=origin.max_tokens,
                           temperature=origin.temperature, seed=origin.seed + sample, thoughts=thoughts)  # fmt: skip
    call = {"seconds": round(time.perf_counter() - start, 3), "replies": len(prompts) * len(voices)}
    return [
        judge_reply(Job(prompt, voice, sample), reply, Timings(**call, tokens=reply.tokens), run.origins[voice])
        for prompt, said in zip(prompts, spoken, strict=True)
        for voice, reply in said.items()
    ]


async def run_server(
    chats: Mapping[str, Chat], run: EvalRun, out: str | os.PathLike[str] | None = None, concurrency: int = 8
) -> list[Response]:
    """`evaluate` for the models of a server.

    Raises PushbackError, before the first prompt, for a server, key or model that is not there; when the server is gone; or
    as `ask_all` does. What is finished stays.
    """
    for chat in chats.values():
        await chat.check()
    with _collecting(run, out) as (rows, keep):

        async def ask(job: Job) -> None:
            origin, start = run.origins[job.voice], time.perf_counter()
            reply = await chats[job.voice].complete(run.messages(job.prompt, job.voice), seed=origin.seed + job.sample,
                                                    temperature=origin.temperature, max_tokens=origin.max_tokens)  # fmt: skip
            timings = Timings(seconds=round(time.perf_counter() - start, 3), replies=1, tokens=reply.tokens)
            keep(judge_reply(job, reply, timings, origin))

        await ask_all([job for job in run.jobs() if job.id not in rows], ask, concurrency)
        return [rows[job.id] for job in run.jobs()]


@contextmanager
def _collecting(
    run: EvalRun, out: str | os.PathLike[str] | None
) -> Iterator[tuple[dict[str, Response], Callable[[Response], None]]]:
    """The rows so far, by id, and a function that keeps one more: in `out`, if there is such a file, and on a progress bar.

    Raises PushbackError if the file holds a reply twice, or one that this run does not ask for.
    """
    from tqdm import tqdm

    rows: dict[str, Response] = {}
    ids = {job.id for job in run.jobs()}

    def seen(row: Response) -> None:
        _check_run(row, run, ids, out)
        if row.id in rows:
            raise PushbackError(f"{out} holds {row.id!r} twice. Delete one of the lines, then run again.")
        rows[row.id] = row

    def keep(row: Response) -> None:
        if row.id not in rows:
            if file:
                file.append(row)
            rows[row.id] = row
            bar.update()

    with ExitStack() as stack:
        file = stack.enter_context(RunFile(out, Response, seen, "a reply of `pushback eval`")) if out else None
        bar = stack.enter_context(tqdm(total=len(ids), initial=len(rows), unit="reply", desc="eval", mininterval=0.5,
                                       leave=False, disable=None))  # fmt: skip
        yield rows, keep


def replies_of(run: EvalRun, path: str | os.PathLike[str]) -> list[Response]:
    """The replies of this run that are in a file, as far as it came; none where there is no such file.

    Raises PushbackError if the file holds a reply that this run does not ask for.
    """
    rows = load_responses(path) if Path(path).is_file() else []
    ids = {job.id for job in run.jobs()}
    for row in rows:
        _check_run(row, run, ids, path)
    return rows


def _check_run(row: Response, run: EvalRun, ids: Collection[str], path: str | os.PathLike[str] | None) -> None:
    if row.id not in ids or row.provenance != run.origins.get(row.voice):
        raise PushbackError(f"{path} holds {row.id!r} of another run ({_difference(row, run)}). Use that run's settings "
                            "again, or choose another --out.")  # fmt: skip


def _difference(row: Response, run: EvalRun) -> str:
    if row.voice not in run.origins:
        return f"voice {row.voice!r}"
    then, now = row.provenance.model_dump(), run.origins[row.voice].model_dump()
    changed = [f"{name}: {str(then[name])[:40]}, now {str(now[name])[:40]}" for name in now if then[name] != now[name]]
    return "; ".join(changed) or "a prompt or sample that is not asked for now"
