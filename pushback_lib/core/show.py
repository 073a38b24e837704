"""What notebooks show: figures with alternative text, full tables, saved copies."""

from __future__ import annotations

import base64
import html
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame


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


LEFT = ' style="text-align:left"'  # in each cell: JupyterLab drops style sheets from notebooks that it does not trust


def readable() -> None:
    """From here on pandas shows texts whole, and a table that holds any from the left: JupyterLab's way is from the right."""
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


class Kept:
    """A widget's two outputs in a notebook: the live view, and its copy as HTML."""

    def __init__(self) -> None:
        self._copy: Any = None

    def show(self, widget: Any, text: str, page: str, what: str) -> None:
        """Displays the widget, with `text` and `page` (HTML) for readers without one, and below it `page` once more, folded
        under a line that says `what` it is; "" for nothing yet."""
        from IPython.display import HTML, display

        view = {"version_major": 2, "version_minor": 0, "model_id": widget.model_id}
        display({"text/plain": text, "text/html": page, "application/vnd.jupyter.widget-view+json": view}, raw=True)
        self._copy = display(HTML(_folded(page, what)), display_id=True)

    def update(self, page: str, what: str) -> None:
        """Puts a new copy in the place of the old one, where there is one."""
        from IPython.display import HTML

        if self._copy is not None:
            self._copy.update(HTML(_folded(page, what)))


def _folded(page: str, what: str) -> str:
    return f"<details><summary>{what}, kept in the saved notebook</summary>{page}</details>" if what else ""
