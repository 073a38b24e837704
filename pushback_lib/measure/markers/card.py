"""Measures the friction markers on human-labelled rows and writes the detector card: how far to trust each marker.

Knows nothing about how the markers work. Reads every *.jsonl of a folder; a row has `prompt`, `response`
and either `label` (comply/refuse/partial, comply/disagree, or clarify/courtesy/other) or `confidence` (0-100)
with `level`; `model` or `source` names its slice. The card holds figures only, never the text of a row.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.stats import spearman, spearman_interval, wilson
from .find import MARKERS_VERSION, find_markers

Row = dict[str, Any]
Interval = tuple[float, float]
# Which label tells the kind of a file, and which labels count as "the marker should fire".
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


@dataclass(frozen=True)
class Share:
    """A proportion with its count; `interval` is Wilson's at 95 %, (0, 1) without rows."""

    hits: int
    n: int

    @property
    def value(self) -> float:
        return self.hits / self.n if self.n else 0.0

    @property
    def interval(self) -> Interval:
        if not self.n:
            return 0.0, 1.0
        rate = wilson(self.hits, self.n)
        return rate.low, rate.high

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:.3f} [{low:.3f}, {high:.3f}]" if self.n else "no rows"


@dataclass(frozen=True)
class Score:
    """How one marker did on one slice: tp, fp, fn, tn count rows."""

    kind: str
    slice: str
    tp: int
    fp: int
    fn: int
    tn: int
    fires_on: tuple[tuple[str, Share], ...] = ()

    @property
    def n(self) -> int:
        return self.tp + self.fp + self.fn + self.tn

    @property
    def accuracy(self) -> Share:
        return Share(self.tp + self.tn, self.n)

    @property
    def precision(self) -> Share:
        return Share(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> Share:
        return Share(self.tp, self.tp + self.fn)

    @property
    def f1(self) -> float:
        return 2 * self.tp / (2 * self.tp + self.fp + self.fn) if self.tp else 0.0

    @property
    def kappa(self) -> float:
        """Cohen's kappa: agreement beyond what the two marginals give by chance."""
        yes, no = (self.tp + self.fp) * (self.tp + self.fn), (self.fn + self.tn) * (self.fp + self.tn)
        chance = (yes + no) / self.n**2
        return (self.accuracy.value - chance) / (1 - chance) if chance < 1 else 0.0


@dataclass(frozen=True)
class HedgeScore:
    """How the hedging strength follows doubt as readers perceive it."""

    slice: str
    n: int
    spearman: float
    fires_on_sure: Share  # hedge >= .5 on rows readers rated highly confident
    fires_on_doubtful: Share  # hedge >= .5 on rows rated below 40 of 100

    @property
    def interval(self) -> Interval:
        return spearman_interval(self.spearman, self.n)


def score_rows(rows: Sequence[Row]) -> list[Score] | list[HedgeScore]:
    """Scores of one labelled file: the pool first, then each model or source.

    Raises ValueError if the rows carry none of the known labels.
    """
    if not rows:
        raise ValueError("No rows to score. Pass the rows of a labelled file.")
    marked = [(row, find_markers(row["prompt"], row["response"])) for row in rows]
    names = sorted({_slice(row) for row in rows})
    slices = [("all", marked)] + ([(n, [m for m in marked if _slice(m[0]) == n]) for n in names] if len(names) > 1 else [])
    if "confidence" in rows[0]:
        return [_hedge_score(name, [(r, m.hedge) for r, m in part]) for name, part in slices]
    kind, wanted = _kind({row.get("label") for row in rows})
    return [
        _score(kind, wanted, name, [(r, getattr(m, kind) not in (False, "none")) for r, m in part]) for name, part in slices
    ]


def _slice(row: Row) -> str:
    return str(row.get("model") or row.get("source") or "all")


def _kind(labels: set[str | None]) -> tuple[str, set[str]]:
    for label, kind in KINDS.items():
        if label in labels:
            return kind
    raise ValueError(f"Labels {sorted(map(str, labels))} name no marker. Use one of {sorted(KINDS)}, or give `confidence`.")


def _score(kind: str, wanted: set[str], name: str, part: Iterable[tuple[Row, bool]]) -> Score:
    by_label = Counter((row["label"], fired) for row, fired in part)
    labels = sorted({label for label, _ in by_label})
    count = {
        (should, fired): sum(by_label[label, fired] for label in labels if (label in wanted) == should)
        for should in (True, False)
        for fired in (True, False)
    }
    fires = tuple((label, Share(by_label[label, True], by_label[label, True] + by_label[label, False])) for label in labels)
    return Score(kind, name, count[True, True], count[False, True], count[True, False], count[False, False], fires)


def _hedge_score(name: str, part: list[tuple[Row, float]]) -> HedgeScore:
    sure = [hedge >= 0.5 for row, hedge in part if row["level"] == "high"]
    doubtful = [hedge >= 0.5 for row, hedge in part if row["confidence"] < 40]
    rho = spearman([hedge for _, hedge in part], [-row["confidence"] for row, _ in part])
    return HedgeScore(name, len(part), rho, Share(sum(sure), len(sure)), Share(sum(doubtful), len(doubtful)))


def write_card(labelled: Path, card: Path) -> str:
    """Score every labelled file of a folder, write the Markdown card, and return it.

    Raises FileNotFoundError if the folder holds no *.jsonl.
    """
    files = sorted(Path(labelled).glob("*.jsonl"))
    if not files:
        raise FileNotFoundError(f"No *.jsonl in {labelled}. Point at the folder with the labelled rows.")
    parts = [HEAD.format(version=MARKERS_VERSION)]
    for path in files:
        with path.open(encoding="utf-8") as lines:
            parts.append(_section(path.stem, score_rows([json.loads(line) for line in lines if line.strip()])))
    text = "\n".join(parts)
    Path(card).write_text(text, encoding="utf-8")
    return text


def _section(title: str, scores: list[Score] | list[HedgeScore]) -> str:
    if isinstance(scores[0], HedgeScore):
        return _hedge_section(title, scores)  # type: ignore[arg-type]
    lines = [
        f"## {scores[0].kind}: {title}\n",
        "| slice | n | accuracy | precision | recall | F1 | kappa |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [f"| {s.slice} | {s.n} | {s.accuracy} | {s.precision} | {s.recall} | {s.f1:.3f} | {s.kappa:.3f} |" for s in scores]
    worst = min(scores, key=lambda s: s.f1)
    lines.append(f"\nWorst slice: **{worst.slice}**, F1 {worst.f1:.3f}, kappa {worst.kappa:.3f}, n = {worst.n}.\n")
    lines += ["| label | n | share on which the marker fires |", "|---|---|---|"]
    return "\n".join(lines + [f"| {label} | {share.n} | {share} |" for label, share in scores[0].fires_on]) + "\n"


def _hedge_section(title: str, scores: list[HedgeScore]) -> str:
    lines = [
        f"## hedge: {title}\n",
        "| slice | n | Spearman with perceived doubt | fires (>= .5) on highly confident | n | fires on doubtful (< 40) | n |",
        "|---|---|---|---|---|---|---|",
    ]
    for s in scores:
        low, high = s.interval
        lines.append(
            f"| {s.slice} | {s.n} | {s.spearman:.3f} [{low:.3f}, {high:.3f}] | {s.fires_on_sure} | {s.fires_on_sure.n} | "
            f"{s.fires_on_doubtful} | {s.fires_on_doubtful.n} |"
        )
    worst = min(scores, key=lambda s: s.spearman)
    return "\n".join(lines) + f"\n\nWorst slice: **{worst.slice}**, Spearman {worst.spearman:.3f}, n = {worst.n}.\n"
