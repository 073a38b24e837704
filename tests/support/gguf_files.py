"""The friction model merged and written as GGUF, made once for all tests of a run; and conversations for templates."""

from __future__ import annotations

import atexit
import functools
import tempfile
from pathlib import Path

from pushback_lib.model.recipe import recipe_for
from pushback_lib.ship.gguf import K_QUANTS, quantise, write_gguf
from pushback_lib.ship.merge import merge_adapter

TINY = recipe_for("tiny")


def talk(*pairs: tuple[str, str]) -> list[dict[str, str]]:
    """Messages from pairs of role and text."""
    return [{"role": role, "content": text} for role, text in pairs]


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
def _folder() -> Path:
    folder = tempfile.TemporaryDirectory(prefix="pushback-gguf-")
    atexit.register(folder.cleanup)
    return Path(folder.name)


@functools.cache
def merged() -> Path:
    """The bundled adapter in the bundled base, 16-bit."""
    return merge_adapter(TINY, TINY.shipped_adapter, _folder() / "merged")


@functools.cache
def friction(kind: str) -> Path:
    """The friction voice's GGUF of a kind."""
    out = _folder() / f"friction-{kind}.gguf"
    return quantise(friction("F32"), out, kind) if kind in K_QUANTS else write_gguf(merged(), out, kind)
