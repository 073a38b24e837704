"""Choose the micro data set, and print it as a page to fold, its answers below."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ..core.files import fill_template, replacing
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
    """`n` records, spread as evenly as possible over domains, behaviours and their pairs; the same in every run.

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


def sheet_html(records: Sequence[Record]) -> str:
    """An A4 page to fold: the numbered requests; then, by number, what a good answer does and its first words."""
    return fill_template(Path(__file__).parent / "sheet.html", records=records, gist=gist)


def gist(record: Record) -> str:
    """The first words of the answer, none of them cut, with an ellipsis where it continues."""
    text = " ".join(re.sub(r"[*`#]+|^- ", "", record.answer, flags=re.MULTILINE).split())
    if len(text) <= GIST:
        return text
    return text[:GIST].rsplit(" ", 1)[0].rstrip(" ,;:.–—-") + "\N{NO-BREAK SPACE}…"
