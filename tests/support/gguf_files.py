"""The friction model merged and written as GGUF, made once for all tests of a run; and conversations for templates."""

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

from pushback_lib.core.common import BASELINE
from pushback_lib.core.records import prompt_messages
from pushback_lib.language.corpus import draw_requests
from pushback_lib.model.recipe import recipe_for
from pushback_lib.ship.gguf import K_QUANTS, quantise, write_gguf
from pushback_lib.ship.lora import write_lora
from pushback_lib.ship.merge import merge_adapter

TINY = recipe_for("tiny")
FOLDER = Path(tempfile.mkdtemp(prefix="pushback-gguf-"))
atexit.register(shutil.rmtree, FOLDER)


def talk(*pairs: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "content": text} for role, text in pairs]


def held_out_talks(seed: int) -> list[list[dict[str, str]]]:
    """The held-out requests, one of each kind, as messages."""
    return [prompt_messages(one.user, TINY.system, one.history) for one in draw_requests(1, seed, held_out=True)]


TALKS = {
    "one turn": talk(("user", "What is the sky?")),
    "system": talk(("system", TINY.system), ("user", "Why?")),
    "several turns": talk(("system", "S"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"), ("user", "e")),
    "a thought in the history": talk(("user", "a"), ("assistant", "<think>\nhm\n</think>\n\nb"), ("user", "c")),
    "two closing tags": talk(("user", "a"), ("assistant", "x</think>y</think>z"), ("user", "c")),
    "empty texts": talk(("system", ""), ("user", "")),
    "spaces, newlines and braces stay": talk(("system", "  {{ x }}\n"), ("user", '\n {% if %} it\'s "so" \\n \n\n')),
    "two system messages": talk(("system", "first"), ("user", "a"), ("system", "second")),
    "quotes, emoji, CJK": talk(("user", 'it\'s "so" 🙂 你好 é')),
}


@functools.cache
def merged() -> Path:
    """The bundled adapter in the bundled base, 16-bit."""
    return merge_adapter(TINY, TINY.shipped_adapter, FOLDER / "merged")


@functools.cache
def friction(kind: str) -> Path:
    out = FOLDER / f"friction-{kind}.gguf"
    return quantise(friction("F32"), out, kind) if kind in K_QUANTS else write_gguf(merged(), out, kind)


@functools.cache
def baseline(kind: str) -> Path:
    """The bundled base alone."""
    return write_gguf(TINY.base, FOLDER / f"baseline-{kind}.gguf", kind, TINY, BASELINE)


@functools.cache
def adapter(kind: str) -> Path:
    """The bundled adapter as a LoRA GGUF."""
    return write_lora(TINY, TINY.shipped_adapter, FOLDER / f"adapter-{kind}.gguf", kind)
