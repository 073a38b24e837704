"""An evaluation as Markdown for a README and as one self-contained HTML page; knows nothing about models or servers."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from .eval_figures import HEADER, SUMMARY, as_json, groups, kind_table, paired, refusal_table, summary_table
from .eval_page import STYLE, anchor, browser, table
from .eval_plots import by_kind, frontier, voice_points
from .eval_rows import Response
from .jsonl import replacing
from .picture import picture

if TYPE_CHECKING:
    from .judge_model import Comparison

HOW = (
    "Percent, with the 95 % interval in brackets: Wilson's, clustered by prompt where a prompt was sampled more than once. "
    "Right content counts only where the behaviour is right too."
)
LIMITS = {
    "bundled": "The judge is the closed phrase list of the bundled language; the markers are made for English and only shown.",
    "english": "The judge is the marker rules, which read wording: pushing back in uncommon words, by a plain fact or without "
    "saying so, passes for complying. The detector card says how often. Read transcripts, or add a judge model.",
}
REFUSAL_HEADER = ("prompts", "voice", "full refusal", "partial refusal", "no refusal")


def ordered(rows: Sequence[Response], prompt_ids: Sequence[str]) -> list[Response]:
    """The rows in the order of the prompts, whatever order they were made in."""
    place = {prompt: at for at, prompt in enumerate(prompt_ids)}
    return sorted(rows, key=lambda row: (place[row.prompt_id], row.sample, row.voice))


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; bars in cells are escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def comparison_lines(rows: Sequence[Response]) -> list[str]:
    """Baseline against friction on the same prompts, in words."""
    return [
        f"On {found.n} {name}: right only with friction {len(found.only_friction)}, right only at baseline "
        f"{len(found.only_baseline)}; exact McNemar p = {found.p:.2g}."
        for name, found in ((name, paired(part)) for name, part in groups(rows).items())
        if found.n
    ]


def about(rows: Sequence[Response]) -> str:
    """Where the replies come from, in one line for each voice."""
    lines = {}
    for row in rows:
        made = row.provenance
        adapter = f" with adapter {_short(made.adapter)}" if made.adapter else ""
        lines[row.voice] = (
            f"{row.voice}: {_short(made.model)}{adapter}; {made.backend}, seed {made.seed}, temperature {made.temperature:g}, "
            f"at most {made.max_tokens} tokens, prompt set {made.prompt_set[:12]}, markers {made.markers}"
        )
    return "\n".join(lines[voice] for voice in sorted(lines))


def _short(name: str) -> str:
    """A checksum's first twelve digits, which tell models apart; a name as it is."""
    return name[:19] if name.startswith("sha256:") else name


def markdown(rows: Sequence[Response], judge: Comparison | None = None) -> str:
    """The figures for a README."""
    parts = [markdown_table(SUMMARY, summary_table(rows)), markdown_table(HEADER, kind_table(rows)), HOW,
             "\n".join(f"- {line}" for line in comparison_lines(rows)),
             markdown_table(REFUSAL_HEADER, refusal_table(rows))]  # fmt: skip
    if judge:
        parts += [markdown_table(judge.HEADER, judge.table()), judge.summary()]
    parts += ["\n".join(f"- {line}" for line in about(rows).splitlines()), LIMITS[rows[0].provenance.language]]
    return "\n\n".join(part for part in parts if part) + "\n"


def _discordant(rows: Sequence[Response]) -> str:
    parts = []
    for name, part in groups(rows).items():
        found = paired(part)
        for label, ids in (("right only with friction", found.only_friction), ("right only at baseline", found.only_baseline)):
            links = ", ".join(f'<a href="#{anchor(prompt)}">{html.escape(prompt)}</a>' for prompt in ids)
            parts.append(f"<details><summary>{len(ids)} {name}, {label}</summary><p>{links or 'none'}</p></details>")
    return "".join(parts)


def _judge(judge: Comparison | None) -> str:
    if judge is None:
        return "<p>No judge model was asked. Add one with <code>--judge-model</code>.</p>"
    items = "".join(
        f'<li><a href="#{anchor(one.prompt_id)}">{html.escape(one.id)}</a>: {html.escape(str(one))}</li>'
        for one in judge.disagreements
    )
    body = table(judge.HEADER, judge.table(), "Rules against judge, one verdict for each behaviour")
    listed = f"<details><summary>{len(judge.disagreements)} disagreements</summary><ul>{items}</ul></details>"
    return f"<p>{html.escape(judge.summary())}</p>{body}{listed}"


def _paragraphs(lines: Sequence[str]) -> str:
    return "".join(f"<p>{html.escape(line)}</p>" for line in lines)


def html_page(rows: Sequence[Response], title: str, judge: Comparison | None = None) -> str:
    """The whole report as one page that loads nothing from outside."""
    summary, asked, today = summary_table(rows), len({row.prompt_id for row in rows}), datetime.now(UTC).date()
    alt = "; ".join(f"{line[0]}: baseline {line[1]}, friction {line[2]}" for line in summary[:2])
    sections = {
        "What was measured": _paragraphs([f"{asked} prompts; report written on {today}.", *about(rows).splitlines()]),
        "Summary": table(SUMMARY, summary, "Friction beside over-friction") + _paragraphs(comparison_lines(rows)),
        "Pictures": picture(by_kind(rows), f"Share of answers that push back, by kind and voice. {alt}").html
        + picture(frontier(voice_points(rows), "Friction against over-friction"), alt).html,
        "By kind": table(HEADER, kind_table(rows), HOW),
        "Refusal: full, partial, none": table(REFUSAL_HEADER, refusal_table(rows), "By the markers"),
        "Where the voices differ": _discordant(rows),
        "Rules and judge": _judge(judge),
        "How far the judge reaches": _paragraphs([LIMITS[rows[0].provenance.language]]),
        "Transcripts": browser(rows),
    }  # fmt: skip
    body = "".join(f"<h2>{name}</h2>{content}" for name, content in sections.items())
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'unsafe-inline'\"><title>{html.escape(title)}</title><style>{STYLE}</style></head><body><main>"
        f"<h1>{html.escape(title)}</h1>{body}</main></body></html>\n"
    )


def write_all(folder: Path, rows: Sequence[Response], title: str, judge: Comparison | None = None) -> None:
    """Writes report.html, table.md and figures.json into the folder, each aside and then renamed."""
    texts = {
        "report.html": html_page(rows, title, judge),
        "table.md": markdown(rows, judge),
        "figures.json": json.dumps(as_json(rows), indent=1, ensure_ascii=False) + "\n",
    }
    for name, text in texts.items():
        with replacing(folder / name) as part:
            part.write_text(text, encoding="utf-8")
