"""Checks of a data set as a whole: size, balance, splits; knows nothing about wording."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from .findings import Finding, Splits, flat, share
from .records import Record

SIZE = (2_000, 3_000)  # records: small enough to be read, enough for one or two epochs of QLoRA
SCENARIOS = 700
PLAIN = (0.20, 0.30)  # fewer, and the model objects to everything, as its ancestor did; more, and the friction drowns
SUBSET = (0.15, 0.40)  # of each friction subset
DOMAIN = (0.03, 0.12)  # of each domain
HELD_OUT = (0.08, 0.12)  # validation and test


def checks(splits: Splits) -> list[Finding]:
    """All checks of this module."""
    records = flat(splits)
    return [
        size(records),
        scenarios(records),
        plain_share(records),
        subset_balance(records),
        domain_balance(records),
        split_sizes(splits),
        scenario_leakage(splits),
    ]


def size(records: Sequence[Record]) -> Finding:
    """How many records the set is short of its range, or beyond it."""
    n = len(records)
    return Finding("size", _outside(n, SIZE), 0, (), f"{n:,} records; between {SIZE[0]:,} and {SIZE[1]:,} wanted")


def scenarios(records: Sequence[Record]) -> Finding:
    """How many scenarios are missing."""
    n = len({record.scenario for record in records})
    detail = f"{n:,} distinct scenarios, {len(records) / max(1, n):.1f} records each; at least {SCENARIOS} wanted"
    return Finding("scenarios", max(0, SCENARIOS - n), 0, (), detail)


def plain_share(records: Sequence[Record]) -> Finding:
    """How many plain records too few or too many there are."""
    count = sum(record.subset == "plain" for record in records)
    detail = f"{share(count, len(records))} are plain; {_range(PLAIN)} wanted"
    return Finding("plain share", _outside(count, _bounds(PLAIN, records)), 0, (), detail)


def subset_balance(records: Sequence[Record]) -> Finding:
    """How many records the friction subsets lack or have too many, together."""
    counts = Counter({"disagreement": 0, "uncertainty": 0, "reluctance": 0})
    counts.update(record.subset for record in records if record.subset != "plain")
    return _balance("subset balance", counts, SUBSET, records)


def domain_balance(records: Sequence[Record]) -> Finding:
    """How many records the domains lack or have too many, together."""
    return _balance("domain balance", Counter(record.domain for record in records), DOMAIN, records)


def split_sizes(splits: Splits) -> Finding:
    """How many records the held-out splits lack or have too many."""
    records = flat(splits)
    counts = Counter({name: len(rows) for name, rows in splits.items() if name != "train"})
    return _balance("held-out splits", counts, HELD_OUT, records)


def scenario_leakage(splits: Splits) -> Finding:
    """Scenarios, or requests word for word, that stand in more than one split."""
    places: dict[tuple[str, str], set[str]] = defaultdict(set)
    holders: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name, records in splits.items():
        for record in records:
            for key in (("scenario", record.scenario), ("request", " ".join(record.user_input.casefold().split()))):
                places[key].add(name)
                holders[key].append(record.id)
    leaks = [key for key, names in places.items() if len(names) > 1]
    ids = tuple(dict.fromkeys(id for key in leaks for id in holders[key]))
    return Finding("leakage between splits", len(leaks), 0, ids, "scenarios or whole requests found in two splits")


def _balance(name: str, counts: Counter[str], shares: tuple[float, float], records: Sequence[Record]) -> Finding:
    bounds = _bounds(shares, records)
    wrong = sum(_outside(count, bounds) for count in counts.values())
    figures = ", ".join(f"{key} {100 * count / max(1, len(records)):.1f} %" for key, count in counts.most_common())
    return Finding(name, wrong, 0, (), f"{figures}; {_range(shares)} each wanted")


def _bounds(shares: tuple[float, float], records: Sequence[Record]) -> tuple[float, float]:
    return shares[0] * len(records), shares[1] * len(records)


def _outside(count: float, bounds: tuple[float, float]) -> int:
    """How far `count` lies outside the bounds, rounded up; 0 within."""
    return -int(-max(bounds[0] - count, count - bounds[1], 0) // 1)


def _range(shares: tuple[float, float]) -> str:
    return f"{100 * shares[0]:.0f} to {100 * shares[1]:.0f} %"
