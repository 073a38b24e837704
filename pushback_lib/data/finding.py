"""What a check of a data set found, and what the checks share."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Hashable, Iterable
from dataclasses import asdict, dataclass
from itertools import chain

from ..core.records import Record

Splits = dict[str, list[Record]]
SHINGLE, ALIKE = 5, 0.5  # words; Jaccard similarity above which two texts are near-duplicates


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


def percent(part: int, total: int) -> str:
    """`12.5 % (2 of 16)`."""
    return f"{100 * part / max(1, total):.1f} % ({part:,} of {total:,})"


def unique(ids: Iterable[str]) -> tuple[str, ...]:
    """Ids without repeats, in order."""
    return tuple(dict.fromkeys(ids))


def ids_by(keys: Iterable[tuple[Hashable, str]]) -> dict[Hashable, list[str]]:
    """The ids of each key, of (key, id)."""
    found = defaultdict(list)
    for key, id in keys:
        found[key].append(id)
    return found


def tokens(text: str) -> list[str]:
    """Lower-cased words and numbers, "don't" being one."""
    return re.findall(r"\w+(?:['’]\w+)*", text.lower())


def shingles(text: str, n: int = SHINGLE) -> frozenset[tuple[str, ...]]:
    """All runs of `n` words; of a shorter text, the one run it is."""
    found = tokens(text)
    return frozenset(tuple(found[at : at + n]) for at in range(max(1, len(found) - n + 1)))


def jaccard(one: frozenset, other: frozenset) -> float:
    """Size of the intersection over size of the union."""
    return len(one & other) / max(1, len(one | other))
