"""How tables look in a notebook: whole texts, set from the left; knows nothing about what they say."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pandas import DataFrame

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
