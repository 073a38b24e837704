"""Counts what a data set is made of, for its report and its card; judges nothing and draws nothing."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .curate_repeats import distinct_n, tokens
from .errors import PushbackError
from .findings import Splits, flat
from .records import Record, thought_text
from .replies import join_reply

Count = Callable[[str], int]
PARTS = ("request", "debate", "answer", "whole example")
ORDERS = (1, 2, 3, 4)


@dataclass(frozen=True)
class Figures:
    """Composition, lengths (in `unit`) and diversity of a data set."""

    records: int
    scenarios: int
    splits: dict[str, int]
    subsets: dict[str, int]
    behaviours: dict[str, int]
    domains: dict[str, dict[str, int]]  # domain -> behaviour -> records
    sources: dict[str, int]
    multi_turn: int  # records with earlier turns
    unit: str
    lengths: dict[str, list[int]]  # part -> one length per record
    openings: list[tuple[str, int]]  # commonest two-word openings of answers
    distinct: dict[str, list[float]]  # kind of text -> distinct-1 to distinct-4

    def summary(self, part: str) -> str:
        """Median and range of one part's lengths."""
        found = sorted(self.lengths[part])
        high = found[int(0.95 * (len(found) - 1))]
        return f"median {statistics.median(found):.0f}, 95 % at most {high}, longest {found[-1]}"


def figures(splits: Splits, tokenizer: str | None = None) -> Figures:
    """All figures; lengths in tokens of `tokenizer` (folder or Hub name), else in words."""
    records = flat(splits)
    count, unit = counter(tokenizer)
    domains: dict[str, Counter[str]] = {}
    for record in records:
        domains.setdefault(record.domain, Counter())[record.behaviour] += 1
    return Figures(
        records=len(records),
        scenarios=len({record.scenario for record in records}),
        splits={name or "all": len(rows) for name, rows in splits.items()},
        subsets=_tally(record.subset for record in records),
        behaviours=_tally(record.behaviour for record in records),
        domains={name: dict(domains[name]) for name in sorted(domains)},
        sources=_tally(record.provenance.source for record in records),
        multi_turn=sum(bool(record.history) for record in records),
        unit=unit,
        lengths=_lengths(records, count),
        openings=Counter(" ".join(tokens(record.answer)[:2]) for record in records).most_common(15),
        distinct=_distinct(records),
    )


def counter(tokenizer: str | None) -> tuple[Count, str]:
    """A function from text to its length, and the unit of that. Raises PushbackError for an unknown tokenizer."""
    if tokenizer is None:
        return lambda text: len(text.split()), "words"
    from transformers import AutoTokenizer

    try:
        loaded = AutoTokenizer.from_pretrained(tokenizer)
    except (OSError, ValueError) as error:
        raise PushbackError(f"No tokenizer at {tokenizer!r}. Pass a folder or a Hub name, or leave it out.") from error
    name = tokenizer.rstrip("/").split("/")[-1]
    return lambda text: len(loaded(text, add_special_tokens=False)["input_ids"]), f"tokens of {name}"


def _tally(values) -> dict[str, int]:
    return dict(Counter(values).most_common())


def _lengths(records: Sequence[Record], count: Count) -> dict[str, list[int]]:
    rows = []
    for record in records:
        debate = thought_text(record)
        whole = f"{record.user_input}\n{join_reply(debate, record.answer)}"
        rows.append([count(text) for text in (record.user_input, debate, record.answer, whole)])
    return {part: [row[place] for row in rows] for place, part in enumerate(PARTS)}


def _distinct(records: Sequence[Record]) -> dict[str, list[float]]:
    texts = {
        "requests": [record.user_input for record in records],
        "thoughts": [thought.thought for record in records for thought in record.thoughts],
        "answers": [record.answer for record in records],
    }
    return {kind: [distinct_n(found, n) for n in ORDERS] for kind, found in texts.items()}
