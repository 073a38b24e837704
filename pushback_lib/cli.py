"""The `pushback` command: reads arguments, calls one library function each, prints errors without a traceback."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from . import data_cli, eval_cli, markers_cli
from .errors import PushbackError

if TYPE_CHECKING:
    from .chat import Chat


def _demo(args: argparse.Namespace) -> int:
    from .demo import run_demo

    return run_demo(args.out, args.json)


def _train(args: argparse.Namespace) -> int:
    from .finetune import train_adapter
    from .recipe import DATA, recipe_for
    from .records import load_records

    recipe = recipe_for(args.model)
    if args.data:
        records = load_records(args.data)
    elif recipe.examples:
        from .corpus import friction_records

        records = friction_records(recipe.examples, recipe.seed)
    else:
        records = load_records(DATA / "friction" / "train.jsonl")
    training = train_adapter(recipe, records, args.out)
    print(f"{training.adapter}: {len(records)} records, {training.seconds:.0f} s, last loss {training.losses[-1][1]:.3f}")
    return 0


def _base(args: argparse.Namespace) -> int:
    from pathlib import Path

    from .pretrain import BaseRecipe, train_base
    from .recipe import TINY_SYSTEM

    loss = train_base(Path(args.out), Path(args.work), BaseRecipe(), TINY_SYSTEM)
    print(f"{args.out}: last loss {loss:.3f}")
    return 0


def _scripted() -> Chat:
    from .scripted_chat import ScriptedChat

    return ScriptedChat()


def parser() -> argparse.ArgumentParser:
    """The command line, one sub-command for each job."""
    top = argparse.ArgumentParser(prog="pushback", description=__doc__)
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="make data, fine-tune and measure the bundled model, in minutes")
    demo.add_argument("--out", default="runs/demo", help="folder for data, adapter and report")
    demo.add_argument("--json", help="also write the figures, one row for each kind and voice, to this file")
    demo.set_defaults(run=_demo)

    train = commands.add_parser("train", help="fine-tune a friction adapter with QLoRA")
    train.add_argument("--model", default="tiny", help="size on the dial")
    train.add_argument("--data", help="records to train on (JSON Lines); default: what the size calls for")
    train.add_argument("--out", required=True, help="folder for the adapter")
    train.set_defaults(run=_train)

    base = commands.add_parser("base", help="train the bundled base model from scratch (half an hour on two cores)")
    base.add_argument("--out", default="runs/base", help="folder for the model")
    base.add_argument("--work", default="runs", help="folder for the checkpoint; an interrupted run goes on from it")
    base.set_defaults(run=_base)

    data_cli.add_parser(commands, scripted=_scripted)
    eval_cli.add_parser(commands)
    markers_cli.add_parser(commands)
    return top


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns its exit code, 2 where the input or the machine is not in order."""
    args = parser().parse_args(argv)
    try:
        return args.run(args)
    except PushbackError as error:
        print(f"pushback: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
