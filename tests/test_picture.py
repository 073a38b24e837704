"""A picture in a page and in a notebook has its alternative text."""

import base64

import pytest
from IPython.core.formatters import DisplayFormatter
from matplotlib.figure import Figure

from pushback_lib.picture import picture


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
