"""Draws a data set's figures and findings as one self-contained HTML file; computes none of them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from .curate_figures import ORDERS, PARTS, Figures, figures
from .findings import Finding, Splits
from .jsonl import replacing
from .picture import Picture, picture
from .records import SUBSET_OF

BEHAVIOURS = tuple(SUBSET_OF)
COLOURS = ("#0072b2", "#e69f00", "#56b4e9", "#cc79a7", "#8c8c8c")  # Okabe and Ito: told apart by colour-blind readers
HATCHES = ("", "//", "..", "xx", "")  # colour never alone

STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1a1a1a}
table{border-collapse:collapse;width:100%}th,td{text-align:left;vertical-align:top;padding:.3rem .6rem;border-bottom:1px
solid #ccc}td.n{text-align:right}.FAIL{color:#a00;font-weight:bold}img{max-width:100%}summary{cursor:pointer}"""


def write_report(
    splits: Splits, findings: Sequence[Finding], folder: str | os.PathLike[str], tokenizer: str | None = None
) -> Path:
    """Writes `report.html` and `findings.json` into `folder`; returns the path of the former."""
    counted = figures(splits, tokenizer)
    folder = Path(folder)
    with replacing(folder / "findings.json") as part:
        rows = [finding.to_json() for finding in findings]
        part.write_text(json.dumps(rows, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    with replacing(folder / "report.html") as part:
        part.write_text(report_html(counted, findings), encoding="utf-8")
    return folder / "report.html"


def report_html(counted: Figures, findings: Sequence[Finding]) -> str:
    """The whole page, plots within."""
    held = sum(finding.ok for finding in findings)
    sources = ", ".join(f"{count:,} {name}" for name, count in counted.sources.items())
    plots = "".join(f"<h2>{escape(title)}</h2>{chart(draw, counted, title).html}" for title, draw in PLOTS)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Data report</title><style>{STYLE}</style>'
        f"<h1>Data report</h1><p>{counted.records:,} records in {counted.scenarios:,} scenarios; all text is synthetic "
        f"({escape(sources)}). {held} of {len(findings)} checks hold.</p>{_table(findings)}{plots}</html>\n"
    )


def _table(findings: Sequence[Finding]) -> str:
    rows = "".join(
        f'<tr><td class="{"ok" if f.ok else "FAIL"}">{"ok" if f.ok else "FAIL"}</td><td>{escape(f.name)}</td>'
        f'<td class="n">{f.count}</td><td class="n">{"" if f.limit is None else f.limit}</td>'
        f"<td>{escape(f.detail)}{_folded(f.ids)}</td></tr>"
        for f in findings
    )
    return f"<table><tr><th></th><th>Check</th><th>Found</th><th>At most</th><th>Figures</th></tr>{rows}</table>"


def _folded(ids: Sequence[str]) -> str:
    if not ids:
        return ""
    return f"<details><summary>{len(ids)} ids</summary>{escape(', '.join(ids))}</details>"


def chart(draw: Callable[[Any, Figures], None], counted: Figures, title: str) -> Picture:
    """One of the `draw_…` functions below, on a figure of its own; `title` says what it shows."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.5), layout="constrained")
    draw(figure, counted)
    return picture(figure, f"{title}; the numbers are in the plot")


def draw_balance(figure: Any, counted: Figures) -> None:
    """Records per behaviour, named with their subset."""
    axes = figure.subplots()
    names = [name for name in BEHAVIOURS if name in counted.behaviours]
    bars = axes.bar([f"{name}\n({SUBSET_OF[name]})" for name in names], [counted.behaviours[name] for name in names])
    axes.bar_label(bars, [f"{100 * counted.behaviours[name] / counted.records:.1f} %" for name in names])
    axes.set_ylabel("records")


def draw_domains(figure: Any, counted: Figures) -> None:
    """Records per domain, stacked by behaviour."""
    axes = figure.subplots()
    names = list(counted.domains)[::-1]
    left = [0] * len(names)
    for behaviour, colour, hatch in zip(BEHAVIOURS, COLOURS, HATCHES, strict=True):
        widths = [counted.domains[name].get(behaviour, 0) for name in names]
        axes.barh(names, widths, left=left, label=behaviour, color=colour, hatch=hatch, edgecolor="white")
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.set_xlabel("records")
    axes.legend(ncols=5, loc="lower center", bbox_to_anchor=(0.4, 1))


def draw_lengths(figure: Any, counted: Figures) -> None:
    """A histogram of lengths for each part of a record."""
    for axes, part in zip(figure.subplots(1, len(PARTS)), PARTS, strict=True):
        axes.hist(counted.lengths[part], bins=30)
        axes.set_title(f"{part}\n{counted.summary(part).replace(', ', chr(10))}", fontsize=8)
        axes.set_xlabel(counted.unit, fontsize=8)


def draw_openings(figure: Any, counted: Figures) -> None:
    """The commonest two-word openings of answers."""
    axes = figure.subplots()
    found = counted.openings[::-1]
    bars = axes.barh([opening for opening, _ in found], [count for _, count in found])
    axes.bar_label(bars, [f" {100 * count / counted.records:.1f} %" for _, count in found])
    axes.set_xlabel("answers that open with these two words")


def draw_diversity(figure: Any, counted: Figures) -> None:
    """Distinct-1 to distinct-4 of requests, thoughts and answers."""
    axes = figure.subplots()
    for (kind, values), marker in zip(counted.distinct.items(), "os^", strict=True):
        axes.plot(ORDERS, values, marker=marker, label=kind)
    axes.set_xticks(ORDERS, [f"{n} words" for n in ORDERS])
    axes.set_ylim(0, 1)
    axes.set_ylabel("distinct runs / all runs")
    axes.legend()


PLOTS = (
    ("Balance of behaviours", draw_balance),
    ("Domains", draw_domains),
    ("Lengths", draw_lengths),
    ("Openings of answers", draw_openings),
    ("Diversity: share of distinct word runs", draw_diversity),
)
