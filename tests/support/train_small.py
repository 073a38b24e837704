"""A small training run in a process of its own, which the tests kill, starve of disk or memory, or start twice."""

import dataclasses
import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pushback_lib.core.common import PushbackError
from pushback_lib.core.files import sha256_of
from pushback_lib.core.records import Record
from pushback_lib.language.corpus import friction_records
from pushback_lib.model.recipe import Recipe, recipe_for
from pushback_lib.train import run
from pushback_lib.train.run import Training, train_adapter, validation_records


def small(**changes: object) -> Recipe:
    """`tiny` in half batches, with a checkpoint every third step of its 6 an epoch."""
    return dataclasses.replace(recipe_for("tiny"), **{"batch": 8, "epochs": 2, "checkpoint_every": 3, **changes})


def quick_learner() -> Recipe:
    """`tiny`, with a step size by which six steps show that it learns."""
    return dataclasses.replace(recipe_for("tiny"), learning_rate=3e-3, warmup_share=0.0, checkpoint_every=3)


def records() -> list[Record]:
    return friction_records(45, seed=1)  # not a multiple of the batch: the last one of an epoch is short


def few_validation_records(recipe: Recipe, train: list[Record]) -> list[Record]:
    return validation_records(recipe, train)[::4]


def digest(adapter: Path) -> str:
    return sha256_of(adapter / "adapter_model.safetensors")


def last_loss(training: Training) -> float:
    return training.losses[-1][1]


def start(job: str, out: Path, *launcher: str) -> subprocess.Popen[str]:
    """One of the jobs below, or several as "disk+memory", in a process of its own, on one thread.

    `launcher` goes between Python and this file.
    """
    return subprocess.Popen([sys.executable, *launcher, __file__, job, str(out)], env={**os.environ, "OMP_NUM_THREADS": "1"},
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # fmt: skip


def told(process: subprocess.Popen[str]) -> list[dict[str, Any]]:
    """The JSON objects that a job printed, several of them maybe in one line."""
    output, errors = process.communicate()
    assert process.returncode == 0, errors[-3000:]
    return [json.loads(text) for text in re.findall(r'\{"[^{}]*\}', output)]


def _limit(kind: int, size: int) -> None:
    resource.setrlimit(kind, (size, resource.getrlimit(kind)[1]))


def at(event: str, act: Callable[[], None], step: int = 0) -> object:
    """A callback of the trainer that acts at an event, at one step (0: before the first)."""
    from transformers import TrainerCallback

    def heard(self: object, args: object, state: object, control: object, **kwargs: object) -> None:
        if state.global_step == step:
            act()

    return type("Act", (TrainerCallback,), {event: heard})()


def plain(out: Path) -> None:
    """Trains to the end, however slowly: the test kills it on the way."""
    train_adapter(small(), records(), out)


def disk(out: Path) -> None:
    """No file may grow beyond 1.8 MB from step 4 on: adapters fit, the optimizer's state does not. Then room is made."""
    full = at("on_step_end", lambda: _limit(resource.RLIMIT_FSIZE, 1_800_000), step=4)
    try:
        train_adapter(small(), records(), out, [full])
    except PushbackError as error:
        left = sorted(path.name for path in (out.parent / f".{out.name}.work").glob("checkpoint-*"))
        _limit(resource.RLIMIT_FSIZE, resource.RLIM_INFINITY)
        training = train_adapter(small(), records(), out, resume=True)
        print(json.dumps({"says": str(error), "left": left, "digest": digest(out), "loss": last_loss(training)}))


def memory(out: Path) -> None:
    """The process may take 100 MB more than it has when training begins: far too little for its first batch."""

    def starve() -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        _limit(resource.RLIMIT_AS, pages * os.sysconf("SC_PAGE_SIZE") + 100_000_000)

    recipe = small(batch=64, max_length=512)
    try:
        train_adapter(recipe, friction_records(128, 1), out.with_name("none"), [at("on_train_begin", starve)])
    except PushbackError as error:
        _limit(resource.RLIMIT_AS, resource.RLIM_INFINITY)
        print(json.dumps({"says": str(error)}))


def processes(out: Path) -> None:
    """One of several processes: tells which examples it trained on; only the first may write a file."""
    rank, seen = int(os.environ["RANK"]), []
    if rank:
        _limit(resource.RLIMIT_FSIZE, 16)  # bytes: enough for Python to find a temporary folder, for nothing else
    make = run.make_trainer

    def listening(*args: object, **kwargs: object) -> object:
        trainer = make(*args, **kwargs)
        rows = {tuple(ids): at for at, ids in enumerate(trainer.train_dataset["input_ids"])}
        collate = trainer.data_collator

        def collator(batch: list[dict[str, list[int]]]) -> object:
            if trainer.model.training:
                seen.extend(rows[tuple(row["input_ids"])] for row in batch)
            return collate(batch)

        trainer.data_collator = collator
        return trainer

    run.make_trainer = listening
    recipe = small(epochs=1, patience=3, checkpoint_every=12)
    train = friction_records(100, seed=1)
    training = train_adapter(recipe, train, out, validation=few_validation_records(recipe, train))
    print(json.dumps({"rank": rank, "seen": seen, "best": training.best, "loss": last_loss(training)}), flush=True)


if __name__ == "__main__":
    for name in sys.argv[1].split("+"):
        {job.__name__: job for job in (plain, disk, memory, processes)}[name](Path(sys.argv[2]))
