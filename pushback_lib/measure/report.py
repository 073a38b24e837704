"""Report of an evaluation: tables as text, Markdown and one HTML page."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.common import BASELINE, FRICTION, VOICES
from ..core.files import replacing
from ..core.show import Picture, picture
from ..core.stats import wilson
from ..language.requests import FRICTION_KINDS, KINDS, wanted
from .figures import (
    HEADER,
    OTHER_KINDS,
    SUMMARY,
    TARGETS,
    Row,
    as_json,
    counts,
    friction_rate,
    groups,
    kind_table,
    paired,
    refusal_table,
    summary_table,
)
from .plots import by_kind, frontier, kinds_plot, voice_points
from .run import Response

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .judge_model import Comparison


LONGEST = 20_000  # characters of one text that the page shows; the JSON Lines file holds the rest

OTHER_CONTENT = ", but not the right content"
VERDICTS = ("right", f"right{OTHER_CONTENT}", "wrong")
STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;color:#1d1d1f;background:#fff;overflow-wrap:anywhere}
table{border-collapse:collapse;font-size:.85rem;display:block;overflow-x:auto} th,td{border:1px solid #8a8a8a;padding:.25rem .5rem;text-align:left;overflow-wrap:normal}
img{max-width:100%} a{color:#0b4f9c} .note{color:#595959} [hidden]{display:none!important}
form{position:sticky;top:0;background:#fff;border-bottom:1px solid #8a8a8a;padding:.5rem 0;display:flex;flex-wrap:wrap;gap:.5rem 1rem;align-items:end}
label{display:flex;flex-direction:column;font-size:.85rem} select,input{font:inherit;padding:.25rem;border:1px solid #595959;background:#fff;color:inherit}
:focus-visible{outline:3px solid #0b4f9c;outline-offset:2px}
article{border-top:1px solid #8a8a8a;padding:.5rem 0;content-visibility:auto;contain-intrinsic-size:auto 16rem}
.panes{display:grid;grid-template-columns:1fr 1fr;gap:1rem} .panes>section{border:1px solid #8a8a8a;padding:.25rem 1rem}
.text{white-space:pre-wrap;overflow-wrap:anywhere;unicode-bidi:isolate} .thought{color:#595959;font-size:.85rem}
.right{color:#1b6e2e;font-weight:bold} .wrong{color:#a4260b;font-weight:bold}
mark{background:#ffe9a8;color:#1d1d1f} sup{font-size:.65rem;color:#5b3a00;margin-left:.15rem}
@media(max-width:40rem){.panes{grid-template-columns:1fr} table{font-size:.7rem} th,td{padding:.15rem .2rem}}
"""

SCRIPT = """
const form = document.getElementById("filters"), count = document.getElementById("count");
const articles = [...document.querySelectorAll("article")];
function show() {
  const want = Object.fromEntries(new FormData(form)), words = want.words.toLowerCase();
  let shown = 0;
  for (const article of articles) {
    let any = false;
    const kind = !want.kind || article.dataset.kind === want.kind;
    for (const pane of article.querySelectorAll("section")) {
      const fits = kind && ["voice", "behaviour", "verdict"].every(key => !want[key] || pane.dataset[key] === want[key])
        && (!words || article.textContent.toLowerCase().includes(words));
      pane.hidden = !fits; any = any || fits; shown += fits;
    }
    article.hidden = !any;
  }
  count.textContent = shown + " replies shown";
}
form.addEventListener("input", show);
form.addEventListener("submit", event => event.preventDefault());
form.addEventListener("reset", () => setTimeout(show));
show();
"""


def table(header: Sequence[str], rows: Iterable[Sequence[str]], caption: str) -> str:
    """An HTML table, every cell escaped."""
    head = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in header)
    body = "".join(
        f'<tr><th scope="row">{html.escape(row[0])}</th>'
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    return f"<table><caption>{html.escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def highlighted(answer: str, spans: Iterable[dict[str, Any]]) -> str:
    """The answer as HTML, each stretch that carries markers inside `<mark>` with their names."""
    found = [(span["start"], min(span["end"], LONGEST), span["marker"]) for span in spans if span["start"] < LONGEST]
    edges = sorted({0, min(len(answer), LONGEST), *(edge for start, end, _ in found for edge in (start, end))})
    parts = []
    for start, end in pairwise(edges):
        text = html.escape(answer[start:end])
        names = sorted({marker for a, b, marker in found if a <= start and end <= b})
        parts.append(f"<mark>{text}<sup>{html.escape(', '.join(names))}</sup></mark>" if names else text)
    return "".join(parts) + _rest(answer)


def _rest(text: str) -> str:
    return f"<em> … {len(text) - LONGEST:,} more characters in the JSON Lines file</em>" if len(text) > LONGEST else ""


def _text(text: str, kind: str = "") -> str:
    return f'<p class="text {kind}" dir="auto">{html.escape(text[:LONGEST])}{_rest(text)}</p>'


def _pane(row: Response) -> str:
    verdict = "right" if row.right else "wrong"
    content = "" if not row.right or row.right_content else OTHER_CONTENT
    cut = "" if row.finished else ", cut off"
    attributes = (
        f'data-voice="{html.escape(row.voice)}" data-behaviour="{html.escape(row.behaviour)}" data-verdict="{verdict}{content}"'
    )
    return (
        f"<section {attributes}><h4>{html.escape(row.voice)}{f', sample {row.sample + 1}' if row.sample else ''}</h4>"
        f'<p><span class="{verdict}">{verdict}</span>: {html.escape(row.behaviour)}{content}{cut}</p>'
        f'<p class="text" dir="auto">{highlighted(row.answer, row.markers["spans"])}</p>'
        f"<details><summary>Reasoning ({len(row.thought.split())} words)</summary>{_text(row.thought, 'thought')}</details></section>"
    )


def anchor(prompt_id: str) -> str:
    """The page's id of a prompt."""
    return html.escape(f"prompt-{prompt_id}".replace(" ", "-"))


def _article(rows: Sequence[Response]) -> str:
    first = rows[0]
    history = "".join(_text(f"{turn.role}: {turn.content}", "note") for turn in first.history)
    panes = "".join(map(_pane, rows))
    return (
        f'<article id="{anchor(first.prompt_id)}" data-kind="{html.escape(first.kind)}">'
        f"<h3>{html.escape(first.prompt_id)}: wants {html.escape(first.expected)}</h3>{history}{_text(first.prompt)}"
        f'<div class="panes">{panes}</div></article>'
    )


def _select(name: str, label: str, options: Iterable[str]) -> str:
    items = "".join(f'<option value="{html.escape(option)}">{html.escape(option)}</option>' for option in options)
    return f'<label for="{name}">{label}<select id="{name}" name="{name}"><option value="">all</option>{items}</select></label>'


def browser(rows: Sequence[Response]) -> str:
    """The form and every transcript; without JavaScript all of them are shown."""
    by_prompt: dict[str, list[Response]] = {}
    for row in rows:
        by_prompt.setdefault(row.prompt_id, []).append(row)
    form = (
        _select("kind", "Kind of prompt", dict.fromkeys(row.kind for row in rows))
        + _select("behaviour", "Behaviour of the answer", sorted({row.behaviour for row in rows}))
        + _select("verdict", "Verdict", VERDICTS)
        + _select("voice", "Voice", sorted({row.voice for row in rows}))
        + '<label for="words">Text contains<input id="words" name="words" type="search"></label>'
        + '<button type="reset">Show all</button><output id="count" aria-live="polite"></output>'
    )
    articles = "".join(_article(sorted(both, key=lambda row: (row.sample, row.voice))) for both in by_prompt.values())
    return f'<form id="filters" aria-label="Filter transcripts">{form}</form>{articles}<script>{SCRIPT}</script>'


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


KINDS_HEADER = ("kind", "wants", "n", "baseline right", "baseline content", "friction right", "friction content")


def text_table(rows: Sequence[Row]) -> str:
    """The table as aligned text; percent with the Wilson 95 % interval in brackets."""
    lines = [KINDS_HEADER, *table_rows(rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(KINDS_HEADER))]
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
    return "<table><tr>" + "".join(f'<th scope="col">{cell}</th>' for cell in KINDS_HEADER) + f"</tr>{body}</table>"


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
