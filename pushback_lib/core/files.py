"""Read and write JSON Lines, fill templates, and replace files so that none is ever half-written."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from codecs import BOM_UTF8
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from math import isfinite
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from .common import PushbackError

M = TypeVar("M", bound=BaseModel)


def read_jsonl(path: str | os.PathLike[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (line number from 1, object) for each line that is not empty, in flat memory; byte order marks are skipped.

    Raises PushbackError if there is no such file, if it is in UTF-16 or one JSON array, or naming the first line that is not a
    JSON object in UTF-8 (NaN and infinite numbers are none).
    """
    path = Path(path)
    if path.is_dir():
        held = ", ".join(sorted(file.name for file in path.glob("*.json*"))[:6])
        raise PushbackError(f"{path} is a folder. Give one of its files ({held or 'none of them is JSON Lines'}).")
    if not path.is_file():
        raise PushbackError(f"No file at {path}. Check the path.")
    with path.open("rb") as file:
        lines = ((number, raw.removeprefix(BOM_UTF8)) for number, raw in enumerate(file, 1))
        for place, (number, line) in enumerate((number, line) for number, line in lines if line.strip()):
            if place == 0:
                _check_layout(path, number, line)
            yield number, _object(path, number, line)


def _object(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        row = _STRICT.decode(line.decode("utf-8").strip(" \t\r\n"))
    except (ValueError, RecursionError) as error:  # a broken line, or one made to break parsers
        raise PushbackError(
            f"{path}, line {number}: not valid JSON ({error}). Fix or delete that line, then run again."
        ) from error
    if not isinstance(row, dict):
        raise PushbackError(
            f"{path}, line {number}: a JSON {type(row).__name__}, not an object. "
            "Each line holds one {...} record; fix or delete that line."
        )
    return row


def _refuse(text: str) -> float:
    raise ValueError(f"{text} is not a number of JSON")


def _finite(text: str) -> float:
    return number if isfinite(number := float(text)) else _refuse(text)


_STRICT = json.JSONDecoder(parse_constant=_refuse, parse_float=_finite)


def _check_layout(path: Path, number: int, line: bytes) -> None:
    """Raises PushbackError if a file whose first text is this line is not one of lines in UTF-8."""
    encoding, cure = json.detect_encoding(line[:4]), f"Training data of others is converted by `pushback data import {path}`."
    if not encoding.startswith("utf-8"):
        raise PushbackError(f"{path} is in {encoding.upper()}, not in UTF-8. Save it as UTF-8. {cure}")
    broken = "not valid JSON (the object goes on in the next line)" if line.strip() == b"{" != line else ""
    kind = "a JSON list" if line.lstrip().startswith(b"[") else broken
    if kind:
        raise PushbackError(f"{path}, line {number}: {kind}. Each line holds one {{...}} record, whole. {cure}")


LAYOUTS = (  # of training data that others make: the name, and the fields by which a row is known
    ("sharegpt", {"conversations"}),
    ("messages", {"messages"}),
    ("messages", {"prompt", "completion"}),
    ("alpaca", {"instruction", "output"}),
)


def layout_of(row: dict[str, Any]) -> str:
    """The name of the layout of a row of others, "" if it is of none."""
    return next((name for name, fields in LAYOUTS if fields <= row.keys()), "")


def read_models(path: str | os.PathLike[str], model: type[M]) -> Iterator[tuple[int, M]]:
    """Yields (line number from 1, the line as a `model`) for each non-empty line, in flat memory.

    Raises PushbackError as `read_jsonl` does, or naming the first line that breaks a rule of the model, and the rule.
    """
    for number, row in read_jsonl(path):
        try:
            check_sound(row)
            yield number, model.model_validate(row)
        except ValueError as error:  # ValidationError is one
            cure = f"This is a row of {layout_of(row)} data: convert the file, `pushback data import {path}`."
            raise PushbackError(
                f"{Path(path)}, line {number}: {first_rule(error, model)}. "
                f"{cure if layout_of(row) else 'Fix or delete that line, then run again.'}"
            ) from error


def check_sound(row: dict[str, Any]) -> None:
    """Raises ValueError for what JSON in UTF-8 cannot hold: NaN, infinite numbers, half of a surrogate pair."""
    try:
        json.dumps(row, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"holds half of a character, {error.object[error.start]!r}") from error
    except ValueError as error:
        raise ValueError("holds NaN or an infinite number") from error


def first_rule(error: ValueError, model: type[BaseModel]) -> str:
    """The first rule of the model that a row breaks, after the field that breaks it; of another error its text."""
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"]) or model.__name__.lower()
    return f"{where}: {first['msg']}"


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


def real_place(path: str | os.PathLike[str]) -> Path:
    """The path, links followed. Raises PushbackError for links that lead in a circle."""
    try:
        return Path(path).resolve()
    except (RuntimeError, OSError) as error:
        raise PushbackError(f"{path} cannot be followed ({error}). Choose another place.") from error


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives a temporary path beside `path`, which replaces it if the block succeeds; a file keeps its mode.

    Links are followed; into a device or a pipe the text is written at the end. Raises PushbackError for a folder.
    """
    real = real_place(path)
    if real.is_dir():
        raise PushbackError(f"{path} is a folder. Give the name of a file.")
    plain = real.is_file() or not real.exists()
    part = (real if plain else Path(tempfile.gettempdir()) / real.name).with_name(f".{real.name}.{os.getpid()}.part")
    part.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield part
        if not plain:
            with part.open("rb") as source, real.open("wb") as target:
                shutil.copyfileobj(source, target)
            return
        if real.exists():
            shutil.copymode(real, part)
        part.replace(real)
    finally:
        part.unlink(missing_ok=True)


def sha256_of(*paths: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file, or of several as if they were one: hexadecimal digits, read piece by piece.

    A file is read again only if its size or its time of change differs.
    """
    stats = [(os.path.abspath(path), os.stat(path)) for path in paths]
    return _sha256(tuple((path, stat.st_size, stat.st_mtime_ns) for path, stat in stats))


@lru_cache(maxsize=64)
def _sha256(files: tuple[tuple[str, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for path, _, _ in files:
        with open(path, "rb") as file:
            hashlib.file_digest(file, lambda: digest)
    return digest.hexdigest()


def fill_template(path: Path, **values: object) -> str:
    """A Jinja template, filled; values are escaped in .html. Raises jinja2.UndefinedError for a value that is missing."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

    templates = Environment(loader=FileSystemLoader(path.parent), undefined=StrictUndefined, keep_trailing_newline=True,
                            autoescape=select_autoescape(["html"]), trim_blocks=True, lstrip_blocks=True)  # fmt: skip
    return templates.get_template(path.name).render(values)


class RunFile(Generic[M]):
    """The finished rows of a run, one JSON line each; one writer at a time, each line on disk before `append` returns."""

    def __init__(self, path: str | os.PathLike[str], model: type[M], seen: Callable[[M], None], what: str) -> None:
        """Opens (or makes) and locks the file, calls `seen` with each row in it, and removes a half-written last line.

        Raises PushbackError if another run writes to it, or naming the first line that is not `what` ("a record").
        """
        self.path, self._model, self._what = Path(path), model, what
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._new = not self.path.exists()
            self._file = self.path.open("ab", buffering=0)
        except OSError as error:
            raise PushbackError(f"{self.path} cannot be written ({error.strerror}). Choose another --out.") from error
        try:
            self._lock()
            self._read(seen)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> RunFile:
        return self

    def __exit__(self, *_: object) -> None:
        if self._new and not os.fstat(self._file.fileno()).st_size:
            self.path.unlink(missing_ok=True)  # a run that made nothing leaves nothing
        self._file.close()  # ends the lock too, as it ends when the process is killed

    def append(self, row: M) -> None:
        """Writes one line and waits until it is on disk. On failure removes what was written of it and raises."""
        end = self._file.seek(0, os.SEEK_END)
        rest = memoryview((json.dumps(to_row(row), ensure_ascii=False) + "\n").encode())
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            self._file.truncate(end)
            raise PushbackError(
                f"{self.path} cannot grow ({error.strerror}). What is finished stays; make room, then run the same "
                "command again."
            ) from error

    def _lock(self) -> None:
        if os.name != "posix":  # no flock there: users must not start two runs into one file
            return
        import fcntl

        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise PushbackError(f"Another run is writing to {self.path}. Wait for it, or choose another --out.") from error

    def _read(self, seen: Callable[[M], None]) -> None:
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                ended = line.endswith(b"\n")
                if not ended and _is_half(line):
                    self._file.truncate(file.tell() - len(line))
                elif line.strip():
                    seen(self._row(line, number))
                    self._file.write(b"" if ended else b"\n")

    def _row(self, line: bytes, number: int) -> M:
        try:
            return self._model.model_validate_json(line.removeprefix(BOM_UTF8))
        except ValidationError as error:
            raise PushbackError(
                f"{self.path}, line {number}: not {self._what} ({error.errors()[0]['msg']}). Fix or delete that line, or "
                "choose another --out."
            ) from error


_HEAD = b'{"id": '  # how `append` begins each line


def _is_half(line: bytes) -> bool:
    """Whether this is the beginning of a line that `append` was writing when it was stopped."""
    try:
        json.loads(line)
    except ValueError:
        return line.startswith(_HEAD) or _HEAD.startswith(line)
    return False


def empty_fields(row: BaseModel) -> set[str]:
    """Of the fields that a format got later (`LATER` of its class), those that are empty; files and checksums leave them out.

    Not by a serialiser of the class: pydantic turns a Ctrl-C within one into an error of its own.
    """
    return {name for name in getattr(row, "LATER", ()) if not getattr(row, name)}


def to_row(row: BaseModel) -> dict[str, Any]:
    """The row as a JSON object, without its `empty_fields`, and without `history` where it is empty: most rows stay flat."""
    flat = set() if getattr(row, "history", ()) else {"history"}
    return row.model_dump(mode="json", exclude=flat | empty_fields(row))
