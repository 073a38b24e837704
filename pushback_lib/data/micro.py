"""Chooses the micro data set for coverage and sets it as a page to fold, answers below; knows no training and no checks."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Sequence
from html import escape
from pathlib import Path

from ..core.files import replacing
from ..core.records import Record, load_records, save_records

REQUEST, ANSWER = 110, 600  # characters; longer records are chosen only where a pair has no shorter one
GIST = 80  # characters of an answer on the sheet


def write_micro(source: str | os.PathLike[str], out: str | os.PathLike[str], n: int = 60) -> tuple[Path, Path]:
    """Writes `n` of the records of `source` to `out`, and the sheet `<out>-sheet.html` beside; returns both paths."""
    out = Path(out)
    chosen = choose(load_records(source), n)
    save_records(out, chosen)
    sheet = out.with_name(f"{out.stem}-sheet.html")
    with replacing(sheet) as part:
        part.write_text(sheet_html(chosen), encoding="utf-8")
    return out, sheet


def choose(records: Sequence[Record], n: int) -> list[Record]:
    """`n` records, spread over domains, behaviours and their pairs as evenly as can be, the same in every run.

    One after the other, takes the record whose pair of domain and behaviour, whose domain, behaviour and scenario are
    rarest among those taken; among equals a short one, then by a hash of the id. All records where `n` is not fewer.
    """
    left = sorted(records, key=lambda record: hashlib.sha256(record.id.encode()).hexdigest())
    taken: Counter[object] = Counter()
    chosen: list[Record] = []
    while left and len(chosen) < n:
        best = min(left, key=lambda record: _crowding(record, taken))
        left.remove(best)
        chosen.append(best)
        taken.update(_keys(best))
    return sorted(chosen, key=lambda record: (record.domain, record.behaviour, record.id))


def _keys(record: Record) -> tuple[object, ...]:
    return (record.domain, record.behaviour), ("domain", record.domain), ("does", record.behaviour), record.scenario


def _crowding(record: Record, taken: Counter[object]) -> tuple[object, ...]:
    pair, domain, behaviour, scenario = _keys(record)
    long = len(record.user_input) > REQUEST or len(record.answer) > ANSWER
    return taken[pair], taken[domain], taken[behaviour], long, taken[scenario]


STYLE = """@page{size:A4;margin:8mm}
body{font:6.5pt/1.13 'Liberation Sans',Arial,sans-serif;color:#111;margin:0 auto;max-width:194mm}
h1{font-size:11pt;margin:0}header p{margin:.5mm 0 1.2mm}main{columns:3;column-gap:4mm}
h2{font-size:7pt;margin:1mm 0 .3mm;border-bottom:.3pt solid #777;break-after:avoid}
p{break-inside:avoid;margin:0 0 .6mm}b{font-variant-caps:small-caps}
u{display:inline-block;width:8mm;border-bottom:.4pt solid #777}
.answers{border-top:.6pt dashed #777;margin-top:2mm;padding-top:1mm;break-inside:avoid}
@media screen{body{font-size:13px;padding:1rem}.answers{margin-top:100vh}}"""


def sheet_html(records: Sequence[Record]) -> str:
    """An A4 page to fold: the numbered requests; by number, what a good answer does, and its friction moment or first words."""
    body, answers, domain = [], [], ""
    for number, record in enumerate(records, 1):
        if record.domain != domain:
            domain = record.domain
            body.append(f"<h2>{escape(domain.capitalize())}</h2>")
        body.append(f"<p>{number}. <u></u> {escape(record.user_input)}</p>")
        answers.append(f"<p>{number}. <b>{record.behaviour}</b> {escape(gist(record))}</p>")
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Push-Back AI: micro data set</title>'
        f"<style>{STYLE}</style><header><h1>Push-Back AI: the micro data set</h1><p>{len(records)} synthetic requests. What "
        "does a good answer to each do: disagree, clarify, doubt, refuse or comply? Fold the page back at the "
        f"dashed line, write your guesses, then compare.</p></header><main>{''.join(body)}</main>"
        '<section class="answers"><header><h1>The answers</h1><p>What a good answer does, and how it starts. Whole records '
        f"with all thoughts: data/micro.jsonl. Apache-2.0.</p></header><main>{''.join(answers)}</main></section></html>\n"
    )


def gist(record: Record) -> str:
    """The first words of the answer, whole, with an ellipsis where it goes on."""
    text = " ".join(re.sub(r"[*`#]+|^- ", "", record.answer, flags=re.MULTILINE).split())
    if len(text) <= GIST:
        return text
    return text[:GIST].rsplit(" ", 1)[0].rstrip(" ,;:.–—-") + "\N{NO-BREAK SPACE}…"
