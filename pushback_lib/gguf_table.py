"""One table of GGUF formats: size, divergence from F32, speed, and both rates of friction, each measured by running it.

Knows nothing about how the files were made.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import PushbackError
from .eval_figures import friction_rows, innocent_rows, of_voice, pushes_back, rate, share
from .eval_rows import Response, load_responses
from .eval_set import Prompt, bundled_prompts, load_prompts, prompt_set_hash, short_prompts
from .gguf_kl import Divergence, divergence, reference
from .jsonl import replacing
from .llama_cpp import LlamaCpp
from .models import FRICTION
from .recipe import Recipe
from .records import prompt_messages
from .stats import Rate
from .voices import BASELINE, VOICES

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
    from .cards import machine_name

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
    from .chat_openai import OpenAIChat
    from .eval_run import Sampling, run_server, server_plan

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
        from .gguf_plot import plot

        plot(table).savefig(part, format="png", dpi=110)
    return folder / f"{name}.json", folder / f"{name}.png"
