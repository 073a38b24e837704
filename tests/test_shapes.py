"""The published configurations and their parameter counts; other architectures are refused."""

import dataclasses
import json

import pytest

from pushback_lib.errors import PushbackError
from pushback_lib.recipe import RECIPES, recipe_for
from pushback_lib.shapes import PUBLISHED_PARAMETERS, as_config, config_for, parameters, published_config

WHOLE = {"model_type": "qwen2", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "vocab_size": 100}  # fmt: skip


@pytest.mark.parametrize(("name", "count"), PUBLISHED_PARAMETERS.items())
def test_the_published_sizes_have_exactly_the_published_parameters(name, count):
    assert parameters(published_config(name)) == count
    if name in RECIPES:
        assert RECIPES[name].parameters == count


def test_tied_embeddings_count_once_and_a_folder_is_read_from_its_config():
    config = config_for(recipe_for("tiny"))
    assert config.tie_word_embeddings
    assert parameters(config) == 4_101_376


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({**WHOLE, "model_type": "llama"}, "architecture 'llama'"),
        ({}, "architecture None"),
        ({key: value for key, value in WHOLE.items() if key != "vocab_size"}, "does not say vocab_size"),
        ({**WHOLE, "hidden_size": 0}, "does not say hidden_size"),
    ],
)
def test_other_architectures_and_broken_configurations_are_refused(values, message):
    with pytest.raises(PushbackError, match=message):
        as_config(values, "a model")


@pytest.mark.parametrize(
    ("text", "message"), [("{", "cannot be read"), (json.dumps({"model_type": "gpt2"}), "architecture 'gpt2'")]
)
def test_a_folder_with_a_damaged_or_foreign_config_is_named(tmp_path, text, message):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(PushbackError, match=message):
        config_for(dataclasses.replace(recipe_for("7b"), name="mine", base=str(tmp_path)))


def test_an_unknown_size_is_answered_with_the_sizes_there_are():
    with pytest.raises(PushbackError, match=r"Choose one of: 1\.5b, 7b, 14b, 32b"):
        published_config("8b")
