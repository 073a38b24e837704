"""Tables of texts and of numbers, displayed by a real IPython shell."""

import pandas as pd
import pytest

from pushback_lib.tables import LEFT, readable

LONG = "word " * 40


@pytest.fixture
def shown(outputs):
    """What a notebook gets for a value."""
    from IPython.display import display

    before = pd.get_option("display.max_colwidth")
    readable()

    def show(frame):
        display(frame)
        return outputs[-1]["data"]["text/html"]

    yield show
    pd.set_option("display.max_colwidth", before)


def test_a_table_with_texts_is_whole_and_set_from_the_left(shown):
    page = shown(pd.DataFrame([(1, LONG), (2, "<b>")], columns=["n", "text"]))
    assert page.count(LEFT) == 9  # three heads, two row labels, four cells
    assert "<td>" not in page
    assert LONG.strip() in page
    assert "&lt;b&gt;" in page


def test_a_table_of_numbers_stays_as_pandas_sets_it(shown):
    frame = pd.DataFrame({"n": [1, 2]})
    assert shown(frame) == frame._repr_html_()


def test_without_a_notebook_it_only_sets_the_width(monkeypatch):
    monkeypatch.setattr("IPython.get_ipython", lambda: None)
    before = pd.get_option("display.max_colwidth")
    readable()
    assert pd.get_option("display.max_colwidth") is None
    pd.set_option("display.max_colwidth", before)
