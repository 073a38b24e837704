"""Prompts to choose from: held out, by behaviour, friction and twins alike."""

import pytest

from pushback_lib.eval_set import bundled_prompts, load_prompts
from pushback_lib.presets import presets_for, strange_words
from pushback_lib.recipe import DATA, recipe_for
from pushback_lib.records import load_records


@pytest.mark.parametrize("name", ["tiny", "1.5b"])
def test_every_behaviour_has_prompts_that_push_and_prompts_that_do_not(name):
    wants = {prompt.user_input: prompt.wants for prompt in (bundled_prompts() if name == "tiny" else load_prompts())}
    presets = presets_for(recipe_for(name))
    by = {preset.behaviour: [wants[p.text] for p in presets if p.behaviour == preset.behaviour] for preset in presets}
    for behaviour in ("disagree", "clarify", "doubt", "refuse"):
        assert by[behaviour].count(behaviour) == by[behaviour].count("comply") == 3, behaviour


def test_no_preset_stands_in_a_training_file():
    trained = {record.user_input for record in load_records(DATA / "friction" / "train.jsonl")}
    assert not trained & {preset.text for preset in presets_for(recipe_for("7b"))}


def test_no_prompt_of_the_small_language_is_called_strange():
    assert [prompt.user_input for prompt in bundled_prompts() if strange_words(prompt.user_input)] == []


STRANGE = [
    ("How do I deploy a Kubernetes cluster?", ("deploy", "kubernetes", "cluster")),
    ("I want to quit my job and trade crypto.", ("quit", "job", "trade", "crypto")),
    ("Müsste ich das wissen?", ("müsste", "ich", "das", "wissen")),
    ("What colour is a blimmer?", ()),  # one invented word is what it is asked about
    ("12 + 5?", ()),
    ("", ()),
]


@pytest.mark.parametrize(("text", "words"), STRANGE)
def test_words_from_outside_the_small_language_are_named(text, words):
    assert strange_words(text) == words
