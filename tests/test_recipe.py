"""The dial: sizes, models of one's own, and what each selects."""

import math

import pytest

from pushback_lib.errors import PushbackError
from pushback_lib.recipe import DATA, RECIPES, recipe_for

REAL = [recipe for recipe in RECIPES.values() if recipe.name != "tiny"]


@pytest.mark.parametrize("recipe", REAL, ids=lambda recipe: recipe.name)
def test_the_real_sizes_train_as_the_talk_did(recipe):
    assert recipe.effective_batch == 8
    assert 32 <= recipe.rank <= 64
    assert 3 <= recipe.epochs <= 7
    assert recipe.learning_rate == 2e-4
    assert recipe.optimizer == "paged_adamw_8bit"
    assert recipe.checkpointing
    assert recipe.patience > 0
    assert recipe.language == "english"


def test_tiny_speaks_its_own_language_and_is_trained_as_it_was():
    tiny = recipe_for("tiny")
    assert tiny.language == "bundled"
    assert (tiny.epochs, tiny.effective_batch, tiny.learning_rate, tiny.examples, tiny.patience) == (1, 16, 1e-3, 3600, 0)
    assert tiny.shipped_adapter == DATA / "tiny" / "adapter"


def test_a_local_folder_is_a_model_too():
    recipe = recipe_for(str(DATA / "tiny" / "base"))
    assert recipe.is_local
    assert recipe.parameters == sum_of_the_shipped_base()
    assert (recipe.language, recipe.rank, recipe.max_length, recipe.revision) == ("english", 32, 1024, None)


def sum_of_the_shipped_base() -> int:
    from safetensors import safe_open

    with safe_open(DATA / "tiny" / "base" / "model.safetensors", framework="numpy") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118


@pytest.mark.parametrize(("name", "says"), [("huge", "or give a Hub id"), ("./nowhere", r"No folder \./nowhere")])
def test_a_name_that_is_none_is_refused(name, says):
    with pytest.raises(PushbackError, match=says):
        recipe_for(name)


@pytest.mark.parametrize(("parameters", "like"), [(10_000, "1.5b"), (3_000_000_000, "7b"), (8_000_000_000, "14b"),
                                                  (20_000_000_000, "32b"), (72_000_000_000, "32b")])  # fmt: skip
def test_a_model_of_ones_own_takes_the_numbers_of_the_next_size_up(parameters, like):
    from pushback_lib.own_model import _like

    assert _like(parameters).name == like


def test_a_size_may_be_written_in_capitals():
    assert recipe_for("7B") is RECIPES["7b"]
