"""Shows a live widget and, below it, a copy that stays in the saved notebook; knows nothing about what they show.

A notebook that is opened again has lost its widgets: JupyterLab puts an error in their place.
"""

from __future__ import annotations

from typing import Any


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
