"""The planner's widget, driven as a person would: choices in, words and a bar out."""

import pytest

from pushback_lib.planner_widget import Planner


def test_a_choice_changes_plan_and_words():
    planner = Planner("7b", "t4")
    assert planner.found.fits
    assert "Fits" in planner.shown.value
    planner.model.value = "32b"
    assert not planner.found.fits
    assert "Does not fit" in planner.shown.value
    planner.gpu.value = "a100"
    assert planner.found.fits


@pytest.mark.parametrize(("control", "value"), [("length", 4096), ("batch", 16)])
def test_more_takes_more(control, value):
    planner = Planner("7b", "h200")
    before = planner.found.gib
    getattr(planner, control).value = value
    assert planner.found.gib > before


def test_what_cannot_be_is_said_in_the_widget():
    planner = Planner("tiny", "laptop")
    planner.length.value = 8192  # the bundled model takes 1,024
    assert planner.found is None
    assert 'role="alert"' in planner.shown.value
    assert "Choose one in between" in planner.shown.value


def test_a_copy_of_the_plan_stays_in_the_saved_notebook(outputs):
    planner = Planner("7b", "t4")
    planner._ipython_display_()
    live, copy = outputs
    assert "application/vnd.jupyter.widget-view+json" in live["data"]
    assert planner.found._repr_html_() in copy["data"]["text/html"]
    planner.model.value = "32b"
    assert outputs[-1]["transient"] == copy["transient"]
    assert "Does not fit" in outputs[-1]["data"]["text/html"]
