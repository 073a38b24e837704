"""Blind votes between two voices: who sits in which pane, what a vote means, the tally; knows no widget and no model."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from .errors import PushbackError
from .models import FRICTION
from .stats import Rate, wilson
from .voices import BASELINE, VOICES

PANES = ("A", "B")
TIE, BOTH_BAD = "tie", "both bad"
CHOICES = (*PANES, TIE, BOTH_BAD)


def shuffled(rng: random.Random) -> tuple[str, str]:
    """The voices of pane A and pane B, each order as likely as the other."""
    first, second = VOICES if rng.random() < 0.5 else VOICES[::-1]
    return first, second


def preferred(order: tuple[str, str], choice: str) -> str:
    """What a vote says once the names are known: a voice, `tie` or `both bad`. Raises PushbackError for any other vote."""
    if choice not in CHOICES:
        raise PushbackError(f"{choice!r} is no vote. Vote one of: {', '.join(CHOICES)}.")
    return order[PANES.index(choice)] if choice in PANES else choice


@dataclass(frozen=True)
class Tally:
    """How often each voice was preferred, and how often neither."""

    friction: int = 0
    baseline: int = 0
    ties: int = 0
    both_bad: int = 0

    @property
    def decided(self) -> int:
        return self.friction + self.baseline

    @property
    def rate(self) -> Rate | None:
        """Votes for friction among the decided ones, with Wilson's interval; None before the first."""
        return wilson(self.friction, self.decided) if self.decided else None

    def __str__(self) -> str:
        counts = f"friction {self.friction}, baseline {self.baseline}, tie {self.ties}, both bad {self.both_bad}"
        if self.rate is None:
            return f"{counts}; no vote for either voice yet"
        return f"{counts}; friction preferred in {self.rate} decided votes (95 % interval, Wilson)"


def tally(preferences: Iterable[str]) -> Tally:
    """Counts what `preferred` gave for each vote."""
    counts = Counter(preferences)
    return Tally(counts[FRICTION], counts[BASELINE], counts[TIE], counts[BOTH_BAD])
