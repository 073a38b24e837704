"""The transcript browser of the HTML report: each prompt with both voices' replies; knows nothing about figures.

Everything a model or a user wrote is escaped; the script holds no data, it only hides and shows what stands in the page.
"""
# ruff: noqa: E501 - style and script are easier to read in long lines

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from .eval_rows import Response

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
