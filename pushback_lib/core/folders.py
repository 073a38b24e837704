"""Write folders: decide before any work whether a folder may be written, and put a complete one in its place."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .common import PushbackError

TRAINING_FILE = "pushback.json"  # beside an adapter: which base it was made for, and by which recipe
MARKER = ".pushback"  # in every other folder that the kit makes
NOTE = "The Push-Back AI kit made this folder, and replaces it when the same command is run again.\n"


def check_folder(out: str | os.PathLike[str], inputs: Iterable[str | os.PathLike[str] | None] = ()) -> Path:
    """The real place of a folder that the kit may write, links followed: it is new, empty, or made by the kit.

    Raises PushbackError, before any work, for a file, the working folder or one above it, a folder that holds one of the
    `inputs`, and a folder with files that the kit did not make.
    """
    real = Path(out).resolve()
    here = Path.cwd()
    if real == here or real in here.parents:
        raise PushbackError(f"{out} is the working folder or one above it, and would be replaced. Choose a new folder.")
    for needed in filter(None, inputs):
        place = Path(needed).resolve()
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


def claim_folder(out: str | os.PathLike[str], inputs: Iterable[str | os.PathLike[str] | None] = ()) -> Path:
    """Makes and marks a folder in which the kit writes file by file; raises as `check_folder` does."""
    real = check_folder(out, inputs)
    real.mkdir(parents=True, exist_ok=True)
    (real / MARKER).write_text(NOTE, encoding="utf-8")
    return Path(out)


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
