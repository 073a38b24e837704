"""The `pushback data` commands: make, check, card, micro; knows nothing about how each does its work."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable
from pathlib import Path

from .chat import Chat
from .errors import PushbackError
from .recipe import DATA

FRICTION = DATA / "friction"
MICRO = DATA / "micro.jsonl"
SCRIPTED_BRIEFS = DATA / "tiny" / "briefs.jsonl"  # behaviours only: the scripted personas write the requests too
BACKENDS = ("openai", "transformers", "scripted")

Scripted = Callable[[], Chat]


def add_parser(subparsers: argparse._SubParsersAction, scripted: Scripted) -> None:
    """Adds `data` and its four commands. `scripted()` gives the chat of `--backend scripted`."""
    data = subparsers.add_parser("data", help="make, check and describe training data")
    commands = data.add_subparsers(required=True, metavar="COMMAND")
    _add_make(commands.add_parser("make", help="hold debates and store what comes of them; resumes"), scripted)
    check = commands.add_parser("check", help="check a data set; exits with 1 where a limit does not hold")
    check.add_argument("path", nargs="?", type=Path, default=FRICTION, help="folder of splits, or one file")
    check.add_argument("--report", type=Path, metavar="DIR", help="also write report.html and findings.json there")
    check.add_argument("--tokenizer", metavar="NAME", help="folder or Hub name; lengths in its tokens, else in words")
    check.set_defaults(run=run_check)
    card = commands.add_parser("card", help="write the data set's card, README.md, from its figures")
    card.add_argument("path", nargs="?", type=Path, default=FRICTION)
    card.add_argument("--tokenizer", metavar="NAME", help="folder or Hub name; lengths in its tokens, else in words")
    card.set_defaults(run=run_card)
    micro = commands.add_parser("micro", help="choose the micro data set and write its printable sheet")
    micro.add_argument("path", nargs="?", type=Path, default=FRICTION / "train.jsonl", help="records to choose from")
    micro.add_argument("--out", type=Path, default=MICRO)
    micro.add_argument("-n", type=_positive, default=60, help="records (60)")
    micro.set_defaults(run=run_micro)


def _add_make(make: argparse.ArgumentParser, scripted: Scripted) -> None:
    make.add_argument("--backend", choices=BACKENDS, required=True)
    make.add_argument("--model", default="", help="name on the server, or a folder or Hub name for transformers")
    make.add_argument("--base-url", default="http://localhost:11434/v1", help="OpenAI-compatible server (Ollama's)")
    make.add_argument("-n", type=_positive, required=True, help="examples that the file is to hold in the end")
    make.add_argument("--out", type=Path, required=True, help="JSON Lines file; an unfinished one is gone on with")
    make.add_argument(
        "--prompts",
        type=Path,
        help="requests to debate, by default the kit's; when they are used up, new ones like them are asked of the model",
    )
    make.add_argument("--concurrency", type=_positive, default=8, help="debates at a time (8)")
    make.add_argument("--seed", type=int, default=0)
    make.add_argument("--temperature", type=float, default=0.8)
    make.add_argument("--max-tokens", type=_positive, default=1024, help="for one reply (1024)")
    make.add_argument("--timeout", type=float, default=120.0, help="seconds for one reply (120)")
    make.set_defaults(run=run_make, scripted=scripted)


def run_make(args: argparse.Namespace) -> int:
    """Holds debates until `--out` has `-n` examples."""
    from .debate import Settings
    from .debate_run import make_records

    settings = Settings(args.seed, args.temperature, args.max_tokens)

    prompts = args.prompts or (SCRIPTED_BRIEFS if args.backend == "scripted" else FRICTION / "train.jsonl")

    async def work() -> object:
        chat = _chat(args)
        try:
            return await make_records(chat, prompts, args.out, args.n, settings, concurrency=args.concurrency)
        finally:
            await chat.close()

    try:
        print(asyncio.run(work()))
    except KeyboardInterrupt as error:
        raise PushbackError(f"Stopped. What is finished is in {args.out}; the same command goes on from there.") from error
    return 0


def _chat(args: argparse.Namespace) -> Chat:
    if args.backend == "scripted":
        return args.scripted()
    if not args.model:
        raise PushbackError(f"--backend {args.backend} needs a model. Pass its name as --model.")
    if args.backend == "openai":
        from .chat_openai import OpenAIChat

        return OpenAIChat(args.model, args.base_url, timeout=args.timeout)
    from .chat import load_local

    return load_local(args.model)


def run_check(args: argparse.Namespace) -> int:
    """Prints each check with its figures; 0 only if every limit holds."""
    from .curate import check_splits, load_splits

    splits = load_splits(args.path)
    findings = check_splits(splits)
    for finding in findings:
        print(finding)
    if args.report:
        from .curate_report import write_report

        print(f"report: {write_report(splits, findings, args.report, args.tokenizer)}")
    broken = [finding.name for finding in findings if not finding.ok]
    print(f"{len(findings) - len(broken)} of {len(findings)} checks hold" + (f"; not: {', '.join(broken)}" if broken else ""))
    return 1 if broken else 0


def run_card(args: argparse.Namespace) -> int:
    """Writes PATH/README.md."""
    from .curate_card import write_card

    print(write_card(args.path, args.tokenizer))
    return 0


def run_micro(args: argparse.Namespace) -> int:
    """Writes the micro data set and, beside it, its sheet."""
    from .micro import write_micro

    for path in write_micro(args.path, args.out, args.n):
        print(path)
    return 0


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not positive")
    return number
