"""Hides other libraries' progress bars where the work is done in a blink; knows nothing about that work.

In a notebook such a bar is a widget, and an error stands in its place when the saved file is opened again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def bars(shown: bool) -> Iterator[None]:
    """Within it, transformers and datasets show their bars, or not; afterwards as before."""
    import datasets
    from transformers.utils import logging

    models, rows = logging.is_progress_bar_enabled(), datasets.are_progress_bars_disabled()
    if not shown:
        logging.disable_progress_bar()
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        if models and not shown:
            logging.enable_progress_bar()
        if not rows and not shown:
            datasets.enable_progress_bars()
