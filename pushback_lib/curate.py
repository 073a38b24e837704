"""Checks a whole data set and says what breaks a limit; knows nothing about how it was made, and mends nothing."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path

from .errors import PushbackError
from .records import Record, load_records

SPLITS = ("train", "validation", "test")
Splits = dict[str, list[Record]]


@dataclass(frozen=True)
class Finding:
    """One check: how many things break its rule, how many may (None: told for information), which, and the figures."""

    name: str
    count: int
    limit: int | None
    ids: tuple[str, ...]
    detail: str

    @property
    def ok(self) -> bool:
        """Whether the limit holds."""
        return self.limit is None or self.count <= self.limit

    def __str__(self) -> str:
        """One line; a second with the first ids where there are some."""
        mark = "  ok" if self.ok else "FAIL"
        bound = "" if self.limit is None else f" (at most {self.limit})"
        line = f"{mark}  {self.name}: {self.count}{bound}; {self.detail}"
        more = f" and {len(self.ids) - 6} more" if len(self.ids) > 6 else ""
        return line + (f"\n      {', '.join(self.ids[:6])}{more}" if self.ids else "")

    def to_json(self) -> dict[str, object]:
        """The fields and `ok`."""
        return {**asdict(self), "ok": self.ok}


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


def flat(splits: Splits) -> list[Record]:
    """All records, in the order of the splits."""
    return list(chain.from_iterable(splits.values()))


def check_splits(splits: Splits) -> list[Finding]:
    """All checks. Size, balance and splits are judged only for a data set of several splits, not for a single file."""
    from . import curate_repeats, curate_texts, curate_whole

    records = flat(splits)
    whole = curate_whole.checks(splits) if len(splits) > 1 else []
    return [*whole, *curate_texts.checks(records), *curate_repeats.checks(records)]


def share(part: int, whole: int) -> str:
    """`12.5 % (2 of 16)`."""
    return f"{100 * part / max(1, whole):.1f} % ({part:,} of {whole:,})"


def first(ids: Sequence[str]) -> tuple[str, ...]:
    """Ids without repeats, in order."""
    return tuple(dict.fromkeys(ids))
