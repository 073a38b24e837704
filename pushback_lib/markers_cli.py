"""The `pushback markers` command: marks a file of replies, or writes the detector card; knows no rules itself."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import PushbackError
from .jsonl import read_jsonl, replacing

KEYS = ("refusal", "disagree", "clarify", "hedge", "apology")


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Adds `markers`."""
    parser = subparsers.add_parser("markers", help="find refusal, disagreement, questions, hedging and apology in replies")
    parser.add_argument(
        "source", type=Path, metavar="IN", help="JSON Lines with `prompt` and `response` (or `answer`); with --card a folder"
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="JSON Lines to write; with --card the card, in Markdown")
    parser.add_argument(
        "--spans", action="store_true", help="also say where each marker was found, and whether text was cut off"
    )
    parser.add_argument("--card", action="store_true", help="measure the markers on a folder of labelled rows instead")
    parser.set_defaults(run=run_markers)


def run_markers(args: argparse.Namespace) -> int:
    """Writes OUT from IN, row by row."""
    if args.card:
        return _card(args.source, args.out)
    print(f"{args.out}: {mark_file(args.source, args.out, spans=args.spans)} rows marked")
    return 0


def mark_file(source: Path, out: Path, *, spans: bool = False) -> int:
    """Copies each row of `source` and adds `markers`, in flat memory; returns how many. `out` appears only when whole.

    A row needs `response`, or else `answer`, a string; `prompt` may be missing. Raises PushbackError naming
    the line of any other row.
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

    from .markers import find_markers

    for number, row in tqdm(read_jsonl(source), desc="marking", unit=" rows", mininterval=1, delay=1):
        prompt, response = row.get("prompt") or "", row.get("response", row.get("answer"))
        for name, value in (("prompt", prompt), ("response", response)):
            if not isinstance(value, str):
                raise PushbackError(f"{source}, line {number}: {name!r} is {_kind(value)}, not text (the row has: "
                                    f"{', '.join(row)[:200]}). Mend that line, then run again.")  # fmt: skip
        found = find_markers(prompt, response).to_dict()
        yield {**row, "markers": found if spans else {key: found[key] for key in KEYS}}


def _kind(value: Any) -> str:
    return "missing" if value is None else f"of type {type(value).__name__}"


def _line(row: dict[str, Any]) -> bytes:
    """The row in UTF-8; where it holds half a surrogate pair, which UTF-8 cannot, in ASCII with escapes."""
    try:
        return (json.dumps(row, ensure_ascii=False) + "\n").encode()
    except UnicodeEncodeError:
        return (json.dumps(row) + "\n").encode()


def _card(labelled: Path, card: Path) -> int:
    from .detector_card import write_card

    try:
        write_card(labelled, card)
    except (FileNotFoundError, ValueError) as error:
        raise PushbackError(str(error)) from error
    print(f"{card}: the detector card of {labelled}")
    return 0
