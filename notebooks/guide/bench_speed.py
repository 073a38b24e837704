"""Measure on this machine's CPU what each means brings to a training step, and whether the loss stays the same.

All ways train the same batches of the same records from the same start: a few steps each, then the usual way and the kit all
steps. Keeps the figures in a file, and puts the table into bench.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import datasets
import torch
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.utils import logging

from pushback_lib.core.common import DATA, PushbackError
from pushback_lib.core.files import replacing
from pushback_lib.core.records import load_records
from pushback_lib.model.load import machine_name
from pushback_lib.model.recipe import Recipe, chosen_size, recipe_for
from pushback_lib.train.run import computes_fast, make_trainer

HEAD, END = "<!-- speed: written by bench_speed.py -->", "<!-- end of what was measured of the speed -->"
WARM = 2  # steps of each run that are not counted


def usual(trainer: Any) -> None:
    """TRL and PEFT as the kit sets them up for other sizes: bf16 autocast, an adapter in fp32."""
    trainer.fast = None


def compiled(trainer: Any) -> None:
    usual(trainer)
    trainer.model.get_base_model().compile(dynamic=True)


def all_bf16(trainer: Any) -> None:
    """No autocast: the adapter computes in bf16 too, and is held in it."""
    usual(trainer)
    trainer.args.bf16 = False
    trainer.accelerator.native_amp = False
    for parameter in trainer.model.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)


def all_fp32(trainer: Any) -> None:
    """The sums that bf16 rounds: what the loss is measured against."""
    usual(trainer)
    trainer.args.bf16 = False
    trainer.accelerator.native_amp = False
    trainer.model.float()


def fast_padded(trainer: Any) -> None:
    """Padding is computed like text. A first token that differs hides what texts share: only the time counts."""
    loss = trainer.fast.loss
    trainer.fast.loss = lambda ids, mask, labels, *count: loss(_unlike(ids), torch.ones_like(mask), labels, *count)


def fast_unshared(trainer: Any) -> None:
    loss = trainer.fast.loss
    trainer.fast.loss = lambda ids, *rest: loss(_unlike(ids), *rest)


def _unlike(ids: torch.Tensor) -> torch.Tensor:
    ids = ids.clone()
    ids[1:, 0] = ids[0, 0] - 1 if ids[0, 0] else 1
    return ids


def kit(trainer: Any) -> None:
    """What `pushback train` does."""


def upper_half(trainer: Any) -> None:
    """Another adapter: only the upper half of the layers has one, and nothing goes back through the lower half."""
    blocks = trainer.fast.blocks
    for block in blocks[: len(blocks) // 2]:
        for stack in (block.qkv, block.out, block.gate_up, block.down):
            stack.adapted = []


WAYS: dict[str, Callable[[Any], None]] = {
    "PEFT, bf16 autocast": usual,
    "the same, compiled with `torch.compile`": compiled,
    "PEFT, all in bf16 without autocast": all_bf16,
    "fused steps without autocast, fp32 adapter": fast_padded,
    "and no padding": fast_unshared,
    "and the shared beginning once: this kit": kit,
    "adapter on the upper half of the layers only": upper_half,
    "PEFT, all in fp32": all_fp32,
}
FIRST, KIT, EXACT = "PEFT, bf16 autocast", "and the shared beginning once: this kit", "PEFT, all in fp32"


class Clock(TrainerCallback):
    """Notes when each step ends, and ends the run after `steps` of them."""

    def __init__(self, steps: int) -> None:
        self.steps, self.ends = steps, list[float]()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.ends.append(time.perf_counter())
        control.should_training_stop = state.global_step >= self.steps


def run_once(way: str, recipe: Recipe, records: Sequence[Any], steps: int, total: int) -> dict[str, Any]:
    """Trains `steps` steps of a schedule of `total`; tokens are those of the texts, however few are computed."""
    clock, tokens = Clock(steps), []
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(recipe, records, Path(folder) / "work", [clock])
        for callback in (ProgressCallback, PrinterCallback):
            trainer.remove_callback(callback)
        trainer.args.max_steps, trainer.args.logging_steps, trainer.args.save_strategy = total, 1, "no"
        collate = trainer.data_collator

        def counted(rows: list[Any]) -> Any:
            batch = collate(rows)
            tokens.append(int(batch["attention_mask"].sum()))
            return batch

        trainer.data_collator = counted
        WAYS[way](trainer)
        trainer.train()
    took = clock.ends[-1] - clock.ends[WARM - 1]
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    return {"way": way, "steps": steps, "tokens": sum(tokens[WARM:steps]), "seconds": round(took, 2), "losses": losses}


def bench(recipe: Recipe, records: Sequence[Any], steps: int, few: int) -> dict[str, Any]:
    """A few steps each way; then all steps the usual way, which shows whether the machine is still the same, and the kit's."""
    load, runs = os.getloadavg(), []
    for way, count in [*((way, few) for way in WAYS), (FIRST, steps), (KIT, steps)]:
        try:
            runs.append(run_once(way, recipe, records, count, steps))
        except Exception as error:
            if WAYS[way] is not compiled:
                raise
            runs.append({"way": way, "error": f"{type(error).__name__}: {str(error)[:200]}"})
        print(way, {key: value for key, value in runs[-1].items() if key not in ("way", "losses")}, flush=True)
    return {"model": recipe.label, "machine": machine_name(), "load_average": [round(one, 1) for one in load],
            "threads": torch.get_num_threads(), "rank": recipe.rank, "batch": recipe.effective_batch, "records": len(records),
            "runs": runs}  # fmt: skip


def speed_of(run: dict[str, Any]) -> float:
    """Tokens a second; not a number for a way that failed."""
    return run["tokens"] / run["seconds"] if "error" not in run else float("nan")


def apart(found: dict[str, Any], first: int, second: int) -> list[float]:
    """By how much the losses of two runs differ, step by step, as far as both go."""
    pairs = zip(found["runs"][first]["losses"], found["runs"][second]["losses"], strict=False)
    return [other - one for one, other in pairs]


def table(found: dict[str, Any]) -> str:
    """In Markdown, with what the losses say."""
    short = {run["way"]: run for run in found["runs"][:-2]}
    usual_run, kit_run = found["runs"][-2:]
    few, steps = short[EXACT]["steps"], kit_run["steps"]
    head = ["Way", f"Tokens a second, {few - WARM} of {few} steps", "times the first", f"{steps - WARM} of {steps} steps",
            "times the first"]  # fmt: skip
    lines = [f"| {' | '.join(head)} |", "|---|---:|---:|---:|---:|"]
    for way, run in short.items():
        long = next((one for one in (usual_run, kit_run) if one["way"] == way), None)
        cells = [shown for one, first in ((run, short[FIRST]), (long, usual_run)) for shown in _shown(one, first)]
        lines.append(f"| {way} | {' | '.join(cells)} |")
    last = mean(apart(found, -2, -1)[-5:])
    exact = list(short).index(EXACT)
    worst = {name: max(map(abs, apart(found, exact, at)[:few])) for name, at in (("autocast", -2), ("the kit", -1))}
    lines.append(
        f"\n`{found['model']}`, rank {found['rank']}, batches of {found['batch']} out of {found['records']:,} records, "
        f"{found['machine']}, threads: {found['threads']}, load average before: {', '.join(map(str, found['load_average']))}.\n"
        f"Loss of step {len(kit_run['losses'])}: {usual_run['losses'][-1]:.3f} under autocast, {kit_run['losses'][-1]:.3f} "
        f"with the kit; kit less autocast over the last five steps: {last:+.4f}.\nIn the first {few} steps the loss differs "
        f"from that of fp32 by at most {worst['autocast']:.4f} under autocast and {worst['the kit']:.4f} with the kit."
    )
    return "\n".join(lines)


def _shown(run: dict[str, Any] | None, first: dict[str, Any]) -> tuple[str, str]:
    if run is None:
        return "", ""
    return ("failed", "") if "error" in run else (f"{speed_of(run):,.0f}", f"{speed_of(run) / speed_of(first):.2f}")


def page(found: dict[str, Any], text: str) -> str:
    """`text`, a page, with the table put between its marks."""
    before, _, rest = text.partition(HEAD)
    return f"{before}{HEAD}\n\n{table(found)}\n\n{END}{rest.partition(END)[2]}"


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, prints, writes both files; 2, with a line on stderr, if something is not in order."""
    parser = argparse.ArgumentParser(prog="bench_speed.py", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    add = parser.add_argument
    add("--model", default=chosen_size(), help="size on the dial that trains in 16 bit; default: PUSHBACK_MODEL")
    add("--data", type=Path, default=DATA / "friction", help="records (data/friction)")
    add("--rank", type=int, default=32, help="of the adapter (32)")
    add("--steps", type=int, default=50, help="of the two long runs (50)")
    add("--few", type=int, default=8, help="steps of each short run (8)")
    add("--out", type=Path, default=DATA / "results" / "bench_speed.json", help="file of the figures")
    add("--page", type=Path, default=Path(__file__).with_name("bench.md"), help="the page with the table")
    args = parser.parse_args(argv)
    datasets.disable_progress_bars()
    logging.set_verbosity_error()
    try:
        recipe = dataclasses.replace(recipe_for(args.model), rank=args.rank, alpha=2 * args.rank)
        if not computes_fast(recipe):
            raise PushbackError(f"{recipe.label} is not trained in 16 bit on this CPU. Pass --model english.")
        if not WARM < args.few <= args.steps:
            raise PushbackError(f"--few {args.few}, --steps {args.steps}: more than {WARM}, and no more few than steps.")
        found = bench(recipe, load_records(args.data), args.steps, args.few)
    except PushbackError as error:
        print(f"bench_speed: {error}", file=sys.stderr)
        return 2
    old = args.page.read_text(encoding="utf-8") if args.page.is_file() else f"{HEAD}\n{END}\n"
    for path, text in ((args.out, json.dumps(found, indent=1) + "\n"), (args.page, page(found, old))):
        with replacing(path) as part:
            part.write_text(text, encoding="utf-8")
        print(path)
    print(table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
