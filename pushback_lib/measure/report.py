"""The report of an evaluation: one HTML page, the tables as Markdown, and the figures as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.common import BASELINE, FRICTION
from ..core.files import replacing
from ..core.show import markdown_table, picture
from ..model.load import machine_name
from .figures import TARGETS, Figures, cells, figures_of
from .judge import Response
from .likelihood import HOW as LIKELIHOOD
from .likelihood import Preferences
from .plots import kinds_picture, plot_frontier, plot_kinds

if TYPE_CHECKING:
    from .judge_model import Comparison

LONGEST = 20_000  # characters of one text that the page shows; the JSON Lines file holds the rest
HOW = (
    "Percent, with the 95 % interval in brackets: Wilson's, clustered by prompt where a prompt was sampled more than once. "
    "Right content counts only where the behaviour is right too."
)
LIMITS = {
    "bundled": "The judge is the closed phrase list of the bundled language; the markers are made for English and only shown.",
    "english": "The judge is the marker rules, which read wording: pushing back in uncommon words, by a plain fact or without "
    "saying so, passes for complying. The detector card says how often. Read transcripts, or add a judge model.",
}


def write_report(
    folder: str | Path, rows: Sequence[Response], title: str = "Baseline against friction", about: str = "",
    judge: Comparison | None = None, likelihood: Preferences | None = None,
) -> Figures:  # fmt: skip
    """Writes report.html, table.md and figures.json into the folder, each aside and then renamed; returns the figures."""
    found = figures_of(rows)
    values = found.to_dict() | ({"likelihood": likelihood.to_dict()["lines"]} if likelihood else {})
    texts = {
        "report.html": html_page(found, rows, title, about, judge, likelihood),
        "table.md": markdown(found, judge, likelihood),
        "figures.json": json.dumps(values, indent=1, ensure_ascii=False) + "\n",
    }
    for name, text in texts.items():
        with replacing(Path(folder) / name) as part:
            part.write_text(text, encoding="utf-8")
    return found


def write_results(folder: str | Path, found: Figures, seconds: float) -> None:
    """Writes demo.json (rates, counts, seconds of training, what was measured) and demo.png, for slides and README."""
    rates = {"friction": (FRICTION, "friction"), "over_friction": (FRICTION, "over_friction"),
             "baseline": (BASELINE, "friction"), "baseline_over_friction": (BASELINE, "over_friction")}  # fmt: skip
    made = found.provenance[FRICTION]
    values = {
        "rates": {name: asdict(found.voices[voice][figure]) for name, (voice, figure) in rates.items()},
        "kinds": [line.to_dict() for line in found.kinds], "missed_targets": found.missed_targets(),
        "training_seconds": round(seconds), "machine": machine_name(),
        "provenance": {"model": made.model, "adapter": made.adapter, "generation": made.generation},
    }  # fmt: skip
    with replacing(Path(folder) / "demo.json") as part:
        part.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    with replacing(Path(folder) / "demo.png") as part:
        plot_kinds(found).savefig(part, format="png", dpi=110)


def made_with(found: Figures) -> list[str]:
    """Where the replies come from, in one line for each voice."""
    lines = []
    for voice, made in found.provenance.items():
        adapter = f" with adapter {_short(made.adapter)}" if made.adapter else ""
        lines.append(
            f"{voice}: {_short(made.model)}{adapter}; {made.backend}, seed {made.seed}, "
            f"{made.generation or 'generation not recorded'}, prompt set {made.prompt_set[:12]}, markers {made.markers}"
        )
    return lines


def _short(name: str) -> str:
    """A checksum's first twelve digits, which tell models apart; a name as it is."""
    return name[:19] if name.startswith("sha256:") else name


def markdown(found: Figures, judge: Comparison | None = None, likelihood: Preferences | None = None) -> str:
    """The figures for a README."""
    summary, by_kind, refusal = (markdown_table(*cells(table)) for table in (found.summary(), found.by_kind(), found.refusal()))
    parts = [summary, by_kind, HOW, _list(found.comparison_lines()), refusal, _list(found.target_lines())]
    if judge:
        parts += [markdown_table(judge.HEADER, judge.table()), judge.summary()]
    if likelihood:
        parts += [markdown_table(*cells(likelihood.table())), LIKELIHOOD]
    return "\n\n".join(filter(None, [*parts, _list(made_with(found)), LIMITS[found.language]])) + "\n"


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def html_page(
    found: Figures, rows: Sequence[Response], title: str, about: str = "", judge: Comparison | None = None,
    likelihood: Preferences | None = None,
) -> str:  # fmt: skip
    """The report as one page that loads nothing from outside."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
                       trim_blocks=True, lstrip_blocks=True)  # fmt: skip
    made.filters["anchor"] = lambda prompt: f"prompt-{prompt}".replace(" ", "-")
    by_prompt: dict[str, list[Response]] = {}
    for row in sorted(rows, key=lambda row: (row.sample, row.voice)):
        by_prompt.setdefault(row.prompt_id, []).append(row)
    prompts = list(dict.fromkeys(row.prompt_id for row in rows))
    pictures = [kinds_picture(found), picture(plot_frontier(found), f"Friction against over-friction: {found.headline}")]
    return made.get_template("report.html").render(
        title=title, found=found, targets=TARGETS, how=HOW, longest=LONGEST, limits=LIMITS[found.language], judge=judge,
        likelihood=likelihood, likelihood_how=LIKELIHOOD, likelihood_picture=likelihood and likelihood.picture,
        about=[f"{len(prompts)} prompts; report written on {datetime.now(UTC).date()}.", about, *made_with(found)],
        pictures=pictures, cells=cells, parts=parts, prompts=[by_prompt[prompt] for prompt in prompts],
        filters={
            "kind": ("Kind of prompt", list(dict.fromkeys(row.kind for row in rows))),
            "behaviour": ("Behaviour of the answer", sorted({row.behaviour for row in rows})),
            "verdict": ("Verdict", list(dict.fromkeys(map(verdict, rows)))),
            "voice": ("Voice", sorted({row.voice for row in rows})),
        }, verdict=verdict,
    )  # fmt: skip


def verdict(row: Response) -> str:
    """Whether the answer does what is wanted, and on the right thing."""
    return "wrong" if not row.right else "right" if row.right_content else "right, but not the right content"


def parts(answer: str, spans: Iterable[dict[str, Any]]) -> list[tuple[str, str]]:
    """The shown answer in pieces, each with the markers it carries ("" for none)."""
    found = [(span["start"], min(span["end"], LONGEST), span["marker"]) for span in spans if span["start"] < LONGEST]
    edges = sorted({0, min(len(answer), LONGEST), *(edge for start, end, _ in found for edge in (start, end))})
    return [
        (answer[start:end], ", ".join(sorted({marker for a, b, marker in found if a <= start and end <= b})))
        for start, end in pairwise(edges)
    ]


def pair_text(rows: Sequence[Response], kind: str) -> str:
    """The first prompt of a kind with both voices' thoughts and answers, as text."""
    first = {row.voice: row for row in reversed(rows) if row.kind == kind}
    lines = [f"[{kind}: wants {first[FRICTION].expected}]", f"user: {first[FRICTION].asked}"]
    for row in (first[BASELINE], first[FRICTION]):
        thought = "\n".join(f"    {line}" for line in row.thought.splitlines())
        lines.append(f"{row.voice} thinks:\n{thought}\n{row.voice}: {row.answer}")
    return "\n".join(lines)
