"""The `pushback` command: read arguments, call the library, print errors without a traceback."""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from .chat.backend import Backend, Settings
from .chat.llama import LlamaVoices
from .chat.local import LocalVoices
from .chat.terminal import talk
from .core.common import BASELINE, DATA, FRICTION, OLLAMA_URL, PushbackError, __version__
from .core.files import replacing
from .core.folders import alone, check_folder, claim_folder
from .core.records import LEVELS, of_levels, save_records
from .data.card import write_card as write_data_card
from .data.card import write_report as write_data_report
from .data.checks import check_splits, load_splits
from .data.debate import DebateSettings, ScriptedChat
from .data.foreign import FORMATS, import_file
from .data.make import make_records
from .data.micro import write_micro
from .language.corpus import friction_records
from .measure.experiments import run_all
from .measure.inspect_log import export_inspect
from .measure.judge import Response
from .measure.judge_model import Comparison, compare, judge_rows
from .measure.likelihood import check_answers, compare_answers, write_preferences
from .measure.markers.card import write_card as write_detector_card
from .measure.markers.file import mark_file
from .measure.prompts import PROMPTS, Prompt, bundled_prompts, language_of, load_prompts, short_prompts
from .measure.report import pair_text, write_report, write_results
from .measure.run import Sampling, evaluate, llama_run, local_run, replies_of, run_server, save_responses, server_run
from .model.doctor import examine_file, examine_model
from .model.llama_cpp import Pair
from .model.recipe import SYSTEM, TINY_SYSTEM, Recipe, chosen_size, recipe_for
from .model.server import OLLAMA_API, Chat, OpenAIChat
from .model.voices import load_voices
from .ship import hub
from .ship.card import write_adapter_card
from .ship.lora import KINDS as LORA_KINDS
from .ship.lora import published_file, ship_lora
from .ship.ollama import QUANTISATIONS, create_model
from .ship.run import TAKE_HOME, ship_all, ship_gguf
from .train.base import BaseRecipe, train_base
from .train.guard import is_disk_full, is_first_process, is_out_of_memory, unfinished
from .train.plan import plan, too_small
from .train.run import set_up_log, train_adapter, training_records, validation_records, with_choices

FRICTION_DATA = DATA / "friction"
SCRIPTED_BRIEFS = DATA / "tiny" / "briefs.jsonl"  # behaviours only: the scripted personas write the requests too
BUNDLED = "bundled"  # as --prompts: the small language's test
SHOWN = ("false_claim", "missing_detail", "harmful")
LOGS = ("tensorboard", "trackio")
SLOTS = 4  # replies that llama.cpp generates at a time for each voice


def parser() -> argparse.ArgumentParser:
    """The command line, one sub-command for each job."""
    top = argparse.ArgumentParser(prog="pushback", description="Build, measure and ship a language model that pushes back.")
    top.add_argument("--version", action="version", version=f"pushback {__version__}")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    for add in (_add_demo, _add_data, _add_train, _add_fit, _add_doctor, _add_chat, _add_eval, _add_markers, _add_ship):
        add(commands)
    return top


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not positive")
    return number


def _command(
    commands: argparse._SubParsersAction, name: str, run: Callable, help: str, folders: Sequence[str] = ()
) -> argparse.ArgumentParser:
    """A sub-command; `folders` are the arguments that name folders in which it writes several files."""
    parser = commands.add_parser(name, help=help)
    parser.set_defaults(run=run, folders=folders)
    return parser


def _model_option(parser: argparse.ArgumentParser, what: str = "size on the dial, Hub id or folder") -> None:
    parser.add_argument("--model", default=chosen_size(), help=f"{what}; default: PUSHBACK_MODEL, or tiny")


def _voice_options(parser: argparse.ArgumentParser) -> None:
    _model_option(parser)
    parser.add_argument("--adapter", help="folder of the friction adapter; default: the one that comes with the kit")


def _recipe_and_adapter(args: argparse.Namespace) -> tuple[Recipe, Path]:
    recipe = recipe_for(args.model)
    return recipe, Path(args.adapter or recipe.shipped_adapter)


def _run(work: Coroutine, *chats: Chat) -> Any:
    """What the coroutine returns; closes the chats."""

    async def closing() -> Any:
        asyncio.get_running_loop().set_exception_handler(_only_errors)
        try:
            return await work
        finally:
            for chat in chats:
                await chat.close()

    return asyncio.run(closing())


def _only_errors(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """A second Ctrl-C can fall into the making of a task; asyncio would tell of the task's end, with a traceback."""
    if "exception" in context:
        loop.default_exception_handler(context)


def _add_demo(commands: argparse._SubParsersAction) -> None:
    demo = _command(commands, "demo", run_demo, "make data, fine-tune and measure the bundled model, in minutes",
                    ("out", "results"))  # fmt: skip
    add = demo.add_argument
    add("--out", type=Path, default=Path("runs/demo"), help="folder for data, adapter and report (runs/demo)")
    add("--json", type=Path, help="also write the figures, one row for each kind and voice, to this file")
    add("--results", type=Path, help="also write demo.json and demo.png, with what they were measured on, to this folder")
    base = _command(commands, "base", run_base, "train the bundled base model from scratch (25 to 30 minutes on two cores)")
    add = base.add_argument
    add("--out", type=Path, default=Path("runs/base"), help="folder for the model (runs/base)")
    add("--work", type=Path, default=Path("runs"), help="folder of the checkpoint; an interrupted run resumes (runs)")


def run_demo(args: argparse.Namespace) -> int:
    """Makes data, trains and measures the bundled model; 0 if friction's interval is entirely above the baseline's."""
    out, recipe, start = args.out, recipe_for("tiny"), time.monotonic()
    records = friction_records(recipe.examples, recipe.seed)
    save_records(out / "train.jsonl", records)
    print(f"1/3  Data: {len(records)} friction examples in the small language, in {out / 'train.jsonl'}")

    print(f"2/3  Fine-tune: QLoRA, NF4 base, rank {recipe.rank}, learning rate {recipe.learning_rate:g}", flush=True)
    training = train_adapter(recipe, records, out / "adapter")
    print(f"     {training.seconds:.0f} s, last loss {training.losses[-1][1]:.3f}, "
          f"{100 * training.trainable / training.total:.0f} % of the weights trained")  # fmt: skip

    print("3/3  Evaluate: both voices, on words that training never held", flush=True)
    rows = evaluate(load_voices(recipe, training.adapter))
    save_responses(out / "rows.jsonl", rows)
    found = write_report(out, rows, about=f"QLoRA fine-tuning took {training.seconds:.0f} s.")
    write_adapter_card(training.adapter, recipe, found, training.seconds)
    if args.json:
        with replacing(args.json) as part:
            part.write_text(json.dumps([line.to_dict() for line in found.kinds], indent=1) + "\n", encoding="utf-8")
    if args.results:
        write_results(args.results, found, training.seconds)
    for kind in SHOWN:
        print("\n" + pair_text(rows, kind))
    print(f"\n{found}\nReport: {out / 'report.html'}   ({time.monotonic() - start:.0f} s in all)")
    return 0 if found.voices[FRICTION]["friction"].low > found.voices[BASELINE]["friction"].high else 1


def run_base(args: argparse.Namespace) -> int:
    """Trains the bundled base and prints its last loss."""
    loss = train_base(args.out, args.work, BaseRecipe(), TINY_SYSTEM)
    print(f"{args.out}: last loss {loss:.3f}")
    return 0


def _add_data(commands: argparse._SubParsersAction) -> None:
    data = commands.add_parser("data", help="make, check and describe training data")
    steps = data.add_subparsers(required=True, metavar="COMMAND")
    _add_make(steps)
    check = _command(steps, "check", run_check, "check a data set; exits with 1 where a limit does not hold", ("report",))
    _data_options(check)
    check.add_argument("--report", type=Path, metavar="DIR", help="also write report.html and findings.json there")
    card = _command(steps, "card", run_card, "write the data set's card, README.md, from its figures")
    _data_options(card)
    micro = _command(steps, "micro", run_micro, "choose the micro data set and write its printable sheet")
    add = micro.add_argument
    add("path", nargs="?", type=Path, default=FRICTION_DATA / "train.jsonl", help="records to choose from")
    add("--out", type=Path, default=DATA / "micro.jsonl", help="JSON Lines file; the sheet goes beside it (data/micro.jsonl)")
    add("-n", type=_positive, default=60, help="records (60)")
    foreign = _command(steps, "import", run_import, "convert a file of others into records; exits with 1 if a row is refused")
    add = foreign.add_argument
    add("path", type=Path, metavar="FILE", help="ShareGPT, Alpaca or chat messages; JSON Lines or a JSON array; UTF-8 or -16")
    add("--format", choices=FORMATS, default="", help="its layout; default: each row tells its own")
    add("--out", type=Path, help="JSON Lines file, which must not be there yet; default: FILE's name with -records, beside it")


def _data_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "path", nargs="?", type=Path, default=FRICTION_DATA, help="folder of splits, or one file (data/friction)"
    )
    parser.add_argument("--tokenizer", metavar="NAME", help="folder or Hub id; lengths in its tokens, else in words")


def _add_make(commands: argparse._SubParsersAction) -> None:
    make = _command(commands, "make", run_make, "hold debates and store the records that they give; resumes")
    add = make.add_argument
    add("--backend", choices=("openai", "scripted"), required=True, help="scripted: offline, in the small language")
    add("--model", default="", help="name on the server")
    add("--base-url", default=OLLAMA_API, help=f"OpenAI-compatible server ({OLLAMA_API}, Ollama's)")
    add("-n", type=_positive, required=True, help="examples that the file is to hold in the end")
    add("--out", type=Path, required=True, help="JSON Lines file; resumes an unfinished one")
    add("--prompts", type=Path, help="requests to debate; default: the kit's. Once used up, the model is asked for more")
    add("--concurrency", type=_positive, default=8, help="debates at a time (8)")
    add("--seed", type=int, default=0, help="of the sampling (0)")
    add("--temperature", type=float, default=0.8, help="of the sampling (0.8)")
    add("--max-tokens", type=_positive, default=1024, help="for one reply (1024)")
    add("--timeout", type=float, default=120.0, help="seconds for one reply (120)")


def run_make(args: argparse.Namespace) -> int:
    """Holds debates until `--out` has `-n` examples."""
    settings = DebateSettings(args.seed, args.temperature, args.max_tokens)
    prompts = args.prompts or (SCRIPTED_BRIEFS if args.backend == "scripted" else FRICTION_DATA / "train.jsonl")
    chat = _debater(args)
    print(_run(make_records(chat, prompts, args.out, args.n, settings, concurrency=args.concurrency), chat))
    return 0


def _debater(args: argparse.Namespace) -> Chat:
    if args.backend == "scripted":
        return ScriptedChat()
    if not args.model:
        raise PushbackError(f"--backend {args.backend} needs a model. Pass its name as --model.")
    return OpenAIChat(args.model, args.base_url, timeout=args.timeout)


def run_check(args: argparse.Namespace) -> int:
    """Prints each check with its figures; 0 only if every limit holds."""
    splits = load_splits(args.path)
    findings = check_splits(splits)
    for finding in findings:
        print(finding)
    if args.report:
        print(f"report: {write_data_report(splits, findings, args.report, args.tokenizer)}")
    broken = [finding.name for finding in findings if not finding.ok]
    print(f"{len(findings) - len(broken)} of {len(findings)} checks hold" + (f"; not: {', '.join(broken)}" if broken else ""))
    return 1 if broken else 0


def run_card(args: argparse.Namespace) -> int:
    """Writes PATH/README.md."""
    print(write_data_card(args.path, args.tokenizer))
    return 0


def run_micro(args: argparse.Namespace) -> int:
    """Writes the micro data set and, beside it, its sheet."""
    for path in write_micro(args.path, args.out, args.n):
        print(path)
    return 0


def run_import(args: argparse.Namespace) -> int:
    """Writes the records and says what was refused, left out, and is to be filled in."""
    found = import_file(args.path, args.out, args.format)
    print(found)
    return 1 if found.refused else 0


def _levels_option(add: Any, what: str) -> None:
    """`--levels easy,normal`: which of the records or prompts (`of_levels`)."""
    add("--levels", type=lambda text: [part.strip() for part in text.split(",")], default=[], metavar="A,B",
        help=f"only {what} of these levels ({', '.join(LEVELS)})")  # fmt: skip


def _add_train(commands: argparse._SubParsersAction) -> None:
    train = _command(commands, "train", run_train, "fine-tune a friction adapter with QLoRA; resumes")
    _model_option(train, "size on the dial (tiny, english, 1.5b, 7b, 14b, 32b), Hub id (owner/name@revision) or folder")
    add = train.add_argument
    add("--data", help="records to train on (JSON Lines), or a folder with train.jsonl; default: what the size calls for")
    add("--validation", help="records for early stopping; default: validation.jsonl of --data, else what the size calls for")
    add("--drop-long", action="store_true", help="leave out records longer than --max-length; default: they are an error")
    _levels_option(add, "records")
    add("--out", type=Path, required=True, help="folder for the adapter")
    add("--resume", action="store_true", help="start from the last checkpoint of this run, if there is one")
    add("--log", choices=LOGS, help="also log there, on this machine; default: nothing is logged")
    add("--epochs", type=_positive, help="passes over the data; default: the recipe's")
    add("--max-length", type=_positive, help="tokens of the longest sequence; default: the recipe's")
    add("--batch", type=_positive, help="examples to one optimizer step, over all processes; default: the recipe's")
    add("--micro-batch", type=_positive, help="examples in memory at a time, of one process; default: the recipe's")
    add("--learning-rate", type=float, help="default: the recipe's")
    add("--patience", type=int, help="checks of the validation loss without gain before training stops; 0: no checks")


def run_train(args: argparse.Namespace) -> int:
    """Trains, and says where the adapter is and how the loss ended."""
    own = Path(args.data or "", "validation.jsonl")
    looks_at = args.validation or (own if args.data and own.is_file() else None)
    recipe = with_choices(
        recipe_for(args.model), batch=args.batch, micro_batch=args.micro_batch, validates=bool(looks_at),
        patience=args.patience, epochs=args.epochs, max_length=args.max_length, learning_rate=args.learning_rate,
    )  # fmt: skip
    check_folder(args.out, [args.data, args.validation])
    look = set_up_log(args.log, args.out) if args.log else None
    with alone(args.out):  # the checkpoints of a run that goes on are no unfinished run
        found = unfinished(args.out)
    if found and not args.resume:
        raise PushbackError(
            f"An unfinished run towards {args.out} is in {found.parent}, at step {found.name.split('-')[1]}. Add --resume "
            "to continue it, or delete that folder to start again."
        )
    records = of_levels(training_records(recipe, args.data), args.levels)
    validation = validation_records(recipe, records, looks_at)
    validation = of_levels(validation, args.levels) if validation else []
    training = train_adapter(
        recipe, records, args.out, validation=validation, resume=args.resume, log=args.log, drop_long=args.drop_long
    )
    if is_first_process():
        best = f", best validation loss {training.best:.3f}" if training.best is not None else ""
        loss = f"last loss {training.losses[-1][1]:.3f}" if training.losses else "too few steps for a loss"
        count = f"{len(records) - training.dropped} records" + (f" ({training.dropped} too long)" if training.dropped else "")
        print(f"{training.adapter}: {count}, {training.seconds:.0f} s, {loss}{best}")
        if look:
            print(f"To look at the log: {look}")
    return 0


def _add_fit(commands: argparse._SubParsersAction) -> None:
    fit = _command(commands, "fit", run_fit, "say what fits on a card: memory by part, longest sequence, time, rough cost")
    add = fit.add_argument
    add("--model", default="7b", help="size on the dial, Hub id or folder (7b)")
    add("--gpu", default="t4", help="t4, l4, 4090, a100, h100, h200, laptop; or memory in GiB as torch reports it")
    add("--seq", type=int, help="tokens of a sequence; default: the recipe's")
    add("--batch", type=int, help="examples at a time; default: the recipe's")
    add("--examples", type=int, help="examples of the data set, for the time; default: the kit's own data")


def run_fit(args: argparse.Namespace) -> int:
    """Prints the plan; 0 if it fits, 1 if something smaller would. Raises PushbackError where nothing fits."""
    if args.examples is not None and args.examples < 1:
        raise PushbackError(f"--examples {args.examples}: give at least 1.")
    found = plan(args.model, args.gpu, args.seq, args.batch, args.examples)
    print(found)
    if not found.fits and plan(found.recipe, found.card, batch=1).max_length == 0:
        raise PushbackError(too_small(found.recipe, found.card.gib, found.card.cuda))
    return 0 if found.fits else 1


def _add_doctor(commands: argparse._SubParsersAction) -> None:
    doctor = _command(commands, "doctor", run_doctor, "examine a model's chat template: what becomes of thoughts, mask, prompt")
    doctor.add_argument("model", help="size on the dial, Hub id, folder, or a file of Jinja text; no weights are needed")


def run_doctor(args: argparse.Namespace) -> int:
    """Prints what was found; 0 if the model is fit for training, chat and shipping, else 1."""
    report = examine_file(args.model) if Path(args.model).is_file() else examine_model(recipe_for(args.model))
    print(report)
    return 0 if report.ok else 1


def _add_chat(commands: argparse._SubParsersAction) -> None:
    chat = _command(commands, "chat", run_chat, "ask both voices in the terminal, or each line of a pipe; Ctrl-D ends it")
    _voice_options(chat)
    _llama_options(chat.add_argument)
    add = chat.add_argument
    add("--dial", type=_dial, default=1.0, help="the adapter's share: 0 is the baseline, 1 as trained (1)")
    add("--temperature", type=float, default=0.0, help="0 (default): always the likeliest token")
    add("--seed", type=int, default=0, help="for temperatures above 0; default: 0")


def _llama_options(add: Any) -> None:
    add("--gguf", type=Path, metavar="BASE", help="let llama.cpp speak: a GGUF file of the base; needs --lora")
    add("--lora", type=Path, metavar="ADAPTER", help="the adapter's file, of `pushback ship lora`; needs --gguf")


def _dial(text: str) -> float:
    if not 0 <= (number := float(text)) <= 2:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 2")
    return number


def _in_llama(args: argparse.Namespace) -> bool:
    """Whether llama.cpp is to speak. Raises PushbackError for half of a pair of files, and for an adapter of another sort."""
    if bool(args.gguf) != bool(args.lora):
        given, lacks = ("--gguf", "--lora") if args.gguf else ("--lora", "--gguf")
        raise PushbackError(f"{given} needs {lacks} too: llama.cpp takes the base's file and the adapter's. The adapter's is "
                            "written by `pushback ship lora`.")  # fmt: skip
    if args.gguf and args.adapter:
        raise PushbackError("--adapter is a folder, for transformers; with --gguf the adapter is --lora. Drop one of the two.")
    return bool(args.gguf)


def run_chat(args: argparse.Namespace) -> int:
    """Chats until the input ends; 1 if a reply failed."""
    voices: Backend = LlamaVoices(args.gguf, args.lora) if _in_llama(args) else _local_voices(args)
    with closing(voices):
        voices.dial = args.dial
        return talk(voices, Settings(args.seed, args.temperature, voices.max_tokens))


def _local_voices(args: argparse.Namespace) -> Backend:
    return LocalVoices(load_voices(*_recipe_and_adapter(args), four_bit=None))


def _add_eval(commands: argparse._SubParsersAction) -> None:
    evaluate = _command(
        commands, "eval", run_eval, "ask both voices the eval set, judge the answers and report; resumes", ("out",)
    )
    _voice_options(evaluate)
    _llama_options(evaluate.add_argument)
    _asking_options(evaluate.add_argument)
    _running_options(evaluate.add_argument)
    experiments = _command(commands, "experiments", run_experiments, "the friction dial, and whether the thinking matters",
                           ("out",))  # fmt: skip
    _voice_options(experiments)
    add = experiments.add_argument
    add("--prompts", help=f"prompt file, or {BUNDLED!r}")
    _levels_option(add, "prompts")
    add("-n", type=_positive, default=32, help="prompts of each kind (32)")
    add("--out", type=Path, default=Path("data/results"), help="folder (data/results)")
    add("--only", choices=("dial", "thinking"), help="run one of the two; default: both")
    experiments.set_defaults(backend="local", split="all")


def _asking_options(add: Any) -> None:
    add("--backend", choices=("local", "server"), default="local", help="server: Ollama or any OpenAI-compatible one")
    add("--base-url", default=OLLAMA_API, help=f"of the server ({OLLAMA_API}, Ollama's)")
    add("--baseline", metavar="NAME", help="name of the baseline model on the server")
    add("--friction", metavar="NAME", help="name of the friction model on the server")
    add("--system", help="system prompt of both voices on the server; default: the kit's")
    add("--prompts", help=f"file of prompts or of records, or {BUNDLED!r}; default: {BUNDLED} for the tiny model, else "
                          "data/eval/prompts.jsonl; `v1`: those of version 1")  # fmt: skip
    _levels_option(add, "prompts")
    add("--split", choices=("all", "validation", "test"), default="all", help="part of the prompts; default: all")
    add("-n", type=_positive, help="prompts of each kind; default: all")


def _running_options(add: Any) -> None:
    add("--out", type=Path, default=Path("runs/eval"), help="folder (runs/eval); resumes an unfinished run there")
    add("--samples", type=_positive, default=1, help="replies to each prompt; more than one needs --temperature")
    add("--temperature", type=float, default=0.0, help="0 (default): always the likeliest token")
    add("--seed", type=int, default=0, help="for temperatures above 0; default: 0")
    add("--max-tokens", type=_positive, default=0, help="for one reply; default: the recipe's, or 1024")
    add("--likelihood", action="store_true", help="generate nothing, say which of two given answers to a prompt is "
        "likelier; with an evaluation in OUT also after its thoughts, and in its report")  # fmt: skip
    add("--batch", type=_positive, default=48, help="prompts in one batch of a local model (48)")
    add("--concurrency", type=_positive, default=8, help="calls to the server at a time (8)")
    add("--timeout", type=float, default=300.0, help="seconds for one reply of the server (300)")
    add("--export", choices=("inspect",), help="also write logs that inspect_ai reads, into OUT/inspect")
    add("--judge-model", metavar="NAME", help="also ask this model for verdicts, and set them beside the rules")
    add("--judge-url", default=OLLAMA_API, help="server of the judge model")


def run_eval(args: argparse.Namespace) -> int:
    """Asks, judges and reports; returns 0 when every reply is there."""
    if args.samples > 1 and args.temperature == 0:
        raise PushbackError(f"--samples {args.samples} at temperature 0 would give one reply {args.samples} times. Add "
                            "--temperature 0.6, or drop --samples.")  # fmt: skip
    if args.likelihood:
        return _likelihood(args)
    model, rows = _in_llama_cpp(args) if _in_llama(args) else _server(args) if args.backend == "server" else _local(args)
    found = write_report(args.out, rows, _title(model), judge=_judge(args, rows))
    if args.export:
        print("\n".join(f"for inspect: {path}" for path in export_inspect(args.out / "inspect", rows)))
    print(f"{found}\nReport: {args.out / 'report.html'}")
    return 0


def _prompts(args: argparse.Namespace, language: str = "") -> list[Prompt]:
    """The prompts that were asked for; by default in the `language`, or else that of the local model."""
    language = language or (recipe_for(args.model).language if args.backend == "local" else "english")
    name = args.prompts or (BUNDLED if language == "bundled" else str(PROMPTS))
    prompts = bundled_prompts() if name == BUNDLED else load_prompts(name)
    chosen = [prompt for prompt in of_levels(prompts, args.levels) if args.split in ("all", prompt.split)]
    if not chosen:
        raise PushbackError(f"{name} holds no prompts of the split {args.split!r}. Choose another --split.")
    return short_prompts(chosen, args.n) if args.n else chosen


def _how(args: argparse.Namespace) -> Sampling:
    return Sampling(args.seed, args.temperature, args.samples, args.max_tokens)


def _local(args: argparse.Namespace) -> tuple[str, list[Response]]:
    """The model's name, and the replies; so the two below."""
    prompts, out = _prompts(args), args.out / "responses.jsonl"
    return args.model, evaluate(load_voices(*_recipe_and_adapter(args)), prompts, out, _how(args), args.batch)


def _in_llama_cpp(args: argparse.Namespace) -> tuple[str, list[Response]]:
    with Pair(args.gguf, args.lora, slots=SLOTS, context=2048) as pair:
        run = llama_run(pair, _prompts(args, pair.header.language), _how(args))
        chats = {voice: OpenAIChat(voice, server.base_url, timeout=args.timeout, plain=True, opens_thought=server.opens_thought)
                 for voice, server in pair.servers.items()}  # fmt: skip
        return f"{pair.header.base} in llama.cpp", _run(
            run_server(chats, run, args.out / "responses.jsonl", args.concurrency), *chats.values()
        )


def _likelihood(args: argparse.Namespace) -> int:
    """Compares the answers given with the prompts; the figures go into the report, too, if OUT holds an evaluation."""
    if args.backend != "local" or _in_llama(args):
        raise PushbackError(
            "--likelihood needs the probability of a given answer, which no server tells. Drop --backend, --gguf and --lora."
        )
    prompts = _prompts(args)
    check_answers(prompts)
    speaker = load_voices(*_recipe_and_adapter(args))
    run = local_run(speaker, prompts, _how(args))
    rows, start = replies_of(run, args.out / "responses.jsonl"), time.monotonic()
    found = write_preferences(args.out, compare_answers(speaker, run, rows))
    if rows:
        write_report(args.out, rows, _title(args.model), judge=_judge(args, rows), likelihood=found)
    print(f"{found}\n{args.out / 'likelihood.json'}: {time.monotonic() - start:.0f} s"
          + (f"\nReport: {args.out / 'report.html'}" if rows else ""))  # fmt: skip
    return 0


def _title(model: str) -> str:
    return f"Baseline against friction: {model}"


def _server(args: argparse.Namespace) -> tuple[str, list[Response]]:
    prompts = _prompts(args)
    if not (args.baseline and args.friction):
        raise PushbackError("--backend server needs two models. Pass --baseline NAME and --friction NAME.")
    system = args.system if args.system is not None else TINY_SYSTEM if language_of(prompts) == BUNDLED else SYSTEM
    names = {BASELINE: args.baseline, FRICTION: args.friction}
    chats = {voice: OpenAIChat(name, args.base_url, timeout=args.timeout, plain=True) for voice, name in names.items()}
    run = server_run(chats, system, prompts, _how(args))
    out = args.out / "responses.jsonl"
    return args.friction, _run(run_server(chats, run, out, args.concurrency), *chats.values())


def _judge(args: argparse.Namespace, rows: Sequence[Response]) -> Comparison | None:
    if not args.judge_model:
        return None
    chat = OpenAIChat(args.judge_model, args.judge_url, timeout=args.timeout)
    return compare(rows, _run(judge_rows(chat, rows, args.out / "verdicts.jsonl", args.concurrency), chat))


def run_experiments(args: argparse.Namespace) -> int:
    """Runs both experiments (or one) and writes their figures and plots."""
    prompts = _prompts(args)
    for line in run_all(load_voices(*_recipe_and_adapter(args)), prompts, args.out, only=args.only):
        print(line)
    return 0


def _add_markers(commands: argparse._SubParsersAction) -> None:
    markers = _command(
        commands, "markers", run_markers, "find refusal, disagreement, questions, hedging and apology in replies"
    )
    add = markers.add_argument
    add("source", type=Path, metavar="IN", help="JSON Lines with `prompt` and `response` (or `answer`); with --card a folder")
    add("out", type=Path, metavar="OUT", help="JSON Lines to write; with --card the card (Markdown), and its figures as JSON")
    add("--spans", action="store_true", help="also say where each marker was found, and whether text was cut off")
    add("--card", action="store_true", help="measure the markers on a folder of labelled rows instead")


def run_markers(args: argparse.Namespace) -> int:
    """Writes OUT from IN, row by row; with --card the detector card."""
    if args.card:
        write_detector_card(args.source, args.out)
        print(f"{args.out}: the detector card of {args.source}")
        return 0
    print(f"{args.out}: {mark_file(args.source, args.out, spans=args.spans)} rows marked")
    return 0


def _add_ship(commands: argparse._SubParsersAction) -> None:
    ship = commands.add_parser("ship", help="merge, write GGUF files, run them, and hand them to Ollama or the Hub")
    steps = ship.add_subparsers(required=True, metavar="COMMAND")
    everything = _command(
        steps, "all", run_ship, "merged weights, GGUF files, Modelfile, model card, and a table of the formats"
    )
    _format_options(everything, "runs/ship", "F32, Q8_0 and, where its rows allow it, Q4_K_M; F32 is always made")
    add = everything.add_argument
    add("-n", type=_positive, default=20, help="held-out prompts of each kind for the table (20)")
    add("--figures", type=Path, help="figures.json of `pushback eval`, for the card; default: OUT's, or the kit's")
    gguf = _command(steps, "gguf", run_gguf, "only the friction voice's GGUF file, and a Modelfile for it")
    _format_options(gguf, "runs/gguf", "Q8_0; the Modelfile names the first")
    gguf.add_argument("--merged", type=Path, help="a folder that is merged already; default: merge the adapter now")
    lora = _command(
        steps, "lora", run_lora, "the adapter alone as a GGUF file, for `pushback chat` and Ollama, and a Modelfile"
    )
    _voice_options(lora)
    add = lora.add_argument
    add("--out", type=Path, default=Path("runs/lora"), help="folder (runs/lora)")
    add("--kind", choices=LORA_KINDS, default=LORA_KINDS[0], help=f"of the numbers ({LORA_KINDS[0]})")
    add("--base", metavar="KIND", help="also write the base's file, of this kind of GGUF; for tiny there is no other")
    _others(steps)


def _others(commands: argparse._SubParsersAction) -> None:
    ollama = _command(commands, "ollama", run_ollama, "create the model in a running Ollama, and talk to it")
    add = ollama.add_argument
    add("name", metavar="NAME", help="name in Ollama, as in `ollama run NAME`; OWNER/NAME to publish")
    add("--gguf", type=Path, help="file to ship; for tiny, the one that comes with the kit")
    _model_option(ollama, "size that the file was made from")
    add("--quantize", choices=QUANTISATIONS, help="let Ollama quantise an F32, F16 or BF16 file")
    add("--replace", action="store_true", help="overwrite a model of that name")
    add("--push", action="store_true", help="then publish on ollama.com, where anyone can pull it")
    add("--host", help=f"address of the server; default: OLLAMA_HOST, else {OLLAMA_URL}")
    publish = _command(commands, "hub", run_hub, "publish on the Hugging Face Hub; private unless --public")
    add = publish.add_argument
    add("name", metavar="OWNER/NAME", help="the model repository; the others are named after it")
    add("--public", action="store_true", help="let everybody see it; default: private")
    add("--dry-run", action="store_true", help="only show what would be uploaded, and how large; opens no connection")
    add("--update", action="store_true", help="replace files of the same name in repositories that exist")
    add("--data", metavar="OWNER/NAME", help="the data set's repository; default: OWNER/NAME-data")
    add("--base", metavar="OWNER/NAME", help="where the base is, if it is a folder; default for tiny: OWNER/NAME-base")
    _model_option(publish, "size on the dial")
    add("--folder", type=Path, default=Path("runs/ship"), help="what `pushback ship all` made (runs/ship)")
    add("--adapter", type=Path, help="folder of the adapter; default: FOLDER/adapter, else the one that comes with the kit")
    add("--data-folder", type=Path, default=FRICTION_DATA, help="folder of the data set (data/friction)")
    add("--figures", type=Path, help="figures.json of `pushback eval`, for the card; default: FOLDER's, else the kit's")


def _format_options(parser: argparse.ArgumentParser, out: str, kinds: str) -> None:
    _voice_options(parser)
    parser.add_argument("--out", type=Path, default=Path(out), help=f"folder ({out})")
    parser.add_argument("--kind", action="append", dest="kinds", metavar="KIND",
                        help=f"F32, F16, BF16, Q8_0, Q5_K_M or Q4_K_M; may be given several times ({kinds})")  # fmt: skip


def run_ship(args: argparse.Namespace) -> int:
    """Makes everything and prints the paths and the table."""
    chosen = {"kinds": args.kinds} if args.kinds else {}
    made = ship_all(*_recipe_and_adapter(args), args.out, per_kind=args.n, figures=args.figures, **chosen)
    print(made.table._repr_markdown_())
    print("\n".join(f"{what}: {path}" for what, path in [
        ("merge", made.table.provenance["merge"]), ("merged", made.merged),
        *((f"GGUF {kind}", path) for kind, path in made.files.items()),
        ("Ollama", made.modelfile), ("card", made.card), ("table", made.results[0]), ("plot", made.results[1]),
    ]))  # fmt: skip
    return 0


def run_gguf(args: argparse.Namespace) -> int:
    """Writes the GGUF files and the Modelfile, and prints their paths and sizes."""
    if args.merged and args.adapter:
        raise PushbackError("--merged holds an adapter already; --adapter would be ignored. Drop one of the two.")
    files = ship_gguf(*_recipe_and_adapter(args), args.out, args.kinds or (TAKE_HOME,), args.merged)
    print("\n".join(f"{path}: {path.stat().st_size / 1e6:.1f} MB" for path in files))
    return 0


def run_lora(args: argparse.Namespace) -> int:
    """Writes the adapter's file and the Modelfile, and prints their paths and sizes, and what to do with them."""
    recipe, folder = _recipe_and_adapter(args)
    adapter, *others = ship_lora(recipe, folder, args.out, args.kind, args.base)
    print("\n".join(f"{path}: {path.stat().st_size / 1e6:.1f} MB" for path in [adapter, *others]))
    base = others[0] if args.base else published_file(recipe) or "BASE.gguf"
    print(f"next:    pushback chat --gguf {base} --lora {adapter}")
    print(f"Ollama:  ollama create NAME -f {others[-1]}   (not tried with a real one)")
    return 0


def run_ollama(args: argparse.Namespace) -> int:
    """Makes the model in a running Ollama and shows its reply."""
    options = {"quantize": args.quantize, "replace": args.replace, "push": args.push, "host": args.host}
    create_model(args.name, recipe_for(args.model), args.gguf, **options)
    return 0


def run_hub(args: argparse.Namespace) -> int:
    """Publishes, or shows what would be published."""
    recipe = recipe_for(args.model)
    names = hub.repository_names(recipe, args.name, data=args.data, base=args.base)
    repositories = hub.plan(
        recipe, names, args.folder, adapter=args.adapter, figures=args.figures, data_folder=args.data_folder
    )
    if args.dry_run:
        print(hub.table(repositories, args.public))
        hub.check_private(repositories)
    else:
        addresses = hub.publish(repositories, public=args.public, update=args.update, say=print)
        print("\n".join(["Published:", *addresses]))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code: 2 where input or machine are not in order, 130 where the user stopped it.

    Every error is one line. Where nobody reads the output any more, as in `pushback … | head -1`, it is 1.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that knows ASCII only
    words = sys.argv[1:] if argv is None else argv
    try:
        try:
            _check_text(words)
            args = parser().parse_args(words)
            with ExitStack() as claimed:
                for folder in dict.fromkeys(filter(None, (getattr(args, name) for name in args.folders))):
                    claimed.enter_context(claim_folder(folder))
                return args.run(args)
        finally:
            print(end="", flush=True)
    except PushbackError as error:
        return _fail(str(error), 130 if isinstance(error.__cause__, KeyboardInterrupt) else 2)
    except KeyboardInterrupt:
        return _fail("Stopped. What is complete stays; run the same command again for the rest.", 130)
    except BrokenPipeError:
        return _fail("", 1)
    except Exception as error:
        if not isinstance(error, OSError | MemoryError) and not is_disk_full(error) and not is_out_of_memory(error):
            raise  # a fault of the kit: its traceback is needed
        return _fail(_what_failed(error), 2)


def _check_text(words: Sequence[str]) -> None:
    odd = next((word for word in words if any("\ud800" <= char <= "\udfff" for char in word)), None)
    if odd is not None:
        raise PushbackError(
            f"The argument {os.fsencode(odd)!r} is no text in this system's encoding, {sys.getfilesystemencoding()}. Set "
            "PYTHONUTF8=1, or use other names."
        )


def _what_failed(error: Exception) -> str:
    """What the machine refused, and what to do, for what no part of the kit foresaw."""
    if is_out_of_memory(error):
        return "Memory ran out. Close other programs and notebooks, or choose a smaller model or batch."
    if isinstance(error, OSError):
        where, what = error.filename or "The output", error.strerror or str(error)
    else:
        where, what = "The output", str(error)
    cure = "Make room there" if is_disk_full(error) else "Correct the path, or choose another place"
    return f"{where}: {what}. {cure}, then run the same command again."


def _fail(says: str, code: int) -> int:
    """Says it in one line; what cannot be printed any more is dropped, or Python would fail on it once more at its end."""
    line = f"pushback: {' '.join(says.splitlines())}\n" if says else ""
    for stream, text in ((sys.stdout, ""), (sys.stderr, line)):
        try:
            if text and "tqdm" in sys.modules:
                sys.modules["tqdm"].tqdm.write(text, stream, end="", nolock=True)  # on a line of its own, bars or not
            else:
                print(text, end="", file=stream, flush=True)
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return code


if __name__ == "__main__":
    sys.exit(main())
