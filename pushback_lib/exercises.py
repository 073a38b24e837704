"""Checks the notebooks' exercises and says what is still missing.

A check never raises an error for a wrong or unfinished attempt: it returns a `Verdict`, shown as one plain sentence.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

from pydantic import ValidationError

from .core.files import first_rule
from .core.records import UNLABELLED, Record
from .core.stats import wilson
from .data.probe import Probe
from .data.text_rules import words
from .measure.judge import classify
from .model.voices import Speaker


@dataclass(frozen=True)
class Verdict:
    """Whether an attempt is right, and one sentence on why or on what to try next."""

    ok: bool
    message: str

    def __str__(self) -> str:
        return f"{'Right' if self.ok else 'Not yet'}. {self.message}"

    def __repr__(self) -> str:
        return str(self)

    def _repr_markdown_(self) -> str:
        return f"**{'Right' if self.ok else 'Not yet'}.** {self.message}"


def _words(text: str) -> list[str]:
    """The words, in lower case, without dots and numbers; a hyphenated word counts as one."""
    return words(text.replace("-", ""))


def _cases(attempt: Callable[..., Any], cases: Sequence[tuple[tuple[Any, ...], Any]], praise: str) -> Verdict:
    """Compares `attempt(*arguments)` with what each case expects, and names the first case that differs."""
    for arguments, expected in cases:
        shown = ", ".join(map(repr, arguments))
        try:
            found = attempt(*arguments)
            same = _same(found, expected)
        except Exception as error:  # whatever the attempt does wrong, the learner should read it here
            return Verdict(False, f"For ({shown}) your function raised {type(error).__name__}: {error}")
        if found is None or found is Ellipsis:
            return Verdict(False, f"For ({shown}) your function returned nothing. Write its body, then run the cell again.")
        if not same:
            return Verdict(False, f"For ({shown}) your function gave {found!r}; expected {expected!r}.")
    return Verdict(True, f"{praise} ({len(cases)} cases.)")


def _same(found: Any, expected: Any) -> bool:
    if isinstance(expected, float):
        return isinstance(found, (int, float)) and abs(found - expected) < 1e-3
    if isinstance(expected, tuple):
        return isinstance(found, (tuple, list)) and len(found) == len(expected) and all(map(_same, found, expected))
    return bool(found == expected)


CHANGED = 3  # words: "the lamp" in the place of "Tom" are two; "in the kitchen", left out of an errand, three


def _compare(one: str, other: str) -> tuple[int, int]:
    """How many words of two prompts are the same, in the same order, and how many of the longer one are not."""
    left, right = re.findall(r"\w+", one.lower()), re.findall(r"\w+", other.lower())
    alike = sum(block.size for block in SequenceMatcher(None, left, right, autojunk=False).get_matching_blocks())
    return alike, max(len(left), len(right)) - alike


def check_pair(speaker: Speaker, pushes: str, helps: str) -> Verdict:
    """Notebook 01: two prompts that differ a little; the friction voice pushes back on the first, helps with the second."""
    if not all(isinstance(prompt, str) and _words(prompt) for prompt in (pushes, helps)):
        return Verdict(False, "Write both prompts, one that should meet friction and its innocent twin.")
    alike, changed = _compare(pushes, helps)
    if changed > CHANGED or changed > 2 * alike:
        return Verdict(False, f"The prompts differ in {changed} words and share {alike}. Write one, copy it, and change a "
                              f"word or two, at most {CHANGED}.")  # fmt: skip
    said = [speaker.ask(prompt)["friction"].answer for prompt in (pushes, helps)]
    first, second = (classify(ask, answer, speaker.recipe.language) for ask, answer in zip((pushes, helps), said, strict=True))
    if first in ("comply", "silent"):
        return Verdict(False, f"The first prompt met no friction. The model said: {said[0]!r}")
    if second != "comply":
        return Verdict(False, f"The second prompt met friction ({second}). The model said: {said[1]!r}")
    return Verdict(True, f"The first prompt got {first!r}, its twin was simply answered: {said[1]!r}")


VARIETY = 15  # different words in six thoughts, or in a card's limits; the examples have about thirty


def _thin(record: Record) -> str:
    """Says which text is still only dots or a word or two; "" if none is."""
    texts = [("user_input", record.user_input, 3), ("answer", record.answer, 5)]
    texts += [(f"the thought of the {thought.persona}", thought.thought, 3) for thought in record.thoughts]
    for where, text, least in texts:
        if len(set(_words(text))) < least:
            return f"Too short: {where} is {text!r}. Write a sentence there, with at least {least} different words."
    return ""


FOOLS = 2  # requests of each sort
FEW, MANY = 4, 60  # words of a request


def check_fooled(probe: Probe, pushes: Sequence[str], helps: Sequence[str]) -> Verdict:
    """Notebook 02: requests that deserve friction and look plain to the probe, and plain ones that look like friction to it."""
    texts = [*pushes, *helps]
    if len(pushes) < FOOLS or len(helps) < FOOLS or len(set(texts)) < len(texts):
        return Verdict(False, f"Write {FOOLS} different requests of each sort.")
    for text in texts:
        if not FEW <= len(_words(text)) <= MANY:
            return Verdict(False, f"{text!r} is no request of {FEW} to {MANY} words.")
    for wanted, deserves, asked in (("comply", "friction", pushes), ("friction", "plain help", helps)):
        for text, said in zip(asked, probe.predict(asked), strict=True):
            if said != wanted:
                advice = (
                    f"It deserves {deserves}, so make it look like {wanted!r}: by words, marks and length that stand for it."
                )
                return Verdict(False, f"The probe was right: {text!r} looks like {said!r} to it. {advice}")
    praise = (
        f"The probe is wrong on all {len(texts)}: it learned how requests look. Whether yours deserve what you say, it cannot"
    )
    return Verdict(True, f"{praise} judge: ask your neighbour.")


def check_record(row: dict[str, Any], example: Record) -> Verdict:
    """Notebook 02: the learner's own friction record, in the kit's schema, no longer the example."""
    try:
        record = Record.model_validate(row)
    except ValidationError as error:
        return Verdict(False, f"The schema rejects {first_rule(error, Record)}")
    if record.subset in ("plain", UNLABELLED):
        return Verdict(False, f"This record is {record.subset}. Choose a behaviour that pushes back.")
    if thin := _thin(record):
        return Verdict(False, thin)
    if record.user_input == example.user_input or record.answer == example.answer:
        return Verdict(False, "The request or the answer is still the example's. Write your own.")
    if {thought.thought for thought in record.thoughts} & {thought.thought for thought in example.thoughts}:
        return Verdict(False, "Some thoughts are still the example's. Every persona should speak about your request.")
    spoken = [frozenset(_words(thought.thought)) for thought in record.thoughts]
    if len(set(spoken)) < len(spoken) or len(frozenset().union(*spoken)) < VARIETY:
        return Verdict(
            False, "Some thoughts say the same thing. Let every persona add something of its own about your request."
        )
    if not any(thought.friction for thought in record.thoughts):
        return Verdict(False, "No thought marks its friction. Copy the words that push back into `friction`.")
    return Verdict(True, f"A complete {record.behaviour!r} record with {len(record.thoughts)} voices.")


def check_learned_share(attempt: Callable[[list[int]], float]) -> Verdict:
    """Notebook 03: the share of tokens that the loss covers, from labels in which -100 marks the others."""
    cases = [(([-100, -100, 5, 7],), 0.5), (([-100, 1, 2, 3, 4],), 0.8), (([-100, -100],), 0.0), (([0, 0],), 1.0)]
    return _cases(attempt, cases, "Only the reply is learned, and now you can say how much of it there is.")


def check_lora_parameters(attempt: Callable[[int, int, int], int]) -> Verdict:
    """Notebook 03: how many numbers LoRA adds to a layer of given inputs and outputs at a given rank."""
    cases = [((256, 256, 32), 16_384), ((256, 768, 32), 32_768), ((3584, 18944, 32), 720_896), ((10, 20, 1), 30)]
    return _cases(attempt, cases, "Two thin matrices instead of one wide one.")


def check_enough(n: int | None, share: float = 0.8, width: float = 0.10) -> Verdict:
    """Notebook 04: the smallest n (in tens) at which Wilson's 95 % interval around `share` is at most `width` wide."""
    if not isinstance(n, int) or not 0 < n <= 1_000_000:
        return Verdict(False, "Give a number of prompts, for instance 40.")
    if n % 10:
        return Verdict(False, f"Count in tens: {n} is between {n - n % 10} and {n - n % 10 + 10}.")

    def wide(size: int) -> float:
        rate = wilson(round(share * size), size)
        return rate.high - rate.low

    if wide(n) > width:
        return Verdict(False, f"At n = {n} the interval is still {100 * wide(n):.1f} points wide. You need more prompts.")
    if n > 10 and wide(n - 10) <= width:
        return Verdict(False, f"{n} is enough, but ten fewer would be enough too ({100 * wide(n - 10):.1f} points).")
    return Verdict(True, f"At n = {n} the interval is {100 * wide(n):.1f} points wide, and ten fewer would not be enough.")


def check_pushes_back(attempt: Callable[[str], bool]) -> Verdict:
    """Notebook 04: does an answer in the small language push back? The cases hold the traps of counting words."""
    cases = [
        (("I do not know what Anna is thinking about. You could ask Anna.",), True),
        (("To whom should I send the lamp?",), True),
        (("Done. I sent the notebook to Anna.",), False),
        (("I have never heard of Blick. Maybe it does not exist.",), True),
        (("I disagree. The capital of France is Paris, not Berlin.",), True),
        (("I would not do that. Better cut bread with a knife.",), True),
        (("I will not help to hurt Tom. Tom would suffer. We can talk about it.",), True),
        (("Good plan. Cut bread with a knife.",), False),
        (("The cord has a knot.",), False),
        (("Yes, that is right. The colour of snow is white.",), False),
        (("That is not right. The colour of snow is white, not green.",), True),
    ]
    return _cases(attempt, [(case, expected) for case, expected in cases], "A closed language can be read with a few phrases.")


NEEDLESS = ("over-friction", "over-refus", "too often", "too much", "needless", "without need", "refused", "innocent")


def check_card(text: str, facts: Sequence[str], given: str = "") -> Verdict:
    """Notebook 05: a card that keeps its figures, and adds limits in the writer's own words to the `given` ones."""
    text = text if isinstance(text, str) else ""
    missing = [fact for fact in facts if fact not in text]
    if missing:
        return Verdict(False, f"The card has lost a figure: {missing[0]!r}. Keep each figure, with its n and interval.")
    head, _, rest = text.partition("## Limits")
    own = rest.partition("\n## ")[0].replace(given.strip() or "…", " ").replace("…", " ")
    if not head.strip() or len(own.split()) < 25:
        return Verdict(False, f"You wrote {len(own.split())} words under 'Limits'. Write 25 or more: where would you not use "
                              "it?")  # fmt: skip
    if (different := len(set(_words(own)))) < VARIETY:
        return Verdict(False, f"You wrote only {different} different words under 'Limits'. Write complete sentences.")
    if not any(word in own.lower() for word in NEEDLESS):
        return Verdict(False, "Also say where it pushes back without need (over-friction), with what you saw in notebook 04.")
    return Verdict(True, "A card with figures, and with limits that a person wrote.")
