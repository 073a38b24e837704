"""The `pushback train` command; knows nothing about how training is done."""

from __future__ import annotations

import argparse
import dataclasses
from importlib.util import find_spec
from pathlib import Path

from .errors import PushbackError
from .recipe import Recipe, chosen_size

LOGS = ("tensorboard", "trackio")


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Adds `train`."""
    train = subparsers.add_parser("train", help="fine-tune a friction adapter with QLoRA; resumes")
    add = train.add_argument
    add(
        "--model",
        default=chosen_size(),
        help="size on the dial (tiny, 1.5b, 7b, 14b, 32b), Hub id (owner/name@revision) or folder",
    )
    add("--data", help="records to train on (JSON Lines); default: what the size calls for")
    add("--validation", help="records to look at meanwhile, for early stopping; default: what the size calls for")
    add("--out", type=Path, required=True, help="folder for the adapter")
    add("--resume", action="store_true", help="go on from the last checkpoint of this run, if there is one")
    add("--log", choices=LOGS, help="also log there, on this machine; default: nothing is logged")
    add("--epochs", type=_positive, help="passes over the data; default: the recipe's")
    add("--max-length", type=_positive, help="tokens of the longest sequence; default: the recipe's")
    add("--batch", type=_positive, help="examples to one optimizer step, over all processes; default: the recipe's")
    add("--micro-batch", type=_positive, help="examples in memory at a time, of one process; default: the recipe's")
    add("--learning-rate", type=float, help="default: the recipe's")
    add("--patience", type=int, help="looks at the validation split without gain before training ends; 0: no looks")
    train.set_defaults(run=run_train)


def run_train(args: argparse.Namespace) -> int:
    """Trains, and says where the adapter is and how the loss ended."""
    from .recipe import recipe_for
    from .train_checkpoints import is_first_process, unfinished
    from .train_data import training_records, validation_records

    look = set_up_log(args.log, args.out) if args.log else None
    recipe = with_choices(recipe_for(args.model), args)
    found = unfinished(args.out)
    if found and not args.resume:
        raise PushbackError(
            f"An unfinished run towards {args.out} lies in {found.parent}, at step {found.name.split('-')[1]}. Add --resume "
            "to go on with it, or delete that folder to begin anew."
        )
    records = training_records(recipe, args.data)
    validation = validation_records(recipe, records, args.validation)
    from .finetune import train_adapter

    training = train_adapter(recipe, records, args.out, validation=validation, resume=args.resume, log=args.log)
    if is_first_process():
        best = f", best validation loss {training.best:.3f}" if training.best is not None else ""
        loss = f"last loss {training.losses[-1][1]:.3f}" if training.losses else "too few steps for a loss"
        print(f"{training.adapter}: {len(records)} records, {training.seconds:.0f} s, {loss}{best}")
        if look:
            print(f"To look at the log: {look}")
    return 0


def with_choices(recipe: Recipe, args: argparse.Namespace) -> Recipe:
    """The recipe with what the command line changes of it."""
    changes = {"epochs": args.epochs, "max_length": args.max_length, "learning_rate": args.learning_rate}
    changes["patience"] = 3 if args.patience is None and args.validation and not recipe.patience else args.patience
    recipe = dataclasses.replace(recipe, **{name: value for name, value in changes.items() if value is not None})
    at_once, whole = args.micro_batch or recipe.batch, args.batch or recipe.effective_batch
    batch = max(size for size in range(1, min(at_once, whole) + 1) if whole % size == 0)
    return dataclasses.replace(recipe, batch=batch, accumulation=whole // batch)


def set_up_log(log: str, out: Path) -> str:
    """Points the logger at a folder beside the adapter, on this machine, and gives the command that shows it.

    Raises PushbackError if the logger is not installed.
    """
    import os

    from .finetune import LOG_PROJECT

    if find_spec(log) is None:
        raise PushbackError(f"--log {log} needs the package {log}. Install it: `pip install {log}`.")
    variable = {"tensorboard": "TENSORBOARD_LOGGING_DIR", "trackio": "TRACKIO_DIR"}[log]
    folder = os.environ.setdefault(variable, str(out.with_name(f"{out.name}.{log}").resolve()))
    if log == "tensorboard":
        return f"tensorboard --logdir {folder}"
    return f"TRACKIO_DIR={folder} trackio show --project {LOG_PROJECT}"


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return number
