"""Hides another library's progress bars where its work is done in a blink; knows nothing about that work.

In a notebook such a bar is a widget, and an error stands in its place when the saved file is opened again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def bars(logging: Any, shown: bool) -> Iterator[None]:
    """Within it a library shows its bars, or not; `logging` is its module of that name, of transformers or datasets."""
    hide = not shown and logging.is_progress_bar_enabled()
    if hide:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if hide:
            logging.enable_progress_bar()
