"""A second measure, which needs no judge: of two given answers, is the right one likelier than the other, under each voice?

An answer's likelihood is its mean log-probability per token (natural logarithm, the end token left out), after the voice's own
prompt and a closed thought: an empty one, or, where an evaluation has been made, what the voice itself thought then. A baseline
whose prompt opens no thought gets none before its answer. Nothing is generated.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict

from ..core.common import BASELINE, VOICES, PushbackError
from ..core.files import replacing, to_row, write_jsonl
from ..core.records import OPEN, join_reply
from ..core.show import Picture, markdown_table, picture
from ..core.stats import Rate, cluster_bootstrap, pair_accuracy, wilson
from ..model.voices import ADAPTER_OF, Speaker
from .figures import aligned, cells
from .judge import Origin, Response
from .plots import plot_preferences
from .prompts import Prompt, kind_of
from .run import EvalRun

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

TOKENS_AT_ONCE = 2048  # in one batch, padding included
HOW = (
    "How often the right one of two given answers is the likelier one (mean log-probability per token), with Wilson's 95 % "
    "interval, and by how much on average (nats per token, bootstrap interval). No judge and no sampling has a part in it; but "
    "what an answer says and how it is worded count alike. So compare voices on the same answers, and what they prefer where "
    "friction is called for with what they prefer where it is not: one manner everywhere gets no pair right."
)
AGAINST = {
    "eager": "the eager answer given with the prompt",  # of a record: another one's of its scenario
    "greedy": "the baseline's own greedy answer",
}
THINKING = {"none": "no thought", "own": "the voice's own thought"}


class Preference(BaseModel):
    """One comparison: the mean log-probability per token of the right answer and of the other, and the tokens of each."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    prompt_id: str
    pair: str
    kind: str
    about: str
    expected: str
    split: str
    voice: str
    thinking: Literal["none", "own"]
    against: Literal["eager", "greedy"]
    prompt: str
    thought: str
    right: str
    other: str
    right_logprob: float
    other_logprob: float
    right_tokens: int
    other_tokens: int
    provenance: Origin

    @property
    def margin(self) -> float:
        """By how much the right answer is likelier, in nats per token."""
        return self.right_logprob - self.other_logprob

    @property
    def prefers_right(self) -> bool:
        return self.margin > 0


@dataclass(frozen=True)
class Given:
    """An answer to be scored: the prompt it answers, the voice, and the thought before it."""

    prompt: Prompt
    voice: str
    thought: str
    answer: str


def check_answers(prompts: Sequence[Prompt]) -> None:
    """Raises PushbackError if no prompt has two answers to compare."""
    if not any(prompt.right and prompt.eager for prompt in prompts):
        raise PushbackError(
            f"None of the {len(prompts)} prompts has a right answer and an eager one (fields `right`, `eager`). Pass --prompts "
            "data/eval/prompts.jsonl, or a file of records such as data/friction/test.jsonl."
        )


def compare_answers(speaker: Speaker, run: EvalRun, replies: Sequence[Response] = ()) -> list[Preference]:
    """Every comparison that the run's prompts and the replies allow, prompt by prompt.

    With `replies` of an evaluation of these prompts, answers are scored after the first sample's thoughts too, and the right
    answer is compared with the baseline's too.
    """
    asked = list(_comparisons(run.prompts, {(row.prompt_id, row.voice): row for row in replies if row.sample == 0}))
    answers = list(dict.fromkeys(given for *_, right, other in asked for given in (right, other)))
    scores = dict(zip(answers, log_probabilities(speaker, run, answers), strict=True))
    return [_preference(run, *one, scores) for one in asked]


def _comparisons(
    prompts: Iterable[Prompt], replies: dict[tuple[str, str], Response]
) -> Iterator[tuple[str, str, Given, Given]]:
    """(thinking, against, right answer, other answer) of each comparison."""
    for prompt in prompts:
        greedy = replies.get((prompt.id, BASELINE))
        others = {"eager": prompt.eager, "greedy": greedy.answer.strip() if greedy else ""}
        others = {against: other for against, other in others.items() if prompt.right and other not in ("", prompt.right)}
        for voice in VOICES:
            said = replies.get((prompt.id, voice))
            own = {"own": said.thought} if said and said.thought and said.answer else {}  # one that was cut off does not count
            for (thinking, thought), (against, other) in product(({"none": ""} | own).items(), others.items()):
                yield thinking, against, *(Given(prompt, voice, thought, answer) for answer in (prompt.right, other))


def _preference(
    run: EvalRun, thinking: str, against: str, right: Given, other: Given, scores: dict[Given, tuple[float, int]]
) -> Preference:
    prompt, voice = right.prompt, right.voice
    (right_logprob, right_tokens), (other_logprob, other_tokens) = scores[right], scores[other]
    return Preference(
        id=f"{prompt.id}/{voice}/{thinking}/{against}", prompt_id=prompt.id, pair=prompt.pair, kind=kind_of(prompt),
        about=prompt.behaviour, expected=prompt.wants, split=prompt.split, voice=voice, thinking=thinking, against=against,
        prompt=prompt.asked, thought=right.thought, right=right.answer, other=other.answer, right_logprob=right_logprob,
        other_logprob=other_logprob, right_tokens=right_tokens, other_tokens=other_tokens, provenance=run.origins[voice],
    )  # fmt: skip


def log_probabilities(speaker: Speaker, run: EvalRun, answers: Sequence[Given]) -> list[tuple[float, int]]:
    """Each answer's mean log-probability per token, and its tokens; both voices share batches of like length."""
    from tqdm import tqdm

    rows = [_tokens(speaker, run, given) for given in answers]
    found: list[tuple[float, int]] = [(0.0, 0)] * len(rows)
    with tqdm(total=len(rows), unit="answer", desc="likelihood", mininterval=0.5, leave=False, disable=None) as bar:
        for chosen in _batches([len(head) + len(answer) for head, answer in rows]):
            sums = _batch_sums(speaker, [rows[at] for at in chosen], [answers[at].voice for at in chosen])
            for at, total in zip(chosen, sums, strict=True):
                found[at] = (total / len(rows[at][1]), len(rows[at][1]))
            bar.update(len(chosen))
    return found


def _tokens(speaker: Speaker, run: EvalRun, given: Given) -> tuple[list[int], list[int]]:
    """What stands before the answer, and the answer."""
    conversation = run.messages(given.prompt, given.voice)
    head = speaker.tokenizer.apply_chat_template(conversation, add_generation_prompt=True, tokenize=False)
    opened = speaker.family.opens_thought
    if opened or given.thought or given.voice != BASELINE:
        head += join_reply(given.thought, "").removeprefix(f"{OPEN}\n" if opened else "")
    encode = speaker.tokenizer.encode
    return tuple(encode(text, add_special_tokens=False) for text in (head, given.answer.strip()))


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Places of like length, longest first (what does not fit fails at once), at most TOKENS_AT_ONCE with their padding."""
    order = sorted(range(len(lengths)), key=lambda at: -lengths[at])
    while order:
        size = max(1, TOKENS_AT_ONCE // lengths[order[0]])
        yield order[:size]
        order = order[size:]


def _batch_sums(speaker: Speaker, rows: Sequence[tuple[list[int], list[int]]], voices: Sequence[str]) -> list[float]:
    """The summed log-probability of each answer, in one forward pass; padded on the left, so that all answers end together."""
    import torch

    texts = [head + answer for head, answer in rows]
    gaps = [max(map(len, texts)) - len(text) for text in texts]
    pad = speaker.tokenizer.pad_token_id
    ids = torch.tensor([[pad] * gap + text for gap, text in zip(gaps, texts, strict=True)], device=speaker.model.device)
    mask = torch.tensor([[0] * gap + [1] * len(text) for gap, text in zip(gaps, texts, strict=True)], device=ids.device)
    kept = max(len(answer) for _, answer in rows)
    with speaker.lock, torch.inference_mode():
        logits = speaker.model(
            input_ids=ids, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0), use_cache=False,
            logits_to_keep=kept + 1, adapter_names=[ADAPTER_OF[voice] for voice in voices],
        ).logits[:, :-1]  # fmt: skip
    scores = -torch.nn.functional.cross_entropy(logits.float().transpose(1, 2), ids[:, -kept:], reduction="none")
    return [scores[at, -len(answer) :].sum().item() for at, (_, answer) in enumerate(rows)]


Points = list[tuple[str, Rate]]  # label, rate
CALLED_FOR = {True: "friction is called for", False: "plain help is called for"}
BOTH = "both halves of a pair"


@dataclass(frozen=True)
class Line:
    """How often one voice prefers the right answer, and the mean margin (nats per token) with its bootstrap 95 % interval.

    `prompts` is one of `CALLED_FOR`, or `BOTH`, where the margin is None; `about` is a behaviour, or "all".
    """

    against: str
    thinking: str
    prompts: str
    about: str
    voice: str
    likelier: Rate
    margin: tuple[float, float, float] | None


@dataclass(frozen=True)
class Preferences:
    """Every figure of the comparisons; as the last line of a cell it shows its table."""

    lines: tuple[Line, ...]
    provenance: dict[str, Origin]

    @property
    def conditions(self) -> list[tuple[str, str]]:
        """(against, thinking) of the comparisons that were made."""
        return list(dict.fromkeys((line.against, line.thinking) for line in self.lines))

    def table(self) -> DataFrame:
        """How often the right answer is likelier, of both voices side by side."""
        from pandas import DataFrame

        places: dict[tuple[str, ...], dict[str, str]] = {}
        for line in self.lines:
            margin = "; margin {:+.2f} [{:+.2f} to {:+.2f}]".format(*line.margin) if line.margin else ""
            key = (AGAINST[line.against], THINKING[line.thinking], line.prompts, line.about)
            places.setdefault(key, {})[line.voice] = f"{line.likelier}{margin}"
        return DataFrame([(*key, *(found.get(voice, "–") for voice in VOICES)) for key, found in places.items()],
                         columns=["against", "after", "prompts", "behaviour", *VOICES])  # fmt: skip

    @property
    def picture(self) -> Picture:
        """`preferences_plot`, with its figures for all behaviours as alternative text."""
        lines = [line for line in self.lines if line.about == "all"]
        said = (f"{line.voice}, {line.prompts}, against {AGAINST[line.against]}, after {THINKING[line.thinking]}: "
                f"{line.likelier}" for line in lines)  # fmt: skip
        return picture(preferences_plot(self), f"How often the right answer is the likelier one. {'; '.join(said)}")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "lines": [asdict(line) | {"likelier": line.likelier.to_dict()} for line in self.lines],
            "provenance": {voice: one.model_dump() for voice, one in self.provenance.items()},
        }

    def __str__(self) -> str:
        """One table for each condition, under a line that names it."""
        parts = self.table().groupby(["against", "after"], sort=False)
        return "\n\n".join(f"The right answer against {against}, after {after}: how often likelier, and by how much\n"
                           f"{aligned(part.iloc[:, 2:])}" for (against, after), part in parts)  # fmt: skip

    def _repr_markdown_(self) -> str:
        return markdown_table(*cells(self.table()))


def preferences_of(rows: Sequence[Preference]) -> Preferences:
    """The figures of all comparisons."""
    parts: dict[tuple[str, str, str], list[Preference]] = {}
    for row in rows:
        parts.setdefault((row.against, row.thinking, row.voice), []).append(row)
    lines = [line for (against, thinking, voice), part in parts.items() for line in _lines(against, thinking, voice, part)]
    return Preferences(tuple(lines), {row.voice: row.provenance for row in rows})


def _lines(against: str, thinking: str, voice: str, rows: Sequence[Preference]) -> Iterator[Line]:
    halves = {called: [row for row in rows if (row.expected != "comply") is called] for called in CALLED_FOR}
    for called, part in halves.items():
        abouts = sorted({row.about for row in part})
        for about in ["all", *(abouts if len(abouts) > 1 else [])] if part else []:
            chosen = [row for row in part if about in ("all", row.about)]
            yield Line(against, thinking, CALLED_FOR[called], about, voice, *_figures(chosen))
    both = [{row.pair: row.prefers_right for row in halves[called] if row.pair} for called in CALLED_FOR]
    if set(both[0]) & set(both[1]):
        yield Line(against, thinking, BOTH, "all", voice, pair_accuracy(*both), None)


def _figures(rows: Sequence[Preference]) -> tuple[Rate, tuple[float, float, float]]:
    margins = [row.margin for row in rows]
    low, high = cluster_bootstrap(margins, range(len(margins)))
    return wilson(sum(row.prefers_right for row in rows), len(rows)), (round(mean(margins), 4), round(low, 4), round(high, 4))


def preferences_plot(found: Preferences) -> Figure:
    """One panel for each condition: how often the right answer is likelier, by behaviour; friction prompts above."""
    panels: dict[str, dict[str, Points]] = {}
    labels: dict[str, bool] = {}
    for line in sorted(found.lines, key=lambda line: line.prompts != CALLED_FOR[True]):
        label = f"{line.about}{'' if line.prompts == CALLED_FOR[True] else ' twin' if line.about != 'all' else ' plain'}"
        if line.prompts != BOTH:
            labels[label] = line.prompts == CALLED_FOR[True]
            panel = panels.setdefault(f"against {AGAINST[line.against]},\nafter {THINKING[line.thinking]}", {})
            panel.setdefault(line.voice, []).append((label, line.likelier))
    return plot_preferences(panels, list(labels), sum(labels.values()))


def write_preferences(folder: str | Path, rows: Sequence[Preference]) -> Preferences:
    """Writes likelihood.jsonl (the comparisons), likelihood.json (the figures) and likelihood.png; returns the figures."""
    found = preferences_of(rows)
    write_jsonl(Path(folder) / "likelihood.jsonl", map(to_row, rows))
    with replacing(Path(folder) / "likelihood.json") as part:
        part.write_text(json.dumps(found.to_dict(), indent=1) + "\n", encoding="utf-8")
    with replacing(Path(folder) / "likelihood.png") as part:
        part.write_bytes(found.picture.png)
    return found
