"""The mixture of an English adapter: how much of each source, the same for a seed, and nothing that is held out."""

import dataclasses
from collections import Counter

import pytest

from pushback_lib.core.common import DATA
from pushback_lib.core.records import load_records
from pushback_lib.language.requests import KINDS
from pushback_lib.language.world import facts
from pushback_lib.measure.prompts import load_prompts
from pushback_lib.model.recipe import Mixture, recipe_for
from pushback_lib.train.mixture import mixed_records, one_turn_records, sample, shortest
from pushback_lib.train.plan import data_size

EASY, ALL = load_records(DATA / "easy" / "train.jsonl"), load_records(DATA / "friction" / "train.jsonl")


@pytest.mark.parametrize("counts", [(100, 1, 40), (0, 1, 0), (33, 0, 0), (0, 0, 7), (50, 3, 1887)])
def test_each_source_is_there_as_often_as_asked(counts):
    language, easy, friction = counts
    records = mixed_records(Mixture(*counts), seed=7)
    assert records[:language] == one_turn_records(language, 7)
    assert records[language : len(records) - friction] == easy * EASY
    assert records[len(records) - friction :] == shortest(friction)
    assert len(records) == language + easy * len(EASY) + friction


@pytest.mark.parametrize("counts", [(100, 1, 40), (0, 2, 0), (33, 0, 8)])
def test_the_plan_counts_what_is_trained_on(counts):
    count, mean = data_size(dataclasses.replace(recipe_for("english"), mixture=Mixture(*counts)))
    assert count == len(mixed_records(Mixture(*counts), 7))
    assert 171 <= mean <= 280


def test_a_seed_decides():
    assert mixed_records(Mixture(60, 1, 9), 1) == mixed_records(Mixture(60, 1, 9), 1) != mixed_records(Mixture(60, 1, 9), 2)


@pytest.mark.parametrize("n", [1, 17, 1600])
def test_of_the_small_language_only_one_turn_is_taken_and_nothing_held_out(n):
    records = one_turn_records(n, 3)
    assert len(records) == n
    assert not any(record.history for record in records)
    assert n < 1600 or {record.domain for record in records} == {*KINDS} - {"pressure", "fair_check"}
    words = {word.strip(".,?!").lower() for record in records for word in record.user_input.split()}
    assert not words & {fact.entity.lower() for fact in facts(held_out=True)}


@pytest.mark.parametrize("n", [1, 90, 10**6])
def test_a_sample_keeps_pairs_whole_and_holds_nothing_twice(n):
    records = mixed_records(Mixture(30, 2, 0), 7)
    drawn = sample(records, n, 3)
    assert len({record.id for record in drawn}) == len(drawn)
    assert min(n, len({record.id for record in records})) <= len(drawn) <= n + 1
    assert set(Counter(record.pair for record in drawn if record.pair).values()) == {2}
    assert drawn == sample(records, n, 3)
    assert n != 90 or drawn != sample(records, n, 4)


@pytest.mark.parametrize("n", [8, 80, 400])
def test_half_of_the_short_records_are_plain_and_the_others_of_each_kind_alike(n):
    found = Counter(record.behaviour for record in shortest(n))
    assert found == {"comply": n // 2} | dict.fromkeys(("disagree", "clarify", "doubt", "refuse"), n // 8)


@pytest.mark.parametrize("behaviour", ["comply", "disagree", "clarify", "doubt", "refuse"])
def test_of_each_behaviour_the_shortest_records_are_taken(behaviour):
    def size(record):
        return len(
            " ".join([record.user_input, *(t.persona + ": " + t.thought for t in record.thoughts), record.answer]).split()
        )

    sizes = [size(record) for record in shortest(200) if record.behaviour == behaviour]
    assert sizes == sorted(size(record) for record in ALL if record.behaviour == behaviour)[: len(sizes)]


def test_no_prompt_of_an_evaluation_is_trained_on():
    asked = {prompt.user_input for name in ("eval/v1", "eval/prompts", "friction/test", "friction/validation")
             for prompt in load_prompts(DATA / f"{name}.jsonl")}  # fmt: skip
    assert not asked & {record.user_input for record in mixed_records(Mixture(1600, 1, len(ALL)), 7)}
