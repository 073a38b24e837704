"""The real sizes with random weights on one card: speed, peak against the plan, and the targets; knows nothing of quality.

On a machine without a card the same code runs small shapes, which is how its tests run it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from .bench_step import run_steps
from .planner import parts
from .planner_memory import Setting
from .recipe import Recipe
from .shapes import config_for

TARGET_EXAMPLES, TARGET_EPOCHS, TARGET_MINUTES = 2400, 3, 10.0  # on an H200-class card
TARGET_T4_GIB = 14.5


@dataclass(frozen=True)
class Measured:
    """One run: planned and measured peak in bytes, tokens a second, minutes for 2,400 examples × 3 passes at it."""

    name: str
    batch: int
    length: int
    planned: int
    peak: int
    tokens_a_second: float

    @property
    def off(self) -> float:
        """How far the plan is from the measured peak, as a share of it."""
        return self.planned / self.peak - 1

    @property
    def minutes(self) -> float:
        return TARGET_EXAMPLES * TARGET_EPOCHS * self.length / self.tokens_a_second / 60


def measure(recipe: Recipe, *, length: int, fp16: bool = False, steps: int = 6, config: Any = None) -> Measured:
    """Trains random NF4 weights of the recipe's shape; `fp16`: the settings of a T4, fp16 with an adapter in fp32."""
    import torch

    config = config_for(recipe) if config is None else config
    cuda = torch.cuda.is_available()
    compute, adapter = (2, 4 if fp16 else 2) if cuda or fp16 else (4, 2)
    dtype = torch.float16 if fp16 else torch.bfloat16 if cuda else torch.float32
    optimizer = recipe.optimizer if cuda else "adamw_torch"
    setting = Setting(recipe.batch, length, recipe.rank, recipe.checkpointing, compute, adapter, optimizer, cuda,
                      padded=recipe.batch > 1, loss_share=0.7)  # fmt: skip
    changes = {"bf16": False, "fp16": True} if fp16 else {}
    run = run_steps(config, recipe, dtype, length=length, steps=steps, adapter_fp32=fp16, **changes)
    planned = sum(part.bytes for part in parts(config, setting)[:-1])
    name = f"{recipe.name}, {'fp16, adapter in fp32' if fp16 else str(dtype).split('.')[-1]}"
    return Measured(name, recipe.batch, length, planned, run.peak.peak, run.tokens_a_step / run.seconds_a_step)


def measure_all(recipe: Recipe, lengths: tuple[int, ...] = (320, 1024), config: Any = None) -> list[Measured]:
    """Both lengths in the card's own type, and the longest under the settings of a T4 at batch 1 where there is a card."""
    import torch

    runs = [measure(recipe, length=length, config=config) for length in lengths]
    if torch.cuda.is_available():
        single = dataclasses.replace(recipe, batch=1, accumulation=recipe.effective_batch)
        runs.append(measure(single, length=max(lengths), fp16=True, config=config))
    return runs


def table(runs: list[Measured]) -> str:
    """In Markdown, with the targets."""
    lines = ["| Run | Batch × sequence | Measured peak | Planned | Off by | Tokens a second | 2,400 examples × 3 |",
             "|---|---|---:|---:|---:|---:|---:|"]  # fmt: skip
    for run in runs:
        lines.append(f"| {run.name} | {run.batch} × {run.length} | {run.peak / 2**30:.2f} GiB | "
                     f"{run.planned / 2**30:.2f} GiB | {run.off:+.1%} | {run.tokens_a_second:,.0f} | "
                     f"{run.minutes:.1f} min |")  # fmt: skip
    lines.append("\nTargets for 7b: at most 10 min on an H200-class card; at most 14.5 GiB at sequence 1,024 under the T4 "
                 "settings; plan within 10 %.")  # fmt: skip
    return "\n".join(lines)
