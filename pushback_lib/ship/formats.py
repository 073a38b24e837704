"""Compare GGUF formats: size, divergence, friction and over-friction, as table and plot."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.common import BASELINE, FRICTION, VOICES, PushbackError
from ..core.files import replacing
from ..core.records import Message, prompt_messages
from ..core.stats import Rate, cluster_bootstrap
from ..measure.figures import friction_rows, innocent_rows, of_voice, pushes_back, rate, share
from ..measure.plots import STYLE, spread
from ..measure.prompts import Prompt, bundled_prompts, load_prompts, prompt_set_hash, short_prompts
from ..measure.run import Response, load_responses
from ..model.recipe import Recipe
from .llama_cpp import LlamaCpp

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STRIDE = 3  # tokens from one measured position to the next


@dataclass(frozen=True)
class Reference:
    """Where the distributions are compared: (number of the reply, tokens before), and F32's, shape (positions, vocabulary)."""

    contexts: tuple[tuple[int, tuple[int, ...]], ...]
    values: np.ndarray


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
        return f"{self.mean:.2g} [{self.low:.2g}–{self.high:.2g}] nats at {self.positions} positions of {self.replies} replies"


def reference(f32: str | Path, conversations: Sequence[Sequence[Message]], max_tokens: int, stride: int = STRIDE) -> Reference:
    """The F32 file's own greedy replies, and its distribution at every `stride`-th of their tokens."""
    import numpy as np

    contexts: list[tuple[int, tuple[int, ...]]] = []
    with LlamaCpp(f32, exact=True) as server:
        for number, messages in enumerate(conversations):
            prompt = server.tokenise(server.render(messages))
            reply = server.complete(prompt, max_tokens).ids
            contexts += [(number, (*prompt, *reply[:at])) for at in range(0, len(reply), stride)]
        values = [server.log_probabilities(ids) for _, ids in _bar(contexts, "kl F32")]
    return Reference(tuple(contexts), np.stack(values).astype("float32"))


def divergence(gguf: str | Path, against: Reference) -> Divergence:
    """How far a file's distributions are from the reference's: KL(F32 || file)."""
    with LlamaCpp(gguf, exact=True) as server:
        found = [
            kl(true, server.log_probabilities(ids))
            for (_, ids), true in zip(_bar(against.contexts, f"kl {Path(gguf).stem}"), against.values, strict=True)
        ]
    clusters = [number for number, _ in against.contexts]
    low, high = cluster_bootstrap(found, clusters)
    return Divergence(sum(found) / len(found), low, high, max(found), len(found), len(set(clusters)))


def kl(true: np.ndarray, other: np.ndarray) -> float:
    """KL divergence in nats of `other` from `true`, both as log-probabilities; never below 0."""
    import numpy as np

    true, other = true.astype("float64"), other.astype("float64")
    seen = np.isfinite(true)
    return max(0.0, float(np.sum(np.exp(true[seen]) * (true[seen] - other[seen]))))


def _bar(items: Any, what: str) -> Any:
    from tqdm import tqdm

    return tqdm(items, what, unit="position", mininterval=1, delay=1, leave=False)


def plot(table: Table) -> Figure:
    """Three panels over one list of formats: size, KL divergence from F32, and both rates of the friction voice."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 1.9 + 0.42 * len(table.lines)), layout="constrained")
    size, kl, friction = figure.subplots(1, 3, sharey=True, width_ratios=(1, 1.2, 1.8))
    places = range(len(table.lines), 0, -1)
    _bars(size, list(places), table)
    _divergence(kl, list(places), table)
    _friction(friction, list(places), table)
    size.set_yticks(list(places), [line.kind for line in table.lines])
    size.set_ylim(0.4, len(table.lines) + 0.6)
    figure.suptitle(f"What a smaller file costs: {table.model}, {table.prompts} held-out prompts a voice, greedy")
    return figure


def _bars(axes: Axes, places: list[int], table: Table) -> None:
    sizes = [line.size / 1e6 for line in table.lines]
    axes.barh(places, sizes, height=0.5, color="#9a9a9a")
    for place, value in zip(places, sizes, strict=True):
        axes.text(value, place, f" {value:,.1f}", va="center", fontsize=8)
    axes.set(xlabel="size of the file, MB", xlim=(0, 1.25 * max(sizes)))


def _divergence(axes: Axes, places: list[int], table: Table) -> None:
    found = [(place, line.divergence) for place, line in zip(places, table.lines, strict=True) if line.divergence]
    mean = [one.mean for _, one in found]
    sides = [[one.mean - one.low for _, one in found], [one.high - one.mean for _, one in found]]
    axes.errorbar(mean, [place for place, _ in found], xerr=sides, fmt="D", color="#333333", capsize=2, markersize=5)
    axes.set_xscale("log")
    axes.set(xlabel="KL divergence from F32, nats (95 %)")
    axes.grid(axis="x", alpha=0.3)


def _friction(axes: Axes, places: list[int], table: Table) -> None:
    lines = (("friction: pushes back where called for", "friction", STYLE[FRICTION]),
             ("over-friction: pushes back where not", "over_friction", STYLE[BASELINE]))  # fmt: skip
    for label, name, (colour, marker) in lines:
        rates = [line.rates[name, FRICTION] for line in table.lines]
        axes.errorbar([100 * one.share for one in rates], places, xerr=spread(rates), fmt=marker, color=colour, label=label,
                      capsize=2)  # fmt: skip
    axes.set(xlim=(-3, 103), xlabel="friction voice's answers, % (95 % interval)")
    axes.legend(loc="center", fontsize=8)
    axes.grid(axis="x", alpha=0.3)


REFERENCE = "F32"
SPEED_TOKENS, SPEED_RUNS = 128, 5
SLOTS = 4  # replies at a time for each voice


@dataclass(frozen=True)
class Line:
    """One format: bytes of its friction file, tokens per second, divergence (None for F32), rates by (figure, voice)."""

    kind: str
    size: int
    speed: float
    divergence: Divergence | None
    rates: Mapping[tuple[str, str], Rate]


@dataclass(frozen=True)
class Table:
    """The lines, and what they were measured on; `provenance` holds the fingerprints of base and adapter."""

    model: str
    lines: tuple[Line, ...]
    prompts: int
    prompt_set: str
    machine: str
    provenance: Mapping[str, str] = field(default_factory=dict)

    def rows(self) -> list[tuple[str, ...]]:
        """The table as text, HEADER's columns."""
        return [_cells(line) for line in self.lines]

    def _repr_markdown_(self) -> str:
        table = [HEADER, tuple("---" for _ in HEADER), *self.rows()]
        return "\n".join("| " + " | ".join(row) + " |" for row in table) + f"\n\n{self.note}\n"

    @property
    def note(self) -> str:
        """How the figures came about, in a sentence or two."""
        one = next((line.divergence for line in self.lines if line.divergence), None)
        where = f"KL against {REFERENCE}: mean over {one.positions} positions of {one.replies} greedy replies. " if one else ""
        return (
            f"{where}Rates: {self.prompts} held-out prompts, greedy, 95 % intervals. Tokens per second: the best of "
            f"{SPEED_RUNS} runs of {SPEED_TOKENS} tokens, one reply at a time, on one thread of {self.machine}."
        )

    def as_json(self) -> dict[str, Any]:
        """Every figure as plain values."""
        return {"model": self.model, "prompts": self.prompts, "prompt_set": self.prompt_set, "machine": self.machine,
                "provenance": dict(self.provenance), "note": self.note,
                "formats": [_json(line) for line in self.lines]}  # fmt: skip


HEADER = ("format", "MB", "KL against F32, nats", "tokens/s", "friction", "over-friction", "baseline's friction")
_COLUMNS = (("friction", FRICTION), ("over_friction", FRICTION), ("friction", BASELINE))


def _cells(line: Line) -> tuple[str, ...]:
    found = line.divergence
    kl = f"{found.mean:.2g} [{found.low:.2g}–{found.high:.2g}]" if found else "0 (reference)"
    return (line.kind, f"{line.size / 1e6:.1f}", kl, f"{line.speed:,.0f}", *(str(line.rates[at]) for at in _COLUMNS))


def _json(line: Line) -> dict[str, Any]:
    return {
        "format": line.kind, "bytes": line.size, "tokens_per_second": round(line.speed, 1),
        "kl": line.divergence and {key: round(value, 8) for key, value in vars(line.divergence).items()},
        "rates": {voice: {name: share(line.rates[name, voice]) for name in ("friction", "over_friction")} for voice in VOICES},
    }  # fmt: skip


def measure(
    files: Mapping[str, Mapping[str, Path]], recipe: Recipe, *, per_kind: int = 10, provenance: Mapping[str, str] | None = None
) -> Table:
    """Runs every format: `files` maps a format to its baseline and its friction file, F32 among them.

    `per_kind` prompts of each kind are asked. Raises PushbackError, before anything runs, if a file is not there.
    """
    from ..model.load import machine_name

    missing = [path for pair in files.values() for path in pair.values() if not path.is_file()]
    if missing or REFERENCE not in files:
        raise PushbackError(
            f"No {missing[0] if missing else REFERENCE + ' file to compare with'}. Make all with `pushback ship all`."
        )
    prompts = short_prompts(bundled_prompts() if recipe.language == "bundled" else load_prompts(), per_kind)
    talks = [prompt_messages(one.user_input, recipe.system, one.history) for one in short_prompts(prompts, 1)]
    true = reference(files[REFERENCE][FRICTION], talks, recipe.max_new_tokens)
    lines = []
    for kind, pair in files.items():
        far = divergence(pair[FRICTION], true) if kind != REFERENCE else None
        speed = tokens_per_second(pair[FRICTION], talks[0])
        rates = _rates(answers(pair, recipe, prompts))
        lines.append(Line(kind, pair[FRICTION].stat().st_size, speed, far, rates))
    return Table(recipe.name, tuple(lines), len(prompts), prompt_set_hash(prompts), machine_name(), provenance or {})


def tokens_per_second(gguf: Path, messages: Sequence[dict[str, str]]) -> float:
    """The best of some runs that generate a fixed number of tokens: what else the machine does only slows them down."""
    with LlamaCpp(gguf) as server:
        prompt = server.tokenise(server.render(messages))
        return max(server.complete(prompt, SPEED_TOKENS, ignore_eos=True).tokens_per_second for _ in range(SPEED_RUNS))


def answers(pair: Mapping[str, Path], recipe: Recipe, prompts: Sequence[Prompt]) -> list[Response]:
    """Both voices' judged replies, by the code of `pushback eval --backend server`; greedy."""
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(1) as pool:  # a thread: notebooks have a loop of their own
        out = Path(folder) / "responses.jsonl"
        pool.submit(asyncio.run, _ask(pair, recipe, prompts, out)).result()
        return load_responses(out)


async def _ask(pair: Mapping[str, Path], recipe: Recipe, prompts: Sequence[Prompt], out: Path) -> None:
    from ..measure.run import Sampling, run_server, server_plan
    from ..model.server import OpenAIChat

    servers = {voice: LlamaCpp(pair[voice], slots=SLOTS, name=voice) for voice in VOICES}
    chats = {voice: OpenAIChat(voice, server.base_url) for voice, server in servers.items()}
    try:
        how = Sampling(max_tokens=recipe.max_new_tokens)
        plan = server_plan(chats, recipe.system, prompts, recipe.language, how)
        await run_server(chats, plan, out, concurrency=2 * SLOTS)
    finally:
        for voice in VOICES:
            await chats[voice].close()
            servers[voice].close()


def _rates(rows: Sequence[Response]) -> dict[tuple[str, str], Rate]:
    found = {}
    for voice in VOICES:
        mine = of_voice(rows, voice)
        found["friction", voice] = rate(friction_rows(mine), pushes_back)
        found["over_friction", voice] = rate(innocent_rows(mine), pushes_back)
    return found


def write_table(table: Table, folder: str | Path, name: str = "gguf") -> tuple[Path, Path]:
    """Writes NAME.json and NAME.png, each aside and then renamed; returns both paths."""
    folder = Path(folder)
    with replacing(folder / f"{name}.json") as part:
        part.write_text(json.dumps(table.as_json(), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    with replacing(folder / f"{name}.png") as part:
        plot(table).savefig(part, format="png", dpi=110)
    return folder / f"{name}.json", folder / f"{name}.png"
