"""The friction model merged and written as GGUF, made once for all tests of a run."""

from __future__ import annotations

import atexit
import functools
import tempfile
from pathlib import Path

from pushback_lib.model.recipe import recipe_for
from pushback_lib.ship.gguf import K_QUANTS, quantise, write_gguf
from pushback_lib.ship.merge import merge_adapter

TINY = recipe_for("tiny")


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
