"""Measures the markers on labelled rows and writes the detector card: how far to trust each marker."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...core.common import PushbackError
from ...core.files import read_jsonl, replacing
from ...core.show import markdown_table
from ...core.stats import Rate, cohen_kappa, spearman, spearman_interval, wilson
from .find import MARKERS_VERSION, find_markers

Row = dict[str, Any]
# A label that only one marker's files have -> that marker, and the labels on which it should fire.
KINDS = {
    "refuse": ("refusal", {"refuse", "partial"}),
    "disagree": ("disagree", {"disagree"}),
    "clarify": ("clarify", {"clarify"}),
}

HEAD = """# Detector card

Markers version {version}. Every share is followed by its Wilson 95 % interval.

Labels are human; the data sets are named in the headings: SGD dialogue acts (clarify), FalseQA (disagree), perceived
confidence (hedge), XSTest completions (refusal). The rules were developed with these rows in view, so expect lower figures
elsewhere. On this kit's own answers, which push back in many words of their own, the markers find far less: notebook 04
counts how much less. Where that matters, add a judge: `pushback eval --judge-model NAME`.
"""
HEDGE_HEADER = ("slice", "n", "Spearman with perceived doubt", "fires (>= .5) on highly confident", "n",
                "fires on doubtful (< 40)", "n")  # fmt: skip


@dataclass(frozen=True)
class Score:
    """How one marker did on one slice of a file; a rate of no rows is None."""

    kind: str
    slice: str
    n: int
    figures: dict[str, Any]  # accuracy, precision, recall, F1, kappa; for hedge Spearman with perceived doubt, and its interval
    fires_on: dict[str, Rate | None]  # by label; for hedge on rows rated highly confident, and on those rated below 40 of 100


def score_rows(rows: Sequence[Row]) -> list[Score]:
    """Scores of one labelled file: the pool first, then each model or source.

    A row has `prompt`, `response` and either `label` (see KINDS) or `confidence` (0 to 100) with `level`; `model` or `source`
    names its slice. Raises PushbackError if the rows carry none of the known labels.
    """
    if not rows:
        raise PushbackError("No rows to score. Pass the rows of a labelled file.")
    marked = [(row, find_markers(row["prompt"], row["response"])) for row in rows]
    names = sorted({_slice(row) for row in rows})
    slices = [("all", marked)] + ([(n, [m for m in marked if _slice(m[0]) == n]) for n in names] if len(names) > 1 else [])
    if "confidence" in rows[0]:
        return [_hedge_score(name, [(r, m.hedge) for r, m in part]) for name, part in slices]
    kind, wanted = _kind({row.get("label") for row in rows})
    return [
        _score(kind, wanted, name, [(r["label"], getattr(m, kind) not in (False, "none")) for r, m in part])
        for name, part in slices
    ]


def _slice(row: Row) -> str:
    return str(row.get("model") or row.get("source") or "all")


def _kind(labels: set[str | None]) -> tuple[str, set[str]]:
    for label, kind in KINDS.items():
        if label in labels:
            return kind
    raise PushbackError(f"Labels {sorted(map(str, labels))} name no marker. Use one of {sorted(KINDS)}, or give `confidence`.")


def _rate(hits: Iterable[bool]) -> Rate | None:
    found = list(hits)
    return wilson(sum(found), len(found)) if found else None


def _score(kind: str, wanted: set[str], name: str, part: list[tuple[str, bool]]) -> Score:
    should, fired = [label in wanted for label, _ in part], [fires for _, fires in part]
    pairs = list(zip(should, fired, strict=True))
    figures = {
        "accuracy": _rate(a == b for a, b in pairs),
        "precision": _rate(a for a, b in pairs if b),
        "recall": _rate(b for a, b in pairs if a),
        "F1": 2 * pairs.count((True, True)) / max(1, sum(should) + sum(fired)),
        "kappa": cohen_kappa(should, fired),
    }
    labels = sorted({label for label, _ in part})
    return Score(kind, name, len(part), figures, {one: _rate(fires for label, fires in part if label == one) for one in labels})


def _hedge_score(name: str, part: list[tuple[Row, float]]) -> Score:
    rho = spearman([hedge for _, hedge in part], [-row["confidence"] for row, _ in part])
    fires_on = {
        "sure": _rate(hedge >= 0.5 for row, hedge in part if row["level"] == "high"),
        "doubtful": _rate(hedge >= 0.5 for row, hedge in part if row["confidence"] < 40),
    }
    return Score("hedge", name, len(part), {"Spearman": rho, "interval": spearman_interval(rho, len(part))}, fires_on)


def write_card(labelled: Path, card: Path) -> str:
    """Scores every *.jsonl of a folder, writes the Markdown card and the same figures as JSON beside it; returns the card.

    Both hold figures only, never the text of a row. Raises PushbackError if the folder holds no *.jsonl.
    """
    files = sorted(Path(labelled).glob("[!.]*.jsonl"))
    if not files:
        raise PushbackError(f"No *.jsonl in {labelled}. Point at the folder with the labelled rows.")
    if card.suffix == ".json":
        raise PushbackError(f"{card} would hold Markdown. Choose a name that ends in .md; the figures go beside it as JSON.")
    scores = {path.stem: _scores_of(path) for path in files}
    text = "\n".join([HEAD.format(version=MARKERS_VERSION), *(_section(*one) for one in scores.items())])
    figures = {
        "version": MARKERS_VERSION,
        "files": {stem: [asdict(score) for score in found] for stem, found in scores.items()},
    }
    for path, content in ((card, text), (card.with_suffix(".json"), json.dumps(figures, indent=1) + "\n")):
        with replacing(path) as part:
            part.write_text(content, encoding="utf-8")
    return text


def _scores_of(path: Path) -> list[Score]:
    try:
        return score_rows([row for _, row in read_jsonl(path)])
    except (KeyError, TypeError, ValueError) as error:
        raise PushbackError(
            f"{path} holds other rows than labelled ones ({error!r}). A row needs `prompt`, `response`, and `label`, or "
            "`confidence` with `level`."
        ) from error


def _text(found: Rate | float | None) -> str:
    if isinstance(found, Rate):
        return f"{found.share:.3f} [{found.low:.3f}, {found.high:.3f}]"
    return "no rows" if found is None else f"{found:.3f}"


def _section(title: str, scores: list[Score]) -> str:
    first = scores[0]
    if first.kind == "hedge":
        table = markdown_table(HEDGE_HEADER, map(_hedge_row, scores), "---")
    else:
        rows = [(score.slice, score.n, *map(_text, score.figures.values())) for score in scores]
        table = markdown_table(("slice", "n", *first.figures), rows, "---")
    worst = min(scores, key=lambda score: score.figures.get("F1", score.figures.get("Spearman")))
    figures = ", ".join(f"{name} {_text(worst.figures[name])}" for name in ("F1", "kappa", "Spearman") if name in worst.figures)
    parts = [f"## {first.kind}: {title}", table, f"Worst slice: **{worst.slice}**, {figures}, n = {worst.n}."]
    if first.kind != "hedge":
        labels = [(label, rate.n, _text(rate)) for label, rate in first.fires_on.items() if rate]
        parts.append(markdown_table(("label", "n", "share on which the marker fires"), labels, "---"))
    return "\n\n".join(parts) + "\n"


def _hedge_row(score: Score) -> tuple[object, ...]:
    fires = (cell for rate in score.fires_on.values() for cell in (_text(rate), rate.n if rate else 0))
    rho, (low, high) = score.figures["Spearman"], score.figures["interval"]
    return score.slice, score.n, f"{rho:.3f} [{low:.3f}, {high:.3f}]", *fires
