"""Checks a whole data set and says what breaks a limit; knows nothing about how it was made, and mends nothing."""

from __future__ import annotations

import os
from pathlib import Path

from . import curate_repeats, curate_texts, curate_whole
from .errors import PushbackError
from .findings import SPLITS, Finding, Splits, flat
from .records import load_records


def load_splits(path: str | os.PathLike[str]) -> Splits:
    """Records by split, from a folder of train, validation and test files, or from one file (split named "").

    Raises PushbackError naming a missing file, or the line that breaks the schema.
    """
    path = Path(path)
    if path.is_dir():
        return {name: load_records(path / f"{name}.jsonl") for name in SPLITS}
    if not path.exists():
        raise PushbackError(f"Nothing at {path}. Pass a folder with {SPLITS[0]}.jsonl, or one file of records.")
    return {"": load_records(path)}


def check_splits(splits: Splits) -> list[Finding]:
    """All checks. Size, balance and splits are judged only for a data set of several splits, not for a single file."""
    records = flat(splits)
    whole = curate_whole.checks(splits) if len(splits) > 1 else []
    return [*whole, *curate_texts.checks(records), *curate_repeats.checks(records)]
