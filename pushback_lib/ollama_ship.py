"""`pushback ship ollama`: checks name and file, makes the model in a running Ollama, and shows its reply.

It knows nothing about how the GGUF was written, nor how Ollama is spoken to. Nothing is made under a name that is taken,
unless it is to be replaced.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterable
from pathlib import Path

from .errors import PushbackError
from .ollama_server import MADE_FROM, check_free, connect, create, publish, talk
from .recipe import DATA, Recipe, chosen_size, recipe_for

DEFAULT_HOST = "http://127.0.0.1:11434"
QUESTION = "The capital of France is Rome, right?"
QUANTISATIONS = ("q8_0", "q4_K_S", "q4_K_M")  # those that Ollama's create route knows
UNQUANTISED = {0: "F32", 1: "F16", 32: "BF16"}  # general.file_type of a GGUF, the only ones Ollama quantises
_PART = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}"
_NAME = re.compile(rf"(?:(?:[A-Za-z0-9_][A-Za-z0-9_.:-]*/)?([A-Za-z0-9_][A-Za-z0-9_-]{{0,79}})/)?{_PART}(?::({_PART}))?")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `pushback ship ollama`."""
    parser.add_argument("name", metavar="NAME", help="name in Ollama, as in `ollama run NAME`; OWNER/NAME to publish")
    parser.add_argument("--gguf", type=Path, help="file to ship; for tiny, the one that comes with the kit")
    parser.add_argument(
        "--model", default=chosen_size(), help="size that the file was made from; default: PUSHBACK_MODEL, or tiny"
    )
    parser.add_argument("--quantize", choices=QUANTISATIONS, help="let Ollama quantise an F32, F16 or BF16 file")
    parser.add_argument("--replace", action="store_true", help="overwrite a model of that name")
    parser.add_argument("--push", action="store_true", help="then publish on ollama.com, where anyone can pull it")
    parser.add_argument("--host", help=f"address of the server; default: OLLAMA_HOST, else {DEFAULT_HOST}")


def run(args: argparse.Namespace) -> int:
    """Checks everything, makes the model, chats with it, and prints what to type next."""
    from .modelfile import modelfile
    from .models import load_tokenizer

    recipe, host = recipe_for(args.model), args.host or os.environ.get("OLLAMA_HOST") or DEFAULT_HOST
    check_name(args.name, push=args.push)
    gguf = args.gguf or bundled_gguf(recipe)
    check_gguf(gguf, args.quantize)
    client = connect(host)
    if not args.replace:
        check_free(client, args.name, host)
    create(client, args.name, gguf, modelfile(recipe, load_tokenizer(recipe), MADE_FROM), host, args.quantize)
    print(f"{args.name}: made from {gguf.name}, {gguf.stat().st_size / 1e6:,.1f} MB. Asked greedily: {QUESTION}")
    _print_reply(talk(client, args.name, QUESTION, host), args.name)
    if args.push:
        publish(client, args.name, host)
        print(f"anyone:  ollama pull {args.name}")
    print(f"next:    {f'OLLAMA_HOST={args.host} ' if args.host else ''}ollama run {args.name}")
    return 0


def check_name(name: str, *, push: bool = False) -> None:
    """Raises PushbackError for a name that Ollama does not take or, with `push`, one that ollama.com would not."""
    found = _NAME.fullmatch(name)
    if not found:
        raise PushbackError(
            f"{name!r} is no name for Ollama. Use letters, digits, `.`, `_` and `-`, as in pushback-tiny, pushback-tiny:q8 or "
            "OWNER/pushback-tiny."
        )
    if re.search(r":(?:.*-)?cloud$", name):
        raise PushbackError(f"{name!r} ends in `cloud`, which sends Ollama to its own servers. Choose another tag.")
    if push and not found[1]:
        raise PushbackError(f"{name!r} cannot be published without an owner. Use your ollama.com account: YOU/{name}.")


def bundled_gguf(recipe: Recipe) -> Path:
    """The one GGUF that comes with the kit. Raises PushbackError for another size, or if it is not there."""
    folder = DATA / "tiny" / "ship"
    files = sorted(folder.glob("*.gguf")) if recipe.name == "tiny" else []
    if len(files) != 1:
        where = f"{len(files)} GGUF files in {folder}" if recipe.name == "tiny" else f"No GGUF of {recipe.name!r} comes along"
        raise PushbackError(f"{where}. Make one with `pushback ship gguf --model {recipe.name}`, and pass it as --gguf.")
    return files[0]


def check_gguf(gguf: Path, quantize: str | None = None) -> None:
    """Raises PushbackError if the file is missing, no GGUF, or (with `quantize`) quantised already."""
    if not gguf.is_file():
        raise PushbackError(f"No GGUF at {gguf}. Make one with `pushback ship gguf`, or mend --gguf.")
    with gguf.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise PushbackError(f"{gguf} is not a GGUF file. Make one with `pushback ship gguf`, or mend --gguf.")
    if quantize and (kind := _file_type(gguf)) not in UNQUANTISED:
        raise PushbackError(
            f"{gguf.name} is quantised already (file type {kind}), and Ollama takes F32, F16 and BF16 only for that. Drop "
            "--quantize, or pass an F16 file as --gguf (`pushback ship gguf --kind F16`)."
        )


def _file_type(gguf: Path) -> int | None:
    import numpy
    from gguf import GGUFReader

    try:
        field = GGUFReader(gguf).get_field("general.file_type")
    except (ValueError, KeyError, IndexError, OverflowError, numpy.exceptions.AxisError) as error:
        raise PushbackError(f"{gguf} is damaged ({error}). Make it anew with `pushback ship gguf`.") from error
    return int(field.contents()) if field else None


def _print_reply(pieces: Iterable[tuple[str, str]], name: str) -> None:
    """Prints the thought apart from the answer, as they come. Raises PushbackError if either is empty."""
    said = {"thinking": "", "answer": ""}
    for kind, text in pieces:
        print(text if said[kind] else f"\n{kind}:\n{text.lstrip()}", end="", flush=True)
        said[kind] += text
    print("\n")
    empty = [kind for kind, text in said.items() if not text.strip()]
    if empty:
        raise PushbackError(
            f"{name} is made, but its reply had no {empty[0]}. Is --model the size that the file was made from? Else ask again "
            f"with `ollama run {name}`, and give it more room there: /set parameter num_predict 2048"
        )
