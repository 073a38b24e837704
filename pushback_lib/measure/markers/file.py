"""Adds markers to each row of a JSON Lines file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...core.common import PushbackError
from ...core.files import read_jsonl, replacing
from .find import find_markers

KEYS = ("refusal", "disagree", "clarify", "hedge", "apology")


def mark_file(source: Path, out: Path, *, spans: bool = False) -> int:
    """Copies each row of `source` and adds `markers`, in flat memory; returns how many. `out` appears only when complete.

    A row needs `response`, or else `answer`, a string; `prompt` may be missing. Raises PushbackError naming the line of any
    other row.
    """
    count = 0
    try:
        with replacing(out) as part, part.open("wb") as file:
            for row in _marked(source, spans):
                file.write(_line(row))
                count += 1
    except OSError as error:
        raise PushbackError(f"{out} cannot be written ({error.strerror}). Make room, or choose another place.") from error
    return count


def _marked(source: Path, spans: bool) -> Iterator[dict[str, Any]]:
    from tqdm import tqdm

    for number, row in tqdm(read_jsonl(source), desc="marking", unit=" rows", mininterval=1, delay=1):
        prompt, response = row.get("prompt") or "", row.get("response", row.get("answer"))
        for name, value in (("prompt", prompt), ("response", response)):
            if not isinstance(value, str):
                kind = "missing" if value is None else f"of type {type(value).__name__}"
                raise PushbackError(f"{source}, line {number}: {name!r} is {kind}, not text (the row has: "
                                    f"{', '.join(row)[:200]}). Fix that line, then run again.")  # fmt: skip
        found = find_markers(prompt, response).to_dict()
        yield {**row, "markers": found if spans else {key: found[key] for key in KEYS}}


def _line(row: dict[str, Any]) -> bytes:
    """The row in UTF-8; where it holds half a surrogate pair, which UTF-8 cannot, in ASCII with escapes."""
    try:
        return (json.dumps(row, ensure_ascii=False) + "\n").encode()
    except UnicodeEncodeError:
        return (json.dumps(row) + "\n").encode()
