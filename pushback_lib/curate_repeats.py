"""Checks for what is said twice: near-duplicates, openings, stock phrases, thoughts, requests."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from .findings import Finding, first, share
from .records import Record

SHINGLE, ALIKE = 5, 0.5  # words; Jaccard similarity above which two texts are near-duplicates
DUPLICATES, OPENING, DISTINCT, THOUGHTS, PHRASE = 0.01, 0.02, 0.98, 0.05, 0.01  # shares; each check says of what
OPENING_WORDS, PHRASE_WORDS, USES = 4, 6, 3


def checks(records: Sequence[Record]) -> list[Finding]:
    """All checks of this module."""
    return [
        near_duplicate_answers(records),
        near_duplicate_requests(records),
        distinct_requests(records),
        openings(records),
        stock_phrases(records),
        repeated_thoughts(records),
    ]


def tokens(text: str) -> list[str]:
    """Lower-cased words and numbers, "don't" being one."""
    return re.findall(r"\w+(?:['’]\w+)*", text.lower())


def near_duplicate_answers(records: Sequence[Record]) -> Finding:
    """Answers that are nearly the same as another's."""
    return _near(records, "near-duplicate answers", [record.answer for record in records])


def near_duplicate_requests(records: Sequence[Record]) -> Finding:
    """Requests that are nearly the same as another's."""
    return _near(records, "near-duplicate requests", [record.user_input for record in records])


def _near(records: Sequence[Record], name: str, texts: Sequence[str]) -> Finding:
    pairs = near_pairs(texts)
    ids = first([records[place].id for pair in pairs for place in pair])
    detail = f"records in {len(pairs)} pairs that share over half of their {SHINGLE}-word shingles"
    return Finding(name, len(ids), int(DUPLICATES * len(records)), ids, detail)


def near_pairs(texts: Sequence[str]) -> list[tuple[int, int]]:
    """Places of near-duplicate texts: candidates by MinHash LSH (datasketch), then the exact Jaccard similarity.

    The LSH looks for 0.3 and more with 128 permutations, so that pairs over 0.5 are hardly ever missed.
    """
    from datasketch import MinHash, MinHashLSH

    sets = [shingles(text) for text in texts]
    index, pairs = MinHashLSH(threshold=0.3, num_perm=128), []
    for place, found in enumerate(sets):
        sketch = MinHash(num_perm=128, seed=1)
        sketch.update_batch([" ".join(shingle).encode() for shingle in found])
        for other in sorted(index.query(sketch)):
            if jaccard(sets[other], found) > ALIKE:
                pairs.append((other, place))
        index.insert(place, sketch)
    return pairs


def shingles(text: str) -> frozenset[tuple[str, ...]]:
    """All runs of five words; of a shorter text, the one run it is."""
    found = tokens(text)
    return frozenset(tuple(found[at : at + SHINGLE]) for at in range(max(1, len(found) - SHINGLE + 1)))


def jaccard(one: frozenset, other: frozenset) -> float:
    """Size of the intersection over size of the union."""
    return len(one & other) / max(1, len(one | other))


def distinct_requests(records: Sequence[Record]) -> Finding:
    """Requests that an earlier record had, letter case and spacing aside."""
    holders: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for record in records:
        spoken = (*(turn.content for turn in record.history), record.user_input)
        holders[tuple(" ".join(text.casefold().split()) for text in spoken)].append(record.id)
    again = [id for ids in holders.values() for id in ids[1:]]
    detail = f"requests met before; {share(len(holders), len(records))} are distinct, at least {100 * DISTINCT:.0f} % wanted"
    return Finding("distinct requests", len(again), int((1 - DISTINCT) * len(records) + 1e-9), tuple(again), detail)


def openings(records: Sequence[Record]) -> Finding:
    """The commonest opening of an answer, as the number of records that share it."""
    holders: dict[str, list[str]] = defaultdict(list)
    for record in records:
        holders[" ".join(tokens(record.answer)[:OPENING_WORDS])].append(record.id)
    commonest = max(holders, key=lambda opening: len(holders[opening]), default="")
    ids = holders[commonest] if commonest else []
    limit = max(1, int(OPENING * len(records)))
    detail = f"answers with the commonest {OPENING_WORDS}-word opening, {commonest!r}; {len(holders):,} different openings"
    return Finding("answer openings", len(ids), limit, tuple(ids) if len(ids) > limit else (), detail)


def stock_phrases(records: Sequence[Record]) -> Finding:
    """The commonest six-word phrase within answers, as the number of records that use it."""
    holders: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for record in records:
        for phrase in set(_runs(tokens(record.answer), PHRASE_WORDS)):
            holders[phrase].append(record.id)
    commonest = max(holders, key=lambda phrase: len(holders[phrase]), default=())
    ids = holders[commonest] if commonest else []
    limit = max(2, int(PHRASE * len(records)))
    detail = f"answers with the commonest {PHRASE_WORDS}-word phrase, {' '.join(commonest)!r}"
    return Finding("stock phrases", len(ids), limit, tuple(ids) if len(ids) > limit else (), detail)


def repeated_thoughts(records: Sequence[Record]) -> Finding:
    """Thoughts whose text is used more than three times."""
    holders: dict[str, list[str]] = defaultdict(list)
    for record in records:
        for thought in record.thoughts:
            holders[" ".join(thought.thought.casefold().split())].append(record.id)
    total = sum(map(len, holders.values()))
    over = [id for ids in holders.values() if len(ids) > USES for id in ids]
    detail = f"thoughts whose text stands more than {USES} times, of {total:,}; {len(holders):,} are distinct"
    return Finding("repeated thoughts", len(over), int(THOUGHTS * total), first(over), detail)


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Distinct n-grams over all n-grams (Li et al. 2016, "distinct-n"); falls as a set grows, so compare equal sizes."""
    counts = Counter(run for text in texts for run in _runs(tokens(text), n))
    return len(counts) / max(1, counts.total())


def _runs(found: list[str], n: int) -> Iterator[tuple[str, ...]]:
    return (tuple(found[at : at + n]) for at in range(len(found) - n + 1))
