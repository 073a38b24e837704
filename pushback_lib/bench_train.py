"""Three training recipes side by side on the same examples: the ancestor's, TRL's defaults, and the kit's.

Each trains the same NF4 base with the same adapter, learning rate, effective batch and number of examples, in turns on the same
machine. Useful tokens are those of reasoning and answer; whatever else a recipe computes is its own cost. Knows nothing about
tables or files.
"""

from __future__ import annotations

import dataclasses
import gc
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .bench_arms import ARMS, IGNORED, padded_length, tokenise, trainer_for, useful_tokens
from .bench_memory import StepPeak
from .bench_step import silence
from .models import load_base, quiet
from .recipe import Recipe
from .records import Record

WATCHED = 2  # optimizer steps of the run in which memory is measured
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Run:
    """One training run: seconds on the clock and on the processor, useful tokens, held-out loss of reasoning and answer."""

    arm: str
    seed: int
    seconds: float
    cpu_seconds: float
    useful_tokens: int
    held_out_loss: float

    @property
    def tokens_a_second(self) -> float:
        return self.useful_tokens / self.seconds

    @property
    def tokens_a_cpu_second(self) -> float:
        return self.useful_tokens / self.cpu_seconds


@dataclass(frozen=True)
class Bench:
    """All runs, in the order in which they were made, and the peak tensor bytes of each recipe on the longest examples."""

    runs: tuple[Run, ...]
    peaks: dict[str, int]
    examples: int
    held_out: int
    padded_to: int
    untrained_loss: float

    def of(self, arm: str) -> list[Run]:
        return [run for run in self.runs if run.arm == arm]


def bench(
    recipe: Recipe, records: Sequence[Record], held_out: Sequence[Record], seeds: Sequence[int], progress: Progress = print
) -> Bench:
    """Measures each recipe's memory, which also warms everything up, then trains them in turns, once for each seed.

    The ancestor's recipe, which takes as long as all others together, is trained with the first seed only.
    """
    quiet()
    tokenised = tokenise(recipe, held_out)
    untrained = completion_loss(load_base(recipe), tokenised)
    longest = sorted(records, key=lambda r: len(r.answer) + sum(len(t.thought) for t in r.thoughts))
    longest = longest[-WATCHED * recipe.effective_batch :]
    peaks = {}
    for arm in ARMS:
        peaks[arm] = peak_bytes(arm, recipe, longest)
        progress(f"memory: {arm}: {peaks[arm] / 2**20:,.0f} MiB")
    runs = []
    for arm, seed in turns(seeds):
        run = run_once(arm, dataclasses.replace(recipe, seed=seed), records, tokenised)
        progress(f"trained: {arm}, seed {seed}: {run.tokens_a_second:,.0f} useful tokens a second, "
                 f"{run.tokens_a_cpu_second:,.0f} of processor time, held-out loss {run.held_out_loss:.3f}")  # fmt: skip
        runs.append(run)
    return Bench(tuple(runs), peaks, len(records), len(held_out), padded_length(recipe), untrained)


def turns(seeds: Sequence[int]) -> Iterator[tuple[str, int]]:
    """Which recipe trains when: the order changes with each seed, so that none always goes first."""
    for at, seed in enumerate(seeds):
        pair = [("trl", seed), ("kit", seed)]
        yield from pair if at % 2 else reversed(pair)
        if at == 0:
            yield "ancestor", seed


def peak_bytes(arm: str, recipe: Recipe, records: Sequence[Record]) -> int:
    """The most that tensors hold in the second of two steps on these records."""
    watch = StepPeak(WATCHED)
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_for(arm, recipe, records, Path(folder) / "work", [watch.callback()])
        silence(trainer)
        trainer.train()
    del trainer
    gc.collect()
    return watch.peak.peak


def run_once(arm: str, recipe: Recipe, records: Sequence[Record], held_out: Sequence[dict[str, list[int]]]) -> Run:
    """Trains once, from the loaded base to the trained adapter, and evaluates."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_for(arm, recipe, records, Path(folder) / "work")
        silence(trainer)
        wall, cpu = time.perf_counter(), time.process_time()
        trainer.train()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    loss = completion_loss(trainer.model, held_out)
    del trainer
    gc.collect()
    return Run(arm, recipe.seed, wall, cpu, useful_tokens(recipe, records) * recipe.epochs, loss)


def completion_loss(model: Any, rows: Sequence[dict[str, list[int]]], batch: int = 16) -> float:
    """Mean loss of a reasoning or answer token, in fp32, the same way for every recipe."""
    import torch

    model.eval()
    total, count = 0.0, 0
    for at in range(0, len(rows), batch):
        part = rows[at : at + batch]
        width = max(len(row["input_ids"]) for row in part)
        ids = torch.tensor([row["input_ids"] + [0] * (width - len(row["input_ids"])) for row in part]).to(model.device)
        labels = torch.tensor([row["labels"] + [IGNORED] * (width - len(row["labels"])) for row in part]).to(model.device)
        mask = torch.tensor([[1] * len(row["input_ids"]) + [0] * (width - len(row["input_ids"])) for row in part])
        with torch.no_grad():
            logits = model(input_ids=ids, attention_mask=mask.to(model.device)).logits[:, :-1].float()
        total += torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), reduction="sum").item()
        count += int((labels[:, 1:] != IGNORED).sum())
    return total / count
