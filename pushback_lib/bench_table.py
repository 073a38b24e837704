"""What a training benchmark found, as figures, as a table and as a page; knows nothing about how it was measured."""

from __future__ import annotations

import json
import os
from pathlib import Path
from statistics import mean
from typing import Any

from .bench_arms import ARMS
from .bench_train import Bench
from .jsonl import replacing

NAMES = {"ancestor": "the ancestor's recipe", "trl": "TRL's defaults", "kit": "this kit"}


def figures(bench: Bench, model: str, load: tuple[float, float, float]) -> dict[str, Any]:
    """All that was measured, ready for JSON. Ratios are of useful tokens, kit over rival, over the seeds that both trained."""
    import torch

    from .cards import machine_name

    arms = {
        arm: {
            "runs": [vars(run) for run in bench.of(arm)],
            "tokens_a_second": _rate(bench, arm, "seconds"),
            "tokens_a_cpu_second": _rate(bench, arm, "cpu_seconds"),
            "held_out_loss": mean(run.held_out_loss for run in bench.of(arm)),
            "peak_bytes": bench.peaks[arm],
        }
        for arm in ARMS
    }
    ratios = {
        f"kit_over_{arm}": {
            "clock": _ratio(bench, arm, "seconds"),
            "processor": _ratio(bench, arm, "cpu_seconds"),
            "memory": bench.peaks["kit"] / bench.peaks[arm],
            "loss_differences": loss_differences(bench, arm),
        }
        for arm in ARMS[:-1]
    }
    return {"model": model, "machine": machine_name(), "threads": torch.get_num_threads(), "load_average": list(load),
            "device": "cuda" if torch.cuda.is_available() else "cpu", "examples": bench.examples, "held_out": bench.held_out,
            "padded_to": bench.padded_to, "untrained_loss": bench.untrained_loss,
            "recipes": arms, "ratios": ratios}  # fmt: skip


def _rate(bench: Bench, arm: str, seconds: str, seeds: set[int] | None = None) -> float:
    runs = [run for run in bench.of(arm) if seeds is None or run.seed in seeds]
    return sum(run.useful_tokens for run in runs) / sum(getattr(run, seconds) for run in runs)


def _ratio(bench: Bench, arm: str, seconds: str) -> float:
    seeds = {run.seed for run in bench.of(arm)}
    return _rate(bench, "kit", seconds, seeds) / _rate(bench, arm, seconds)


def loss_differences(bench: Bench, arm: str) -> list[float]:
    """Held-out loss of the kit less that of the rival, seed by seed; below 0 the kit learned better."""
    rival = {run.seed: run.held_out_loss for run in bench.of(arm)}
    return [run.held_out_loss - rival[run.seed] for run in bench.of("kit") if run.seed in rival]


def table(found: dict[str, Any]) -> str:
    """In Markdown."""
    lines = ["| Recipe | Useful tokens a second | of processor time | Peak of tensors | Held-out loss | Runs |",
             "|---|---:|---:|---:|---:|---:|"]  # fmt: skip
    for arm, row in found["recipes"].items():
        lines.append(f"| {NAMES[arm]} | {row['tokens_a_second']:,.0f} | {row['tokens_a_cpu_second']:,.0f} | "
                     f"{row['peak_bytes'] / 2**20:,.0f} MiB | {row['held_out_loss']:.3f} | {len(row['runs'])} |")  # fmt: skip
    return "\n".join(lines)


def verdicts(found: dict[str, Any]) -> list[str]:
    """Each ratio against its target, met or missed."""
    on_gpu, lines = found["device"] == "cuda", []
    for arm, target in (("ancestor", 5.0), ("trl", 1.2 if on_gpu else 1.0)):
        ratio = found["ratios"][f"kit_over_{arm}"]
        met = "met" if ratio["clock"] >= target else "missed"
        losses = ", ".join(f"{x:+.3f}" for x in ratio["loss_differences"])
        lines.append(f"Against {NAMES[arm]}: {ratio['clock']:.2f} times the useful tokens a second "
                     f"({ratio['processor']:.2f} by processor time), {ratio['memory']:.2f} times the memory, "
                     f"held-out loss {losses}. Target of at least {target:g} times: {met}.")  # fmt: skip
    return lines


def page(found: dict[str, Any]) -> str:
    """notebooks/guide/bench.md."""
    load = ", ".join(f"{x:.1f}" for x in found["load_average"])
    return f"""# What the recipe costs, measured

Written by `pushback bench train`; run it again to measure your own machine.

{table(found)}

{chr(10).join('- ' + line for line in verdicts(found))}

**How.** Model `{found["model"]}`, {found["examples"]} training examples, {found["held_out"]} held-out ones.
Machine: {found["machine"]}; threads: {found["threads"]}; load average before the run: {load}.
A load near or above the number of cores means that other programs ran: then trust the column of processor time. The recipes
train in turns in one process, from the same NF4 base, with the same adapter, learning rate, schedule, effective batch, number
of examples and seeds; a ratio compares runs of the same seeds.

- *Useful tokens* are those of reasoning and answer.
- *Held-out loss* is the mean loss of a reasoning or answer token on requests whose words no training example holds, reckoned
  the same way for all; the untrained base has {found["untrained_loss"]:.3f}. The differences above are kit
  less rival, seed by seed.
- *Peak of tensors* is what torch's allocator hands out at its highest in one step on the longest examples. It excludes
  Python and the libraries. Part of it is the buffer for logits that TRL allots for 32,768 words whatever the vocabulary.

The recipes:

- **The ancestor's recipe** pads every example to {found["padded_to"]:,} tokens (4,096 in the original, or as many as the model
  takes), puts loss on the prompt as well, and trains in batches of 2, accumulated. It is trained with one seed.
- **TRL's defaults**: `SFTTrainer` as it comes, which means bf16 autocast and gradient checkpointing. What was
  changed, so that it can learn the same: batch, learning rate and schedule are the kit's, and it gets the training template,
  because with the model's own template it would see no reasoning at all.
- **This kit**: what `pushback train` does. Where the recipe has no checkpointing, as for `tiny`, it takes more memory for
  speed; for the sizes that need a card it checkpoints too.

No GPU was at hand: nothing on this page was run on one. `pushback bench gpu` measures there.
""" if found["device"] == "cpu" else _gpu_page(found)  # fmt: skip


def _gpu_page(found: dict[str, Any]) -> str:
    lines = "\n".join("- " + line for line in verdicts(found))
    return f"# What the recipe costs, measured on {found['machine']}\n\n{table(found)}\n\n{lines}\n"


def write(found: dict[str, Any], results: Path, guide: Path) -> list[Path]:
    """Writes the figures as JSON and the page."""
    with replacing(results) as part:
        part.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    with replacing(guide) as part:
        part.write_text(page(found), encoding="utf-8")
    return [results, guide]


def load_average() -> tuple[float, float, float]:
    """Of the last 1, 5 and 15 minutes; zeros where the system keeps none."""
    return os.getloadavg() if hasattr(os, "getloadavg") else (0.0, 0.0, 0.0)
