"""Plots of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..core.common import BASELINE, FRICTION, VOICES
from ..core.stats import Rate
from .figures import friction_rows, innocent_rows, kinds, of_voice, pushes_back, rate
from .run import Response

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STYLE = {BASELINE: ("#767676", "o"), FRICTION: ("#b3400e", "s")}  # told apart by marker too, not by colour alone


def spread(rates: Sequence[Rate]) -> list[list[float]]:
    """Distances from each share to both ends of its interval, in percent."""
    return [[100 * (r.share - r.low) for r in rates], [100 * (r.high - r.share) for r in rates]]


def kinds_plot(kinds: Sequence[str], rates: Mapping[tuple[str, str], Rate], above: int) -> Figure:
    """One line for each kind, with each voice's rate and 95 % interval; the first `above` kinds call for friction.

    `rates` maps (kind, voice) to how often it pushed back; what is missing is not drawn.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.5 + 0.3 * len(kinds)), layout="constrained")
    axes = figure.add_subplot()
    for voice, shift in ((BASELINE, 0.16), (FRICTION, -0.16)):
        drawn = [(at, rates[kind, voice]) for at, kind in enumerate(kinds) if (kind, voice) in rates]
        colour, marker = STYLE[voice]
        axes.errorbar([100 * one.share for _, one in drawn], [-at + shift for at, _ in drawn], fmt=marker, color=colour,
                      xerr=spread([one for _, one in drawn]), label=voice, capsize=2)  # fmt: skip
    axes.axhline(-above + 0.5, color="black", linewidth=0.8)
    axes.set_yticks([-at for at in range(len(kinds))], [kind.replace("_", " ") for kind in kinds])
    axes.set(xlim=(-3, 103), xlabel="answers that push back, % (95 % interval)",
             title="Above the line pushing back is right; below it is over-friction")  # fmt: skip
    axes.legend(loc="center right")
    axes.grid(axis="x", alpha=0.3)
    return figure


def by_kind(rows: Sequence[Response]) -> Figure:
    """How often each voice pushed back, kind by kind, with 95 % intervals; kinds that call for it stand above the line."""
    names = kinds(rows)
    found = {(name, voice): rate([row for row in of_voice(rows, voice) if row.kind == name], pushes_back)
             for name in names for voice in VOICES}  # fmt: skip
    return kinds_plot(names, {at: one for at, one in found.items() if one}, len({row.kind for row in friction_rows(rows)}))


Point = tuple[str, Rate, Rate]  # label, over-friction, friction


def frontier(lines: dict[str, Sequence[Point]], title: str) -> Figure:
    """Friction against over-friction with 95 % intervals, one line of points for each name; up and left is better."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5.5), layout="constrained")
    _draw_frontier(figure.add_subplot(), lines, title)
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


def voice_points(rows: Sequence[Response]) -> dict[str, list[Point]]:
    """Each voice as one point of the frontier; a voice that lacks either sort of prompt is left out."""
    lines: dict[str, list[Point]] = {}
    for voice in VOICES:
        mine = of_voice(rows, voice)
        over, friction = rate(innocent_rows(mine), pushes_back), rate(friction_rows(mine), pushes_back)
        if over and friction:
            lines[voice] = [(voice, over, friction)]
    return lines


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
