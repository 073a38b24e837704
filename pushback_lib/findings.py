"""What a check of a data set finds, and the little that all checks share; knows no check itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import chain

from .records import Record

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


def flat(splits: Splits) -> list[Record]:
    """All records, in the order of the splits."""
    return list(chain.from_iterable(splits.values()))


def share(part: int, whole: int) -> str:
    """`12.5 % (2 of 16)`."""
    return f"{100 * part / max(1, whole):.1f} % ({part:,} of {whole:,})"


def first(ids: Sequence[str]) -> tuple[str, ...]:
    """Ids without repeats, in order."""
    return tuple(dict.fromkeys(ids))
