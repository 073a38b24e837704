"""The dial: sizes, models of one's own, and what each selects."""

import math
import re

import pytest
from safetensors import safe_open

from pushback_lib.core.common import DATA, PushbackError
from pushback_lib.model.recipe import RECIPES, _like, as_config, config_for, parameters, published_config, recipe_for

REAL = [recipe for recipe in RECIPES.values() if recipe.name not in ("tiny", "english")]


@pytest.mark.parametrize("recipe", REAL, ids=lambda recipe: recipe.name)
def test_the_real_sizes_are_pinned_to_a_commit_and_train_as_the_talk_did(recipe):
    assert re.fullmatch(r"[0-9a-f]{40}", recipe.revision)
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


def test_english_learns_on_a_cpu_without_nf4():
    english = recipe_for("english")
    assert (english.four_bit, english.checkpointing, english.patience, english.language) == (False, False, 0, "english")
    assert (english.effective_batch, english.max_length, english.max_new_tokens) == (8, 512, 220)
    assert all(recipe.four_bit for recipe in RECIPES.values() if recipe is not english)


def test_a_local_folder_is_a_model_too():
    recipe = recipe_for(str(DATA / "tiny" / "base"))
    with safe_open(DATA / "tiny" / "base" / "model.safetensors", framework="numpy") as file:
        assert recipe.parameters == sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    assert recipe.is_local
    assert (recipe.language, recipe.rank, recipe.max_length, recipe.revision) == ("english", 32, 1024, None)


@pytest.mark.parametrize(
    ("look_up", "name", "says"),
    [
        (recipe_for, "huge", r"No model called 'huge'\. Choose one of: tiny, english, 1\.5b.* or give a Hub id"),
        (recipe_for, "./nowhere", r"No folder \./nowhere"),
        (published_config, "8b", r"Choose one of: 1\.5b, 7b, 14b, 32b"),
    ],
)
def test_a_name_that_is_none_is_refused(look_up, name, says):
    with pytest.raises(PushbackError, match=says):
        look_up(name)


@pytest.mark.parametrize(("parameters", "like"), [
    (10_000, "qwen3-0.6b"), (3_000_000_000, "qwen3-4b"), (8_000_000_000, "qwen3-8b"), (20_000_000_000, "32b"),
    (72_000_000_000, "32b"),
])  # fmt: skip
def test_a_model_of_ones_own_takes_the_numbers_of_the_next_size_up(parameters, like):
    assert _like(parameters).name == like


@pytest.mark.parametrize(("name", "label"), [(".", "base"), (str(DATA / "tiny" / "base"), "base"), ("TINY", "tiny")])
def test_a_model_is_named_without_its_place_in_what_is_passed_on(name, label, monkeypatch):
    monkeypatch.chdir(DATA / "tiny" / "base")
    assert recipe_for(name).label == label


@pytest.mark.parametrize("revision", ["", "@main"])
def test_a_model_that_would_be_asked_in_the_wrong_way_is_refused_by_name(revision):
    with pytest.raises(PushbackError, match=r"R1-0528-Qwen3-8B\S* has the layers of Qwen3 and.*Choose 7b or qwen3-8b\."):
        recipe_for(f"deepseek-ai/DeepSeek-R1-0528-Qwen3-8B{revision}")


def test_a_size_may_be_written_in_capitals():
    assert recipe_for("7B") is RECIPES["7b"]


WHOLE = {"model_type": "qwen2", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "vocab_size": 100}  # fmt: skip


@pytest.mark.parametrize("recipe", REAL, ids=lambda recipe: recipe.name)
def test_the_published_sizes_have_exactly_the_published_parameters(recipe):
    assert parameters(published_config(recipe.name)) == recipe.parameters


def test_tied_embeddings_count_once_and_a_folder_is_read_from_its_config():
    config = config_for(recipe_for("tiny"))
    assert config.tie_word_embeddings
    assert parameters(config) == 4_101_376


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({**WHOLE, "model_type": "mistral"}, "architecture 'mistral'"),
        ({}, "architecture None"),
        ({**WHOLE, "architectures": ["Qwen2ForSequenceClassification"]}, "architecture 'Qwen2ForSequenceClassification'"),
        ({key: value for key, value in WHOLE.items() if key != "vocab_size"}, "does not say vocab_size"),
        ({**WHOLE, "hidden_size": 0}, "does not say hidden_size"),
    ],
)
def test_other_architectures_and_broken_configurations_are_refused(values, message):
    with pytest.raises(PushbackError, match=message):
        as_config(values, "a model")


@pytest.mark.parametrize(("text", "message"), [("{", "is damaged"), ('{"model_type": "gpt2"}', "architecture 'gpt2'")])
def test_a_folder_with_a_damaged_or_foreign_config_is_named(tmp_path, text, message):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(PushbackError, match=message):
        recipe_for(str(tmp_path))
