"""Check what a model would learn from a data set that it should not: the look of a request in place of its point."""

from __future__ import annotations

import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

from ..core.common import DATA
from ..core.files import read_jsonl
from ..core.records import PERSONA_NAMES, Record
from ..core.stats import wilson
from .finding import ALIKE, Finding, Splits, flat, jaccard, percent, shingles, unique
from .probe import fit_probe, held_out_shares
from .text_rules import words

HELD_OUT = DATA / "eval"  # files of prompts; no situation of theirs may train
# Shares at most, but for the last three. A critic's figures on version 1: 83, 87, 69 %, 32, 23 %; no pair
BEHAVIOUR, KIND, WITHIN, FIRST = 0.65, 0.70, 0.57, 0.45
QUIPS, PRONOUNS = 0.10, 0.02
QUIP_WORDS = 8
PAIRS, DEBATES, TURNS = 300, 0.90, 0.08
SCARY = re.compile(
    r"\b(?:kill|murder|shoot|stab|strangl|poison|bomb|explo|weapon|guns?\b|knife|knives|attack|hack|steal|stole|drug|overdos|"
    r"suicid|die\b|dead|death|hurt|hate|beat|burn|blow up|spy|stalk|fak|forg|fraud|cheat|destroy|crash|crack|break in)",
    re.IGNORECASE,
)
_LIST = re.compile(r"^\s*(?:[-*•]|\d+[.)]) ", re.MULTILINE)
_REFERS = re.compile(
    r"^(?:But|Yet|Still|Even so|True|Granted|That|This|Then|Nor|Not if|Only if|Against that|For that|Which)\b|"
    r"\b(?:" + "|".join(PERSONA_NAMES) + r")\b|\bthat (?:holds|argument|objection|hope|worry|fear|reading|care|point|doubt)\b"
)
_COMMON = {word[:6] for word in (
    "about after again against always another because before being could every first might never other should since still "
    "their there these thing things think those under until where which while without would"
).split()}  # fmt: skip
_PRONOUN = re.compile(r"\b(?:he|she|him|his|her|hers|himself|herself)\b", re.IGNORECASE)
_PERSON = re.compile(
    r"\b(?:he|she|him|his|hers?|man|men|wom[ae]n|boys?|girls?|guys?|lady|ladies|gentleman|mum|mom|mother|ma|dad|father|pa|papa|"
    r"parents?|sons?|daughters?|kids?|child|children|bab(?:y|ies)|brother|sister|sibling|wife|husband|spouse|partner|fianc\w+|"
    r"aunt\w*|uncle|niece|nephew|cousin|gran\w*|nan\w*|in-law|boyfriend|girlfriend|ex|friend|mate|neighbou?rs?|boss|manager|"
    r"colleague|coworker|teacher|professor|prof|tutor|student|pupil|doctor|gp|dr|nurse|dentist|vet|lawyer|landlord|landlady|"
    r"tenant|client|customer|buyer|seller|mayor|minister|king|queen|chef|coach|dog|cat|mr|mrs|ms|miss|sir|[A-Z][a-z]+)\b"
)
_NAME = re.compile(r"(?<![.!?:\n\"“] )(?<!^)\b[A-Z][a-z]{2,}\b", re.MULTILINE)
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


def lesson_checks(splits: Splits) -> list[Finding]:
    """The checks of what would be learned; what a whole data set has to have is asked only of several splits."""
    return [*(probe_checks(splits) if len(splits) > 1 else []), *text_lessons(splits)]


def text_lessons(splits: Splits) -> list[Finding]:
    """Those for which no probe is trained."""
    records = flat(splits)
    whole = [*look_checks(records), debates(records), thinking(records), turns(records), levels(records)]
    return [*(whole if len(splits) > 1 else []), quips(records), pronouns(records), invented(records), overlap(records)]


# Probes


def probe_checks(splits: Splits) -> list[Finding]:
    """How much of a record's behaviour its request's look, and its first thought, give away."""
    records = flat(splits)
    kinds = [record.subset == "plain" for record in records]
    if len(records) < 200 or len(set(kinds)) < 2:
        return []
    scenarios = [record.scenario for record in records]
    behaviours, texts = [record.behaviour for record in records], [record.asked for record in records]
    labels, shares = held_out_shares(texts, behaviours, scenarios)
    thoughts = [record.thoughts[0].thought if record.thoughts else "" for record in records]
    _, first = held_out_shares(thoughts, behaviours, scenarios)
    two, kind_shares = held_out_shares(texts, ["plain" if plain else "friction" for plain in kinds], scenarios)
    return [
        _read_off("request gives the behaviour away", records, labels, shares, BEHAVIOUR, _on_test(splits)),
        _kind_read_off(records, kinds, kind_shares[:, two.index("friction")]),
        _within_pairs(records, kind_shares[:, two.index("friction")]),
        _read_off("first thought gives the behaviour away", records, labels, first, FIRST, "before anything was weighed"),
    ]


def _read_off(name: str, records: Sequence[Record], labels: tuple[str, ...], shares, limit: float, more: str) -> Finding:
    """How many records' behaviours are read off rightly; the surest first."""
    right = [(float(row.max()), record.id) for row, record in zip(shares, records, strict=True)
             if labels[int(row.argmax())] == record.behaviour]  # fmt: skip
    ids = tuple(id for _, id in sorted(right, reverse=True))
    rate = wilson(len(ids), len(records))
    detail = f"read off rightly by a classifier that understands nothing: {rate}; {more}"
    return Finding(name, len(ids), int(limit * len(records)), ids, detail)


def _on_test(splits: Splits) -> str:
    """What a probe of the train split says of the test split."""
    if not (splits.get("train") and splits.get("test")):
        return "five behaviours"
    train, test = splits["train"], splits["test"]
    probe = fit_probe([record.asked for record in train], [record.behaviour for record in train])
    found = probe.predict([record.asked for record in test])
    right = sum(label == record.behaviour for label, record in zip(found, test, strict=True))
    return f"five behaviours; trained on train, asked on test: {wilson(right, len(test))}"


def _kind_read_off(records: Sequence[Record], kinds: Sequence[bool], friction) -> Finding:
    """Friction against plain; balanced, so that guessing the commoner kind brings nothing."""
    right = [bool(share < 0.5) == plain for share, plain in zip(friction, kinds, strict=True)]
    shares = [statistics.mean(hit for hit, plain in zip(right, kinds, strict=True) if plain == kind) for kind in (True, False)]
    sure = sorted(zip((abs(share - 0.5) for share in friction), records, right, strict=True), key=lambda row: -row[0])
    balanced, n = statistics.mean(shares), len(records)
    detail = (
        f"plain {100 * shares[0]:.0f} %, friction {100 * shares[1]:.0f} % read off rightly; balanced {100 * balanced:.0f} %"
    )
    ids = tuple(record.id for _, record, hit in sure if hit)
    return Finding("request gives friction away", round(balanced * n), int(KIND * n), ids, detail)


def _within_pairs(records: Sequence[Record], friction) -> Finding:
    """In how many pairs the look alone says which half calls for friction; where pairs are few, all count as given away."""
    halves: dict[str, dict[bool, tuple[float, str]]] = defaultdict(dict)
    for record, share in zip(records, friction, strict=True):
        if record.pair:
            halves[record.pair][record.subset == "plain"] = (float(share), record.id)
    pairs = [both for both in halves.values() if len(both) == 2]
    ids = tuple(both[False][1] for both in pairs if both[False][0] > both[True][0])
    few, n = max(0, PAIRS - len(pairs)), len(pairs)
    said = f"pairs in which the look tells the halves apart: {wilson(len(ids), n)}" if n else "no record has a twin"
    detail = f"{said}; at least {PAIRS} pairs wanted" + (f", {few} missing" if few else "")
    return Finding("look within pairs", len(ids) + few, int(WITHIN * n), ids if n else (), detail)


# The look of requests and answers

# Each mark, and how far apart its shares may be in the behaviours that show it most and least: a doubt is mostly a question
LOOKS: dict[str, tuple[Callable[[Record], bool], float]] = {
    "question marks": (lambda record: "?" in record.user_input, 0.50),
    "short requests": (lambda record: len(record.user_input.split()) <= 12, 0.50),
    "long requests": (lambda record: len(record.user_input.split()) > 25, 0.50),
    "scary words": (lambda record: bool(SCARY.search(record.user_input)), 0.25),
    "lists in answers": (lambda record: bool(_LIST.search(record.answer)), 0.25),
}


def look_checks(records: Sequence[Record]) -> list[Finding]:
    """For each mark, how far apart the behaviours are that show it most and least often, in percent."""
    behaviours = sorted({record.behaviour for record in records})
    if len(behaviours) < 2:
        return []
    return [_look(name, *how, records, behaviours) for name, how in LOOKS.items()]


def _look(
    name: str, has: Callable[[Record], bool], limit: float, records: Sequence[Record], behaviours: Sequence[str]
) -> Finding:
    found = {one: [record for record in records if record.behaviour == one] for one in behaviours}
    shares = {one: statistics.mean(map(has, members)) for one, members in found.items()}
    most, least = max(shares, key=shares.get), min(shares, key=shares.get)
    apart = round(100 * (shares[most] - shares[least]))
    ids = tuple(record.id for record in found[most] if has(record)) + tuple(
        record.id for record in found[least] if not has(record)
    )
    said = ", ".join(f"{one} {100 * share:.0f} %" for one, share in sorted(shares.items(), key=lambda pair: -pair[1]))
    detail = f"percentage points between {most} and {least} ({said}): the form alone would tell them apart"
    return Finding(name, apart, int(100 * limit), ids if apart > 100 * limit else (), detail)


# The debate, and the words of thoughts and answers


def debates(records: Sequence[Record]) -> Finding:
    """Records in which no thought takes up another one.

    Seen is only what shows in words: a persona's name, a turn such as "But" or "That holds", or a content word of an earlier
    thought that the request has not. What is meant, a reader must judge.
    """
    several = [record for record in records if len(record.thoughts) > 1]
    alone = tuple(record.id for record in several if not _takes_up(record))
    detail = f"records whose personas speak past each other, of {len(several):,}; a model would learn to repeat one verdict"
    return Finding("no debate", len(alone), int((1 - DEBATES) * len(several)), alone, detail)


def _takes_up(record: Record) -> bool:
    asked_about, heard = _stems(record.asked), set()
    for thought in record.thoughts:
        own = _stems(thought.thought)
        if heard and (_REFERS.search(thought.thought) or own & heard - asked_about):
            return True
        heard |= own
    return False


def _stems(text: str) -> set[str]:
    """The beginnings of the longer words, but for those that any text has."""
    return {word[:6] for word in words(text) if len(word) > 4} - _COMMON


def thinking(records: Sequence[Record]) -> Finding:
    """Levels at which plain requests get less than half of the thinking, in words."""
    counts: dict[str, dict[bool, list[tuple[int, str]]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        count = sum(len(thought.thought.split()) for thought in record.thoughts)
        counts[record.level or "without a level"][record.subset == "plain"].append((count, record.id))
    said, ids, wrong = [], [], 0
    for level, found in sorted(counts.items()):
        if found[True] and found[False]:
            plain, friction = (statistics.median(count for count, _ in found[kind]) for kind in (True, False))
            said.append(f"{level} {plain:.0f} words against {friction:.0f}")
            if plain < friction / 2:
                wrong += 1
                ids += [id for count, id in sorted(found[True]) if count < friction / 2]
    detail = (
        f"levels where plain requests are thought about half as long or less ({'; '.join(said)}): helping needs thought too"
    )
    return Finding("thinking on plain requests", wrong, 0, tuple(ids), detail)


def quips(records: Sequence[Record]) -> Finding:
    """Answers of three sentences or more whose last one is short, no question, and holds no number."""
    several, ids = 0, []
    for record in records:
        sentences = re.split(r"(?<=[.!?])\s+", record.answer.strip())
        if len(sentences) > 2 and record.level != "easy":
            several += 1
            last = sentences[-1]
            if len(last.split()) <= QUIP_WORDS and not re.search(r"[?\d:`]", last):
                ids.append(record.id)
    detail = (
        f"answers that end in a sentence of {QUIP_WORDS} words or fewer, of {several:,} (`easy` apart): a tic is soon learned"
    )
    return Finding("quips at the end", len(ids), int(QUIPS * several), tuple(ids), detail)


def pronouns(records: Sequence[Record]) -> Finding:
    """Thoughts that say "he" or "she" where the request names no person."""
    ids = tuple(
        record.id for record in records
        if any(_PRONOUN.search(one.thought) for one in record.thoughts) and not _PERSON.search(_inner(record.asked))
    )  # fmt: skip
    detail = 'records whose thoughts say "he" or "she" of nobody in the request: made up'
    return Finding("he or she", len(ids), int(PRONOUNS * len(records)), ids, detail)


def _inner(text: str) -> str:
    """The text with the first word of each sentence in small letters, so that only names keep a capital."""
    return re.sub(r"(?:^|(?<=[.!?:\n\"“] ))[A-Z](?=[a-z])", lambda match: match[0].lower(), text)


def invented(records: Sequence[Record]) -> Finding:
    """For reading: names and numbers in thoughts or answer that the request has not; they may be knowledge, or made up."""
    ids = []
    for record in records:
        known, said = record.asked, "\n".join([*(one.thought for one in record.thoughts), record.answer])
        names = {name for name in _NAME.findall(said) if name not in " ".join(PERSONA_NAMES)}
        numbers = set(_NUMBER.findall(said)) - set(_NUMBER.findall(known))
        if numbers or any(name.lower() not in known.lower() for name in names):
            ids.append(record.id)
    detail = (
        f"records with a name or number that the request has not: {percent(len(ids), len(records))}; knowledge, or made up?"
    )
    return Finding("names and numbers from elsewhere", len(ids), None, tuple(ids), detail)


# Turns, levels, and what is kept for measuring


def turns(records: Sequence[Record]) -> Finding:
    """How many records with earlier turns are missing."""
    found = Counter(sum(turn.role == "user" for turn in record.history) for record in records)
    several = len(records) - found[0]
    missing = max(0, int(TURNS * len(records)) - several)
    deep = ", ".join(f"{count} with {n} earlier requests" for n, count in sorted(found.items()) if n)
    detail = (
        f"missing; {percent(several, len(records))} have earlier turns ({deep or 'none'}): what follows an answer is not seen"
    )
    return Finding("turns", missing, 0, (), detail)


def levels(records: Sequence[Record]) -> Finding:
    """Records that do not say how hard they are."""
    found = Counter(record.level for record in records)
    said = ", ".join(f"{name} {count:,}" for name, count in sorted(found.items()) if name)
    ids = tuple(record.id for record in records if not record.level)
    return Finding("levels", len(ids), 0, ids, f"records without a level ({said or 'none has one'}): a recipe cannot choose")


def overlap(records: Sequence[Record], folder: Path = HELD_OUT) -> Finding:
    """Records whose scenario, or nearly whose request, a prompt for measuring has."""
    prompts = [row for path in sorted(folder.glob("*.jsonl")) for _, row in read_jsonl(path)]
    scenarios = {row["scenario"] for row in prompts}
    sets = list({shingles(row["user_input"]) for row in prompts})
    holders: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for at, found in enumerate(sets):
        for one in found:
            holders[one].append(at)
    ids = [record.id for record in records if record.scenario in scenarios]
    for record in records:
        own = shingles(record.user_input)
        near = {at for one in own for at in holders.get(one, ())}
        ids += [record.id] * any(jaccard(own, sets[at]) > ALIKE for at in near)
    detail = f"records that share a scenario or most of a request with one of {len(prompts):,} prompts kept for measuring"
    return Finding("overlap with data/eval", len(set(ids)), 0, unique(ids), detail)
