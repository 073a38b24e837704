"""The folder in which a training run keeps its checkpoints until the adapter is done; knows nothing about what is in one.

A checkpoint counts only with its mark, which is written last: what a killed run or a full disk left half-written does not.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .checks import fingerprint
from .errors import PushbackError
from .jsonl import replacing
from .recipe import Recipe
from .records import Record

MARK = "whole"
ORDER = "order.json"  # in a checkpoint: the epoch, and the order of the examples in it
RUN = "run.json"  # in the folder: what the run is made of
NOT_COMPARED = ("checkpoint_every",)  # of the recipe: has no effect on the numbers


def processes() -> int:
    """How many processes train together, as their launcher tells each of them; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first_process() -> bool:
    """Whether this process is the one that writes files and prints."""
    return os.environ.get("RANK", "0") == "0"


def work_folder(out: Path) -> Path:
    """Where the checkpoints of the adapter `out` lie while it is trained."""
    return out.with_name(f".{out.name}.work")


def whole_checkpoints(work: Path) -> list[Path]:
    """The checkpoints that were written to their end, the newest last."""
    return sorted((mark.parent for mark in work.glob(f"checkpoint-*/{MARK}")), key=lambda path: int(path.name.split("-")[1]))


def identity(recipe: Recipe, records: Sequence[Record], validation: Sequence[Record]) -> dict[str, Any]:
    """What must be the same for a run to go on from a checkpoint: recipe, base, data, number of processes."""
    fields = {key: value for key, value in dataclasses.asdict(recipe).items() if key not in NOT_COMPARED}
    data = {"data": _digest(records), "validation": _digest(validation)}
    return {**fields, "base": fingerprint(recipe), **data, "processes": processes()}


def _digest(records: Sequence[Record]) -> str:
    digest = hashlib.sha256()
    for record in records:
        digest.update(record.model_dump_json().encode())
    return digest.hexdigest()


def prepare(work: Path, run: dict[str, Any], resume: bool) -> Path | None:
    """The checkpoint to go on from, or None to begin anew, in which case what was in the folder goes.

    With `resume` and no checkpoint there, the run begins anew. Raises PushbackError if the checkpoints are of another run.
    """
    whole = whole_checkpoints(work) if resume else []
    if whole:
        _check_same(work, run)
    if is_first_process():
        _tidy(work, whole)
        with replacing(work / RUN) as part:
            part.write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")
    return whole[-1] if whole else None


def _check_same(work: Path, run: dict[str, Any]) -> None:
    try:
        old = json.loads((work / RUN).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PushbackError(f"{work / RUN} cannot be read ({error}). Run again without --resume to begin anew.") from error
    for key, value in run.items():
        if old.get(key) != value:
            raise PushbackError(
                f"The checkpoints in {work} are of a run with another {key} ({_short(old.get(key))}, now {_short(value)}). "
                "Pass what that run had, or run again without --resume to begin anew."
            )


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:37] + "…"


def _tidy(work: Path, keep: Sequence[Path]) -> None:
    if not keep:
        shutil.rmtree(work, ignore_errors=True)
    for path in work.glob("checkpoint-*"):
        if path not in keep:
            shutil.rmtree(path)
    work.mkdir(parents=True, exist_ok=True)


def unfinished(out: Path) -> Path | None:
    """The newest checkpoint that an unfinished run towards `out` left, if there is one."""
    whole = whole_checkpoints(work_folder(out))
    return whole[-1] if whole else None
