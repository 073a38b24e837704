"""The data set's figures, and its card and report made from them."""

from __future__ import annotations

import json
import os
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from ..core.common import PushbackError
from ..core.files import replacing
from ..core.records import BEHAVIOURS, PERSONAS, SUBSET_OF, Record, join_reply, thought_text
from ..core.show import Picture, picture
from .checks import SPLITS, Finding, Splits, check_splits, distinct_n, flat, load_splits, tokens

Count = Callable[[str], int]
PARTS = ("request", "debate", "answer", "whole example")
ORDERS = (1, 2, 3, 4)


@dataclass(frozen=True)
class Figures:
    """Composition, lengths (in `unit`) and diversity of a data set."""

    records: int
    scenarios: int
    splits: dict[str, int]
    subsets: dict[str, int]
    behaviours: dict[str, int]
    domains: dict[str, dict[str, int]]  # domain -> behaviour -> records
    sources: dict[str, int]
    multi_turn: int  # records with earlier turns
    unit: str
    lengths: dict[str, list[int]]  # part -> one length per record
    openings: list[tuple[str, int]]  # commonest two-word openings of answers
    distinct: dict[str, list[float]]  # kind of text -> distinct-1 to distinct-4

    def summary(self, part: str) -> str:
        """Median and range of one part's lengths."""
        found = sorted(self.lengths[part])
        high = found[int(0.95 * (len(found) - 1))]
        return f"median {statistics.median(found):.0f}, 95 % at most {high}, longest {found[-1]}"


def figures(splits: Splits, tokenizer: str | None = None) -> Figures:
    """All figures; lengths in tokens of `tokenizer` (folder or Hub name), else in words."""
    records = flat(splits)
    count, unit = counter(tokenizer)
    domains: dict[str, Counter[str]] = {}
    for record in records:
        domains.setdefault(record.domain, Counter())[record.behaviour] += 1
    return Figures(
        records=len(records),
        scenarios=len({record.scenario for record in records}),
        splits={name or "all": len(rows) for name, rows in splits.items()},
        subsets=_tally(record.subset for record in records),
        behaviours=_tally(record.behaviour for record in records),
        domains={name: dict(domains[name]) for name in sorted(domains)},
        sources=_tally(record.provenance.source for record in records),
        multi_turn=sum(bool(record.history) for record in records),
        unit=unit,
        lengths=_lengths(records, count),
        openings=Counter(" ".join(tokens(record.answer)[:2]) for record in records).most_common(15),
        distinct=_distinct(records),
    )


def counter(tokenizer: str | None) -> tuple[Count, str]:
    """A function from text to its length, and the unit of that. Raises PushbackError for an unknown tokenizer."""
    if tokenizer is None:
        return lambda text: len(text.split()), "words"
    from transformers import AutoTokenizer

    try:
        loaded = AutoTokenizer.from_pretrained(tokenizer)
    except (OSError, ValueError) as error:
        raise PushbackError(f"No tokenizer at {tokenizer!r}. Pass a folder or a Hub name, or leave it out.") from error
    name = tokenizer.rstrip("/").split("/")[-1]
    return lambda text: len(loaded(text, add_special_tokens=False)["input_ids"]), f"tokens of {name}"


def _tally(values) -> dict[str, int]:
    return dict(Counter(values).most_common())


def _lengths(records: Sequence[Record], count: Count) -> dict[str, list[int]]:
    rows = []
    for record in records:
        debate = thought_text(record)
        whole = f"{record.user_input}\n{join_reply(debate, record.answer)}"
        rows.append([count(text) for text in (record.user_input, debate, record.answer, whole)])
    return {part: [row[place] for row in rows] for place, part in enumerate(PARTS)}


def _distinct(records: Sequence[Record]) -> dict[str, list[float]]:
    texts = {
        "requests": [record.user_input for record in records],
        "thoughts": [thought.thought for record in records for thought in record.thoughts],
        "answers": [record.answer for record in records],
    }
    return {kind: [distinct_n(found, n) for n in ORDERS] for kind, found in texts.items()}


_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def write_card(folder: str | os.PathLike[str], tokenizer: str | None = None) -> Path:
    """Writes README.md, with the Hub's metadata, beside the splits it describes; returns its path."""
    folder = Path(folder)
    if not folder.is_dir():
        raise PushbackError(f"{folder} is no folder. A card describes a folder with {', '.join(SPLITS)} files.")
    splits = load_splits(folder)
    with replacing(folder / "README.md") as part:
        part.write_text(card(splits, check_splits(splits), tokenizer), encoding="utf-8")
    return folder / "README.md"


def card(splits: Splits, findings: Sequence[Finding], tokenizer: str | None = None) -> str:
    """The card's Markdown."""
    counted = figures(splits, tokenizer)
    parts = (
        _front(counted),
        _purpose(counted),
        _making(counted),
        _composition(counted),
        _checks(findings),
        _limits(counted),
    )
    return "\n".join(parts)


def _front(counted: Figures) -> str:
    """YAML front matter (https://huggingface.co/docs/hub/datasets-cards)."""
    size = next((name for bound, name in _SIZES if counted.records < bound), "n>1M")
    files = "".join(f"      - split: {name}\n        path: {name}.jsonl\n" for name in counted.splits)
    return (
        "---\npretty_name: Push-Back friction\nlicense: apache-2.0\nlanguage:\n  - en\ntask_categories:\n"
        f"  - text-generation\nsize_categories:\n  - {size}\ntags:\n  - synthetic\n  - reasoning\n  - refusal\n"
        "  - clarification\n  - disagreement\n  - uncertainty\nconfigs:\n  - config_name: default\n    data_files:\n"
        f"{files}---\n"
    )


def _purpose(counted: Figures) -> str:
    return f"""# Push-Back friction

{counted.records:,} examples in {counted.scenarios:,} situations that train a language model to disagree, ask first, doubt
or refuse *when that helps*, and to simply help when nothing stands against it. Each holds a user's message, an inner
debate of six personas with its friction moments, and the answer that follows from it.

**All text is synthetic.** No message was sent by a real user, and no person, firm or case in it is meant to be a real one.

```python
from datasets import load_dataset

data = load_dataset("json", data_files={{"train": "data/friction/train.jsonl", "test": "data/friction/test.jsonl"}})
```

Made for supervised fine-tuning of reasoning models (the debate goes inside `<think>`), for teaching, and for looking at.
The test split is never trained on. Not made to measure a model's safety, nor to give advice: answers show a manner.
"""


_SOURCES = {
    "written": "synthetic text written for the kit, one record at a time, to a style guide, and checked by the code below",
    "engine": "generated by the kit's debate engine (`pushback data make`); model, seed and settings stand in the record",
    "language": "made by the kit's script for its small language",
}


def _making(counted: Figures) -> str:
    personas = "\n".join(f"{place}. **{p.name}**: {p.task}" for place, p in enumerate(PERSONAS, 1))
    sources = "\n".join(
        f"- `{name}`: **{counted.sources.get(name, 0):,}** of {counted.records:,} records, {how}"
        for name, how in _SOURCES.items()
        if name in counted.sources or name != "language"
    )
    return f"""## How it was made

Six personas speak in turn, and each hears those before it:

{personas}

Where each record comes from is in its `provenance.source`:

{sources}

Scenarios, not records, were dealt to the splits, so that no situation of the test split was met in training.
"""


def _composition(counted: Figures) -> str:
    splits = "\n".join(f"| {name} | {count:,} |" for name, count in counted.splits.items())
    kinds = "\n".join(
        f"| {subset} | {name} | {counted.behaviours.get(name, 0):,} | "
        f"{100 * counted.behaviours.get(name, 0) / counted.records:.1f} % |"
        for subset, names in BEHAVIOURS.items()
        for name in names
    )
    domains = ", ".join(f"{name} ({sum(counts.values())})" for name, counts in counted.domains.items())
    lengths = "\n".join(f"| {part} | {counted.summary(part)} |" for part in PARTS)
    return f"""## What is in it

| Split | Records |
|---|---|
{splits}

| Subset | Behaviour | Records | Share |
|---|---|---|---|
{kinds}

Domains: {domains}.

| Part | Length in {counted.unit} |
|---|---|
{lengths}

Fields: `id`, `subset`, `behaviour`, `scenario` (one situation; its records ask different things), `domain`, `user_input`,
`thoughts` (six of `persona`, `thought`, `friction`, the last being the words of the thought where the resistance sits; in
`plain` records one to six, without friction), `answer`, `provenance`; `history` where earlier turns came before.
"""


def _checks(findings: Sequence[Finding]) -> str:
    rows = "\n".join(
        f"| {f.name} | {f.count} | {'' if f.limit is None else f.limit} | {'holds' if f.ok else '**broken**'} | "
        f"{_cell(f.detail)} |"
        for f in findings
    )
    held = sum(f.ok for f in findings)
    return f"""## Checks

{held} of {len(findings)} hold, as computed by `pushback data check` when this card was written.

| Check | Found | At most | | Figures |
|---|---|---|---|---|
{rows}
"""


def _limits(counted: Figures) -> str:
    return f"""## Limits

- English only, and one length of answer ({counted.summary("answer")} {counted.unit}): a model trained on it will sound alike.
- Synthetic: facts in the answers are meant to be correct, and were not verified one by one.
- What deserves disagreement or refusal is a judgement, made here by the authors; other people, and laws elsewhere, differ.
- The checks find repetition, leaks and gaps. They cannot tell whether an answer is wise: read some before you train.
- {counted.multi_turn:,} of {counted.records:,} records have earlier turns; pressure over several turns is covered no further.

## Licence

Apache-2.0. Generated by `pushback data card`; change the data and run it again rather than editing this file.
"""


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


ORDER = tuple(SUBSET_OF)
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
    names = [name for name in ORDER if name in counted.behaviours]
    bars = axes.bar([f"{name}\n({SUBSET_OF[name]})" for name in names], [counted.behaviours[name] for name in names])
    axes.bar_label(bars, [f"{100 * counted.behaviours[name] / counted.records:.1f} %" for name in names])
    axes.set_ylabel("records")


def draw_domains(figure: Any, counted: Figures) -> None:
    """Records per domain, stacked by behaviour."""
    axes = figure.subplots()
    names = list(counted.domains)[::-1]
    left = [0] * len(names)
    for behaviour, colour, hatch in zip(ORDER, COLOURS, HATCHES, strict=True):
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
