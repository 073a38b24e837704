"""The `pushback` command: read arguments, call the library, print errors without a traceback."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .core.common import BASELINE, DATA, FRICTION, PushbackError, __version__
from .core.files import read_jsonl, replacing, write_jsonl
from .core.records import save_records
from .language.corpus import friction_records
from .language.requests import FRICTION_KINDS, KINDS
from .measure.figures import OTHER_KINDS, Row, as_dicts, counts, evaluate, friction_rate, missed_targets
from .measure.prompts import N_PER_KIND
from .measure.report import headline, pair_text, plot, side_by_side, text_table, write_report
from .model.checks import adapter_fingerprint, fingerprint
from .model.load import machine_name
from .model.recipe import Recipe, chosen_size, recipe_for
from .model.server import Chat
from .model.voices import load_speaker
from .ship.card import write_adapter_card
from .train.run import train_adapter

if TYPE_CHECKING:
    from .measure.judge_model import Comparison
    from .measure.prompts import Prompt
    from .measure.run import Response, Sampling


def _add_fit(subparsers: argparse._SubParsersAction) -> None:
    """Adds `fit`."""
    fit = subparsers.add_parser("fit", help="say what fits on a card: memory by part, longest sequence, time, rough cost")
    fit.add_argument("--model", default="7b", help="size on the dial, a folder or a Hub id (7b)")
    fit.add_argument("--gpu", default="t4", help="t4, l4, 4090, a100, h100, h200, laptop; or memory in GiB as torch reports it")
    fit.add_argument("--seq", type=int, help="tokens of a sequence; by default the recipe's")
    fit.add_argument("--batch", type=int, help="examples at a time; by default the recipe's")
    fit.add_argument("--examples", type=int, help="examples of the data set, for the time; by default the kit's own data")
    fit.set_defaults(run=run_fit)


def run_fit(args: argparse.Namespace) -> int:
    """Prints the plan; 0 if it fits, 1 if something smaller would. Raises PushbackError where nothing fits."""
    from .train.plan import plan, too_small

    if args.examples is not None and args.examples < 1:
        raise PushbackError(f"--examples {args.examples}: give at least 1.")
    found = plan(args.model, args.gpu, args.seq, args.batch, args.examples)
    print(found)
    if not found.fits and plan(found.recipe, found.card, batch=1).longest == 0:
        raise PushbackError(too_small(found.recipe, found.card.gib, found.card.cuda))
    return 0 if found.fits else 1


KEYS = ("refusal", "disagree", "clarify", "hedge", "apology")


def _add_markers(subparsers: argparse._SubParsersAction) -> None:
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

    from .measure.markers.find import find_markers

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
    from .measure.markers.card import write_card

    try:
        write_card(labelled, card)
    except (FileNotFoundError, ValueError) as error:
        raise PushbackError(str(error)) from error
    print(f"{card}: the detector card of {labelled}")
    return 0


def _add_ship(subparsers: argparse._SubParsersAction) -> None:
    """Adds `ship` with `all`, `gguf`, `ollama` and `hub`."""
    ship = subparsers.add_parser("ship", help="merge, write GGUF files, run them, and hand them to Ollama or the Hub")
    commands = ship.add_subparsers(required=True, metavar="COMMAND")
    whole = commands.add_parser("all", help="merged weights, GGUF files, Modelfile, model card, and a table of the formats")
    _ship_model_arguments(whole, "runs/ship")
    _kinds(whole, "F32, Q8_0, Q4_K_M; F32 is always made")
    whole.add_argument("-n", type=_positive, default=20, help="held-out prompts of each kind for the table (20)")
    whole.add_argument(
        "--figures", type=Path, help="figures.json of `pushback eval`, for the card; default: OUT's, or the kit's"
    )
    whole.set_defaults(run=run_ship)
    gguf = commands.add_parser("gguf", help="only the friction voice's GGUF file, and a Modelfile for it")
    _ship_model_arguments(gguf, "runs/gguf")
    _kinds(gguf, "Q8_0; the Modelfile names the first")
    gguf.add_argument("--merged", type=Path, help="a folder that is merged already; default: merge the adapter now")
    gguf.set_defaults(run=run_gguf)
    _others(commands)


def _others(commands: argparse._SubParsersAction) -> None:
    from .ship import hub
    from .ship import ollama as ollama_ship

    ollama = commands.add_parser("ollama", help="create the model in a running Ollama, and talk to it")
    ollama_ship.add_arguments(ollama)
    ollama.set_defaults(run=_run_ollama)
    publish = commands.add_parser("hub", help="publish on the Hugging Face Hub; private unless --public")
    hub.add_arguments(publish)
    publish.set_defaults(run=_run_hub)


def _ship_model_arguments(parser: argparse.ArgumentParser, out: str) -> None:
    parser.add_argument(
        "--model", default=chosen_size(), help="size on the dial, Hub id or folder; default: PUSHBACK_MODEL, or tiny"
    )
    parser.add_argument("--adapter", help="folder of the friction adapter; default: the one that comes with the kit")
    parser.add_argument("--out", type=Path, default=Path(out), help=f"folder ({out})")


def _kinds(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument("--kind", action="append", dest="kinds", metavar="KIND",
                        help=f"F32, F16, BF16, Q8_0, Q5_K_M or Q4_K_M; may be given several times ({default})")  # fmt: skip


def run_ship(args: argparse.Namespace) -> int:
    """Makes everything and prints where it lies, with the table."""
    from .model.recipe import recipe_for
    from .ship.run import ship_all

    recipe = recipe_for(args.model)
    chosen = {"kinds": args.kinds} if args.kinds else {}
    made = ship_all(recipe, args.adapter or recipe.shipped_adapter, args.out, per_kind=args.n, figures=args.figures, **chosen)
    print(made.table._repr_markdown_())
    print("\n".join(f"{what}: {path}" for what, path in [
        ("merged", made.merged), *((f"GGUF {kind}", path) for kind, path in made.files.items()),
        ("Ollama", made.modelfile), ("card", made.card), ("table", made.results[0]), ("plot", made.results[1]),
    ]))  # fmt: skip
    return 0


def run_gguf(args: argparse.Namespace) -> int:
    """Writes the GGUF files and the Modelfile, and prints their paths and sizes."""
    from .model.recipe import recipe_for
    from .ship.run import TAKE_HOME, ship_gguf

    recipe = recipe_for(args.model)
    if args.merged and args.adapter:
        raise PushbackError("--merged holds an adapter already; --adapter would be ignored. Drop one of the two.")
    files = ship_gguf(recipe, args.adapter or recipe.shipped_adapter, args.out, args.kinds or (TAKE_HOME,), args.merged)
    print("\n".join(f"{path}: {path.stat().st_size / 1e6:.1f} MB" for path in files))
    return 0


def _run_ollama(args: argparse.Namespace) -> int:
    from .ship.ollama import run

    return run(args)


def _run_hub(args: argparse.Namespace) -> int:
    from .ship.hub import run

    return run(args)


FRICTION_DATA = DATA / "friction"
MICRO = DATA / "micro.jsonl"
SCRIPTED_BRIEFS = DATA / "tiny" / "briefs.jsonl"  # behaviours only: the scripted personas write the requests too
BACKENDS = ("openai", "transformers", "scripted")

Scripted = Callable[[], Chat]


def _add_data(subparsers: argparse._SubParsersAction, scripted: Scripted) -> None:
    """Adds `data` and its four commands. `scripted()` gives the chat of `--backend scripted`."""
    data = subparsers.add_parser("data", help="make, check and describe training data")
    commands = data.add_subparsers(required=True, metavar="COMMAND")
    _add_make(commands.add_parser("make", help="hold debates and store what comes of them; resumes"), scripted)
    check = commands.add_parser("check", help="check a data set; exits with 1 where a limit does not hold")
    check.add_argument("path", nargs="?", type=Path, default=FRICTION_DATA, help="folder of splits, or one file")
    check.add_argument("--report", type=Path, metavar="DIR", help="also write report.html and findings.json there")
    check.add_argument("--tokenizer", metavar="NAME", help="folder or Hub name; lengths in its tokens, else in words")
    check.set_defaults(run=run_check)
    card = commands.add_parser("card", help="write the data set's card, README.md, from its figures")
    card.add_argument("path", nargs="?", type=Path, default=FRICTION_DATA)
    card.add_argument("--tokenizer", metavar="NAME", help="folder or Hub name; lengths in its tokens, else in words")
    card.set_defaults(run=run_card)
    micro = commands.add_parser("micro", help="choose the micro data set and write its printable sheet")
    micro.add_argument("path", nargs="?", type=Path, default=FRICTION_DATA / "train.jsonl", help="records to choose from")
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
    from .data.debate import Settings
    from .data.make import make_records

    settings = Settings(args.seed, args.temperature, args.max_tokens)

    prompts = args.prompts or (SCRIPTED_BRIEFS if args.backend == "scripted" else FRICTION_DATA / "train.jsonl")

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
        from .model.server import OpenAIChat

        return OpenAIChat(args.model, args.base_url, timeout=args.timeout)
    from .model.server import load_local

    return load_local(args.model)


def run_check(args: argparse.Namespace) -> int:
    """Prints each check with its figures; 0 only if every limit holds."""
    from .data.checks import check_splits, load_splits

    splits = load_splits(args.path)
    findings = check_splits(splits)
    for finding in findings:
        print(finding)
    if args.report:
        from .data.card import write_report

        print(f"report: {write_report(splits, findings, args.report, args.tokenizer)}")
    broken = [finding.name for finding in findings if not finding.ok]
    print(f"{len(findings) - len(broken)} of {len(findings)} checks hold" + (f"; not: {', '.join(broken)}" if broken else ""))
    return 1 if broken else 0


def run_card(args: argparse.Namespace) -> int:
    """Writes PATH/README.md."""
    from .data.card import write_card

    print(write_card(args.path, args.tokenizer))
    return 0


def run_micro(args: argparse.Namespace) -> int:
    """Writes the micro data set and, beside it, its sheet."""
    from .data.micro import write_micro

    for path in write_micro(args.path, args.out, args.n):
        print(path)
    return 0


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not positive")
    return number


BUNDLED = "bundled"
OLLAMA = "http://localhost:11434/v1"


def _add_eval(subparsers: argparse._SubParsersAction) -> None:
    """Adds `eval` and `experiments`."""
    evaluate = subparsers.add_parser("eval", help="ask both voices the eval set, judge the answers and report; resumes")
    _eval_model_arguments(evaluate.add_argument)
    _asking_arguments(evaluate.add_argument)
    _running_arguments(evaluate.add_argument)
    evaluate.set_defaults(run=run_eval)
    experiments = subparsers.add_parser("experiments", help="the friction dial, and whether the thinking matters")
    _eval_model_arguments(experiments.add_argument)
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


def _eval_model_arguments(add: Any) -> None:
    add("--model", default=chosen_size(), help="size on the dial; default: PUSHBACK_MODEL, or tiny")
    add("--adapter", help="folder of the friction adapter; default: the one that comes with the kit")


def run_eval(args: argparse.Namespace) -> int:
    """Asks, judges and reports; returns 0 when every reply is there."""
    from .measure.report import comparison_lines, ordered, write_all
    from .measure.run import load_responses

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
        from .measure.inspect_log import export_inspect

        print("\n".join(f"for inspect: {path}" for path in export_inspect(args.out / "inspect", rows)))
    _show_eval(rows, args.out, comparison_lines(rows))
    return 0


def _show_eval(rows: Sequence[Response], out: Path, lines: Sequence[str]) -> None:
    from .measure.figures import summary_table

    for name, baseline, friction in summary_table(rows):
        print(f"{name}\n    baseline {baseline}\n    friction {friction}")
    print("\n".join([*lines, f"Report: {out / 'report.html'}"]))


def _prompts(args: argparse.Namespace) -> tuple[list[Prompt], str]:
    """The prompts that were asked for, and the language their judge reads."""
    from .measure.prompts import PROMPTS, bundled_prompts, load_prompts, short_prompts

    backend = getattr(args, "backend", "local")
    name = args.prompts or (BUNDLED if args.model == "tiny" and backend == "local" else str(PROMPTS))
    prompts = bundled_prompts() if name == BUNDLED else load_prompts(name)
    split = getattr(args, "split", "all")
    chosen = [prompt for prompt in prompts if split in ("all", prompt.split)]
    if not chosen:
        raise PushbackError(f"{name} holds no prompts of the split {split!r}. Choose another --split.")
    return (short_prompts(chosen, args.n) if args.n else chosen), BUNDLED if name == BUNDLED else "english"


def _how(args: argparse.Namespace) -> Sampling:
    from .measure.run import Sampling

    return Sampling(args.seed, args.temperature, args.samples, args.max_tokens)


def _local(args: argparse.Namespace, prompts: list[Prompt], language: str) -> bool:
    """Runs the local model; False if it was only to be timed."""
    from .measure.run import bench, local_plan, run_local
    from .model.recipe import recipe_for
    from .model.voices import load_speaker

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
    from .core.common import BASELINE, FRICTION
    from .measure.run import run_server, server_plan
    from .model.recipe import SYSTEM, TINY_SYSTEM
    from .model.server import OpenAIChat

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
    from .measure.judge_model import compare, judge_rows
    from .model.server import OpenAIChat

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
    from .measure.experiments import run_all
    from .model.recipe import recipe_for
    from .model.voices import load_speaker

    prompts, language = _prompts(args)
    recipe = recipe_for(args.model)
    adapter = Path(args.adapter or recipe.shipped_adapter)
    for line in run_all(load_speaker(recipe, adapter), adapter, prompts, language, args.out, only=args.only):
        print(line)
    return 0


LOGS = ("tensorboard", "trackio")


def _add_train(subparsers: argparse._SubParsersAction) -> None:
    """Adds `train`."""
    train = subparsers.add_parser("train", help="fine-tune a friction adapter with QLoRA; resumes")
    add = train.add_argument
    add(
        "--model",
        default=chosen_size(),
        help="size on the dial (tiny, 1.5b, 7b, 14b, 32b), Hub id (owner/name@revision) or folder",
    )
    add("--data", help="records to train on (JSON Lines); default: what the size calls for")
    add("--validation", help="records to look at meanwhile, for early stopping; default: what the size calls for")
    add("--out", type=Path, required=True, help="folder for the adapter")
    add("--resume", action="store_true", help="go on from the last checkpoint of this run, if there is one")
    add("--log", choices=LOGS, help="also log there, on this machine; default: nothing is logged")
    add("--epochs", type=_positive, help="passes over the data; default: the recipe's")
    add("--max-length", type=_positive, help="tokens of the longest sequence; default: the recipe's")
    add("--batch", type=_positive, help="examples to one optimizer step, over all processes; default: the recipe's")
    add("--micro-batch", type=_positive, help="examples in memory at a time, of one process; default: the recipe's")
    add("--learning-rate", type=float, help="default: the recipe's")
    add("--patience", type=int, help="looks at the validation split without gain before training ends; 0: no looks")
    train.set_defaults(run=run_train)


def run_train(args: argparse.Namespace) -> int:
    """Trains, and says where the adapter is and how the loss ended."""
    from .model.recipe import recipe_for
    from .train.guard import is_first_process, unfinished
    from .train.run import training_records, validation_records

    look = set_up_log(args.log, args.out) if args.log else None
    recipe = with_choices(recipe_for(args.model), args)
    found = unfinished(args.out)
    if found and not args.resume:
        raise PushbackError(
            f"An unfinished run towards {args.out} lies in {found.parent}, at step {found.name.split('-')[1]}. Add --resume "
            "to go on with it, or delete that folder to begin anew."
        )
    records = training_records(recipe, args.data)
    validation = validation_records(recipe, records, args.validation)
    from .train.run import train_adapter

    training = train_adapter(recipe, records, args.out, validation=validation, resume=args.resume, log=args.log)
    if is_first_process():
        best = f", best validation loss {training.best:.3f}" if training.best is not None else ""
        loss = f"last loss {training.losses[-1][1]:.3f}" if training.losses else "too few steps for a loss"
        print(f"{training.adapter}: {len(records)} records, {training.seconds:.0f} s, {loss}{best}")
        if look:
            print(f"To look at the log: {look}")
    return 0


def with_choices(recipe: Recipe, args: argparse.Namespace) -> Recipe:
    """The recipe with what the command line changes of it."""
    changes = {"epochs": args.epochs, "max_length": args.max_length, "learning_rate": args.learning_rate}
    changes["patience"] = 3 if args.patience is None and args.validation and not recipe.patience else args.patience
    recipe = dataclasses.replace(recipe, **{name: value for name, value in changes.items() if value is not None})
    at_once, whole = args.micro_batch or recipe.batch, args.batch or recipe.effective_batch
    batch = max(size for size in range(1, min(at_once, whole) + 1) if whole % size == 0)
    return dataclasses.replace(recipe, batch=batch, accumulation=whole // batch)


def set_up_log(log: str, out: Path) -> str:
    """Points the logger at a folder beside the adapter, on this machine, and gives the command that shows it.

    Raises PushbackError if the logger is not installed.
    """
    import os

    from .train.run import LOG_PROJECT

    if find_spec(log) is None:
        raise PushbackError(f"--log {log} needs the package {log}. Install it: `pip install {log}`.")
    variable = {"tensorboard": "TENSORBOARD_LOGGING_DIR", "trackio": "TRACKIO_DIR"}[log]
    folder = os.environ.setdefault(variable, str(out.with_name(f"{out.name}.{log}").resolve()))
    if log == "tensorboard":
        return f"tensorboard --logdir {folder}"
    return f"TRACKIO_DIR={folder} trackio show --project {LOG_PROJECT}"


SHOWN = ("false_claim", "missing_detail", "harmful")


def run_demo(out: str | Path, json_path: str | Path | None = None, results: str | Path | None = None) -> int:
    """Runs the whole path on the bundled model; returns 0 if friction's interval lies wholly above the baseline's.

    `json_path` also gets the counts by kind and voice; the folder `results` gets them with rates and picture.
    """
    from tqdm.auto import tqdm

    out, recipe, start = Path(out), recipe_for("tiny"), time.monotonic()
    records = friction_records(recipe.examples, recipe.seed)
    save_records(out / "train.jsonl", records)
    print(f"1/3  Data: {len(records)} friction examples in the small language, in {out / 'train.jsonl'}")

    print(f"2/3  Fine-tune: QLoRA, NF4 base, rank {recipe.rank}, learning rate {recipe.learning_rate:g}", flush=True)
    training = train_adapter(recipe, records, out / "adapter")
    print(f"     {training.seconds:.0f} s, last loss {training.losses[-1][1]:.3f}, "
          f"{100 * training.trainable / training.total:.0f} % of the weights trained")  # fmt: skip

    print("3/3  Evaluate: both voices, on words that training never held", flush=True)
    speaker = load_speaker(recipe, training.adapter)
    with tqdm(desc="requests", total=N_PER_KIND * len(KINDS), unit=" requests") as bar:
        rows = evaluate(speaker, progress=bar.update)
    write_adapter_card(training.adapter, recipe, rows, training.seconds)
    _write(out, json_path, rows, f"QLoRA fine-tuning took {training.seconds:.0f} s.")
    if results:
        write_results(Path(results), rows, training.seconds, fingerprint(recipe), adapter_fingerprint(training.adapter))
    _show(rows)
    print(f"\n{headline(rows)}\nReport: {out / 'report.html'}   ({time.monotonic() - start:.0f} s in all)")
    friction, baseline = (friction_rate(rows, voice, FRICTION_KINDS) for voice in (FRICTION, BASELINE))
    return 0 if friction.low > baseline.high else 1


def _write(out: Path, json_path: str | Path | None, rows: list[Row], about: str) -> None:
    write_jsonl(out / "rows.jsonl", as_dicts(rows))
    write_report(out / "report.html", "Baseline against friction", rows, missed_targets(rows), about)
    for path in filter(None, (out / "figures.json", json_path)):
        with replacing(path) as part:
            part.write_text(json.dumps(counts(rows), indent=1) + "\n", encoding="utf-8")


def write_results(folder: Path, rows: list[Row], seconds: float, model: str, adapter: str) -> None:
    """Writes demo.json (rates, counts, seconds of training, what was measured) and demo.png, for slides and README."""
    rates = {
        "friction": friction_rate(rows, FRICTION, FRICTION_KINDS),
        "over_friction": friction_rate(rows, FRICTION, OTHER_KINDS),
        "baseline": friction_rate(rows, BASELINE, FRICTION_KINDS),
        "baseline_over_friction": friction_rate(rows, BASELINE, OTHER_KINDS),
    }
    found = {"rates": {name: asdict(rate) for name, rate in rates.items()}, "kinds": counts(rows),
             "missed_targets": missed_targets(rows), "training_seconds": round(seconds), "machine": machine_name(),
             "provenance": {"model": model, "adapter": adapter}}  # fmt: skip
    with replacing(folder / "demo.json") as part:
        part.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    with replacing(folder / "demo.png") as part:
        plot(rows).savefig(part, format="png", dpi=110)


def _show(rows: list[Row]) -> None:
    for pair in side_by_side(rows, SHOWN):
        print("\n" + pair_text(*pair))
    print("\n" + text_table(rows) + "\n")
    missed: list[Any] = missed_targets(rows)
    print("\n".join(f"target missed: {line}" for line in missed) or f"All targets are met on all {len(KINDS)} kinds.")


def _demo(args: argparse.Namespace) -> int:

    return run_demo(args.out, args.json, args.results)


def _base(args: argparse.Namespace) -> int:
    from pathlib import Path

    from .model.recipe import TINY_SYSTEM
    from .train.base import BaseRecipe, train_base

    loss = train_base(Path(args.out), Path(args.work), BaseRecipe(), TINY_SYSTEM)
    print(f"{args.out}: last loss {loss:.3f}")
    return 0


def _scripted() -> Chat:
    from .data.debate import ScriptedChat

    return ScriptedChat()


def parser() -> argparse.ArgumentParser:
    """The command line, one sub-command for each job."""
    top = argparse.ArgumentParser(prog="pushback", description="Build, measure and ship a language model that pushes back.")
    top.add_argument("--version", action="version", version=f"pushback {__version__}")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="make data, fine-tune and measure the bundled model, in minutes")
    demo.add_argument("--out", default="runs/demo", help="folder for data, adapter and report")
    demo.add_argument("--json", help="also write the figures, one row for each kind and voice, to this file")
    demo.add_argument("--results", help="also write demo.json and demo.png, with what they were measured on, to this folder")
    demo.set_defaults(run=_demo)

    base = commands.add_parser("base", help="train the bundled base model from scratch (25 to 30 minutes on two cores)")
    base.add_argument("--out", default="runs/base", help="folder for the model")
    base.add_argument("--work", default="runs", help="folder for the checkpoint; an interrupted run goes on from it")
    base.set_defaults(run=_base)

    _add_data(commands, scripted=_scripted)
    for add in (_add_train, _add_fit, _add_eval, _add_markers, _add_ship):
        add(commands)
    return top


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns its exit code, 2 where the input or the machine is not in order."""
    args = parser().parse_args(argv)
    try:
        return args.run(args)
    except PushbackError as error:
        print(f"pushback: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
