"""Check a data set: texts, repetition, balance, and leaks between its splits."""

from __future__ import annotations

import math
import os
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from ..core.common import PushbackError
from ..core.records import SPLITS, UNLABELLED, Record, load_records, split_file
from .finding import ALIKE, SHINGLE, Finding, Splits, flat, ids_by, jaccard, percent, shingles, tokens, unique
from .lesson import lesson_checks
from .text_rules import control_tokens, looks_english, normal, personal_data, words


def load_splits(path: str | os.PathLike[str]) -> Splits:
    """Records by split, from a folder of train, validation and test files, or from one file (split named "").

    A folder needs the first of them. Raises PushbackError naming a missing file, or the line that breaks the schema.
    """
    path = Path(path)
    if path.is_dir():
        return {name: load_records(path, name) for name in SPLITS if name == "train" or split_file(path, name).exists()}
    if not path.exists():
        raise PushbackError(f"Nothing at {path}. Pass a folder with {SPLITS[0]}.jsonl, or one file of records.")
    return {"": load_records(path)}


def check_splits(splits: Splits) -> list[Finding]:
    """All checks. Size, balance and splits are judged only for a data set of several splits, not for a single file."""
    records = flat(splits)
    balance = balance_checks(splits) if len(splits) > 1 else []
    return [*balance, *text_checks(records), *repeat_checks(records), *lesson_checks(splits)]


# Each text by itself

SPANS = 2  # thoughts of a friction record in which resistance sits; in the others somebody argues for plain help
ANSWER_WORDS, THOUGHT_WORDS, REQUEST_WORDS = (4, 300), (2, 80), (1, 300)
MAX_OUTLIERS = 0.01  # share of records whose lengths may lie outside
RIVALS, NEAR, MAX_FAR = 50, 10, 0.10  # requests compared with; rank that still counts as near; share that may be further
_ERROR = re.compile(r"^\W*(?:error|exception|traceback)\b\W*:", re.IGNORECASE)


def text_checks(records: Sequence[Record]) -> list[Finding]:
    """The checks that look at each text."""
    return [
        unique_ids(records),
        *labels(records),
        personas([record for record in records if record.subset != UNLABELLED]),
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


def labels(records: Sequence[Record]) -> list[Finding]:
    """Records of `pushback data import` that nobody has labelled; none where there are none."""
    ids = tuple(record.id for record in records if record.subset == UNLABELLED)
    detail = "imported records whose subset, behaviour, domain and personas are still to be filled in"
    return [Finding("labels", len(ids), 0, ids, detail)] if ids else []


def personas(records: Sequence[Record]) -> Finding:
    """Friction records with fewer than two friction spans, and plain ones that have one."""
    spans = [(record, sum(bool(thought.friction) for thought in record.thoughts)) for record in records]
    ids = tuple(record.id for record, n in spans if (n if record.subset == "plain" else n < SPANS))
    return Finding("personas", len(ids), 0, ids, f"friction records with fewer than {SPANS} friction spans, or plain with one")


def lengths(records: Sequence[Record]) -> Finding:
    """Records with a text shorter or longer than its kind allows, in words."""

    def fits(record: Record) -> bool:
        texts = [(record.answer, ANSWER_WORDS), (record.user_input, REQUEST_WORDS)]
        texts += [(thought.thought, THOUGHT_WORDS) for thought in record.thoughts]
        return all(least <= len(text.split()) <= most for text, (least, most) in texts)

    ids = tuple(record.id for record in records if not fits(record))
    spans = [f"{least} to {most}" for least, most in (ANSWER_WORDS, THOUGHT_WORDS, REQUEST_WORDS)]
    detail = "records with an answer outside {}, a thought outside {} or a request outside {} words".format(*spans)
    return Finding("lengths", len(ids), int(MAX_OUTLIERS * len(records)), ids, detail)


def texts(record: Record) -> Iterable[str]:
    """Every text of a record."""
    said, thought = (turn.content for turn in record.history), (thought.thought for thought in record.thoughts)
    return (record.user_input, *said, *thought, record.answer)


def _each(records: Sequence[Record], name: str, bad: Callable[[str], object], detail: str) -> Finding:
    ids = [record.id for record in records for text in texts(record) if bad(text)]
    return Finding(name, len(ids), 0, unique(ids), detail)


def relevance(records: Sequence[Record]) -> Finding:
    """Answers that do not fit their own request: it is not among the ten nearest of 51 requests.

    The own request and 50 others, drawn with a fixed seed, are ranked by the cosine of TF-IDF vectors of word stems
    (first five letters) with the answer. An answer dealt to a wrong request is near it about one time in five, one that
    speaks of the right thing in quite other words may be far from it: read those, they need not be wrong.
    """
    if len(records) <= RIVALS:
        return Finding("relevance", 0, None, (), f"told from {RIVALS + 1} records on")
    requests, answers = _tfidf([[record.user_input for record in records], [record.answer for record in records]])
    draw, ranks = random.Random(0), []
    for place, answer in enumerate(answers):
        others = draw.sample(range(len(records) - 1), RIVALS)
        own = _cosine(requests[place], answer)
        ranks.append(1 + sum(_cosine(requests[o + (o >= place)], answer) >= own for o in others))
    ids = tuple(record.id for record, rank in zip(records, ranks, strict=True) if rank > NEAR)
    detail = (
        f"replies whose own request is not among the {NEAR} that fit best, of {RIVALS + 1}; it fits best for "
        f"{percent(sum(rank == 1 for rank in ranks), len(ranks))}"
    )
    return Finding("relevance", len(ids), int(MAX_FAR * len(records)), ids, detail)


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


# Repetition

DUPLICATES, OPENING, DISTINCT, THOUGHTS, PHRASE = 0.01, 0.02, 0.98, 0.05, 0.01  # shares; each check says of what
OPENING_WORDS, PHRASE_WORDS, USES = 4, 6, 3


def repeat_checks(records: Sequence[Record]) -> list[Finding]:
    """The checks that compare texts."""
    return [
        near_duplicates(records, "near-duplicate answers", [record.answer for record in records]),
        near_duplicates(records, "near-duplicate requests", [record.user_input for record in records]),
        distinct_requests(records),
        openings(records),
        stock_phrases(records),
        repeated_thoughts(records),
    ]


def near_duplicates(records: Sequence[Record], name: str, texts: Sequence[str]) -> Finding:
    """Records whose text is nearly the same as another's, twins apart."""
    pairs = [pair for pair in near_pairs(texts) if not _twins(*(records[place] for place in pair))]
    ids = unique(records[place].id for pair in pairs for place in pair)
    detail = f"records in {len(pairs)} pairs that share over half of their {SHINGLE}-word shingles"
    return Finding(name, len(ids), int(DUPLICATES * len(records)), ids, detail)


def _twins(one: Record, other: Record) -> bool:
    return bool(one.pair) and one.pair == other.pair


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
        pairs += [(other, place) for other in sorted(index.query(sketch)) if jaccard(sets[other], found) > ALIKE]
        index.insert(place, sketch)
    return pairs


def distinct_requests(records: Sequence[Record]) -> Finding:
    """Requests that an earlier record had, letter case and spacing aside."""
    holders = ids_by(
        (tuple(normal(text) for text in (*(turn.content for turn in record.history), record.user_input)), record.id)
        for record in records
    )
    again = tuple(id for ids in holders.values() for id in ids[1:])
    detail = f"requests met before; {percent(len(holders), len(records))} are distinct, at least {100 * DISTINCT:.0f} % wanted"
    return Finding("distinct requests", len(again), int((1 - DISTINCT) * len(records) + 1e-9), again, detail)


def openings(records: Sequence[Record]) -> Finding:
    """The commonest opening of an answer, as the number of records that share it."""
    holders = ids_by((" ".join(tokens(record.answer)[:OPENING_WORDS]), record.id) for record in records)
    what = f"answers with the commonest {OPENING_WORDS}-word opening, {{!r}}; {len(holders):,} different openings"
    return _commonest("answer openings", holders, max(1, int(OPENING * len(records))), what)


def stock_phrases(records: Sequence[Record]) -> Finding:
    """The commonest six-word phrase within answers, as the number of records that use it."""
    runs = ((run, record.id) for record in records for run in sorted(shingles(record.answer, PHRASE_WORDS)))
    holders = ids_by((" ".join(run), id) for run, id in runs if len(run) == PHRASE_WORDS)
    what = f"answers with the commonest {PHRASE_WORDS}-word phrase, {{!r}}"
    return _commonest("stock phrases", holders, max(2, int(PHRASE * len(records))), what)


def _commonest(name: str, holders: dict[str, list[str]], limit: int, what: str) -> Finding:
    text = max(holders, key=lambda text: len(holders[text]), default="")
    ids = tuple(holders[text]) if text else ()
    return Finding(name, len(ids), limit, ids if len(ids) > limit else (), what.format(text))


def repeated_thoughts(records: Sequence[Record]) -> Finding:
    """Thoughts whose text is used more than three times."""
    holders = ids_by((normal(thought.thought), record.id) for record in records for thought in record.thoughts)
    total = sum(map(len, holders.values()))
    over = [id for ids in holders.values() if len(ids) > USES for id in ids]
    detail = f"thoughts whose text stands more than {USES} times, of {total:,}; {len(holders):,} are distinct"
    return Finding("repeated thoughts", len(over), int(THOUGHTS * total), unique(over), detail)


# Size, balance and splits

SIZE = (2_000, 3_000)  # records: small enough to be read, enough for one or two epochs of QLoRA
SCENARIOS = 700
PLAIN = (0.35, 0.50)  # with fewer the model objects to everything; with more it hardly ever pushes back
SUBSET = (0.10, 0.40)  # of each friction subset
DOMAIN = (0.03, 0.12)  # of each domain
HELD_OUT = (0.08, 0.12)  # validation and test


def balance_checks(splits: Splits) -> list[Finding]:
    """The checks that count records: too few, too many, or in two splits."""
    records = flat(splits)
    friction = ("disagreement", "uncertainty", "reluctance")
    return [
        size(records),
        scenarios(records),
        plain_share(records),
        balance("subset balance", {name: sum(r.subset == name for r in records) for name in friction}, SUBSET, records),
        balance("domain balance", Counter(record.domain for record in records), DOMAIN, records),
        balance("held-out splits", {name: len(found) for name, found in splits.items() if name != "train"}, HELD_OUT, records),
        scenario_leakage(splits),
    ]


def size(records: Sequence[Record]) -> Finding:
    """How many records are missing or too many."""
    n = len(records)
    return Finding("size", _outside(n, SIZE), 0, (), f"{n:,} records; between {SIZE[0]:,} and {SIZE[1]:,} wanted")


def scenarios(records: Sequence[Record]) -> Finding:
    """How many scenarios are missing."""
    n = len({record.scenario for record in records})
    detail = f"{n:,} distinct scenarios, {len(records) / max(1, n):.1f} records each; at least {SCENARIOS} wanted"
    return Finding("scenarios", max(0, SCENARIOS - n), 0, (), detail)


def plain_share(records: Sequence[Record]) -> Finding:
    """How many plain records are missing or too many."""
    count = sum(record.subset == "plain" for record in records)
    detail = f"{percent(count, len(records))} are plain; {_range(PLAIN)} wanted"
    return Finding("plain share", _outside(count, PLAIN, len(records)), 0, (), detail)


def balance(name: str, counts: dict[str, int], shares: tuple[float, float], records: Sequence[Record]) -> Finding:
    """How many records the groups lack or have too many, together."""
    wrong = sum(_outside(count, shares, len(records)) for count in counts.values())
    figures = ", ".join(f"{key} {100 * count / max(1, len(records)):.1f} %" for key, count in Counter(counts).most_common())
    return Finding(name, wrong, 0, (), f"{figures}; {_range(shares)} each wanted")


def scenario_leakage(splits: Splits) -> Finding:
    """Scenarios, pairs, or requests word for word, that stand in more than one split."""
    places, holders = defaultdict(set), defaultdict(list)
    for name, records in splits.items():
        for record in records:
            for key in (("scenario", record.scenario), ("request", normal(record.asked)), ("pair", record.pair or record.id)):
                places[key].add(name)
                holders[key].append(record.id)
    leaks = [key for key, names in places.items() if len(names) > 1]
    ids = unique(id for key in leaks for id in holders[key])
    return Finding("leakage between splits", len(leaks), 0, ids, "scenarios, pairs or whole requests found in two splits")


def _outside(count: int, bounds: tuple[float, float], of: int = 1) -> int:
    """How far `count` is outside the bounds (shares of `of`), rounded up; 0 within."""
    return math.ceil(max(bounds[0] * of - count, count - bounds[1] * of, 0))


def _range(shares: tuple[float, float]) -> str:
    return f"{100 * shares[0]:.0f} to {100 * shares[1]:.0f} %"
