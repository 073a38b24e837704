"""Tables in Markdown, pictures with their alternative text, and readable tables in notebooks."""

import base64

import pandas as pd
import pytest
from IPython.core.formatters import DisplayFormatter
from matplotlib.figure import Figure

from pushback_lib.core.show import LEFT, markdown_table, picture, readable


def test_a_markdown_table_escapes_bars():
    assert markdown_table(("a", "b|c"), [("x|y", 1)]) == "| a | b\\|c |\n| --- | --- |\n| x\\|y | 1 |"
    assert markdown_table(("a", "b"), [], "---") == "| a | b |\n|---|---|"


@pytest.mark.parametrize("alt", ["Loss by step", 'a "quote" & <tag>'])
def test_a_figure_and_its_file_show_the_same_with_alternative_text(tmp_path, alt):
    figure = Figure(figsize=(1, 1))
    shown = picture(figure, alt)
    (tmp_path / "a.png").write_bytes(shown.png)
    assert picture(tmp_path / "a.png", alt) == shown
    data, metadata = DisplayFormatter().format(shown)
    escaped = alt.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
    assert f'alt="{escaped}"' in data["text/html"]
    assert base64.b64encode(shown.png).decode() in data["text/html"]
    assert metadata["image/png"] == {"alt": alt}
    assert data["text/plain"] == f"Picture: {alt}"


def test_a_missing_file_is_said(tmp_path):
    with pytest.raises(FileNotFoundError):
        picture(tmp_path / "none.png", "nothing")


LONG = "word " * 40


@pytest.fixture
def shown(outputs):
    """What a notebook gets for a value."""
    from IPython.display import display

    def show(frame):
        display(frame)
        return outputs[-1]["data"]["text/html"]

    with pd.option_context("display.max_colwidth", 50):
        readable()
        yield show


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
    with pd.option_context("display.max_colwidth", 50):
        readable()
        assert pd.get_option("display.max_colwidth") is None
