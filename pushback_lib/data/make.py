"""Hold many debates at a time and store each record as soon as it is complete."""

from __future__ import annotations

import itertools
import os
import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from ..core.common import PushbackError
from ..core.files import RunFile, read_jsonl
from ..core.records import Record
from ..model.server import Chat, together
from .debate import PROMPT_VERSION, Abandoned, Brief, Settings, Tally, debate, invent

PATIENCE = 10  # debates abandoned in a row, beyond one per worker, before the run stops


@dataclass(frozen=True)
class Outcome:
    """What a run did. `failures` counts calls that failed and were tried again."""

    out: Path
    made: int
    total: int
    seconds: float
    tally: Tally
    failures: Counter[str]

    def __str__(self) -> str:
        """Four lines for a person."""
        t = self.tally
        spent = f"{t.prompt_tokens:,} prompt and {t.completion_tokens:,} completion tokens in {self.seconds:.1f} s"
        return (
            f"{self.total} examples in {self.out}, {self.made} of them made now; {spent}\n"
            f"rejected replies: {_counts(t.rejected)}\n"
            f"failed calls, tried again: {_counts(self.failures)}\n"
            f"debates abandoned: {t.abandoned}; friction moments chosen by rule because unmarked: {t.unmarked}"
        )


async def make_records(
    chat: Chat,
    prompts: str | os.PathLike[str],
    out: str | os.PathLike[str],
    n: int,
    settings: Settings | None = None,
    *,
    concurrency: int = 8,
    progress: bool = True,
) -> Outcome:
    """Brings `out` to `n` examples, debating the requests of `prompts` in file order, then new ones like them.

    Finished examples are kept, by id; run again after a stop to go on. Memory: a number per finished example, and
    `concurrency` debates. Raises PushbackError for bad input, before any call where it can be seen by then.
    """
    tally, start = Tally(), time.monotonic()
    run = _Run(chat, Path(prompts), settings or Settings(), tally, PATIENCE + concurrency)
    next(read_briefs(run.prompts))  # a broken first line is told before any call
    with RunFile(out, Record, run.seen, "a record") as file:
        had = len(run.finished)
        if had < n:
            await chat.check()
            await _fill(run, file, n, concurrency, progress)
    return Outcome(file.path, len(run.finished) - had, len(run.finished), time.monotonic() - start, tally, chat.failures)


def read_briefs(path: str | os.PathLike[str]) -> Iterator[Brief]:
    """Yields the requests of a JSON Lines file (whole records will do), in flat memory.

    Raises PushbackError naming the line that is not one, or if there is none.
    """
    number = 0
    for number, row in read_jsonl(path):
        try:
            yield Brief.model_validate(row)
        except ValidationError as error:
            first = error.errors()[0]
            raise PushbackError(
                f"{path}, line {number}: {'.'.join(map(str, first['loc']))}: {first['msg']}. A request has `behaviour` "
                "and mostly `user_input`, `domain`, `scenario`; mend that line."
            ) from error
    if not number:
        raise PushbackError(f"{path} holds no requests. Pass a file of them as --prompts.")


class _Run:
    """The state that workers share."""

    def __init__(self, chat: Chat, prompts: Path, settings: Settings, tally: Tally, patience: int) -> None:
        self.chat, self.prompts, self.settings, self.tally, self.patience = chat, prompts, settings, tally, patience
        self.finished: set[int] = set()
        self.used: set[int] = set()  # hashes of requests; `hash` of text differs between runs, and need not agree
        self.claimed = 0
        self.streak = 0
        self.jobs = self._jobs()

    def seen(self, record: Record) -> None:
        """Takes in an example that an earlier run finished. Raises PushbackError if that run was another one."""
        match = re.fullmatch(rf"engine-{self.settings.seed}-(\d+)", record.id)
        mine = (self.chat.model, self.settings.temperature, self.settings.max_tokens, PROMPT_VERSION)
        made = record.provenance
        theirs = (made.model, made.temperature, made.max_tokens, made.prompt_version)
        if match is None or mine != theirs:
            names = "model, temperature, max_tokens, prompt version"
            raise PushbackError(
                f"The file holds {record.id!r}, made by another run ({names}: {theirs}; now {mine}, seed "
                f"{self.settings.seed}). Go on with that run's settings, or choose another --out."
            )
        if int(match[1]) in self.finished:
            raise PushbackError(f"The file holds {record.id!r} twice. Delete one of the lines, then run again.")
        self.finished.add(int(match[1]))
        self.used.add(hash(_normal(record.user_input)))

    def fresh(self, text: str) -> bool:
        """Whether a request is new; from then on it is not."""
        key = hash(_normal(text))
        new = key not in self.used
        self.used.add(key)
        return new

    async def one(self) -> Record:
        """The next example that works out. Raises PushbackError when too many in a row do not."""
        for index, invented, brief in self.jobs:
            id = f"engine-{self.settings.seed}-{index:06d}"
            try:
                if invented:
                    brief = await invent(self.chat, brief, self.settings, id=id, tally=self.tally, fresh=self.fresh)
                record = await debate(self.chat, brief, self.settings, id=id, tally=self.tally)
            except Abandoned as last:
                self._give_up(last)
                continue
            self.streak = 0
            self.finished.add(index)
            return record
        raise AssertionError("unreachable: the jobs never end")

    def _give_up(self, last: Abandoned) -> None:
        self.tally.abandoned += 1
        self.streak += 1
        if self.streak >= self.patience:
            raise PushbackError(
                f"{self.streak} debates in a row came to nothing; the last: {last}. Rejected so far: "
                f"{_counts(self.tally.rejected)}. Try a stronger --model or a larger --max-tokens; what is finished stays."
            ) from last

    def _jobs(self) -> Iterator[tuple[int, bool, Brief]]:
        """(index, whether the request is to be invented, brief) without end, but for what is finished."""
        index = itertools.count()
        for round in itertools.count():
            for brief in read_briefs(self.prompts):
                if (number := next(index)) not in self.finished:
                    yield number, round > 0 or not brief.user_input, brief


async def _fill(run: _Run, file: RunFile[Record], n: int, concurrency: int, progress: bool) -> None:
    """Workers each claim one of the missing examples, until all are claimed; the first error stops them all."""
    from tqdm import tqdm

    run.claimed = len(run.finished)
    with tqdm(total=n, initial=run.claimed, unit="example", disable=not progress, mininterval=0.5, delay=1) as bar:

        async def work() -> None:
            while run.claimed < n:
                run.claimed += 1
                file.append(await run.one())
                t = run.tally
                tokens = t.prompt_tokens + t.completion_tokens
                bar.set_postfix(tokens=f"{tokens:,}", rejected=t.rejected.total(), refresh=False)
                bar.update()

        await together(work() for _ in range(min(concurrency, n - run.claimed)))


def _normal(text: str) -> str:
    return " ".join(text.casefold().split())


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in counter.most_common()) or "none"
