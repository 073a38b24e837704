"""Write folders: decide before any work whether a folder may be written, and put a complete one in its place."""

from __future__ import annotations

import glob
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .common import PushbackError
from .files import real_place

TRAINING_FILE = "pushback.json"  # beside an adapter: which base it was made for, and by which recipe
MARKER = ".pushback"  # in every other folder that the kit makes
NOTE = "The Push-Back AI kit made this folder, and replaces it when the same command is run again.\n"


def check_folder(out: str | os.PathLike[str], inputs: Iterable[str | os.PathLike[str] | None] = ()) -> Path:
    """The real place of a folder that the kit may write, links followed: it is new, empty, or made by the kit.

    Raises PushbackError, before any work, for a file, the working folder or one above it, a folder that holds one of the
    `inputs`, and a folder with files that the kit did not make.
    """
    real = real_place(out)
    here = Path.cwd()
    if real == here or real in here.parents:
        raise PushbackError(f"{out} is the working folder or one above it, and would be replaced. Choose a new folder.")
    for needed in filter(None, inputs):
        place = real_place(needed)
        if real == place or real in place.parents:
            raise PushbackError(f"{needed} is needed, and {out} would replace it. Choose another folder for the output.")
    inside = next((path for path in (real, *real.parents) if path.exists()), real)
    if not inside.is_dir():
        raise PushbackError(f"{out} cannot be a folder: {inside} is a file. Choose another place.")
    if not os.access(inside, os.W_OK):
        raise PushbackError(f"{out} cannot be written: no permission in {inside}. Choose another place.")
    foreign = sorted(path.name for path in real.iterdir()) if real.is_dir() and not is_ours(real) else []
    if foreign:
        raise PushbackError(
            f"{out} holds files that this kit did not make ({', '.join(foreign[:3])}{', …' if foreign[3:] else ''}). "
            "Choose a new or an empty folder."
        )
    return real


def is_ours(folder: Path) -> bool:
    """Whether the kit made the folder."""
    return any((folder / name).is_file() for name in (MARKER, TRAINING_FILE))


@contextmanager
def alone(out: str | os.PathLike[str]) -> Iterator[None]:
    """Keeps `out` for one run: PushbackError if another has it. The lock ends with its process, however that ends.

    Of processes that train together, as their launcher tells them, only the first locks.
    """
    if os.name != "posix" or os.environ.get("RANK", "0") != "0":  # Windows has no flock: users must not start two runs
        yield
        return
    import fcntl

    real = real_place(out)
    lock = real.with_name(f".{real.name}.lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samefile(lock, file.fileno()):  # the other run has just ended, and taken its lock with it
                raise FileNotFoundError
        except (BlockingIOError, FileNotFoundError) as error:
            raise PushbackError(f"Another run is writing to {out}. Wait for it, or choose another folder.") from error
        try:
            _tidy(real)
            yield
        finally:
            lock.unlink(missing_ok=True)


def _tidy(real: Path) -> None:
    """Removes what a killed run left aside of a folder or in it; where it died between two renames, puts the old one back."""
    import psutil

    for left in (*real.parent.glob(f".{glob.escape(real.name)}.*"), *real.glob("**/.*.part")):
        pid, end = left.name.split(".")[-2:]
        if not pid.isdigit() or psutil.pid_exists(int(pid)):
            continue
        if end == "old" and not real.exists():
            left.replace(real)
        elif end in ("old", "part"):
            _delete(left)


def _delete(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def remove_folder(path: Path) -> None:
    """Deletes a folder that nobody may meet half deleted: first moves it out of the way."""
    aside = path.with_name(f".{path.name.lstrip('.')}.{os.getpid()}.part")
    if path.exists():
        path.replace(aside)
        _delete(aside)


@contextmanager
def claim_folder(out: str | os.PathLike[str], inputs: Iterable[str | os.PathLike[str] | None] = ()) -> Iterator[Path]:
    """Makes and marks a folder in which the kit writes file by file, for one run; raises as `check_folder` and `alone` do."""
    real = check_folder(out, inputs)
    with alone(out):
        new = not real.exists()
        real.mkdir(parents=True, exist_ok=True)
        (real / MARKER).write_text(NOTE, encoding="utf-8")
        try:
            yield Path(out)
        finally:
            if new and [path.name for path in real.iterdir()] == [MARKER]:  # a run that made nothing leaves nothing
                shutil.rmtree(real)


@contextmanager
def replacing_folder(out: str | os.PathLike[str], inputs: Iterable[str | os.PathLike[str] | None] = ()) -> Iterator[Path]:
    """Gives a temporary folder beside `out`, which replaces it if the block succeeds; raises as `check_folder` does.

    What is complete is never lost: where it cannot be put in place, the error says where it is.
    """
    real = check_folder(out, inputs)
    part, old = (real.with_name(f".{real.name}.{os.getpid()}.{end}") for end in ("part", "old"))
    shutil.rmtree(part, ignore_errors=True)
    try:
        yield part
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    try:
        if not is_ours(part):
            (part / MARKER).write_text(NOTE, encoding="utf-8")
        check_folder(out, inputs)  # it may have changed in the meantime
        if real.exists():
            real.replace(old)
        part.replace(real)
    except (OSError, PushbackError) as error:
        raise PushbackError(f"{out} could not be put in place ({error}). The complete folder is {part}: move it.") from error
    shutil.rmtree(old, ignore_errors=True)
