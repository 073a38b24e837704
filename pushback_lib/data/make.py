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

from ..core.common import PushbackError
from ..core.files import RunFile, read_models
from ..core.records import Record
from ..model.server import Chat, ask_all
from .debate import DEFAULTS, PROMPT_VERSION, Abandoned, Brief, DebateSettings, Tally, hold_debate, invent
from .text_rules import normal

MAX_ABANDONED_IN_A_ROW = 10  # debates, beyond one per worker, before the run stops


@dataclass(frozen=True)
class Outcome:
    """What a run did. `failures` counts failed calls, those tried again too."""

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
            f"failed calls: {_counts(self.failures)}\n"
            f"debates abandoned: {t.abandoned}; friction moments chosen by rule because unmarked: {t.unmarked}"
        )


async def make_records(
    chat: Chat,
    prompts: str | os.PathLike[str],
    out: str | os.PathLike[str],
    n: int,
    settings: DebateSettings = DEFAULTS,
    *,
    concurrency: int = 8,
    progress: bool = True,
) -> Outcome:
    """Brings `out` to `n` examples, debating the requests of `prompts` in file order, then new ones like them.

    Finished examples are kept, by id; after a stop, run it again to make the rest. Memory: a number per finished example,
    and `concurrency` debates. Raises PushbackError for bad input, before any call where it can be seen by then.
    """
    from tqdm import tqdm

    start, run = time.monotonic(), _Run(chat, Path(prompts), settings, MAX_ABANDONED_IN_A_ROW + concurrency)
    next(read_briefs(run.prompts))  # a broken first line is reported before any call
    with RunFile(out, Record, run.seen, "a record") as file:
        had = len(run.finished)
        with tqdm(total=n, initial=had, unit="example", disable=not progress, mininterval=0.5, delay=1) as bar:

            async def add(_: int) -> None:
                file.append(await run.one())
                tokens = run.tally.prompt_tokens + run.tally.completion_tokens
                bar.set_postfix(tokens=f"{tokens:,}", rejected=run.tally.rejected.total(), refresh=False)
                bar.update()

            if had < n:
                await chat.check()
                await ask_all(range(n - had), add, concurrency)
    done = len(run.finished)
    return Outcome(file.path, done - had, done, time.monotonic() - start, run.tally, chat.failures)


def read_briefs(path: str | os.PathLike[str]) -> Iterator[Brief]:
    """Yields the requests of a JSON Lines file (complete records will do), in flat memory.

    Raises PushbackError naming the line that is not one, or if there is none.
    """
    brief = None
    for _, brief in read_models(path, Brief):
        yield brief
    if brief is None:
        raise PushbackError(f"{path} holds no requests. Pass a file of them as --prompts.")


class _Run:
    """The state that workers share."""

    def __init__(self, chat: Chat, prompts: Path, settings: DebateSettings, patience: int) -> None:
        self.chat, self.prompts, self.settings, self.patience = chat, prompts, settings, patience
        self.tally = Tally()
        self.finished: set[int] = set()
        self.used: set[int] = set()  # hashes of requests; `hash` of text differs between runs, and need not agree
        self.streak = 0
        self.jobs = self._jobs()

    def seen(self, record: Record) -> None:
        """Takes in an example that an earlier run finished. Raises PushbackError if its settings were others."""
        match = re.fullmatch(rf"engine-{self.settings.seed}-(\d+)", record.id)
        mine = (self.chat.model, self.settings.temperature, self.settings.max_tokens, PROMPT_VERSION)
        made = record.provenance
        theirs = (made.model, made.temperature, made.max_tokens, made.prompt_version)
        if match is None or mine != theirs:
            raise PushbackError(
                f"The file holds {record.id!r}, made by another run (model, temperature, max_tokens, prompt version: {theirs}; "
                f"now {mine}, seed {self.settings.seed}). Use that run's settings, or choose another --out."
            )
        if int(match[1]) in self.finished:
            raise PushbackError(f"The file holds {record.id!r} twice. Delete one of the lines, then run again.")
        self.finished.add(int(match[1]))
        self.used.add(hash(normal(record.user_input)))

    def fresh(self, text: str) -> bool:
        """Whether a request is new; from then on it is not."""
        key = hash(normal(text))
        new = key not in self.used
        self.used.add(key)
        return new

    async def one(self) -> Record:
        """The next example that works out. Raises PushbackError when too many in a row do not."""
        while True:
            index, invented, brief = next(self.jobs)
            id = f"engine-{self.settings.seed}-{index:06d}"
            try:
                if invented:
                    brief = await invent(self.chat, brief, self.settings, id=id, tally=self.tally, fresh=self.fresh)
                record = await hold_debate(self.chat, brief, self.settings, id=id, tally=self.tally)
            except Abandoned as last:
                self.tally.abandoned += 1
                self.streak += 1
                if self.streak < self.patience:
                    continue
                raise PushbackError(
                    f"{self.streak} debates in a row gave no record; the last: {last}. Rejected so far: "
                    f"{_counts(self.tally.rejected)}. Try a stronger --model or a larger --max-tokens; what is finished stays."
                ) from last
            self.streak = 0
            self.finished.add(index)
            return record

    def _jobs(self) -> Iterator[tuple[int, bool, Brief]]:
        """(index, whether the request is to be invented, brief) without end, but for what is finished."""
        index = itertools.count()
        for round in itertools.count():
            for brief in read_briefs(self.prompts):
                if (number := next(index)) not in self.finished:
                    yield number, round > 0 or not brief.user_input, brief


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in counter.most_common()) or "none"
