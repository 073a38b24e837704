"""The records that a first English adapter trains on, mixed from three sources that a small model can learn from."""

from __future__ import annotations

import random
from collections.abc import Sequence
from operator import itemgetter

from ..core.common import DATA
from ..core.records import Record, load_records, thought_text
from ..language.corpus import friction_records
from ..language.requests import KINDS
from ..model.recipe import Mixture

EASY, FRICTION = DATA / "easy" / "train.jsonl", DATA / "friction" / "train.jsonl"


def mixed_records(mixture: Mixture, seed: int) -> list[Record]:
    """The records of a mixture, source by source; the same for the same arguments. Nothing held out is among them."""
    return [*one_turn_records(mixture.language, seed), *mixture.easy * load_records(EASY), *shortest(mixture.friction)]


def one_turn_records(n: int, seed: int) -> list[Record]:
    """The first `n` records of the small language without earlier turns; two of its kinds have some."""
    return [record for record in friction_records(2 * n + len(KINDS), seed) if not record.history][:n]


def shortest(n: int) -> list[Record]:
    """`n` records of data/friction, of each behaviour those with the fewest words; half are plain, a quarter of the rest each.

    Of all records together the shortest would be plain ones alone, whose thoughts have a line or two.
    """
    by_behaviour: dict[str, list[Record]] = {}
    for record in sorted(load_records(FRICTION), key=_words):
        by_behaviour.setdefault(record.behaviour, []).append(record)
    turns = [(place / (4 if behaviour == "comply" else 1), record)
             for behaviour, part in sorted(by_behaviour.items()) for place, record in enumerate(part)]  # fmt: skip
    return [record for _, record in sorted(turns, key=itemgetter(0))[:n]]


def _words(record: Record) -> int:
    return len(f"{record.user_input} {thought_text(record)} {record.answer}".split())


def sample(records: Sequence[Record], n: int, seed: int) -> list[Record]:
    """At least `n` of the records, or all; each once, and both halves of a pair. The same for the same arguments."""
    groups: dict[str, dict[str, Record]] = {}
    for record in records:
        groups.setdefault(record.pair or record.id, {})[record.id] = record
    drawn: list[Record] = []
    for name in random.Random(seed).sample(sorted(groups), len(groups)):
        drawn += groups[name].values() if len(drawn) < n else ()
    return drawn
