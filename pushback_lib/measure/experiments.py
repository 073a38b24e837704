"""Two experiments on the friction voice: the friction dial, and whether the thinking matters; knows nothing about training.

Dial: the adapter scaled at inference (`peft.helpers.rescale_adapter_scale`), from 0 (the baseline) to 1.5. The setting is
chosen on the validation pairs by pair accuracy, ties going to the setting nearest to 1, where it was trained; the test pairs
confirm it and have no say.

Thinking: the same voice with its own reasoning, with none (the reasoning is closed before it begins), with the reasoning it
gave to the next prompt of the same kind, and with the one it gave to the twin. What depends on the reasoning changes with it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.common import FRICTION, PushbackError
from ..core.files import replacing
from ..core.records import CLOSE, split_reply
from ..core.stats import Rate
from ..model.voices import Speaker
from .figures import friction_rows, innocent_rows, pairs, pushes_back, rate, right, right_content, share
from .judge import Language
from .plots import Point, bars, settings
from .prompts import Prompt, is_friction, kind_of
from .run import BATCH, Job, Origin, Plan, Response, Sampling, Timings, in_batches, judged, local_plan

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCALES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
CONDITIONS = ("own reasoning", "no reasoning", "another prompt's", "the twin's")
Say = Callable[[Sequence[Prompt]], list[Response]]


def speak_from(
    speaker: Speaker, plan: Plan, prompts: Sequence[Prompt], thoughts: Sequence[str] | None = None
) -> list[Response]:
    """The friction voice's greedy replies; with `thoughts`, each answer goes on from that reasoning, closed ("" for none)."""
    import torch

    tokenizer, origin = speaker.tokenizer, plan.origins[FRICTION]
    texts = [
        tokenizer.apply_chat_template(plan.messages(p, FRICTION), add_generation_prompt=True, tokenize=False) for p in prompts
    ]
    heads = [""] * len(texts) if thoughts is None else [f"{thought}\n{CLOSE}\n\n" for thought in thoughts]
    inputs = tokenizer([text + head for text, head in zip(texts, heads, strict=True)], return_tensors="pt", padding=True,
                       add_special_tokens=False).to(speaker.model.device)  # fmt: skip
    start = time.perf_counter()
    with torch.inference_mode():
        out = speaker.model.generate(**inputs, do_sample=False, max_new_tokens=origin.max_tokens,
                                     pad_token_id=tokenizer.pad_token_id)  # fmt: skip
    seconds, rows = round(time.perf_counter() - start, 3), []
    for prompt, head, ids in zip(prompts, heads, out[:, inputs["input_ids"].shape[1] :].tolist(), strict=True):
        finished = tokenizer.eos_token_id in ids
        ids = ids[: ids.index(tokenizer.eos_token_id)] if finished else ids
        timings = Timings(seconds=seconds, replies=len(texts), tokens=len(ids))
        rows.append(
            judged(
                Job(prompt, FRICTION, 0),
                split_reply(head + tokenizer.decode(ids), end="stop" if finished else "length"),
                timings,
                origin,
            )
        )
    return rows


def dial(
    say: Say, prompts: Sequence[Prompt], scaled: Callable[[float], Any], scales: Sequence[float] = SCALES
) -> dict[str, Any]:
    """Friction, over-friction, right behaviour and pair accuracy at each scale and split, and the setting that is recommended.

    `say` gives the replies; `scaled(scale)` is a context manager that sets the dial. Raises PushbackError without pairs of both
    splits.
    """
    if {prompt.split for prompt in prompts if prompt.pair} != {"validation", "test"}:
        raise PushbackError("The dial needs contrast pairs of both splits. Use more prompts (-n), or another prompt file.")
    lines = []
    for scale in scales:
        with scaled(scale):
            rows = [row for row in say(prompts) if row.pair]
        lines += [
            {"scale": scale, "split": split, **_figures([row for row in rows if row.split == split])}
            for split in ("validation", "test")
        ]
    return {
        "scales": lines,
        "recommended": recommend(lines),
        "rule": "highest pair accuracy on the validation pairs, ties to the setting nearest to 1",
    }


def _figures(rows: Sequence[Response]) -> dict[str, Any]:
    asked, innocent = friction_rows(rows), innocent_rows(rows)
    return {"friction": share(rate(asked, pushes_back)), "over_friction": share(rate(innocent, pushes_back)),
            "right": share(rate(rows, right)), "right_content": share(rate(rows, right_content)),
            "pair_accuracy": share(pairs(rows))}  # fmt: skip


def recommend(lines: Sequence[dict[str, Any]]) -> float:
    """The scale with the highest pair accuracy on the validation pairs; of several, the one nearest to 1."""
    chosen = [line for line in lines if line["split"] == "validation"]
    return max(chosen, key=lambda line: (line["pair_accuracy"]["hits"], -abs(line["scale"] - 1)))["scale"]


def thinking(
    say_after: Callable[[Sequence[Prompt], Sequence[str] | None], list[Response]], prompts: Sequence[Prompt]
) -> dict[str, Any]:
    """Right behaviour and right content under each condition, on friction prompts and on innocent ones."""
    swaps = _swaps(prompts)
    own = say_after(prompts, None)
    thought = {row.prompt_id: row.thought for row in own}
    given = {name: [thought[other] for other in swapped] for name, swapped in swaps.items()}
    found = {CONDITIONS[0]: own, CONDITIONS[1]: say_after(prompts, [""] * len(prompts))}
    found |= {name: say_after(prompts, thoughts) for name, thoughts in given.items()}
    lines = [
        {"reasoning": name, "prompts": group, "right": share(rate(part, right)),
         "right_content": share(rate(part, right_content)), "pushes_back": share(rate(part, pushes_back))}
        for name, rows in found.items()
        for group, part in (("friction called for", friction_rows(rows)), ("innocent", innocent_rows(rows)))
    ]  # fmt: skip
    return {"conditions": lines}


def _swaps(prompts: Sequence[Prompt]) -> dict[str, list[str]]:
    """For each prompt, the ids of the next one of its kind and of its twin."""
    by_kind: dict[str, list[str]] = {}
    for prompt in prompts:
        by_kind.setdefault(kind_of(prompt), []).append(prompt.id)
    if alone := [kind for kind, ids in by_kind.items() if len(ids) < 2]:
        raise PushbackError(
            f"Only one prompt of kind {alone[0]!r}: there is no other prompt's reasoning. Use more prompts (-n)."
        )
    after = {one: other for ids in by_kind.values() for one, other in zip(ids, ids[1:] + ids[:1], strict=True)}
    halves = {(prompt.pair, is_friction(prompt)): prompt.id for prompt in prompts}
    twins = [halves[prompt.pair, not is_friction(prompt)] for prompt in prompts]
    return {CONDITIONS[2]: [after[prompt.id] for prompt in prompts], CONDITIONS[3]: twins}


def run_all(
    speaker: Speaker, adapter: Path, prompts: Sequence[Prompt], language: Language, out: Path, only: str | None = None
) -> Iterator[str]:
    """Runs the experiments, writes `<name>.json` and `<name>.png` into `out`, and says in a line or two what came out."""
    paired = whole_pairs(prompts)
    plan = local_plan(speaker, adapter, paired, language, Sampling())
    if only in (None, "dial"):
        yield from _run_dial(speaker, plan, out)
    if only in (None, "thinking"):
        yield from _run_thinking(speaker, plan, out)


def whole_pairs(prompts: Sequence[Prompt]) -> list[Prompt]:
    """The prompts whose twin is among them. Raises PushbackError if none is."""
    halves = {(prompt.pair, is_friction(prompt)) for prompt in prompts if prompt.pair}
    chosen = [prompt for prompt in prompts if prompt.pair and (prompt.pair, not is_friction(prompt)) in halves]
    if not chosen:
        raise PushbackError(
            "No prompt has its twin beside it. The experiments need contrast pairs; choose another prompt file."
        )
    return chosen


def _in_batches(speaker: Speaker, plan: Plan, name: str, calls: int) -> Callable[..., list[Response]]:
    """`speak_from` for any number of prompts, in batches of like length, with a progress bar over all calls."""
    from tqdm import tqdm

    bar = tqdm(total=calls * len(plan.prompts), unit="reply", desc=name)

    def say(prompts: Sequence[Prompt], thoughts: Sequence[str] | None = None) -> list[Response]:
        given = dict(zip((prompt.id for prompt in prompts), thoughts or [], strict=False))
        rows = {}
        for chosen in in_batches(replace(plan, prompts=tuple(prompts)), 2 * BATCH):
            heads = None if thoughts is None else [given[prompt.id] for prompt in chosen]
            rows |= {row.prompt_id: row for row in speak_from(speaker, plan, chosen, heads)}
            bar.update(len(chosen))
        return [rows[prompt.id] for prompt in prompts]

    return say


def _run_dial(speaker: Speaker, plan: Plan, out: Path) -> Iterator[str]:
    from peft.helpers import rescale_adapter_scale

    say = _in_batches(speaker, plan, "dial", len(SCALES))
    found = dial(say, plan.prompts, lambda scale: rescale_adapter_scale(speaker.model, scale))
    _write(out / "dial", found, plan.origins[FRICTION], dial_figure(found))
    for line in found["scales"]:
        yield (f"dial {line['scale']:g}, {line['split']}: friction {_rate(line['friction'])}, over-friction "
               f"{_rate(line['over_friction'])}, pair accuracy {_rate(line['pair_accuracy'])}")  # fmt: skip
    yield f"recommended: {found['recommended']:g} ({found['rule']})"


def dial_figure(found: dict[str, Any]) -> Figure:
    """The plot of what `dial` found."""
    lines: dict[str, list[Point]] = {"validation pairs": [], "test pairs": []}
    for line in found["scales"]:
        lines[f"{line['split']} pairs"].append((f"{line['scale']:g}", _rate(line["over_friction"]), _rate(line["friction"])))
    return settings(lines, f"The friction dial; {found['recommended']:g} is recommended")


def _run_thinking(speaker: Speaker, plan: Plan, out: Path) -> Iterator[str]:
    found = thinking(_in_batches(speaker, plan, "thinking", len(CONDITIONS)), plan.prompts)
    groups: dict[str, list[Any]] = {"right behaviour": [], "right content": []}
    for line in found["conditions"]:
        if line["prompts"] == "friction called for":
            groups["right behaviour"].append((line["reasoning"], _rate(line["right"])))
            groups["right content"].append((line["reasoning"], _rate(line["right_content"])))
        yield (f"{line['reasoning']}; {line['prompts']}: right behaviour {_rate(line['right'])}, right content "
               f"{_rate(line['right_content'])}")  # fmt: skip
    _write(
        out / "thinking", found, plan.origins[FRICTION], bars(groups, "Prompts that call for friction, by the reasoning given")
    )


def _rate(found: dict[str, Any]) -> Rate:
    return Rate(**found)


def _write(stem: Path, found: dict[str, Any], origin: Origin, figure: Any) -> None:
    with replacing(stem.with_suffix(".json")) as part:
        part.write_text(json.dumps({**found, "provenance": origin.model_dump()}, indent=1) + "\n", encoding="utf-8")
    with replacing(stem.with_suffix(".png")) as part:
        figure.savefig(part, format="png", dpi=110)
