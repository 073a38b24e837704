"""Shows results: tables in Markdown, figures with alternative text, and what a notebook displays and keeps."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .common import BASELINE, FRICTION

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

    from .stats import Rate

STYLE = {BASELINE: ("#767676", "o"), FRICTION: ("#b3400e", "s")}  # told apart by marker too, not by colour alone


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[object]], rule: str = " --- ") -> str:
    """A Markdown table, its cells as text with bars escaped; `rule` is the line under each heading."""
    lines = ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in (header, *rows)]
    return "\n".join([lines[0], f"|{'|'.join([rule] * len(header))}|", *lines[1:]])


def spread(rates: Sequence[Rate]) -> list[list[float]]:
    """Distances from each share to both ends of its interval, in percent."""
    return [[100 * (r.share - r.low) for r in rates], [100 * (r.high - r.share) for r in rates]]


@dataclass(frozen=True, repr=False)
class Picture:
    """A PNG file and what it shows, in words; as the last line of a cell it is displayed."""

    png: bytes
    alt: str

    def __repr__(self) -> str:
        return f"Picture: {self.alt}"

    @property
    def html(self) -> str:
        """An `<img>` that holds the picture and its alternative text."""
        code = base64.b64encode(self.png).decode()
        return f'<img src="data:image/png;base64,{code}" alt="{html.escape(self.alt)}" style="max-width:100%">'

    def _repr_html_(self) -> str:
        return self.html

    def _repr_png_(self) -> tuple[bytes, dict[str, str]]:
        return self.png, {"alt": self.alt}  # where nbconvert looks for it


def picture(source: Figure | str | Path, alt: str, dpi: int = 110) -> Picture:
    """A figure, or a PNG file, with its alternative text. Raises FileNotFoundError where there is no such file."""
    if isinstance(source, str | Path):
        return Picture(Path(source).read_bytes(), alt)
    buffer = io.BytesIO()
    source.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return Picture(buffer.getvalue(), alt)


LEFT = ' style="text-align:left"'  # in each cell: JupyterLab drops style sheets of notebooks that it does not trust


def readable() -> None:
    """Shows full texts in pandas tables, and aligns a table that holds any to the left, not to the right as JupyterLab does."""
    import pandas as pd
    from IPython import get_ipython

    pd.set_option("display.max_colwidth", None)
    if shell := get_ipython():
        shell.display_formatter.formatters["text/html"].for_type(pd.DataFrame, _html)


def _html(frame: DataFrame) -> str | None:
    from pandas.api.types import is_numeric_dtype

    page = frame._repr_html_()
    if page is None or all(is_numeric_dtype(kind) for kind in frame.dtypes):
        return page
    return page.replace("<td>", f"<td{LEFT}>").replace("<th>", f"<th{LEFT}>")


class SavedCopy:
    """A widget's two outputs in a notebook: the live view, and its saved copy as HTML."""

    def __init__(self) -> None:
        self._copy: Any = None

    def show(self, widget: Any, text: str, page: str, what: str) -> None:
        """Displays the widget and, below it, the copy `page` (HTML), folded under a line that says `what` it is.

        Readers without widgets see `text` or `page`. With an empty `what` there is no copy yet.
        """
        from IPython.display import HTML, display

        view = {"version_major": 2, "version_minor": 0, "model_id": widget.model_id}
        display({"text/plain": text, "text/html": page, "application/vnd.jupyter.widget-view+json": view}, raw=True)
        self._copy = display(HTML(_folded(page, what)), display_id=True)

    def update(self, page: str, what: str) -> None:
        """Replaces the saved copy, once `show` has made one."""
        from IPython.display import HTML

        if self._copy is not None:
            self._copy.update(HTML(_folded(page, what)))


def _folded(page: str, what: str) -> str:
    return f"<details><summary>{what}, kept in the saved notebook</summary>{page}</details>" if what else ""
