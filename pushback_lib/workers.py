"""Runs several coroutines together and lets none outlive the first error for long; knows nothing about what they do."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any


async def together(works: Iterable[Coroutine[Any, Any, None]], *, grace: float = 0.0) -> None:
    """Awaits all of `works`. After the first error the others have `grace` seconds to end by themselves, are then
    cancelled and waited for, and that error is raised. Being cancelled (Ctrl-C) cancels them all at once."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    except Exception:
        await asyncio.wait(tasks, timeout=grace)
        raise
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
