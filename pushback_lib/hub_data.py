"""The data set as it is published: the splits, what a model was trained or measured on besides, and a card that covers both.

Knows nothing about the Hub's connection; the card's text comes from `curate_card`, and only what the Hub needs is added.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from .errors import PushbackError
from .findings import SPLITS
from .hub_plan import Names, Repository, Upload, with_card
from .model_card_text import DATA_REPO
from .recipe import DATA, Recipe

LANGUAGE = """
## The small language

The configuration `language` is what the kit's bundled model learned from (`train`) and is measured on (`test`, with the reply
that was wanted): requests in its small written language, made by a script, in the same fields. The test split asks about
words that occur nowhere in `train`. The counts and checks above do not cover it.
"""
EVAL = """
## The eval set

The configuration `eval` is what the model is measured on: prompts that call for friction, and twins that do not. Nothing in
it may be trained on. The counts and checks above do not cover it.
"""


@dataclass(frozen=True)
class Extra:
    """A second configuration of the data set: its name, its files by split, and its section of the card."""

    name: str
    files: Mapping[str, Upload]
    section: str


def extra(recipe: Recipe) -> Extra:
    """What belongs to a model's card but is not in the splits: the small language for `tiny`, else the English eval set."""
    if not recipe.examples:
        return Extra("eval", {"test": Upload("eval/test.jsonl", DATA / "eval" / "prompts.jsonl")}, EVAL)
    from .corpus import friction_records, to_record
    from .evaluate import held_out_requests
    from .records import to_row

    learned = friction_records(recipe.examples, recipe.seed)
    asked = [to_record(request, number) for number, request in enumerate(held_out_requests(), 1)]
    files = {split: Upload(f"language/{split}.jsonl", _lines(map(to_row, records)))
             for split, records in (("train", learned), ("test", asked))}  # fmt: skip
    return Extra("language", files, LANGUAGE)


def _lines(rows: Iterable[dict]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def data_repository(folder: Path, recipe: Recipe, names: Names) -> Repository:
    """The data set's repository. Raises PushbackError if a split or the card is missing."""
    cure = "Make the data with `pushback data make`, its card with `pushback data card`, or pass --data-folder."
    for name in (*(f"{split}.jsonl" for split in SPLITS), "README.md"):
        if not (folder / name).is_file():
            raise PushbackError(f"No {name} in {folder}. {cure}")
    added = extra(recipe)
    uploads = (*(Upload(f"{split}.jsonl", folder / f"{split}.jsonl") for split in SPLITS), *added.files.values())
    card = data_card((folder / "README.md").read_text(encoding="utf-8"), added)
    return with_card(Repository(names.data, "dataset", uploads), names.fill(card))


def data_card(text: str, added: Extra) -> str:
    """The card from the folder, with the repository's name for a path, and the second configuration."""
    from huggingface_hub import DatasetCard

    card = DatasetCard(text)
    load = f'```python\nfrom datasets import load_dataset\n\ndata = load_dataset("{DATA_REPO}")\n```'
    card.text = re.sub(r"```python\n.*?```", lambda _: load, card.text, count=1, flags=re.DOTALL)
    files = [{"split": split, "path": upload.place} for split, upload in added.files.items()]
    card.data.configs = [*(card.data.get("configs") or []), {"config_name": added.name, "data_files": files}]
    card.text += added.section
    return str(card)
