"""Measure the chat on this machine: llama.cpp with an adapter's file against transformers, one voice and both together.

`speed`: tokens a second. `words`: on how many prompts both say the same greedily, from the same weights in F32. Each keeps
what it found in a file, and puts the tables of all such files into bench.md.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from pushback_lib.chat.backend import Backend, ReplyBuffer, Settings
from pushback_lib.chat.llama import LlamaVoices
from pushback_lib.chat.local import LocalVoices
from pushback_lib.core.common import BASELINE, DATA, FRICTION, VOICES, PushbackError
from pushback_lib.core.files import replacing
from pushback_lib.core.records import prompt_messages
from pushback_lib.measure.prompts import bundled_prompts, is_friction, load_prompts
from pushback_lib.model.gguf_file import check_pair, read_gguf
from pushback_lib.model.llama_cpp import LlamaCpp, cores, share
from pushback_lib.model.load import machine_name
from pushback_lib.model.recipe import Recipe, chosen_size, recipe_for
from pushback_lib.model.voices import load_voices
from pushback_lib.ship.gguf import write_gguf
from pushback_lib.ship.lora import base_folder, write_lora

WAYS = {"friction alone": (FRICTION,), "both voices": VOICES}
HEAD, END = "<!-- chat: written by bench_chat.py -->", "<!-- end of what was measured of the chat -->"


# ---- speed


def tokens_a_second(backend: Backend, voices: Sequence[str], prompt: str, tokens: int) -> float:
    """All tokens of all voices over the time from the sending to the last one; every reply is `tokens` long."""
    buffers = {voice: ReplyBuffer(voice) for voice in voices}
    asked = dict.fromkeys(voices, prompt_messages(prompt, backend.system))
    start = time.perf_counter()
    for event in backend.stream(asked, Settings(max_tokens=tokens, min_tokens=tokens), threading.Event()):
        if event.voice:
            buffers[event.voice].add(event)
    seconds = time.perf_counter() - start
    said = [buffer.reply() for buffer in buffers.values()]
    if failed := [one.error or f"{one.tokens} of {tokens} tokens" for one in said if one.error or one.tokens < tokens]:
        raise PushbackError(f"A voice of {backend.name} failed ({failed[0]}). Lower --tokens, or look at its file.")
    return sum(one.tokens for one in said) / seconds


def speeds(backends: dict[str, dict[str, Backend]], tokens: int, rounds: int) -> list[dict[str, Any]]:
    """Each way and its backends in each round, in turns, so that all meet the same machine; a first round is not counted."""
    prompt = next(iter(backends[next(iter(WAYS))].values())).presets[0].text
    found = []
    for at in range(rounds + 1):
        for way, voices in WAYS.items():
            for name, backend in backends[way].items():
                speed = tokens_a_second(backend, voices, prompt, tokens)
                found += [{"round": at, "way": way, "backend": name, "tokens_a_second": round(speed, 2)}] if at else []
    return found


def run_speed(args: argparse.Namespace) -> int:
    """Prints and keeps each round's tokens a second and the ratio of the medians."""
    recipe, load = recipe_for(args.model), os.getloadavg()
    # Before the slow part, since they check the files; a voice that speaks alone has all cores, as transformers gives it
    llama = {way: LlamaVoices(args.gguf, args.lora, threads=max(1, cores() // len(voices))) for way, voices in WAYS.items()}
    local = LocalVoices(load_voices(recipe, args.adapter, four_bit=None))
    dtype = str(next(local.speaker.model.parameters()).dtype).removeprefix("torch.")
    rows = speeds({way: {"transformers": local, "llama.cpp": llama[way]} for way in WAYS}, args.tokens, args.rounds)
    about = {
        "machine": machine_name(), "load_average": [round(one, 1) for one in load], "dtype": dtype,
        "gguf": quantisation_of(args.gguf), "lora": quantisation_of(args.lora), "tokens": args.tokens, "rounds": args.rounds,
    }  # fmt: skip
    return keep(args, "speed", {**about, "rows": rows})


def quantisation_of(path: Path) -> str:
    """The kind that most of a file's matrices are stored as."""
    kinds = [tensor.tensor_type.name for tensor in read_gguf(path).tensors if len(tensor.shape) > 1]
    return max(set(kinds), key=kinds.count)


def middle(found: dict[str, Any], way: str, backend: str) -> float:
    """The median of the rounds."""
    return median(row["tokens_a_second"] for row in found["rows"] if (row["way"], row["backend"]) == (way, backend))


# ---- words


def run_words(args: argparse.Namespace) -> int:
    """Prints and keeps on how many prompts each voice says the same greedily in transformers and in llama.cpp."""
    recipe = recipe_for(args.model)
    adapter = args.adapter or recipe.shipped_adapter
    with tempfile.TemporaryDirectory() as folder:
        base = write_gguf(base_folder(recipe), Path(folder) / "base.gguf", "F32")
        lora = write_lora(recipe, adapter, Path(folder) / "lora.gguf", "F32")
        return keep(args, "words", same_words(recipe, adapter, base, lora, args.prompts, args.tokens))


def same_words(recipe: Recipe, adapter: Path, base: Path, lora: Path, prompts: int, tokens: int) -> dict[str, Any]:
    """Of both voices, whether each reply is the same to the last token; every second prompt calls for friction."""
    speaker = load_voices(recipe, adapter, four_bit=False)
    asked = asked_of(recipe, prompts)
    same: dict[str, list[bool]] = {voice: [] for voice in VOICES}
    with LlamaCpp(base, lora=check_pair(base, lora), exact=True, threads=cores(), context=2048) as server:
        for messages in asked:
            theirs = speaker.speak([messages], max_new_tokens=tokens)[0]
            for voice, dial in ((BASELINE, 0.0), (FRICTION, 1.0)):
                ours = server.complete(server.render(messages), tokens, **share(dial))
                ids = ours.ids[:-1] if ours.end == "stop" else ours.ids
                same[voice].append(ids == theirs[voice].ids)
    return {"prompts": len(asked), "tokens": tokens, "same": {voice: sum(found) for voice, found in same.items()}}


def asked_of(recipe: Recipe, prompts: int) -> list[list[dict[str, str]]]:
    """Held-out prompts of the recipe's language, friction prompts and others in turn."""
    chosen = bundled_prompts(prompts) if recipe.language == "bundled" else load_prompts()
    kinds = [[one for one in chosen if is_friction(one) == wanted] for wanted in (True, False)]
    step = [max(1, len(some) // (prompts // 2)) for some in kinds]
    pairs = zip(*(some[::by] for some, by in zip(kinds, step, strict=True)), strict=False)
    return [one.messages(recipe.system) for pair in pairs for one in pair][:prompts]


# ---- the page


def table(found: dict[str, Any]) -> str:
    """What was measured of one model, in Markdown."""
    return "\n\n".join(part(found["model"], found[name]) for name, part in PARTS.items() if name in found)


def speed_table(model: str, found: dict[str, Any]) -> str:
    """Medians, one row a way."""
    lines = [f"| `{model}`, tokens a second | transformers, {found['dtype']} | llama.cpp, {found['gguf']} and {found['lora']} "
             "adapter | ratio |", "|---|---:|---:|---:|"]  # fmt: skip
    for way in WAYS:
        theirs, ours = (middle(found, way, name) for name in ("transformers", "llama.cpp"))
        lines.append(f"| {way} | {theirs:,.1f} | {ours:,.1f} | {ours / theirs:.1f} |")
    load = ", ".join(map(str, found["load_average"]))
    return "\n".join(lines) + (f"\n\nMedians of {found['rounds']} rounds of {found['tokens']} tokens a voice. Machine: "
                               f"{found['machine']}; load average before: {load}.")  # fmt: skip


def words_line(model: str, found: dict[str, Any]) -> str:
    """Of each voice, how many of the prompts."""
    counts = ", ".join(f"{voice} {count} of {found['prompts']}" for voice, count in found["same"].items())
    return f"`{model}`, the same greedy words from the same weights in F32, up to {found['tokens']} tokens: {counts}."


PARTS = {"speed": speed_table, "words": words_line}


def keep(args: argparse.Namespace, what: str, found: dict[str, Any]) -> int:
    """Puts what was found into the model's file, beside what else stands there, and all models' tables into the page."""
    path = args.out / f"bench_chat_{recipe_for(args.model).label}.json"
    old = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    write(path, json.dumps(old | {"model": recipe_for(args.model).label, what: found}, indent=1) + "\n")
    every = [json.loads(one.read_text(encoding="utf-8")) for one in sorted(args.out.glob("bench_chat_*.json"), reverse=True)]
    write(args.page, page(every, args.page.read_text(encoding="utf-8") if args.page.is_file() else f"{HEAD}\n{END}\n"))
    print(PARTS[what](args.model, found), path, args.page, sep="\n")
    return 0


def write(path: Path, text: str) -> None:
    """Writes aside, then renames."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def page(found: Sequence[dict[str, Any]], text: str) -> str:
    """`text`, a page, with the tables of all models put between its marks."""
    before, _, rest = text.partition(HEAD)
    return f"{before}{HEAD}\n\n" + "\n\n".join(map(table, found)) + f"\n\n{END}{rest.partition(END)[2]}"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one of the two commands; 2, with a line on stderr, if something is not in order."""
    top = argparse.ArgumentParser(prog="bench_chat.py", description=__doc__,
                                  formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    for name, run, help in (("speed", run_speed, "tokens a second"), ("words", run_words, "the same greedy words")):
        parser = commands.add_parser(name, help=help)
        parser.set_defaults(run=run)
        add = parser.add_argument
        add("--model", default=chosen_size(), help="size on the dial; default: PUSHBACK_MODEL, or tiny")
        add("--adapter", type=Path, help="folder of the adapter; default: the one that comes with the kit")
        add("--tokens", type=int, default=96, help="of a reply (96)")
        add("--out", type=Path, default=DATA / "results", help="folder of the figures (data/results)")
        add("--page", type=Path, default=Path(__file__).with_name("bench.md"), help="the page with the tables")
        if name == "speed":
            add("--gguf", type=Path, required=True, metavar="BASE", help="the base's file")
            add("--lora", type=Path, required=True, metavar="ADAPTER", help="the adapter's file")
            add("--rounds", type=int, default=5, help="rounds, of which the median counts (5)")
        else:
            add("--prompts", type=int, default=20, help="an even number of them (20)")
    args = top.parse_args(argv)
    try:
        return args.run(args)
    except PushbackError as error:
        print(f"bench_chat: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
