"""The kit's main picture: how often each voice pushed back, kind by kind; knows nothing about rows, pages or models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from .models import FRICTION
from .stats import Rate
from .voices import BASELINE

if TYPE_CHECKING:
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
