"""The shipped adapter on the held-out test: what `make demo` promises, checked on the files in `data/`."""

import pytest

from pushback_lib.demo import SHOWN
from pushback_lib.evaluate import evaluate, friction_rate, missed_targets
from pushback_lib.models import FRICTION
from pushback_lib.recipe import recipe_for
from pushback_lib.report import pair_text, side_by_side
from pushback_lib.requests import FRICTION_KINDS
from pushback_lib.voices import BASELINE, load_speaker


@pytest.fixture(scope="module")
def rows():
    return evaluate(load_speaker(recipe_for("tiny")))


@pytest.mark.slow
def test_the_shipped_adapter_meets_every_target(rows):
    assert missed_targets(rows) == []


@pytest.mark.slow
def test_friction_lies_wholly_above_the_baseline(rows):
    assert friction_rate(rows, FRICTION, FRICTION_KINDS).low > friction_rate(rows, BASELINE, FRICTION_KINDS).high


@pytest.mark.slow
@pytest.mark.parametrize("at", range(len(SHOWN)))
def test_the_examples_show_both_voices_thinking(rows, at):
    text = pair_text(*side_by_side(rows, SHOWN)[at])
    assert "baseline thinks:\n" in text
    assert "    Problem Framer: " in text
