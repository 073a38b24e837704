"""The `pushback fit` command: what fits on a card, before anything is downloaded or loaded; knows nothing of the reckoning."""

from __future__ import annotations

import argparse

from .errors import PushbackError


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Adds `fit`."""
    fit = subparsers.add_parser("fit", help="say what fits on a card: memory by part, longest sequence, time, rough cost")
    fit.add_argument("--model", default="7b", help="size on the dial, a folder or a Hub id (7b)")
    fit.add_argument("--gpu", default="t4", help="t4, l4, 4090, a100, h100, h200, laptop; or memory in GiB as torch reports it")
    fit.add_argument("--seq", type=int, help="tokens of a sequence; by default the recipe's")
    fit.add_argument("--batch", type=int, help="examples at a time; by default the recipe's")
    fit.add_argument("--examples", type=int, help="examples of the data set, for the time; by default the kit's own data")
    fit.set_defaults(run=run_fit)


def run_fit(args: argparse.Namespace) -> int:
    """Prints the plan; 0 if it fits, 1 if something smaller would. Raises PushbackError where nothing fits."""
    from .planner import plan, too_small

    if args.examples is not None and args.examples < 1:
        raise PushbackError(f"--examples {args.examples}: give at least 1.")
    found = plan(args.model, args.gpu, args.seq, args.batch, args.examples)
    print(found)
    if not found.fits and plan(found.recipe, found.card, batch=1).longest == 0:
        raise PushbackError(too_small(found.recipe, found.card.gib, found.card.cuda))
    return 0 if found.fits else 1
