"""The `pushback eval` and `pushback experiments` commands; they know nothing about how each does its work."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import PushbackError
from .recipe import chosen_size

if TYPE_CHECKING:
    from .eval_rows import Response
    from .eval_run import Sampling
    from .eval_set import Prompt
    from .judge_model import Comparison

BUNDLED = "bundled"
OLLAMA = "http://localhost:11434/v1"


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Adds `eval` and `experiments`."""
    evaluate = subparsers.add_parser("eval", help="ask both voices the eval set, judge the answers and report; resumes")
    _model_arguments(evaluate.add_argument)
    _asking_arguments(evaluate.add_argument)
    _running_arguments(evaluate.add_argument)
    evaluate.set_defaults(run=run_eval)
    experiments = subparsers.add_parser("experiments", help="the friction dial, and whether the thinking matters")
    _model_arguments(experiments.add_argument)
    _experiment_arguments(experiments.add_argument)
    experiments.set_defaults(run=run_experiments)


def _asking_arguments(add: Any) -> None:
    add("--backend", choices=("local", "server"), default="local", help="server: Ollama or any OpenAI-compatible one")
    add("--base-url", default=OLLAMA, help=f"of the server ({OLLAMA}, Ollama's)")
    add("--baseline", metavar="NAME", help="name of the baseline model on the server")
    add("--friction", metavar="NAME", help="name of the friction model on the server")
    add("--system", help="system prompt of both voices on the server; default: the kit's")
    add("--prompts", help=f"prompt file, or {BUNDLED!r}; default: {BUNDLED} for the tiny model, else data/eval/prompts.jsonl")
    add("--split", choices=("all", "validation", "test"), default="all", help="part of the prompts; default: all")
    add("-n", type=_positive, help="prompts of each kind; default: all")


def _running_arguments(add: Any) -> None:
    add("--out", type=Path, default=Path("runs/eval"), help="folder; an unfinished run there is gone on with")
    add("--samples", type=_positive, default=1, help="replies to each prompt; more than one needs --temperature")
    add("--temperature", type=float, default=0.0, help="0 (default): always the likeliest token")
    add("--seed", type=int, default=0, help="for temperatures above 0; default: 0")
    add("--max-tokens", type=_positive, default=0, help="for one reply; default: the recipe's, or 1024")
    add("--batch", type=_positive, default=48, help="prompts in one batch of a local model (48)")
    add("--concurrency", type=_positive, default=8, help="calls to the server at a time (8)")
    add("--timeout", type=float, default=300.0, help="seconds for one reply of the server (300)")
    add("--export", choices=("inspect",), help="also write logs that inspect_ai reads, into OUT/inspect")
    add("--judge-model", metavar="NAME", help="also ask this model for verdicts, and set them beside the rules")
    add("--judge-url", default=OLLAMA, help="server of the judge model")
    add("--bench", action="store_true", help="only time one prompt at a time against a batch")


def _experiment_arguments(add: Any) -> None:
    add("--prompts", help=f"prompt file, or {BUNDLED!r}")
    add("-n", type=_positive, default=32, help="prompts of each kind (32)")
    add("--out", type=Path, default=Path("data/results"))
    add("--only", choices=("dial", "thinking"))


def _model_arguments(add: Any) -> None:
    add("--model", default=chosen_size(), help="size on the dial; default: PUSHBACK_MODEL, or tiny")
    add("--adapter", help="folder of the friction adapter; default: the one that comes with the kit")


def run_eval(args: argparse.Namespace) -> int:
    """Asks, judges and reports; returns 0 when every reply is there."""
    from .eval_report import comparison_lines, ordered, write_all
    from .eval_rows import load_responses

    if args.samples > 1 and args.temperature == 0:
        raise PushbackError(f"--samples {args.samples} at temperature 0 would give one reply {args.samples} times. Add "
                            "--temperature 0.6, or drop --samples.")  # fmt: skip
    prompts, language = _prompts(args)
    if args.backend == "server":
        _server(args, prompts, language)
    elif not _local(args, prompts, language):
        return 0
    rows = ordered(load_responses(args.out / "responses.jsonl"), [prompt.id for prompt in prompts])
    judge = _judge(args, rows)
    model = args.model if args.backend == "local" else args.friction
    write_all(args.out, rows, f"Baseline against friction: {model}", judge)
    if args.export:
        from .inspect_export import export_inspect

        print("\n".join(f"for inspect: {path}" for path in export_inspect(args.out / "inspect", rows)))
    _show(rows, args.out, comparison_lines(rows))
    return 0


def _show(rows: Sequence[Response], out: Path, lines: Sequence[str]) -> None:
    from .eval_figures import summary_table

    for name, baseline, friction in summary_table(rows):
        print(f"{name}\n    baseline {baseline}\n    friction {friction}")
    print("\n".join([*lines, f"Report: {out / 'report.html'}"]))


def _prompts(args: argparse.Namespace) -> tuple[list[Prompt], str]:
    """The prompts that were asked for, and the language their judge reads."""
    from .eval_set import PROMPTS, bundled_prompts, load_prompts, short_prompts

    backend = getattr(args, "backend", "local")
    name = args.prompts or (BUNDLED if args.model == "tiny" and backend == "local" else str(PROMPTS))
    prompts = bundled_prompts() if name == BUNDLED else load_prompts(name)
    split = getattr(args, "split", "all")
    chosen = [prompt for prompt in prompts if split in ("all", prompt.split)]
    if not chosen:
        raise PushbackError(f"{name} holds no prompts of the split {split!r}. Choose another --split.")
    return (short_prompts(chosen, args.n) if args.n else chosen), BUNDLED if name == BUNDLED else "english"


def _how(args: argparse.Namespace) -> Sampling:
    from .eval_run import Sampling

    return Sampling(args.seed, args.temperature, args.samples, args.max_tokens)


def _local(args: argparse.Namespace, prompts: list[Prompt], language: str) -> bool:
    """Runs the local model; False if it was only to be timed."""
    from .eval_run import bench, local_plan, run_local
    from .recipe import recipe_for
    from .voices import load_speaker

    recipe = recipe_for(args.model)
    adapter = Path(args.adapter or recipe.shipped_adapter)
    speaker = load_speaker(recipe, adapter)
    plan = local_plan(speaker, adapter, prompts, language, _how(args))
    if args.bench:
        print(bench(speaker, plan))
        return False
    try:
        run_local(speaker, plan, args.out / "responses.jsonl", batch=args.batch)
    except KeyboardInterrupt as error:
        raise _stopped(args.out) from error
    return True


def _stopped(out: Path) -> PushbackError:
    return PushbackError(f"Stopped. What is finished is in {out}; the same command goes on from there.")


def _server(args: argparse.Namespace, prompts: list[Prompt], language: str) -> None:
    from .chat_openai import OpenAIChat
    from .eval_run import run_server, server_plan
    from .models import FRICTION
    from .recipe import SYSTEM, TINY_SYSTEM
    from .voices import BASELINE

    if not (args.baseline and args.friction):
        raise PushbackError("--backend server needs two models. Pass --baseline NAME and --friction NAME.")
    system = args.system if args.system is not None else TINY_SYSTEM if language == BUNDLED else SYSTEM

    async def work() -> None:
        names = {BASELINE: args.baseline, FRICTION: args.friction}
        chats = {voice: OpenAIChat(name, args.base_url, timeout=args.timeout) for voice, name in names.items()}
        plan = server_plan(chats, system, prompts, language, _how(args))
        try:
            await run_server(chats, plan, args.out / "responses.jsonl", concurrency=args.concurrency)
        finally:
            for chat in chats.values():
                await chat.close()

    _stoppable(work(), args.out)


def _judge(args: argparse.Namespace, rows: Sequence[Response]) -> Comparison | None:
    if not args.judge_model:
        return None
    from .chat_openai import OpenAIChat
    from .judge_model import compare, judge_rows

    async def work() -> Comparison:
        chat = OpenAIChat(args.judge_model, args.judge_url, timeout=args.timeout)
        try:
            return compare(rows, await judge_rows(chat, rows, args.out / "verdicts.jsonl", concurrency=args.concurrency))
        finally:
            await chat.close()

    return _stoppable(work(), args.out)


def _stoppable(work: Coroutine, out: Path) -> Any:
    try:
        return asyncio.run(work)
    except KeyboardInterrupt as error:
        raise _stopped(out) from error


def run_experiments(args: argparse.Namespace) -> int:
    """Runs both experiments (or one) and writes their figures and plots."""
    from .experiments import run_all
    from .recipe import recipe_for
    from .voices import load_speaker

    prompts, language = _prompts(args)
    recipe = recipe_for(args.model)
    adapter = Path(args.adapter or recipe.shipped_adapter)
    for line in run_all(load_speaker(recipe, adapter), adapter, prompts, language, args.out, only=args.only):
        print(line)
    return 0


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value
