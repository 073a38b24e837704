"""The `pushback bench` commands: train, peaks, gpu, voices; knows nothing about how each measures."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import PushbackError
from .recipe import DATA, Recipe, chosen_size

if TYPE_CHECKING:
    from .records import Record

GUIDE = DATA.parent / "notebooks" / "guide"


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Adds `bench` and its commands."""
    bench = subparsers.add_parser("bench", help="measure speed and memory of training on this machine")
    commands = bench.add_subparsers(required=True, metavar="COMMAND")
    train = commands.add_parser("train", help="the kit's recipe against the ancestor's and TRL's defaults")
    train.add_argument("--model", default=chosen_size(), help="size on the dial; default: PUSHBACK_MODEL, or tiny")
    train.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="where it must run; auto: where it can"
    )
    train.add_argument("-n", type=int, default=240, help="training examples (240)")
    train.add_argument("--held-out", type=int, default=5, help="held-out requests of each kind (5)")
    train.add_argument("--seeds", type=int, default=3, help="how often each recipe is trained (3)")
    train.add_argument("--out", type=Path, default=DATA / "results" / "bench_train.json", help="figures as JSON")
    train.add_argument("--page", type=Path, default=GUIDE / "bench.md", help="the page with the table")
    train.set_defaults(run=run_train)
    peaks = commands.add_parser("peaks", help="measured peaks of small shapes against the planner's")
    peaks.add_argument("--quick", action="store_true", help="only the small ones")
    peaks.set_defaults(run=run_peaks)
    gpu = commands.add_parser("gpu", help="a real size with random weights on this card: speed, and peak against the plan")
    gpu.add_argument("--shape", default="7b", help="size on the dial (7b)")
    gpu.add_argument("--seq", type=int, nargs="+", default=[320, 1024], help="tokens of a sequence (320 1024)")
    gpu.add_argument("--out", type=Path, help="also append the table to this page")
    gpu.set_defaults(run=run_gpu)

    voices = commands.add_parser("voices", help="both voices in one batch against one after the other")
    voices.add_argument("--tokens", type=int, default=60, help="tokens a voice (60)")
    voices.add_argument("--rounds", type=int, default=7, help="rounds, of which the median counts (7)")
    voices.set_defaults(run=run_voices)


def _check_device(device: str) -> None:
    import torch

    there = torch.cuda.is_available()
    if device == "cuda" and not there:
        raise PushbackError("--device cuda, but torch sees no CUDA card. Leave it out to measure on the CPU.")
    if device == "cpu" and there:
        raise PushbackError("--device cpu, but torch would use the card. Set CUDA_VISIBLE_DEVICES= to hide it.")


def run_train(args: argparse.Namespace) -> int:
    """Prints table and ratios and writes both files; 0 whether or not the targets are met."""
    if min(args.n, args.held_out, args.seeds) < 1:
        raise PushbackError(f"-n {args.n}, --held-out {args.held_out}, --seeds {args.seeds}: each must be at least 1.")
    from .recipe import recipe_for

    recipe = recipe_for(args.model)
    _check_device(args.device)
    from . import bench_table as tables
    from .bench_step import hush
    from .bench_train import WATCHED, bench

    load = tables.load_average()
    if args.n < WATCHED * recipe.effective_batch:
        raise PushbackError(f"-n {args.n}: {recipe.name} needs at least {WATCHED * recipe.effective_batch} examples here.")
    hush()
    records, held_out = _records(recipe, args.n, args.held_out)
    found = tables.figures(bench(recipe, records, held_out, range(1, args.seeds + 1), _say), recipe.name, load)
    print(tables.table(found), *tables.verdicts(found), sep="\n")
    for path in tables.write(found, args.out, args.page):
        print(path)
    return 0


def _say(text: str) -> None:
    print(text, flush=True)


def _records(recipe: Recipe, n: int, held_out: int) -> tuple[list[Record], list[Record]]:
    if recipe.language == "bundled":
        from .corpus import draw_requests, friction_records, to_record

        held = [to_record(request, at) for at, request in enumerate(draw_requests(held_out, 5, held_out=True), 1)]
        return friction_records(n, 1), held
    from .records import load_records

    return load_records(DATA / "friction" / "train.jsonl")[:n], load_records(DATA / "friction" / "validation.jsonl")


def run_peaks(args: argparse.Namespace) -> int:
    """Prints one row a shape; 1 if the planner is off by more than 10 % anywhere."""
    from .bench_peaks import CASES, expected, measured
    from .bench_step import hush
    from .cards import machine_name

    hush()
    print(f"{machine_name()}\n\n| Shape | Measured | Planned | Off by |\n|---|---:|---:|---:|")
    worst = 0.0
    for case in CASES:
        if args.quick and not case.quick:
            continue
        peak, planned = measured(case), expected(case)
        worst = max(worst, abs(planned / peak - 1))
        _say(f"| {case} | {peak / 2**20:.1f} MiB | {planned / 2**20:.1f} MiB | {planned / peak - 1:+.1%} |")
    return 0 if worst <= 0.10 else 1


def run_gpu(args: argparse.Namespace) -> int:
    """Prints the table of a real size on this card."""
    from .recipe import recipe_for

    recipe = recipe_for(args.shape)
    import torch

    if not torch.cuda.is_available():
        raise PushbackError(
            "torch sees no CUDA card here. Run this on a machine with one; `pushback bench peaks` runs on a CPU."
        )
    from .bench_gpu import measure_all, table
    from .bench_step import hush
    from .cards import machine_name
    from .jsonl import replacing

    hush()
    text = f"Measured on {machine_name()}, random weights.\n\n{table(measure_all(recipe, tuple(args.seq)))}\n"
    print(text)
    if args.out:
        before = args.out.read_text(encoding="utf-8") if args.out.is_file() else ""
        with replacing(args.out) as part:
            part.write_text(f"{before}\n{text}", encoding="utf-8")
    return 0


def run_voices(args: argparse.Namespace) -> int:
    """Prints how long both voices take together and apart on the bundled model, as the chat loads it."""
    from .bench_voices import bench_voices
    from .recipe import recipe_for
    from .voices import load_chat_speaker

    print(bench_voices(load_chat_speaker(recipe_for("tiny")), tokens=args.tokens, rounds=args.rounds))
    return 0
