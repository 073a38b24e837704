"""Read and write JSON Lines, and replace files so that none is ever half-written."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from .common import PushbackError

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


class RunFile(Generic[M]):
    """The finished examples of a run; one writer at a time, each line whole and on disk before `append` returns."""

    def __init__(self, path: str | os.PathLike[str], model: type[M], seen: Callable[[M], None], what: str) -> None:
        """Opens (or makes) and locks the file, calls `seen` with each row in it, and removes a half-written last line.

        Raises PushbackError if another run writes to it, or naming the first line that is not `what` ("a record").
        """
        self.path, self._model, self._what = Path(path), model, what
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise PushbackError(f"{self.path} cannot be written ({error.strerror}). Choose another --out.") from error
        try:
            self._lock()
            self._end = 0
            self._read(seen)
        except BaseException:
            os.close(self._file)
            raise

    def __enter__(self) -> RunFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if not self._end:
            self.path.unlink(missing_ok=True)  # a run that made nothing leaves nothing
        os.close(self._file)  # the lock goes with it, as it does when the process is killed

    def append(self, row: M) -> None:
        """Writes one line and waits until it is on disk. On failure takes the broken line back and raises."""
        line = (json.dumps(to_row(row), ensure_ascii=False) + "\n").encode()
        try:
            os.lseek(self._file, self._end, os.SEEK_SET)
            rest = memoryview(line)
            while rest:
                rest = rest[os.write(self._file, rest) :]
            os.fsync(self._file)
        except OSError as error:
            os.ftruncate(self._file, self._end)
            raise PushbackError(
                f"{self.path} cannot grow ({error.strerror}). What is finished stays; make room, then run the same "
                "command again."
            ) from error
        self._end += len(line)

    def _lock(self) -> None:
        if os.name != "posix":  # no flock there: two runs into one file are then the user's to avoid
            return
        import fcntl

        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise PushbackError(f"Another run is writing to {self.path}. Wait for it, or choose another --out.") from error

    def _read(self, seen: Callable[[M], None]) -> None:
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    self._mend(line, seen, number)
                    return
                if line.strip():
                    seen(self._record(line, number))
                self._end += len(line)

    def _mend(self, tail: bytes, seen: Callable[[M], None], number: int) -> None:
        """Ends the last line if only its line feed is missing; else cuts it off, if it is the start of a record."""
        if _is_json(tail):
            seen(self._record(tail, number))
            os.lseek(self._file, self._end + len(tail), os.SEEK_SET)
            self._end += len(tail) + os.write(self._file, b"\n")
        elif tail.startswith(_HEAD) or _HEAD.startswith(tail):
            os.ftruncate(self._file, self._end)
        else:
            raise PushbackError(f"{self.path}, line {number}: not {self._what}. Choose another --out.")

    def _record(self, line: bytes, number: int) -> M:
        return parsed_line(self._model, line, self.path, number, self._what)


_HEAD = b'{"id": '  # how `append` begins each line


def _is_json(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def parsed_line(model: type[M], line: bytes, path: Path, number: int, what: str) -> M:
    """One line of a run's file. Raises PushbackError naming the file, the line and the broken rule."""
    try:
        return model.model_validate_json(line)
    except ValidationError as error:
        raise PushbackError(
            f"{path}, line {number}: not {what} ({error.errors()[0]['msg']}). Fix or delete that line, or choose another --out."
        ) from error


def to_row(row: BaseModel) -> dict[str, Any]:
    """The row as a JSON object; `history` is left out where it is empty, so that single-turn files stay flat."""
    return row.model_dump(mode="json", exclude=None if getattr(row, "history", ()) else {"history"})
