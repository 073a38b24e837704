"""The dial selects what is trained on and what is looked at meanwhile."""

import dataclasses

import pytest

from pushback_lib.recipe import DATA, recipe_for
from pushback_lib.records import load_records
from pushback_lib.train_data import VALIDATION, training_records, validation_records
from pushback_lib.world import facts

TINY = recipe_for("tiny")


@pytest.mark.parametrize("name", ["1.5b", "7b", "14b", "32b"])
def test_the_real_sizes_take_the_data_set_and_its_validation_split(name):
    train = training_records(recipe_for(name))
    validation = validation_records(recipe_for(name), train)
    assert train == load_records(DATA / "friction" / "train.jsonl")
    assert validation == load_records(DATA / "friction" / "validation.jsonl")


def test_tiny_takes_its_own_language_and_validates_on_what_it_was_not_trained_on():
    recipe = dataclasses.replace(TINY, examples=360, patience=3)
    train = training_records(recipe)
    assert len(train) == 360
    validation = validation_records(recipe, train)
    assert len(validation) == VALIDATION
    assert not {r.user_input for r in validation if not r.history} & {r.user_input for r in train if not r.history}
    words = {word.strip(".,?!").lower() for record in validation for word in record.user_input.split()}
    assert not words & {fact.entity.lower() for fact in facts(held_out=True)}


def test_without_patience_nothing_is_validated():
    assert validation_records(TINY, []) == []


def test_given_paths_win(tmp_path):
    micro = DATA / "micro.jsonl"
    assert training_records(recipe_for("7b"), micro) == load_records(micro)
    assert validation_records(recipe_for("7b"), [], micro) == load_records(micro)
