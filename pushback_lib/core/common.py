"""Defines what every part of the library shares: version, data folder, the two voices, the error class, quiet libraries."""

from __future__ import annotations

import logging
import tomllib
import warnings
from pathlib import Path

__version__ = "0.1.0"

DATA = Path(__file__).resolve().parent.parent.parent / "data"  # what comes with the kit

BASELINE = "baseline"
FRICTION = "friction"  # also the adapter's name inside the model
VOICES = (BASELINE, FRICTION)

OLLAMA_URL = "http://localhost:11434"  # where Ollama listens; what speaks OpenAI's protocol adds /v1


def repository() -> str:
    """The kit's address on the web. It stands in pyproject.toml, which lies beside the data folder."""
    return tomllib.loads((DATA.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]["Repository"]


class PushbackError(Exception):
    """What happened, with the value; then what to do next.

    The command line prints the message without a traceback and exits with 2; a notebook's cell shows it alone too.
    """

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in a cell: the message alone, since it says what to do and a traceback does not."""
        return [f"{type(self).__name__}: {self}"]


def quiet() -> None:
    """Hides two hints that no call of the kit causes: PEFT asks transformers by an old name, bitsandbytes offers kernels."""
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
