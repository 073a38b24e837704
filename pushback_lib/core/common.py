"""Defines what every part of the library shares: version, data folder, the two voices, the error class, quiet libraries."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

__version__ = "0.1.0"

DATA = Path(__file__).resolve().parent.parent.parent / "data"  # what comes with the kit

BASELINE = "baseline"
FRICTION = "friction"  # also the adapter's name inside the model
VOICES = (BASELINE, FRICTION)

OLLAMA_URL = "http://localhost:11434"  # where Ollama listens; what speaks OpenAI's protocol adds /v1


class PushbackError(Exception):
    """What happened, with the value; then what to do next.

    The command line prints the message without a traceback and exits with 2; a notebook's cell shows it alone too.
    """

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in a cell: the message alone, since it says what to do and a traceback does not."""
        return [f"{type(self).__name__}: {self}"]


def quiet() -> None:
    """Hides what only developers of the kit can act on: deprecations in transformers, a hint about optional kernels."""
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
