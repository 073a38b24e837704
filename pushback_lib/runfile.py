"""An append-only JSON Lines file that survives `kill -9` and a full disk; knows nothing about who writes to it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from pydantic import ValidationError

from .errors import PushbackError
from .records import Record, to_row


class RunFile:
    """The finished examples of a run; one writer at a time, each line whole and on disk before `append` returns."""

    def __init__(self, path: str | os.PathLike[str], seen: Callable[[Record], None]) -> None:
        """Opens (or makes) and locks the file, calls `seen` with each record in it, and mends a half-written last line.

        Raises PushbackError if another run writes to it, or naming the first line that is not a record.
        """
        self.path = Path(path)
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

    def append(self, record: Record) -> None:
        """Writes one line and waits until it is on disk. On failure takes the broken line back and raises."""
        line = (json.dumps(to_row(record), ensure_ascii=False) + "\n").encode()
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

    def _read(self, seen: Callable[[Record], None]) -> None:
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    self._mend(line, seen, number)
                    return
                if line.strip():
                    seen(self._record(line, number))
                self._end += len(line)

    def _mend(self, tail: bytes, seen: Callable[[Record], None], number: int) -> None:
        """Ends the last line if only its line feed is missing; else cuts it off, if it is the start of a record."""
        if _is_json(tail):
            seen(self._record(tail, number))
            os.lseek(self._file, self._end + len(tail), os.SEEK_SET)
            self._end += len(tail) + os.write(self._file, b"\n")
        elif tail.startswith(_HEAD) or _HEAD.startswith(tail):
            os.ftruncate(self._file, self._end)
        else:
            raise PushbackError(f"{self.path}, line {number}: not a record. Choose another --out.")

    def _record(self, line: bytes, number: int) -> Record:
        try:
            return Record.model_validate_json(line)
        except ValidationError as error:
            raise PushbackError(
                f"{self.path}, line {number}: not a record ({error.errors()[0]['msg']}). Mend or delete that line, or "
                "choose another --out."
            ) from error


_HEAD = b'{"id": '  # how `append` begins each line


def _is_json(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False
