"""What the dial trains on and looks at meanwhile: records for training and for validation; knows nothing about models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .recipe import DATA, Recipe
from .records import Record, load_records

VALIDATION = 108  # records drawn in the bundled language: six of each kind


def training_records(recipe: Recipe, path: str | Path | None = None) -> list[Record]:
    """The records of `path`, or those the dial calls for: the bundled language for `tiny`, else data/friction."""
    if path:
        return load_records(path)
    if recipe.examples:
        from .corpus import friction_records

        return friction_records(recipe.examples, recipe.seed)
    return load_records(DATA / "friction" / "train.jsonl")


def validation_records(recipe: Recipe, train: Sequence[Record], path: str | Path | None = None) -> list[Record]:
    """Records to look at while training, none where the recipe has no patience: `path`, or what the dial calls for.

    In the bundled language they are drawn by another seed, hold no held-out word, and none is asked in training too.
    """
    if not recipe.patience:
        return []
    if path:
        return load_records(path)
    if not recipe.examples:
        return load_records(DATA / "friction" / "validation.jsonl")
    from .corpus import friction_records

    asked = {(record.history, record.user_input) for record in train}
    drawn = friction_records(8 * VALIDATION, recipe.seed + 1)
    return [record for record in drawn if (record.history, record.user_input) not in asked][:VALIDATION]
