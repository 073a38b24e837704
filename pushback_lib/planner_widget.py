"""A widget to choose model and card and see what fits; knows nothing about how the plan is reckoned.

Plain ipywidgets, of the kinds that both 7.7 (Colab) and 8.1 have.
"""

from __future__ import annotations

from html import escape
from typing import Any

from .errors import PushbackError
from .kept import Kept
from .planner import Plan, plan
from .planner_time import CARDS
from .recipe import RECIPES

LENGTHS = (128, 256, 512, 1024, 2048, 4096, 8192)
BATCHES = (1, 2, 4, 8, 16, 32)
WHAT = "This plan"  # how its copy in the saved notebook is called


class Planner:
    """Choices above, the plan below. `found` is the plan that is shown, or None where there is none."""

    def __init__(self, model: str = "7b", gpu: str = "t4") -> None:
        import ipywidgets as widgets

        def choice(label: str, options: Any, value: Any) -> Any:
            return widgets.Dropdown(description=label, options=options, value=value, style={"description_width": "5em"})

        recipe = RECIPES[model]
        self.model = choice("Model", list(RECIPES), model)
        self.gpu = choice("Card", [(card.name, name) for name, card in CARDS.items()], gpu)
        self.length = choice("Sequence", LENGTHS, recipe.max_length)
        self.batch = choice("Batch", BATCHES, recipe.batch)
        self.shown = widgets.HTML()
        self.found: Plan | None = None
        self._kept = Kept()
        for control in (self.model, self.gpu, self.length, self.batch):
            control.observe(self._changed, names="value")
        self.widget = widgets.VBox([widgets.HBox([self.model, self.gpu]), widgets.HBox([self.length, self.batch]), self.shown])
        self._changed({"owner": None})

    def _changed(self, change: dict[str, Any]) -> None:
        try:
            self.found = plan(self.model.value, self.gpu.value, self.length.value, self.batch.value)
            self.shown.value = self.found._repr_html_()
        except PushbackError as error:
            self.found, self.shown.value = None, f'<p role="alert">{escape(str(error))}</p>'
        self._kept.update(self.shown.value, WHAT)

    def _ipython_display_(self) -> None:
        """The live widget, and the plan as it stands for readers without a kernel."""
        self._kept.show(self.widget, "Planner", self.shown.value, WHAT)
