"""A plan in words: plain text, Markdown, HTML with a bar; knows nothing about how its figures came about."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from .planner_time import FAST, SLOW

if TYPE_CHECKING:
    from .planner import Plan

HATCHES = ("#1f77b4", "#6baed6", "#c6dbef", "#2ca02c", "#98df8a", "#d6e9c6", "#ff7f0e", "#ffbb78", "#bbbbbb")


def span(low: float, high: float, unit: str, digits: int = 1) -> str:
    """`1.2–3.4 h`; minutes where an hour is too coarse."""
    if unit == "h" and high < 2:
        return f"{60 * low:.0f}–{60 * high:.0f} min"
    return f"{low:.{digits}f}–{high:.{digits}f} {unit}"


def verdict(plan: Plan) -> str:
    """Whether it fits, and what the most is."""
    what = f"{plan.recipe.name} at sequence {plan.setting.length:,} and batch {plan.setting.batch} on {plan.card.name}"
    if plan.fits:
        return (f"Fits: {what} takes about {plan.gib:.1f} of {plan.card.gib:g} GiB. Longest sequence at this batch: "
                f"{plan.longest:,}; largest batch at this sequence: {plan.largest}.")  # fmt: skip
    if plan.longest or plan.largest:
        also = f"sequence {plan.longest:,} at this batch" if plan.longest else f"batch {plan.largest} at this sequence"
        return f"Does not fit: {what} takes about {plan.gib:.1f} of {plan.card.gib:g} GiB. What would fit: {also}."
    from .planner import advice

    return f"Does not fit: {what}. {advice(plan.recipe, plan.card.gib, plan.card.cuda)}"


def estimate(plan: Plan) -> str:
    """Time and cost, and that both are estimates; neither for what does not fit."""
    if not plan.fits:
        return ""
    if plan.hours is None:
        return "Time: not known for a card of which only the memory is given; name the card (t4, l4, 4090, a100, h100, h200)."
    passes = "pass" if plan.recipe.epochs == 1 else "passes"
    cost = f", {span(*plan.dollars, 'dollars', 2)} in rent" if plan.dollars else ""
    return (f"Time, an estimate: {span(*plan.hours, 'h')} for {plan.recipe.epochs} {passes} over the data{cost}, at "
            f"{SLOW:.0%} to {FAST:.0%} of the datasheet's {plan.card.tflops:g} TFLOPS.")  # fmt: skip


def rows(plan: Plan) -> list[tuple[str, str]]:
    """(part, GiB) with the total last."""
    digits = 2 if plan.gib >= 1 else 3
    return [(part.name, f"{part.gib:.{digits}f}") for part in plan.parts] + [("total", f"{plan.gib:.{digits}f}")]


def text(plan: Plan) -> str:
    """For a terminal: the parts with a bar of characters, then what fits, then time."""
    widest = max(part.gib for part in plan.parts)
    bars = [*("#" * round(30 * part.gib / widest) for part in plan.parts), ""]
    lines = [f"{name:<26}{gib:>8} GiB  {bar}".rstrip() for (name, gib), bar in zip(rows(plan), bars, strict=True)]
    counts = f"{plan.parameters:,} parameters, {plan.trained:,} of them more in the adapter (rank {plan.setting.rank})"
    return "\n".join([f"{plan.recipe.name} on {plan.card.name}: {counts.replace(' of them more', ' more')}", *lines,
                      verdict(plan), estimate(plan)]).rstrip()  # fmt: skip


def markdown(plan: Plan) -> str:
    """A table of the parts, then what fits, then time."""
    table = "\n".join(f"| {name} | {gib} |" for name, gib in rows(plan))
    return (
        f"| {plan.recipe.name} on {plan.card.name} | GiB |\n|---|---:|\n{table}\n\n{verdict(plan)}\n\n{estimate(plan)}".rstrip()
    )


def html(plan: Plan) -> str:
    """A bar as wide as the card (or the plan, if that is wider), its parts named and counted beside it."""
    scale = 100 / max(plan.card.gib, plan.gib)
    pieces = "".join(
        f'<div title="{escape(part.name)}: {part.gib:.2f} GiB" style="width:{part.gib * scale:.3f}%;background:{colour}"></div>'
        for part, colour in zip(plan.parts, HATCHES, strict=False)
    )
    edge = f'<div style="position:absolute;left:{plan.card.gib * scale:.2f}%;top:-3px;bottom:-3px;border-left:3px solid"></div>'
    legend = "".join(
        f'<tr><td><span style="display:inline-block;width:1em;height:1em;background:{colour};border:1px solid #555"></span> '
        f"{escape(name)}</td><td style='text-align:right'>{gib} GiB</td></tr>"
        for (name, gib), colour in zip(rows(plan), (*HATCHES[: len(plan.parts)], "transparent"), strict=True)
    )
    label = f"Memory of {plan.recipe.name} on {plan.card.name}: {plan.gib:.1f} of {plan.card.gib:g} GiB"
    return (f'<div role="img" aria-label="{escape(label)}" style="position:relative;display:flex;height:1.6em;'
            f'border:1px solid #555;max-width:48em">{pieces}{edge}</div>'
            f"<p><b>{escape(verdict(plan))}</b></p><table>{legend}</table><p>{escape(estimate(plan))}</p>")  # fmt: skip
