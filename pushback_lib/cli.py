"""The `pushback` command: reads arguments, calls one library function each, prints errors without a traceback."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from . import __version__, bench_cli, data_cli, eval_cli, fit_cli, markers_cli, ship_cli, train_cli
from .errors import PushbackError

if TYPE_CHECKING:
    from .chat import Chat


def _demo(args: argparse.Namespace) -> int:
    from .demo import run_demo

    return run_demo(args.out, args.json, args.results)


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
    top = argparse.ArgumentParser(prog="pushback", description="Build, measure and ship a language model that pushes back.")
    top.add_argument("--version", action="version", version=f"pushback {__version__}")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="make data, fine-tune and measure the bundled model, in minutes")
    demo.add_argument("--out", default="runs/demo", help="folder for data, adapter and report")
    demo.add_argument("--json", help="also write the figures, one row for each kind and voice, to this file")
    demo.add_argument("--results", help="also write demo.json and demo.png, with what they were measured on, to this folder")
    demo.set_defaults(run=_demo)

    base = commands.add_parser("base", help="train the bundled base model from scratch (25 to 30 minutes on two cores)")
    base.add_argument("--out", default="runs/base", help="folder for the model")
    base.add_argument("--work", default="runs", help="folder for the checkpoint; an interrupted run goes on from it")
    base.set_defaults(run=_base)

    data_cli.add_parser(commands, scripted=_scripted)
    for module in (train_cli, fit_cli, bench_cli, eval_cli, markers_cli, ship_cli):
        module.add_parser(commands)
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
