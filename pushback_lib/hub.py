"""The `pushback ship hub` command: plans, shows or publishes; knows nothing about how files travel."""

from __future__ import annotations

import argparse
from pathlib import Path

from .checks import check_adapter
from .errors import PushbackError
from .hub_data import data_repository
from .hub_plan import SHIP, Names, Repository, base_repository, check_name, model_repository, table, with_card
from .model_card import write_model_card
from .model_card_figures import figures_file, load_measured
from .recipe import DATA, Recipe, chosen_size, recipe_for


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `pushback ship hub`."""
    add = parser.add_argument
    add("name", metavar="OWNER/NAME", help="the model repository; the others are named after it")
    add("--public", action="store_true", help="let everybody see it; default: private")
    add("--dry-run", action="store_true", help="only show what would be uploaded, and how large; opens no connection")
    add("--update", action="store_true", help="replace files of the same name in repositories that exist")
    add("--data", metavar="OWNER/NAME", help="the data set's repository; default: OWNER/NAME-data")
    add("--base", metavar="OWNER/NAME", help="where the base is, if it is a folder; default for tiny: OWNER/NAME-base")
    add("--model", metavar="SIZE", default=chosen_size(), help="size on the dial; default: PUSHBACK_MODEL, or tiny")
    add("--folder", type=Path, default=Path("runs/ship"), help="what `pushback ship all` made (runs/ship)")
    add("--adapter", type=Path, help="folder of the adapter; default: FOLDER/adapter, else the one that comes with the kit")
    add("--data-folder", type=Path, default=DATA / "friction", help="folder of the data set (data/friction)")
    add("--figures", type=Path, help="figures.json of `pushback eval`, for the card; default: FOLDER's, else the kit's")


def run(args: argparse.Namespace) -> int:
    """Publishes, or shows what would be; returns 0."""
    recipe = recipe_for(args.model)
    names = _names(args, recipe)
    repositories = plan(args, recipe, names)
    if args.dry_run:
        print(table(repositories, args.public))
        return 0
    from .hub_send import publish

    addresses = publish(repositories, public=args.public, update=args.update, say=print)
    print("\n".join(["Published:", *addresses]))
    return 0


def _names(args: argparse.Namespace, recipe: Recipe) -> Names:
    model = check_name(args.name)
    if args.base and not recipe.is_local:
        raise PushbackError(f"--base {args.base} is for a base of your own; {recipe.name} has its own on the Hub. Drop it.")
    if recipe.is_local and recipe.name != "tiny" and not args.base:
        raise PushbackError(f"The base lies in a folder, {recipe.base}, which is not published. Pass --base OWNER/NAME: what "
                            "it is called on the Hub.")  # fmt: skip
    base = check_name(args.base or f"{model}-base") if recipe.is_local else recipe.base
    names = Names(model, check_name(args.data or f"{model}-data"), base)
    if len({name.lower() for name in (names.model, names.data, names.base)}) < 3:
        raise PushbackError(f"Model, data set and base need three names, not {model}, {names.data}, {names.base}.")
    return names


def plan(args: argparse.Namespace, recipe: Recipe, names: Names) -> list[Repository]:
    """What is to be published, in the order in which it is: what others name comes first.

    Writes the model card into the folder if there is none yet; one that is there, edited perhaps, stays as it is. Raises
    PushbackError for whatever is missing.
    """
    if not args.folder.is_dir():
        raise PushbackError(f"No folder {args.folder}. {SHIP} Or pass --folder.")
    adapter = args.adapter or _adapter(args.folder, recipe)
    check_adapter(adapter, recipe)
    figures = args.figures or figures_file(recipe, args.folder)
    measured = load_measured(figures, adapter, recipe.name)
    card = args.folder / "README.md"
    model = model_repository(args.folder, figures, adapter, names)
    data = data_repository(args.data_folder, recipe, names)
    if not card.is_file():
        write_model_card(args.folder, recipe, adapter, measured)
    base = [base_repository(recipe, names)] if recipe.name == "tiny" else []
    return [*base, data, with_card(model, names.fill(card.read_text(encoding="utf-8")))]


def _adapter(folder: Path, recipe: Recipe) -> Path:
    own = folder / "adapter"
    return own if own.is_dir() or recipe.name != "tiny" else recipe.shipped_adapter
