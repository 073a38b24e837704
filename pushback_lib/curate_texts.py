"""Checks of each record's texts by themselves: parts, lengths, language, tags, personal data, relevance."""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from .findings import Finding, first, share
from .personas import PERSONA_NAMES
from .records import Record
from .text_rules import control_tokens, looks_english, personal_data, words

ANSWER_WORDS, THOUGHT_WORDS, REQUEST_WORDS = (8, 300), (2, 80), (2, 250)
OUTLIERS = 0.01  # share of records whose lengths may lie outside
RIVALS, NEAR, STRAYS = 50, 10, 0.10  # requests compared with; rank that still counts as near; records that may stray
_ERROR = re.compile(r"^\W*(?:error|exception|traceback)\b\W*:", re.IGNORECASE)


def checks(records: Sequence[Record]) -> list[Finding]:
    """All checks of this module."""
    return [
        unique_ids(records),
        personas(records),
        lengths(records),
        _each(records, "language", lambda text: not looks_english(text), "texts that do not read as English"),
        _each(records, "control tokens", control_tokens, "texts with <think>, chat-template or end-of-text tags"),
        _each(records, "stored errors", _ERROR.match, 'texts that begin like "Error:"'),
        _each(records, "personal data", personal_data, "texts with an e-mail, phone, card, IBAN or IP number"),
        relevance(records),
    ]


def unique_ids(records: Sequence[Record]) -> Finding:
    """Ids used more than once."""
    counts = Counter(record.id for record in records)
    ids = tuple(id for id, count in counts.items() if count > 1)
    return Finding("ids", len(ids), 0, ids, f"ids used twice, of {len(counts):,}")


def personas(records: Sequence[Record]) -> Finding:
    """Friction records that lack one of six thoughts or its friction span, and plain ones that have a span."""
    ids = tuple(record.id for record in records if not _debated(record))
    return Finding("personas", len(ids), 0, ids, "friction records without six thoughts and spans, or plain with a span")


def _debated(record: Record) -> bool:
    if record.subset == "plain":
        return not any(thought.friction for thought in record.thoughts)
    spoke = tuple(thought.persona for thought in record.thoughts if thought.friction)
    return spoke == PERSONA_NAMES


def lengths(records: Sequence[Record]) -> Finding:
    """Records with a text shorter or longer than its kind allows, in words."""
    ids = tuple(record.id for record in records if not _fits(record))
    detail = (
        f"records with an answer outside {_span(ANSWER_WORDS)}, a thought outside {_span(THOUGHT_WORDS)} or a request "
        f"outside {_span(REQUEST_WORDS)} words"
    )
    return Finding("lengths", len(ids), int(OUTLIERS * len(records)), ids, detail)


def _fits(record: Record) -> bool:
    def within(text: str, bounds: tuple[int, int]) -> bool:
        return bounds[0] <= len(text.split()) <= bounds[1]

    return (
        within(record.answer, ANSWER_WORDS)
        and within(record.user_input, REQUEST_WORDS)
        and all(within(thought.thought, THOUGHT_WORDS) for thought in record.thoughts)
    )


def _span(bounds: tuple[int, int]) -> str:
    return f"{bounds[0]} to {bounds[1]}"


def texts(record: Record) -> Iterable[str]:
    """Every text of a record."""
    return (
        record.user_input,
        *(turn.content for turn in record.history),
        *(thought.thought for thought in record.thoughts),
        record.answer,
    )


def _each(records: Sequence[Record], name: str, bad: Callable[[str], object], detail: str) -> Finding:
    ids = [record.id for record in records for text in texts(record) if bad(text)]
    return Finding(name, len(ids), 0, first(ids), detail)


def relevance(records: Sequence[Record]) -> Finding:
    """Answers that do not fit their own request: it is not among the ten nearest of 51 requests.

    The own request and 50 others, drawn with a fixed seed, are ranked by the cosine of TF-IDF vectors of word stems
    (first five letters) with the answer. An answer dealt to a wrong request is near it about one time in five, one that
    speaks of the right thing in quite other words may stray: read those, they need not be wrong.
    """
    if len(records) <= RIVALS:
        return Finding("relevance", 0, None, (), f"told from {RIVALS + 1} records on")
    vectors = _tfidf([[record.user_input for record in records], [record.answer for record in records]])
    draw, ranks = random.Random(0), []
    for place, reply in enumerate(vectors[1]):
        others = draw.sample(range(len(records) - 1), RIVALS)
        own = _cosine(vectors[0][place], reply)
        ranks.append(1 + sum(_cosine(vectors[0][o + (o >= place)], reply) >= own for o in others))
    ids = tuple(record.id for record, rank in zip(records, ranks, strict=True) if rank > NEAR)
    detail = (
        f"replies whose own request is not among the {NEAR} that fit best, of {RIVALS + 1}; it fits best for "
        f"{share(sum(rank == 1 for rank in ranks), len(ranks))}"
    )
    return Finding("relevance", len(ids), int(STRAYS * len(records)), ids, detail)


def _tfidf(groups: list[list[str]]) -> list[list[dict[str, float]]]:
    """Unit vectors of the texts of each group, weighted by the document frequency over all groups."""
    counted = [[Counter(word[:5] for word in words(text)) for text in group] for group in groups]
    total = sum(map(len, groups))
    frequency = Counter(stem for group in counted for counts in group for stem in counts)
    return [[_unit(counts, frequency, total) for counts in group] for group in counted]


def _unit(counts: Counter[str], frequency: Counter[str], total: int) -> dict[str, float]:
    weights = {stem: (1 + math.log(n)) * math.log(total / frequency[stem]) for stem, n in counts.items()}
    norm = math.sqrt(sum(weight * weight for weight in weights.values())) or 1.0
    return {stem: weight / norm for stem, weight in weights.items()}


def _cosine(one: dict[str, float], other: dict[str, float]) -> float:
    if len(one) > len(other):
        one, other = other, one
    return sum(weight * other.get(stem, 0.0) for stem, weight in one.items())
