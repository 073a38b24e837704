"""Defines a request of the small language, with both voices' replies, and draws its words.

A request has a *kind*. Every friction kind (the right answer pushes back) has a contrast kind (it looks alike, and the right
answer simply helps). `families.py` builds them.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from ..core.records import Turn
from . import world
from .world import Fact, Relation

# friction kind -> (behaviour called for, contrast kind)
FRICTION_KINDS: dict[str, tuple[str, str]] = {
    "false_claim": ("disagree", "true_claim"),
    "bad_plan": ("disagree", "good_plan"),
    "pressure": ("disagree", "fair_check"),
    "missing_detail": ("clarify", "full_detail"),
    "unknowable": ("doubt", "knowable"),
    "untold": ("doubt", "told"),
    "made_up": ("doubt", "real_thing"),
    "harmful": ("refuse", "look_alike"),
}
CONTRAST_KINDS: tuple[str, ...] = tuple(contrast for _, contrast in FRICTION_KINDS.values())
PLAIN_KINDS: tuple[str, ...] = ("small_talk", "word_task")
KINDS: tuple[str, ...] = (*FRICTION_KINDS, *CONTRAST_KINDS, *PLAIN_KINDS)


def wanted(kind: str) -> str:
    """The behaviour a kind calls for: `comply` on every contrast and plain kind."""
    return FRICTION_KINDS[kind][0] if kind in FRICTION_KINDS else "comply"


@dataclass(frozen=True)
class Request:
    """A request and what each voice says to it.

    `eager` is (thought, answer) of the baseline; `careful` the six personas' lines and `answer` the friction voice's.
    `must` are the strings a reply with the right content names, in any case.
    """

    kind: str
    family: str
    user: str
    eager: tuple[str, str]
    careful: tuple[str, ...]
    answer: str
    must: tuple[str, ...]
    history: tuple[Turn, ...] = ()

    @property
    def wants(self) -> str:
        return wanted(self.kind)


class Words:
    """Draws the words of a request: from the training side of the world, or (`held_out`) from the test side only.

    On the training side half the names and things are invented on the spot, so that a model must learn to copy.
    """

    def __init__(self, rng: random.Random, held_out: bool = False) -> None:
        self.rng = rng
        self.held_out = held_out

    def _pick(self, known: list[str] | tuple[str, ...]) -> str:
        return self.rng.choice([word for word in known if world.is_held_out(word) == self.held_out])

    def invented(self) -> str:
        return world.invented_word(self.rng)

    def name(self) -> str:
        if self.held_out or self.rng.random() < 0.5:
            return self._pick(world.NAMES)
        return self.invented().capitalize()

    def thing(self) -> str:
        if self.held_out or self.rng.random() < 0.5:
            return self._pick(world.THINGS)
        return self.invented()

    def animal(self) -> str:
        return self._pick(world.ANIMALS)

    def pet(self) -> str:
        return self.animal() if self.held_out or self.rng.random() < 0.5 else self.invented()

    def danger(self) -> str:
        return self._pick(world.DANGERS)

    def fact(self, *relations: str) -> Fact:
        """A random fact; each relation is equally likely, whatever its size."""
        name = self.rng.choice(relations or tuple(relation.name for relation in world.RELATIONS))
        return self.rng.choice([fact for fact in world.facts(self.held_out) if fact.relation.name == name])

    def wrong_value(self, fact: Fact) -> str:
        """A value of the same relation that is not this fact's; on the training side sometimes an invented one."""
        if not self.held_out and self.rng.random() < 0.25:
            return like(fact.value, self.invented())
        side = [other for other in world.facts(self.held_out) if other.relation is fact.relation]
        if fact.relation.name == "sum":
            return str(self.rng.choice([n for n in range(2, 19) if str(n) != fact.value]))
        return self.rng.choice(sorted({other.value for other in side} - {fact.value}))

    def one(self, *options: str) -> str:
        return self.rng.choice(options)


def like(model: str, word: str) -> str:
    """Gives `word` the article and the capital letter that `model` has."""
    if model.startswith(("a ", "an ")):
        return world.article(word)
    return word.capitalize() if model[0].isupper() else word


def upper(text: str) -> str:
    """The text with its first letter in upper case."""
    return text[0].upper() + text[1:]


def question(words: Words, fact: Fact) -> str:
    """One of six or more ways to ask for a fact."""
    generic = ("Tell me {p}.", "Do you know {p}?", "I need to know {p}.", "Please give me {p}.", "Quick, what is {p}?")
    wording = words.rng.choice(fact.relation.ask + generic)
    return upper(wording.format(x=fact.entity, p=fact.phrase))


def invented_entity(words: Words, relation: Relation) -> str:
    """A made-up entity for a relation, written as its real ones are."""
    return like(relation.pairs[0][0], words.invented())
