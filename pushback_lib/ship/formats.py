"""Compare GGUF formats: size, divergence, friction and over-friction, as table and plot."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.common import BASELINE, FRICTION, VOICES, PushbackError
from ..core.files import replacing
from ..core.records import Message
from ..core.show import STYLE, markdown_table, spread
from ..core.stats import Rate, cluster_bootstrap
from ..measure.figures import friction_rows, innocent_rows, of_voice, pushes_back, rate
from ..measure.judge import Response, generation
from ..measure.prompts import Prompt, prompt_set_hash, prompts_for, short_prompts
from ..measure.run import EvalRun, Sampling, run_server, server_run
from ..model.llama_cpp import LlamaCpp
from ..model.load import family_for, machine_name
from ..model.recipe import Recipe
from ..model.server import OpenAIChat

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

REFERENCE = "F32"
STRIDE = 3  # tokens from one measured position to the next, or more:
NUMBERS = 2_000_000  # log-probabilities asked of one file at most; a server sends each as text, and a large vocabulary has many
SPEED_TOKENS, SPEED_RUNS = 128, 5
SLOTS = 4  # replies at a time for each voice
HEADER = ("format", "MB", "KL against F32, nats", "tokens/s", "friction", "over-friction", "baseline's friction")

# Where the distributions are compared: number of the reply, tokens before, F32's log-probabilities of shape (vocabulary,)
Position = tuple[int, tuple[int, ...], "np.ndarray"]


@dataclass(frozen=True)
class Divergence:
    """Mean over `positions` in nats, with a 95 % bootstrap interval that draws whole replies; and the worst position."""

    mean: float
    low: float
    high: float
    worst: float
    positions: int
    replies: int

    def __str__(self) -> str:
        return f"{self.mean:.2g} [{self.low:.2g}–{self.high:.2g}]"


@dataclass(frozen=True)
class Line:
    """One format: bytes of its friction file, tokens per second, divergence (None for F32), rates by (figure, voice)."""

    kind: str
    size: int
    speed: float
    divergence: Divergence | None
    rates: Mapping[tuple[str, str], Rate]

    def cells(self) -> tuple[str, ...]:
        """The line as text, in HEADER's columns."""
        rates = (str(self.rates[at]) for at in (("friction", FRICTION), ("over_friction", FRICTION), ("friction", BASELINE)))
        return self.kind, f"{self.size / 1e6:.1f}", str(self.divergence or "0 (reference)"), f"{self.speed:,.0f}", *rates

    def to_dict(self) -> dict[str, Any]:
        """The line for JSON."""
        return {
            "format": self.kind, "bytes": self.size, "tokens_per_second": round(self.speed, 1),
            "kl": self.divergence and {key: round(value, 8) for key, value in vars(self.divergence).items()},
            "rates": {voice: {name: self.rates[name, voice].to_dict() for name in ("friction", "over_friction")}
                      for voice in VOICES},
        }  # fmt: skip


@dataclass(frozen=True)
class Table:
    """The lines, and what they were measured on; `provenance`: base, adapter, what merging did, how replies were drawn."""

    model: str
    lines: tuple[Line, ...]
    prompts: int
    prompt_set: str
    machine: str
    provenance: Mapping[str, str] = field(default_factory=dict)

    def _repr_markdown_(self) -> str:
        return f"{markdown_table(HEADER, [line.cells() for line in self.lines])}\n\n{self.note}\n"

    @property
    def note(self) -> str:
        """How the figures were measured, in a sentence or two."""
        one = next((line.divergence for line in self.lines if line.divergence), None)
        where = f"KL against {REFERENCE}: mean over {one.positions} positions of {one.replies} greedy replies. " if one else ""
        drawn = self.provenance.get("generation", "greedy")
        return (
            f"{where}Rates: {self.prompts} held-out prompts; {drawn}; 95 % intervals. Tokens per second: the best of "
            f"{SPEED_RUNS} runs of {SPEED_TOKENS} tokens, one reply at a time, on one thread of {self.machine}."
        )

    def save(self, folder: str | Path) -> tuple[Path, Path]:
        """Writes every figure to gguf.json and the plot to gguf.png; returns both paths."""
        data, picture = Path(folder) / "gguf.json", Path(folder) / "gguf.png"
        found = {key: value for key, value in vars(self).items() if key != "lines"}
        found |= {"note": self.note, "formats": [line.to_dict() for line in self.lines]}
        with replacing(data) as part:
            part.write_text(json.dumps(found, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        with replacing(picture) as part:
            plot(self).savefig(part, format="png", dpi=110)
        return data, picture


def compare_formats(
    files: Mapping[str, Mapping[str, Path]], recipe: Recipe, *, per_kind: int = 10, provenance: Mapping[str, str] | None = None
) -> Table:
    """Runs every format: `files` maps a format to its baseline and its friction file, F32 among them.

    `per_kind` prompts of each kind are asked. Raises PushbackError, before anything runs, if a file is not there.
    """
    missing = [path for pair in files.values() for path in pair.values() if not path.is_file()]
    if missing or REFERENCE not in files:
        raise PushbackError(
            f"No {missing[0] if missing else REFERENCE + ' file to compare with'}. Make all with `pushback ship all`."
        )
    prompts = prompts_for(recipe, per_kind)
    talks = [one.messages(recipe.system) for one in short_prompts(prompts, 1)]
    true = reference(files[REFERENCE][FRICTION], talks, recipe.max_new_tokens)
    lines = []
    for kind, pair in files.items():
        far = divergence(pair[FRICTION], true) if kind != REFERENCE else None
        speed, rates = tokens_per_second(pair[FRICTION], talks[0]), _rates(_answers(pair, recipe, prompts))
        lines.append(Line(kind, pair[FRICTION].stat().st_size, speed, far, rates))
    about = {**(provenance or {}), "generation": generation(0.0, recipe.max_new_tokens)}
    return Table(recipe.label, tuple(lines), len(prompts), prompt_set_hash(prompts), machine_name(), about)


def reference(
    f32: str | Path, conversations: Sequence[Sequence[Message]], max_tokens: int, stride: int = STRIDE
) -> list[Position]:
    """The F32 file's distribution at every `stride`-th token of its own greedy replies, or at fewer (`NUMBERS`)."""
    contexts: list[tuple[int, tuple[int, ...]]] = []
    with LlamaCpp(f32, exact=True) as server:
        for number, messages in enumerate(conversations):
            prompt = server.tokenise(server.render(messages))
            reply = server.complete(prompt, max_tokens).ids
            contexts += [(number, (*prompt, *reply[:at])) for at in range(0, len(reply), stride)]
        contexts = contexts[:: max(1, ceil(len(contexts) * server.vocabulary / NUMBERS))]
        return [(at, ids, server.log_probabilities(ids).astype("float32")) for at, ids in _bar(contexts, "kl F32")]


def divergence(gguf: str | Path, against: Sequence[Position]) -> Divergence:
    """How far a file's distributions are from the reference's: KL(F32 || file)."""
    with LlamaCpp(gguf, exact=True) as server:
        found = [kl(true, server.log_probabilities(ids)) for _, ids, true in _bar(against, f"kl {Path(gguf).stem}")]
    replies = [number for number, _, _ in against]
    low, high = cluster_bootstrap(found, replies)
    return Divergence(sum(found) / len(found), low, high, max(found), len(found), len(set(replies)))


def kl(true: np.ndarray, other: np.ndarray) -> float:
    """KL divergence in nats of `other` from `true`, both as log-probabilities; never below 0."""
    import numpy as np
    from scipy.special import rel_entr

    return max(0.0, float(rel_entr(np.exp(true, dtype="float64"), np.exp(other, dtype="float64")).sum()))


def _bar(items: Any, what: str) -> Any:
    from tqdm import tqdm

    return tqdm(items, what, unit="position", mininterval=1, delay=1, leave=False)


def tokens_per_second(gguf: Path, messages: Sequence[Message]) -> float:
    """The best of some runs that generate a fixed number of tokens: what else the machine does only slows them down."""
    with LlamaCpp(gguf) as server:
        prompt = server.tokenise(server.render(messages))
        return max(server.complete(prompt, SPEED_TOKENS, ignore_eos=True).tokens_per_second or 0 for _ in range(SPEED_RUNS))


def _answers(pair: Mapping[str, Path], recipe: Recipe, prompts: Sequence[Prompt]) -> list[Response]:
    """Both voices' judged replies, by the code of `pushback eval --backend server`; greedy."""
    with ThreadPoolExecutor(1) as pool, ExitStack() as stack:
        servers = {voice: stack.enter_context(LlamaCpp(pair[voice], slots=SLOTS, name=voice)) for voice in VOICES}
        opened = family_for(recipe).opens_thought
        chats = {
            voice: OpenAIChat(voice, server.base_url, plain=True, opens_thought=opened) for voice, server in servers.items()
        }
        run = server_run(chats, recipe.system, prompts, Sampling(max_tokens=recipe.max_new_tokens))
        return _in_thread(pool, _ask(chats, run))


def _in_thread(pool: ThreadPoolExecutor, work: Coroutine) -> Any:
    """What the coroutine returns, in a thread, since notebooks have a loop of their own. Ctrl-C cancels it, and waits."""
    tasks: list[asyncio.Task] = []

    async def known() -> Any:
        tasks.append(asyncio.current_task())
        return await work

    done = pool.submit(asyncio.run, known())
    try:
        return done.result()
    except KeyboardInterrupt:
        with suppress(RuntimeError):  # its loop may have ended just now
            for task in tasks:
                task.get_loop().call_soon_threadsafe(task.cancel)
        wait([done])
        raise


async def _ask(chats: Mapping[str, OpenAIChat], run: EvalRun) -> list[Response]:
    try:
        return await run_server(chats, run, concurrency=2 * SLOTS)
    finally:
        for chat in chats.values():
            await chat.close()


def _rates(rows: Sequence[Response]) -> dict[tuple[str, str], Rate]:
    parts = {"friction": friction_rows(rows), "over_friction": innocent_rows(rows)}
    return {(name, voice): rate(of_voice(part, voice), pushes_back) for name, part in parts.items() for voice in VOICES}


def plot(table: Table) -> Figure:
    """Three panels over one list of formats: size, KL divergence from F32, and both rates of the friction voice."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 1.9 + 0.42 * len(table.lines)), layout="constrained")
    size, kl, friction = figure.subplots(1, 3, sharey=True, width_ratios=(1, 1.2, 1.8))
    places = range(len(table.lines), 0, -1)
    sizes = [line.size / 1e6 for line in table.lines]
    size.bar_label(size.barh(places, sizes, height=0.5, color="#9a9a9a"), [f" {value:,.1f}" for value in sizes], fontsize=8)
    size.set(xlabel="size of the file, MB", xlim=(0, 1.25 * max(sizes)))
    _plot_divergence(kl, places, table.lines)
    _plot_friction(friction, places, table.lines)
    size.set_yticks(places, [line.kind for line in table.lines])
    size.set_ylim(0.4, len(table.lines) + 0.6)
    figure.suptitle(f"What a smaller file costs: {table.model}, {table.prompts} held-out prompts a voice, greedy")
    return figure


def _plot_divergence(axes: Axes, places: Sequence[int], lines: Sequence[Line]) -> None:
    found = [(place, line.divergence) for place, line in zip(places, lines, strict=True) if line.divergence]
    sides = [(one.mean - one.low, one.high - one.mean) for _, one in found]
    axes.errorbar([one.mean for _, one in found], [place for place, _ in found], xerr=list(zip(*sides, strict=True)),
                  fmt="D", color="#333333", capsize=2, markersize=5)  # fmt: skip
    axes.set_xscale("log")
    axes.set(xlabel="KL divergence from F32, nats (95 %)")
    axes.grid(axis="x", alpha=0.3)


def _plot_friction(axes: Axes, places: Sequence[int], lines: Sequence[Line]) -> None:
    for label, name, (colour, marker) in (
        ("friction: pushes back where called for", "friction", STYLE[FRICTION]),
        ("over-friction: pushes back where not", "over_friction", STYLE[BASELINE]),
    ):
        rates = [line.rates[name, FRICTION] for line in lines]
        axes.errorbar([100 * one.share for one in rates], places, xerr=spread(rates), fmt=marker, color=colour, label=label,
                      capsize=2)  # fmt: skip
    axes.set(xlim=(-3, 103), xlabel="friction voice's answers, % (95 % interval)")
    axes.legend(loc="center", fontsize=8)
    axes.grid(axis="x", alpha=0.3)
