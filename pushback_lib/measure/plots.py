"""Plots of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..core.common import BASELINE, FRICTION, VOICES
from ..core.show import STYLE, Picture, picture, spread
from ..core.stats import Rate
from .figures import Figures

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_kinds(found: Figures) -> Figure:
    """How often each voice pushed back, kind by kind, with 95 % intervals; kinds that call for it stand above the line."""
    from matplotlib.figure import Figure

    kinds = list(dict.fromkeys(line.kind for line in found.kinds))
    above = len({line.kind for line in found.kinds if line.wants != "comply"})
    figure = Figure(figsize=(8, 1.5 + 0.3 * len(kinds)), layout="constrained")
    axes = figure.add_subplot()
    drawn = {voice: [(line.kind, line.pushes_back) for line in found.kinds if line.voice == voice] for voice in VOICES}
    _draw_rates(axes, drawn, kinds, above)
    axes.set(xlabel="answers that push back, % (95 % interval)",
             title="Above the line pushing back is right; below it is over-friction")  # fmt: skip
    axes.legend(loc="center right")
    return figure


def _draw_rates(axes: Axes, drawn: dict[str, list[tuple[str, Rate]]], labels: list[str], above: int) -> None:
    """Both voices' rates, one line for each label, with 95 % intervals; a rule below the first `above` of them."""
    for voice, shift in ((BASELINE, 0.16), (FRICTION, -0.16)):
        points, (colour, marker) = drawn.get(voice, []), STYLE[voice]
        rates = [found for _, found in points]
        axes.errorbar([100 * one.share for one in rates], [shift - labels.index(label) for label, _ in points], fmt=marker,
                      color=colour, xerr=spread(rates), label=voice, capsize=2)  # fmt: skip
    axes.axhline(-above + 0.5, color="black", linewidth=0.8)
    axes.set_yticks([-at for at in range(len(labels))], [label.replace("_", " ") for label in labels])
    axes.set_xlim(-3, 103)
    axes.grid(axis="x", alpha=0.3)


def plot_preferences(panels: dict[str, dict[str, list[tuple[str, Rate]]]], labels: list[str], above: int) -> Figure:
    """How often the right answer is the likelier one, with 95 % intervals: one panel for each name, its points by voice.

    The first `above` labels are kinds of prompt that call for friction.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2 + 3.4 * len(panels), 2 + 0.3 * len(labels)), layout="constrained")
    places = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (title, drawn) in zip(places, panels.items(), strict=True):
        _draw_rates(axes, drawn, labels, above)
        axes.axvline(50, color="black", linewidth=0.8, linestyle=":")
        axes.set_title(title, fontsize="medium")
    figure.supxlabel("right answer likelier than the other, % (95 % interval)", fontsize="medium")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper right", ncols=2)
    return figure


def kinds_picture(found: Figures) -> Picture:
    """`plot_kinds(found)`, with the headline as alternative text."""
    return picture(plot_kinds(found), f"Share of answers that push back, by kind and voice: {found.headline}", dpi=130)


Point = tuple[str, Rate, Rate]  # label, over-friction, friction


def plot_frontier(found: Figures) -> Figure:
    """Each voice's friction against its over-friction, with 95 % intervals; a voice that lacks one of them is left out."""
    from matplotlib.figure import Figure

    rates = {voice: (one["over_friction"], one["friction"]) for voice, one in found.voices.items()}
    figure = Figure(figsize=(7, 5.5), layout="constrained")
    _draw_frontier(figure.add_subplot(), {voice: [(voice, *both)] for voice, both in rates.items() if all(both)},
                   "Friction against over-friction")  # fmt: skip
    return figure


def settings(lines: dict[str, Sequence[Point]], title: str) -> Figure:
    """Friction and over-friction at each setting of a dial, one panel for each name, with 95 % intervals.

    The labels of the points are the settings, as numbers. A last panel draws the last name's points as a frontier.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.7 * (len(lines) + 1), 4.2), layout="constrained")
    panels = figure.subplots(1, len(lines) + 1, squeeze=False)[0]
    for axes, (name, points) in zip(panels, lines.items(), strict=False):
        for column, what, (colour, marker) in ((2, "friction", STYLE[FRICTION]), (1, "over-friction", STYLE[BASELINE])):
            rates = [point[column] for point in points]
            axes.errorbar([float(point[0]) for point in points], [100 * r.share for r in rates], yerr=spread(rates),
                          fmt=f"{marker}-", color=colour, label=what, capsize=2)  # fmt: skip
        axes.set(xlabel="setting of the dial", ylabel="answers that push back, % (95 % interval)", ylim=(-3, 103), title=name)
        axes.grid(alpha=0.3)
        axes.legend(loc="center right")
    last = list(lines)[-1]  # one line: two would lie on each other
    _draw_frontier(panels[-1], {last: lines[last]}, f"{last}: up and left is better")
    figure.suptitle(title)
    return figure


def _draw_frontier(axes: Axes, lines: dict[str, Sequence[Point]], title: str) -> None:
    widest = max((100 * point[1].high for points in lines.values() for point in points), default=100.0)
    widest = max(10.0, 1.1 * widest)
    for (name, points), (colour, marker) in zip(lines.items(), STYLE.values(), strict=False):
        over, friction = [point[1] for point in points], [point[2] for point in points]
        axes.errorbar([100 * r.share for r in over], [100 * r.share for r in friction],
                      xerr=spread(over), yerr=spread(friction),
                      fmt=f"{marker}-", color=colour, label=name, capsize=2, linewidth=1, elinewidth=0.7)  # fmt: skip
        for label, x, y in _merged(points, widest):
            axes.annotate(label, (x, y), xytext=(6, -3), textcoords="offset points", color=colour)
    axes.set(xlabel="over-friction: pushes back on the innocent, %", ylabel="friction: pushes back where called for, %",
             xlim=(-0.03 * widest, widest), ylim=(-3, 103), title=title)  # fmt: skip
    if lines:
        axes.legend(loc="lower right")
    axes.grid(alpha=0.3)


def _merged(points: Sequence[Point], width: float) -> list[tuple[str, float, float]]:
    """Labels at the right ends of the intervals; points too near for two labels share one. `width` of the x axis, in %."""
    labels: list[tuple[list[str], float, float, float]] = []
    for label, over, friction in points:
        x, y, end = 100 * over.share, 100 * friction.share, 100 * over.high
        near = [names for names, left, top, _ in labels if abs(x - left) < 0.08 * width and abs(y - top) < 4]
        if near:
            near[0].append(label)
        else:
            labels.append(([label], x, y, end))
    return [(", ".join(names), end, y) for names, _, y, end in labels]


def bars(groups: dict[str, Sequence[tuple[str, Rate]]], title: str) -> Figure:
    """Rates with 95 % intervals side by side: one colour and marker for each name, one place for each label."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    labels: list[Any] = list(dict.fromkeys(label for points in groups.values() for label, _ in points))
    for number, ((name, points), (colour, marker)) in enumerate(zip(groups.items(), STYLE.values(), strict=False)):
        places = [labels.index(label) + 0.16 * (2 * number - 1) for label, _ in points]
        rates = [found for _, found in points]
        axes.errorbar(
            places, [100 * r.share for r in rates], yerr=spread(rates), fmt=marker, color=colour, label=name, capsize=3
        )
    axes.set_xticks(range(len(labels)), labels)
    axes.set(ylim=(-3, 103), ylabel="% (95 % interval)", title=title)
    axes.legend(loc="lower left")
    axes.grid(axis="y", alpha=0.3)
    return figure
