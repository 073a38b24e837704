"""The picture of the table of formats: does a smaller file blunt the friction? Knows nothing about running models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .kinds_plot import STYLE, spread
from .models import FRICTION
from .voices import BASELINE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .gguf_table import Table


def plot(table: Table) -> Figure:
    """Three panels over one list of formats: size, KL divergence from F32, and both rates of the friction voice."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 1.9 + 0.42 * len(table.lines)), layout="constrained")
    size, kl, friction = figure.subplots(1, 3, sharey=True, width_ratios=(1, 1.2, 1.8))
    places = range(len(table.lines), 0, -1)
    _bars(size, list(places), table)
    _divergence(kl, list(places), table)
    _friction(friction, list(places), table)
    size.set_yticks(list(places), [line.kind for line in table.lines])
    size.set_ylim(0.4, len(table.lines) + 0.6)
    figure.suptitle(f"What a smaller file costs: {table.model}, {table.prompts} held-out prompts a voice, greedy")
    return figure


def _bars(axes: Axes, places: list[int], table: Table) -> None:
    sizes = [line.size / 1e6 for line in table.lines]
    axes.barh(places, sizes, height=0.5, color="#9a9a9a")
    for place, value in zip(places, sizes, strict=True):
        axes.text(value, place, f" {value:,.1f}", va="center", fontsize=8)
    axes.set(xlabel="size of the file, MB", xlim=(0, 1.25 * max(sizes)))


def _divergence(axes: Axes, places: list[int], table: Table) -> None:
    found = [(place, line.divergence) for place, line in zip(places, table.lines, strict=True) if line.divergence]
    mean = [one.mean for _, one in found]
    sides = [[one.mean - one.low for _, one in found], [one.high - one.mean for _, one in found]]
    axes.errorbar(mean, [place for place, _ in found], xerr=sides, fmt="D", color="#333333", capsize=2, markersize=5)
    axes.set_xscale("log")
    axes.set(xlabel="KL divergence from F32, nats (95 %)")
    axes.grid(axis="x", alpha=0.3)


def _friction(axes: Axes, places: list[int], table: Table) -> None:
    lines = (("friction: pushes back where called for", "friction", STYLE[FRICTION]),
             ("over-friction: pushes back where not", "over_friction", STYLE[BASELINE]))  # fmt: skip
    for label, name, (colour, marker) in lines:
        rates = [line.rates[name, FRICTION] for line in table.lines]
        axes.errorbar([100 * one.share for one in rates], places, xerr=spread(rates), fmt=marker, color=colour, label=label,
                      capsize=2)  # fmt: skip
    axes.set(xlim=(-3, 103), xlabel="friction voice's answers, % (95 % interval)")
    axes.legend(loc="center", fontsize=8)
    axes.grid(axis="x", alpha=0.3)
