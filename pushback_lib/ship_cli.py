"""The `pushback ship` commands; they know nothing about how each does its work."""

from __future__ import annotations

import argparse
from pathlib import Path

from .errors import PushbackError
from .recipe import chosen_size


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Adds `ship` with `all`, `gguf`, `ollama` and `hub`."""
    ship = subparsers.add_parser("ship", help="merge, write GGUF files, run them, and hand them to Ollama or the Hub")
    commands = ship.add_subparsers(required=True, metavar="COMMAND")
    whole = commands.add_parser("all", help="merged weights, GGUF files, Modelfile, model card, and a table of the formats")
    _model_arguments(whole, "runs/ship")
    _kinds(whole, "F32, Q8_0, Q4_K_M; F32 is always made")
    whole.add_argument("-n", type=_positive, default=20, help="held-out prompts of each kind for the table (20)")
    whole.add_argument(
        "--figures", type=Path, help="figures.json of `pushback eval`, for the card; default: OUT's, or the kit's"
    )
    whole.set_defaults(run=run_all)
    gguf = commands.add_parser("gguf", help="only the friction voice's GGUF file, and a Modelfile for it")
    _model_arguments(gguf, "runs/gguf")
    _kinds(gguf, "Q8_0; the Modelfile names the first")
    gguf.add_argument("--merged", type=Path, help="a folder that is merged already; default: merge the adapter now")
    gguf.set_defaults(run=run_gguf)
    _others(commands)


def _others(commands: argparse._SubParsersAction) -> None:
    from . import hub, ollama_ship

    ollama = commands.add_parser("ollama", help="create the model in a running Ollama, and talk to it")
    ollama_ship.add_arguments(ollama)
    ollama.set_defaults(run=_run_ollama)
    publish = commands.add_parser("hub", help="publish on the Hugging Face Hub; private unless --public")
    hub.add_arguments(publish)
    publish.set_defaults(run=_run_hub)


def _model_arguments(parser: argparse.ArgumentParser, out: str) -> None:
    parser.add_argument(
        "--model", default=chosen_size(), help="size on the dial, Hub id or folder; default: PUSHBACK_MODEL, or tiny"
    )
    parser.add_argument("--adapter", help="folder of the friction adapter; default: the one that comes with the kit")
    parser.add_argument("--out", type=Path, default=Path(out), help=f"folder ({out})")


def _kinds(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument("--kind", action="append", dest="kinds", metavar="KIND",
                        help=f"F32, F16, BF16, Q8_0, Q5_K_M or Q4_K_M; may be given several times ({default})")  # fmt: skip


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number above 0")
    return number


def run_all(args: argparse.Namespace) -> int:
    """Makes everything and prints where it lies, with the table."""
    from .recipe import recipe_for
    from .ship import ship_all

    recipe = recipe_for(args.model)
    chosen = {"kinds": args.kinds} if args.kinds else {}
    made = ship_all(recipe, args.adapter or recipe.shipped_adapter, args.out, per_kind=args.n, figures=args.figures, **chosen)
    print(made.table._repr_markdown_())
    print("\n".join(f"{what}: {path}" for what, path in [
        ("merged", made.merged), *((f"GGUF {kind}", path) for kind, path in made.files.items()),
        ("Ollama", made.modelfile), ("card", made.card), ("table", made.results[0]), ("plot", made.results[1]),
    ]))  # fmt: skip
    return 0


def run_gguf(args: argparse.Namespace) -> int:
    """Writes the GGUF files and the Modelfile, and prints their paths and sizes."""
    from .recipe import recipe_for
    from .ship import TAKE_HOME, ship_gguf

    recipe = recipe_for(args.model)
    if args.merged and args.adapter:
        raise PushbackError("--merged holds an adapter already; --adapter would be ignored. Drop one of the two.")
    files = ship_gguf(recipe, args.adapter or recipe.shipped_adapter, args.out, args.kinds or (TAKE_HOME,), args.merged)
    print("\n".join(f"{path}: {path.stat().st_size / 1e6:.1f} MB" for path in files))
    return 0


def _run_ollama(args: argparse.Namespace) -> int:
    from .ollama_ship import run

    return run(args)


def _run_hub(args: argparse.Namespace) -> int:
    from .hub import run

    return run(args)
