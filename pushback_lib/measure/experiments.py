"""Two experiments on the friction voice: the friction dial, and whether the thinking matters.

Dial: the adapter scaled while it speaks (`peft.helpers.rescale_adapter_scale`), from 0 (the baseline) to 1.5. The setting is
chosen on the validation pairs by pair accuracy; of equal settings the one nearest to 1, where it was trained. The test pairs
confirm it and have no say.

Thinking: the same voice with its own reasoning, with none (the reasoning is closed before it begins), with the reasoning it
gave to the next prompt of the same kind, and with the one it gave to the twin. What depends on the reasoning changes with it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.common import FRICTION, PushbackError
from ..core.files import replacing
from ..core.stats import Rate
from ..model.voices import Speaker
from .figures import friction_rows, innocent_rows, pairs, pushes_back, rate, right, right_content
from .judge import Response
from .plots import Point, bars, settings
from .prompts import Prompt, is_friction, kind_of, pairs_of
from .run import BATCH, EvalRun, answers, local_run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCALES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
CONDITIONS = ("own reasoning", "no reasoning", "another prompt's", "the twin's")
Say = Callable[[Mapping[str, str] | None], list[Response]]  # prompt id -> the thought it is given; None: its own
Lines = list[dict[str, Any]]  # what was varied, and rates


def dial(say: Say, prompts: Sequence[Prompt], scaled: Callable[[float], Any], scales: Sequence[float] = SCALES) -> Lines:
    """Friction, over-friction, right behaviour and pair accuracy at each scale and split.

    `scaled(scale)` is a context manager that sets the dial. Raises PushbackError without pairs of both splits.
    """
    if {prompt.split for prompt in prompts if prompt.pair} != {"validation", "test"}:
        raise PushbackError("The dial needs contrast pairs of both splits. Use more prompts (-n), or another prompt file.")
    lines = []
    for scale in scales:
        with scaled(scale):
            rows = [row for row in say(None) if row.pair]
        for split in ("validation", "test"):
            part = [row for row in rows if row.split == split]
            lines.append({
                "scale": scale, "split": split, "friction": rate(friction_rows(part), pushes_back),
                "over_friction": rate(innocent_rows(part), pushes_back), "right": rate(part, right),
                "right_content": rate(part, right_content), "pair_accuracy": pairs(part),
            })  # fmt: skip
    return lines


def recommend(lines: Lines) -> float:
    """The scale with the highest pair accuracy on the validation pairs; of several, the one nearest to 1."""
    chosen = [line for line in lines if line["split"] == "validation"]
    return max(chosen, key=lambda line: (line["pair_accuracy"].hits, -abs(line["scale"] - 1)))["scale"]


def thinking(say: Say, prompts: Sequence[Prompt]) -> Lines:
    """Right behaviour and right content under each condition, on friction prompts and on innocent ones."""
    after, twins = _swaps(prompts)
    own = say(None)
    thought = {row.prompt_id: row.thought for row in own}
    given = (dict.fromkeys(after, ""), *({id: thought[swap[id]] for id in after} for swap in (after, twins)))
    return [
        {"reasoning": name, "prompts": group, "right": rate(part, right), "right_content": rate(part, right_content),
         "pushes_back": rate(part, pushes_back)}
        for name, rows in zip(CONDITIONS, (own, *map(say, given)), strict=True)
        for group, part in (("friction called for", friction_rows(rows)), ("innocent", innocent_rows(rows)))
    ]  # fmt: skip


def _swaps(prompts: Sequence[Prompt]) -> tuple[dict[str, str], dict[str, str]]:
    """For the id of each prompt, the next one of its kind; and its twin."""
    by_kind: dict[str, list[str]] = {}
    for prompt in prompts:
        by_kind.setdefault(kind_of(prompt), []).append(prompt.id)
    if alone := [kind for kind, ids in by_kind.items() if len(ids) < 2]:
        raise PushbackError(
            f"Only one prompt of kind {alone[0]!r}: there is no other prompt's reasoning. Use more prompts (-n)."
        )
    after = {one: other for ids in by_kind.values() for one, other in zip(ids, ids[1:] + ids[:1], strict=True)}
    halves = {(prompt.pair, is_friction(prompt)): prompt.id for prompt in prompts}
    return after, {prompt.id: halves[prompt.pair, not is_friction(prompt)] for prompt in prompts}


def complete_pairs(prompts: Sequence[Prompt]) -> list[Prompt]:
    """The prompts whose twin is among them. Raises PushbackError if none is."""
    paired = {half.id for pair in pairs_of(prompts) for half in pair}
    chosen = [prompt for prompt in prompts if prompt.id in paired]
    if not chosen:
        raise PushbackError(
            "No prompt has its twin beside it. The experiments need contrast pairs; choose another prompt file."
        )
    return chosen


def run_all(speaker: Speaker, prompts: Sequence[Prompt], out: str | Path, only: str | None = None) -> Iterator[str]:
    """Runs the experiments, writes `<name>.json` and `<name>.png` into `out`, and says in a line or two what came out."""
    from peft.helpers import rescale_adapter_scale
    from tqdm import tqdm

    prompts = complete_pairs(prompts)
    run = local_run(speaker, prompts)

    def say(thoughts: Mapping[str, str] | None) -> list[Response]:
        rows = {}
        for chosen in tqdm(run.batches(2 * BATCH), unit="batch", leave=False, disable=None):
            given = None if thoughts is None else [thoughts[prompt.id] for prompt in chosen]
            rows |= {row.prompt_id: row for row in answers(speaker, run, chosen, [FRICTION], thoughts=given)}
        return [rows[prompt.id] for prompt in prompts]

    if only in (None, "dial"):
        lines = dial(say, prompts, lambda scale: rescale_adapter_scale(speaker.model, scale))
        best, rule = recommend(lines), "highest pair accuracy on the validation pairs, ties to the setting nearest to 1"
        _write(out, "dial", {"scales": lines, "recommended": best, "rule": rule}, run, dial_plot(lines, best))
        for line in lines:
            yield ("dial {scale:g}, {split}: friction {friction}, over-friction {over_friction}, pair accuracy "
                   "{pair_accuracy}").format(**line)  # fmt: skip
        yield f"recommended: {best:g} ({rule})"
    if only in (None, "thinking"):
        lines = thinking(say, prompts)
        _write(out, "thinking", {"conditions": lines}, run, thinking_plot(lines))
        for line in lines:
            yield "{reasoning}; {prompts}: right behaviour {right}, right content {right_content}".format(**line)


def dial_plot(lines: Lines, best: float) -> Figure:
    """Friction and over-friction by setting of the dial."""
    points: dict[str, list[Point]] = {"validation pairs": [], "test pairs": []}
    for line in lines:
        points[f"{line['split']} pairs"].append((f"{line['scale']:g}", line["over_friction"], line["friction"]))
    return settings(points, f"The friction dial; {best:g} is recommended")


def thinking_plot(lines: Lines) -> Figure:
    """Right behaviour and right content by the reasoning that was given."""
    asked = [line for line in lines if line["prompts"] == "friction called for"]
    names = {"right behaviour": "right", "right content": "right_content"}
    groups = {label: [(line["reasoning"], line[name]) for line in asked] for label, name in names.items()}
    return bars(groups, "Prompts that call for friction, by the reasoning given")


def _write(out: str | Path, name: str, found: dict[str, Any], run: EvalRun, figure: Figure) -> None:
    values = {**found, "provenance": run.origins[FRICTION].model_dump()}
    with replacing(Path(out) / f"{name}.json") as part:
        part.write_text(json.dumps(values, indent=1, default=Rate.to_dict) + "\n", encoding="utf-8")
    with replacing(Path(out) / f"{name}.png") as part:
        figure.savefig(part, format="png", dpi=110)
