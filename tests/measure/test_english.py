"""The adapter of the English model that comes with the kit: a few easy pairs, and that it was trained as the recipe says."""

import json

import pytest

from pushback_lib.core.common import BASELINE, FRICTION
from pushback_lib.core.folders import TRAINING_FILE
from pushback_lib.core.records import of_levels
from pushback_lib.measure.figures import figures_of
from pushback_lib.measure.prompts import load_prompts
from pushback_lib.measure.run import evaluate
from pushback_lib.model.recipe import recipe_for
from pushback_lib.model.voices import load_voices

ADAPTER = recipe_for("english").shipped_adapter


def test_it_is_small_and_its_note_names_the_recipe():
    recipe, note = recipe_for("english"), json.loads((ADAPTER / TRAINING_FILE).read_text(encoding="utf-8"))
    assert sum(path.stat().st_size for path in ADAPTER.iterdir()) <= 12_000_000
    named = ("rank", "alpha", "learning_rate", "epochs", "effective_batch", "system", "seed")
    assert {name: note[name] for name in named} == {name: getattr(recipe, name) for name in named}


@pytest.mark.slow
def test_it_thinks_before_it_answers_and_pushes_back_where_the_base_does_not(english):
    prompts = [prompt for prompt in of_levels(load_prompts(), ["easy"]) if prompt.split == "test"][:48]
    rows = evaluate(load_voices(english), prompts)
    mine = [row for row in rows if row.voice == FRICTION]
    assert sum(bool(row.thought) for row in mine) >= 0.95 * len(mine), "the prompt opens no thought: it does so itself"
    rates = figures_of(rows).voices
    assert rates[FRICTION]["friction"].share > rates[BASELINE]["friction"].share
    assert rates[FRICTION]["friction"].share > rates[FRICTION]["over_friction"].share
