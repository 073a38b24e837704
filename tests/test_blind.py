"""Blind votes: shuffling, meaning, tally."""

import random

import pytest

from pushback_lib.blind import CHOICES, Tally, preferred, shuffled, tally
from pushback_lib.errors import PushbackError
from pushback_lib.stats import wilson

AS_IS, SWAPPED = ("baseline", "friction"), ("friction", "baseline")


@pytest.mark.parametrize(
    ("order", "choice", "meant"),
    [
        (AS_IS, "A", "baseline"),
        (AS_IS, "B", "friction"),
        (SWAPPED, "A", "friction"),
        (SWAPPED, "B", "baseline"),
        (SWAPPED, "tie", "tie"),
        (AS_IS, "both bad", "both bad"),
    ],
)
def test_a_vote_means_the_voice_that_sat_there(order, choice, meant):
    assert preferred(order, choice) == meant


@pytest.mark.parametrize("choice", ["", "C", "friction", "a"])
def test_another_vote_is_refused_with_the_votes_there_are(choice):
    with pytest.raises(PushbackError, match=", ".join(CHOICES)):
        preferred(AS_IS, choice)


def test_both_orders_come_equally_often():
    draw = random.Random(5)
    swapped = sum(shuffled(draw) == SWAPPED for _ in range(2000))
    low, high = wilson(swapped, 2000, z=4.0).low, wilson(swapped, 2000, z=4.0).high
    assert low < 0.5 < high


def test_the_tally_counts_and_gives_wilsons_interval():
    counted = tally(["friction"] * 7 + ["baseline"] * 3 + ["tie", "tie", "both bad"])
    assert (counted.friction, counted.baseline, counted.ties, counted.both_bad) == (7, 3, 2, 1)
    assert counted.rate == wilson(7, 10)
    assert "70 % [40–89] of 10" in str(counted)


@pytest.mark.parametrize("votes", [[], ["tie"], ["both bad", "tie"]])
def test_without_a_decided_vote_there_is_no_rate(votes):
    assert tally(votes).rate is None
    assert "no vote for either voice yet" in str(tally(votes))


def test_an_empty_tally_is_all_noughts():
    assert tally([]) == Tally()
