"""Draw the measured figures large enough for the back row, as SVG."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from values import Results, at_setting, with_reasoning

from pushback_lib.core.common import BASELINE, FRICTION
from pushback_lib.core.show import spread
from pushback_lib.core.stats import Rate, wilson
from pushback_lib.language.requests import FRICTION_KINDS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# the theme's colours; the voices are told apart by marker too, not by colour alone
PAPER, INK, FRICTION_INK, QUIET = "#fbf7f0", "#1d1a16", "#a6380a", "#5c5751"
LOOK: dict[str, tuple[str, str]] = {BASELINE: (QUIET, "o"), FRICTION: (FRICTION_INK, "s")}
# matplotlib's own font, so that every machine draws the same
STYLE = {
    "font.size": 26, "font.family": "DejaVu Sans", "text.color": INK, "axes.edgecolor": INK, "axes.labelcolor": INK,
    "xtick.color": INK, "ytick.color": INK, "axes.facecolor": PAPER, "figure.facecolor": PAPER, "axes.spines.top": False,
    "axes.spines.right": False, "axes.linewidth": 1.5, "svg.fonttype": "path", "svg.hashsalt": "slides", "axes.titlesize": 28,
    "lines.markersize": 15, "lines.linewidth": 3, "legend.frameon": False, "legend.fontsize": 26,
}  # fmt: skip


def _svg(draw: Callable[[Figure], None], width: float = 15.2, height: float = 6.0) -> str:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue().decode()


def _points(axes: Axes, at: Sequence[float], rates: Sequence[Rate], voice: str, line: str = "", **options: Any) -> None:
    colour, marker = LOOK[voice]
    axes.errorbar(at, [100 * one.share for one in rates], yerr=spread(rates), color=colour, fmt=marker + line, capsize=6,
                  elinewidth=2.5, **options)  # fmt: skip


def demo_plot(results: Results) -> str:
    """How often each voice does what the request wants, kind by kind: those that call for friction, and all others."""
    kinds = list(dict.fromkeys(line["kind"] for line in results["demo"]["kinds"]))
    found = {(line["kind"], line["voice"]): wilson(line["right"], line["n"]) for line in results["demo"]["kinds"]}

    def draw(figure: Figure) -> None:
        parts = ([kind for kind in kinds if kind in FRICTION_KINDS], [kind for kind in kinds if kind not in FRICTION_KINDS])
        titles = ("push back: right", "simply help: right")
        for axes, part, title in zip(figure.subplots(1, 2), parts, titles, strict=True):
            for voice, shift in ((BASELINE, 0.17), (FRICTION, -0.17)):
                rates = [found[kind, voice] for kind in part]
                colour, marker = LOOK[voice]
                axes.errorbar([100 * one.share for one in rates], [shift - at for at in range(len(part))], xerr=spread(rates),
                              fmt=marker, color=colour, label=voice, capsize=5, markersize=12)  # fmt: skip
            axes.set_yticks([-at for at in range(len(part))], [kind.replace("_", " ") for kind in part])
            axes.set(xlim=(-4, 104), ylim=(0.6 - len(part), 0.6), title=f"{title}, %")
            axes.grid(axis="x", alpha=0.4)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)

    return _svg(draw, height=6.6)


def dial_plot(results: Results) -> str:
    """Friction and over-friction on the test pairs, by how much of the adapter is used."""
    scales = sorted({line["scale"] for line in results["dial"]["scales"]})
    found = [at_setting(results, scale) for scale in scales]

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        _points(axes, scales, [one["friction"] for one in found], FRICTION, "-", label="friction where it is due")
        _points(axes, scales, [one["over_friction"] for one in found], BASELINE, "--", label="over-friction")
        axes.axvline(results["dial"]["recommended"], color=INK, linestyle=":", linewidth=2)
        axes.set(
            xlabel="setting of the dial (1: as trained)", ylabel="answers that push back, %", ylim=(-4, 104), xticks=scales
        )
        axes.legend(loc="center right")
        axes.grid(axis="y", alpha=0.4)

    return _svg(draw)


def frontier_plot(results: Results) -> str:
    """Friction against over-friction, one point for all settings with the same rates; up and left is better.

    Drawn from 80 % up, where the choice is made; settings below are named in words.
    """
    places: dict[tuple[int, int], list[float]] = {}
    for scale in sorted({line["scale"] for line in results["dial"]["scales"]}):
        one = at_setting(results, scale)
        places.setdefault((one["over_friction"].hits, one["friction"].hits), []).append(scale)
    high = [at for at in places.values() if at_setting(results, at[0])["friction"].share >= 0.8]
    low = [scale for at in places.values() if at not in high for scale in at]

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for number, scales in enumerate(sorted(high, key=lambda at: -at_setting(results, at[0])["friction"].share)):
            _place(axes, scales, at_setting(results, scales[0]), 99.5 - 4.2 * number)
        axes.text(6.4, 81, f"below 80 %: settings {_list(low)}", ha="right", color=QUIET)
        axes.set(xlabel="over-friction, %", ylabel="friction where due, %", xlim=(-0.2, 6.5), ylim=(80, 101))
        axes.grid(alpha=0.4)

    return _svg(draw)


def _list(scales: Sequence[float]) -> str:
    return ", ".join(f"{scale:g}" for scale in scales)


def _place(axes: Axes, scales: Sequence[float], one: Mapping[str, Rate], label_at: float) -> None:
    """One point of the frontier with both intervals, its settings written at the right."""
    over, friction = one["over_friction"], one["friction"]
    at = 100 * over.share, 100 * friction.share
    axes.errorbar([at[0]], [at[1]], xerr=spread([over]), yerr=spread([friction]), fmt="s", color=FRICTION_INK, capsize=6,
                  elinewidth=1.5, ecolor=QUIET)  # fmt: skip
    axes.annotate(f"setting {_list(scales)}", at, (4.7, label_at), va="center",
                  arrowprops={"arrowstyle": "-", "color": QUIET, "lw": 1, "linestyle": ":"})  # fmt: skip


def thinking_plot(results: Results) -> str:
    """Right behaviour and right content where friction is due, by whose reasoning the answer goes on from."""
    conditions = list(dict.fromkeys(line["reasoning"] for line in results["thinking"]["conditions"]))

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for name, voice, shift in (("right", BASELINE, -0.12), ("right_content", FRICTION, 0.12)):
            rates = [with_reasoning(results, one)[name] for one in conditions]
            label = {"right": "pushes back rightly", "right_content": "and on the right thing"}[name]
            _points(axes, [at + shift for at in range(len(rates))], rates, voice, label=label)
        axes.set_xticks(range(len(conditions)), conditions)
        axes.set(ylabel="where friction is due, %", ylim=(-4, 104), xlim=(-0.5, len(conditions) - 0.4))
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=2)
        axes.grid(axis="y", alpha=0.4)

    return _svg(draw, height=6.3)


PLOTS: dict[str, Callable[[Results], str]] = {
    "demo": demo_plot, "dial": dial_plot, "frontier": frontier_plot, "thinking": thinking_plot,
}  # fmt: skip
