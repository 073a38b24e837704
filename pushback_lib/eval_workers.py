"""Several calls to a server at a time, with an end to patience; knows nothing about what is asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from .chat import CallFailed
from .errors import PushbackError
from .workers import together

PATIENCE = 10  # items in a row that a server fails on before the run stops
GRACE = 10.0  # seconds in which calls in flight may still bring their replies after another's error
Item = TypeVar("Item")


async def ask_all(items: Iterable[Item], ask: Callable[[Item], Awaitable[None]], concurrency: int) -> None:
    """Awaits `ask(item)` for every item, `concurrency` at a time. After the first error but CallFailed none is begun.

    Raises PushbackError after `PATIENCE` failed calls in a row, and at the end if any item failed, with the reasons.
    """
    failed: Counter[str] = Counter()
    queue, streak = (item for item in items), 0

    async def work() -> None:
        try:
            for item in queue:
                await attempt(item)
        except BaseException:
            queue.close()  # nobody begins another
            raise

    async def attempt(item: Item) -> None:
        nonlocal streak
        try:
            await ask(item)
            streak = 0
        except CallFailed as failure:
            failed[failure.reason] += 1
            streak += 1
            if streak >= PATIENCE:
                raise PushbackError(
                    f"{streak} calls in a row came to nothing; the last: {failure}. Look at the server's log; what is "
                    "finished stays, and the same command goes on from there."
                ) from failure

    await together([work() for _ in range(concurrency)], grace=GRACE)
    if failed:
        reasons = ", ".join(f"{reason} {count}" for reason, count in failed.most_common())
        raise PushbackError(
            f"{failed.total()} replies could not be had ({reasons}). What is finished stays; the same command "
            "asks for the rest."
        )
