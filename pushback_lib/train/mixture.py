"""The records that a first English adapter trains on, mixed from three sources that a small model can learn from."""

from __future__ import annotations

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
    """The `n` records of data/friction with the fewest words, shortest first: the longest ones are the least plain."""
    return sorted(load_records(FRICTION), key=_words)[:n]


def _words(record: Record) -> int:
    return len(f"{record.user_input} {thought_text(record)} {record.answer}".split())
