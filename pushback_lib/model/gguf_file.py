"""Read a GGUF file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..core.common import PushbackError

if TYPE_CHECKING:
    from gguf import GGUFReader


def read_gguf(path: str | Path) -> GGUFReader:
    """Header and tensors of a GGUF file. Raises PushbackError if it is missing or not complete."""
    from gguf import GGUFReader

    if not Path(path).is_file():
        raise PushbackError(f"No GGUF file at {path}. Make one with `pushback ship gguf`.")
    try:
        return GGUFReader(path)
    except (ValueError, KeyError, IndexError, OSError) as error:
        raise PushbackError(f"{path} is not a complete GGUF file ({error}). Write it again: `pushback ship gguf`.") from error
