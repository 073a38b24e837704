"""Reads and writes JSON Lines; knows nothing about what a line means beyond the model it is given."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from .errors import PushbackError

M = TypeVar("M", bound=BaseModel)


def read_jsonl(path: str | os.PathLike[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (line number from 1, object) for each non-empty line, in flat memory.

    Raises PushbackError if the file is missing, or naming the first line that is not a JSON object in UTF-8.
    """
    path = Path(path)
    if not path.is_file():
        raise PushbackError(f"No file at {path}. Check the path.")
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            if not raw.strip():
                continue
            try:
                row = json.loads(raw.decode("utf-8"))
            except (ValueError, RecursionError) as error:  # a broken line, or one made to break parsers
                raise PushbackError(
                    f"{path}, line {number}: not valid JSON ({error}). Mend or delete that line, then run again."
                ) from error
            if not isinstance(row, dict):
                raise PushbackError(
                    f"{path}, line {number}: a JSON {type(row).__name__}, not an object. "
                    "Each line holds one {...} record; mend or delete that line."
                )
            yield number, row


def read_models(path: str | os.PathLike[str], model: type[M]) -> Iterator[tuple[int, M]]:
    """Yields (line number from 1, the line as a `model`) for each non-empty line, in flat memory.

    Raises PushbackError as `read_jsonl` does, or naming the first line that breaks a rule of the model, and the rule.
    """
    for number, row in read_jsonl(path):
        try:
            yield number, model.model_validate(row)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or model.__name__.lower()
            raise PushbackError(
                f"{Path(path)}, line {number}: {where}: {first['msg']}. Mend or delete that line, then run again."
            ) from error


def write_jsonl(path: str | os.PathLike[str], rows: Iterable[dict[str, Any]]) -> int:
    """Writes the rows beside the target, then renames; returns how many were written.

    An interrupted write leaves the old file as it was.
    """
    count = 0
    with replacing(path) as part, part.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    return count


class replacing:
    """Context manager: gives a temporary path beside `path`, which replaces it if the block succeeds."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.part = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")

    def __enter__(self) -> Path:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return self.part

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.part.replace(self.path)
        else:
            self.part.unlink(missing_ok=True)
