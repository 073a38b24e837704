"""Names that every room shares: the version, the folder of data, the two voices and the error class."""

from __future__ import annotations

from pathlib import Path

__version__ = "0.1.0"

DATA = Path(__file__).resolve().parent.parent.parent / "data"  # what comes with the kit

BASELINE = "baseline"
FRICTION = "friction"  # also the adapter's name inside the model
VOICES = (BASELINE, FRICTION)


class PushbackError(Exception):
    """What happened, with the value; then what to do next.

    The command line prints the message without a traceback and exits with 2; a notebook's cell shows it alone too.
    """

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in a cell: the message alone, since the cure is in it and not in our code."""
        return [f"{type(self).__name__}: {self}"]
