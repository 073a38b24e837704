"""Turns judged rows into a plot, a table in text and a self-contained HTML page; knows nothing about models."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .evaluate import OTHER_KINDS, TARGETS, Row, counts, friction_rate
from .jsonl import replacing
from .kinds_plot import kinds_plot
from .models import FRICTION
from .picture import Picture, picture
from .requests import FRICTION_KINDS, KINDS, wanted
from .stats import wilson
from .voices import BASELINE, VOICES

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def headline(rows: Sequence[Row]) -> str:
    """The result in one line: friction, over-friction and the baseline's friction, with Wilson 95 % intervals."""
    friction, over = friction_rate(rows, FRICTION, FRICTION_KINDS), friction_rate(rows, FRICTION, OTHER_KINDS)
    baseline = friction_rate(rows, BASELINE, FRICTION_KINDS)
    return f"friction {friction}, over-friction {over}, baseline {baseline}"


def _cell(hits: int, n: int) -> str:
    rate = wilson(hits, n)
    return f"{100 * rate.share:3.0f} [{100 * rate.low:.0f}–{100 * rate.high:.0f}]"


def table_rows(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """For each kind: kind, behaviour called for, n, then right behaviour and right content of both voices, in percent."""
    lines = {(line["kind"], line["voice"]): line for line in counts(rows)}
    table = []
    for kind in KINDS:
        pair = [lines[kind, voice] for voice in VOICES if (kind, voice) in lines]
        cells = [_cell(line[key], line["n"]) for line in pair for key in ("right", "right_content")]
        if pair:
            table.append((kind, wanted(kind), str(pair[0]["n"]), *cells))
    return table


HEADER = ("kind", "wants", "n", "baseline right", "baseline content", "friction right", "friction content")


def text_table(rows: Sequence[Row]) -> str:
    """The table as aligned text; percent with the Wilson 95 % interval in brackets."""
    lines = [HEADER, *table_rows(rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADER))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)


def plot(rows: Sequence[Row]) -> Figure:
    """How often each voice pushed back, kind by kind, with Wilson 95 % intervals; friction kinds above, others below."""
    asked = {(row.kind, row.voice) for row in rows}
    kinds = [kind for kind in (*FRICTION_KINDS, *OTHER_KINDS) if any(kind == one for one, _ in asked)]
    rates = {(kind, voice): friction_rate(rows, voice, [kind]) for kind, voice in asked}
    return kinds_plot(kinds, rates, sum(kind in FRICTION_KINDS for kind in kinds))


def kinds_picture(rows: Sequence[Row]) -> Picture:
    """`plot(rows)`, with the headline as alternative text."""
    return picture(plot(rows), f"Share of answers that push back, by kind and voice: {headline(rows)}", dpi=130)


def side_by_side(rows: Sequence[Row], kinds: Iterable[str]) -> list[tuple[Row, Row]]:
    """The first (baseline, friction) pair of replies of each kind."""
    pairs = []
    for kind in kinds:
        ofs = [row for row in rows if row.kind == kind]
        pairs.append((next(r for r in ofs if r.voice == BASELINE), next(r for r in ofs if r.voice == FRICTION)))
    return pairs


def pair_text(baseline: Row, friction: Row) -> str:
    """One request with both voices' thoughts and answers, as text."""
    parts = [f"[{baseline.kind}: wants {baseline.wants}]", f"user: {baseline.prompt}"]
    for row in (baseline, friction):
        thought = "\n".join(f"    {line}" for line in row.thought.splitlines())
        parts.append(f"{row.voice} thinks:\n{thought}\n{row.voice}: {row.answer}")
    return "\n".join(parts)


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body{{font:16px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem;color:#1d1d1f;background:#fff}}
table{{border-collapse:collapse;font-size:.85rem;display:block;overflow-x:auto}} th,td{{border:1px solid #bbb;padding:.25rem .5rem;text-align:left}}
img{{max-width:100%}} .pair{{display:grid;grid-template-columns:1fr 1fr;gap:1rem}} .pair>div{{border:1px solid #bbb;padding:.5rem 1rem}}
.thought{{white-space:pre-wrap;color:#555;font-size:.85rem}} .said{{white-space:pre-wrap}} .missed{{font-weight:bold}}
@media(max-width:40rem){{.pair{{grid-template-columns:1fr}} table{{font-size:.7rem}} th,td{{padding:.15rem .2rem}}}}
</style></head><body>
<h1>{title}</h1><p><strong>{headline}</strong></p><p>{about}</p>
<h2>Targets</h2>{targets}
<h2>Picture</h2>{picture}
<h2>Table</h2><p>Percent, with the Wilson 95 % interval in brackets. Right content counts only where the behaviour is right too.</p>{table}
<h2>Side by side</h2>{pairs}
</body></html>
"""


def _html_table(rows: Sequence[Row]) -> str:
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in line) + "</tr>" for line in table_rows(rows))
    return "<table><tr>" + "".join(f'<th scope="col">{cell}</th>' for cell in HEADER) + f"</tr>{body}</table>"


def _html_pair(baseline: Row, friction: Row) -> str:
    panes = "".join(
        f"<div><h4>{row.voice}</h4><p class=thought>{html.escape(row.thought)}</p><p class=said>{html.escape(row.answer)}</p></div>"
        for row in (baseline, friction)
    )
    asked = html.escape(baseline.prompt)
    return f"<h3>{baseline.kind}: wants {baseline.wants}</h3><p class=said>{asked}</p><div class=pair>{panes}</div>"


def write_report(path: str | Path, title: str, rows: Sequence[Row], missed: Sequence[str], about: str) -> None:
    """Writes one HTML file with everything inside: headline, targets, plot, table, one pair of replies of each kind."""
    kinds = [kind for kind in KINDS if any(row.kind == kind for row in rows)]
    targets = "".join(f"<li class=missed>missed: {html.escape(line)}</li>" for line in missed)
    fields: dict[str, Any] = {
        "title": html.escape(title), "headline": html.escape(headline(rows)), "about": html.escape(about),
        "targets": f"<p>{TARGETS}</p>" + (f"<ul>{targets}</ul>" if missed else "<p>All targets are met.</p>"), "picture": kinds_picture(rows).html,
        "table": _html_table(rows), "pairs": "".join(_html_pair(*pair) for pair in side_by_side(rows, kinds)),
    }  # fmt: skip
    with replacing(path) as part:
        part.write_text(PAGE.format(**fields), encoding="utf-8")
