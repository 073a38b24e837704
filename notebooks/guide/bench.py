"""Measure training and chat on this machine. Each command prints the table that a page of this folder quotes.

`train`: the kit's recipe against others; writes bench.md. `peaks`: measured memory of small shapes against the planner's.
`gpu`: a real size with random weights on a card. `voices`: both voices in one batch against one after the other.
"""

# ruff: noqa: E402

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import nan
from pathlib import Path
from statistics import mean, median
from typing import Any

from pushback_lib.chat.backend import ReplyBuffer, Settings
from pushback_lib.chat.local import LocalVoices
from pushback_lib.core.common import DATA, VOICES, PushbackError
from pushback_lib.core.files import replacing
from pushback_lib.core.records import Record, Reply, prompt_messages
from pushback_lib.language.corpus import draw_requests, to_record
from pushback_lib.model.load import compute_dtype, load_base, load_tokenizer, machine_name, quantisation, quiet
from pushback_lib.model.recipe import Recipe, as_config, chosen_size, config_for, recipe_for
from pushback_lib.model.voices import load_voices
from pushback_lib.train.memory import Setting
from pushback_lib.train.plan import parts
from pushback_lib.train.run import make_trainer, sft_config, training_dataset, training_records, validation_records

quiet()  # before the imports below, which is when bitsandbytes speaks
import datasets
import torch
from bitsandbytes.nn import Linear4bit, Params4bit
from peft import LoraConfig
from transformers import AutoModelForCausalLM, PreTrainedModel, PrinterCallback, Qwen2Config, TrainerCallback
from transformers.integrations.bitsandbytes import replace_with_bnb_linear
from transformers.quantizers import AutoHfQuantizer
from transformers.trainer_callback import ProgressCallback
from transformers.utils import logging
from trl import SFTConfig, SFTTrainer
from trl.chat_template_utils import get_training_chat_template

IGNORED = -100  # the label of a token that carries no loss
WATCHED = 2  # the optimizer step in which memory is measured; the optimizer's state exists from the second on


# ---- one training step


def storage_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of the storages behind the tensors, each storage once."""
    seen = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors if not tensor.is_meta}
    return sum(seen.values())


def quantisation_state(model: torch.nn.Module) -> Iterator[torch.Tensor]:
    """The tensors that bitsandbytes keeps beside each NF4 weight: scales, their own scales, code books, offset."""
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        while state is not None:
            yield from (tensor for tensor in (state.absmax, state.code, state.offset) if tensor is not None)
            state = state.state2


def optimizer_state(optimizer: Any) -> Iterator[torch.Tensor]:
    """The tensors of an optimizer's state."""
    inner = getattr(optimizer, "optimizer", optimizer)  # accelerate wraps it
    for state in inner.state.values():
        yield from (value for value in state.values() if isinstance(value, torch.Tensor))


class Watch(TrainerCallback):
    """Notes when each training step ended, and the most bytes that tensors held in the step `at`: `peak`.

    On a card that is what CUDA's allocator handed out; on a CPU, the tensors there before the step and what torch's
    allocator handed out within it.
    """

    def __init__(self, at: int = WATCHED) -> None:
        self.at, self.peak, self.ends = at, 0, list[float]()

    def on_step_begin(self, args: Any, state: Any, control: Any, **now: Any) -> None:
        if state.global_step != self.at - 1:
            return
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            return
        model = now["model"]
        self.resident = storage_bytes([*model.parameters(), *model.buffers(), *quantisation_state(model),
                                       *optimizer_state(now["optimizer"])])  # fmt: skip
        activities = [torch.profiler.ProfilerActivity.CPU]
        self.profile = torch.profiler.profile(activities=activities, profile_memory=True, acc_events=True)
        self.profile.__enter__()

    def on_step_end(self, args: Any, state: Any, control: Any, **now: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())
        if state.global_step == self.at:
            self.peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else self._peak_on_cpu()

    def _peak_on_cpu(self) -> int:
        self.profile.__exit__(None, None, None)
        events = [event for event in self.profile.profiler.kineto_results.events() if event.name() == "[memory]"]
        events.sort(key=lambda event: event.start_ns())
        return self.resident + max(accumulate((event.nbytes() for event in events), initial=0))


class PlainTrainer(SFTTrainer):
    """TRL's trainer as it comes, with the recipe's adapter; only that it tells the Hub nothing."""

    def __init__(self, recipe: Recipe, **options: Any) -> None:
        lora = LoraConfig(r=recipe.rank, lora_alpha=recipe.alpha, target_modules="all-linear", task_type="CAUSAL_LM")
        super().__init__(peft_config=lora, **options)

    def _send_telemetry(self) -> None:
        """TRL would tell the Hub about every run."""


def silence(trainer: SFTTrainer) -> None:
    """Removes what shows progress or prints figures: a benchmark prints its own."""
    for callback in list(trainer.callback_handler.callbacks):
        if isinstance(callback, ProgressCallback | PrinterCallback):
            trainer.remove_callback(callback)


def random_base(config: Qwen2Config, dtype: torch.dtype, device: str, seed: int = 0) -> PreTrainedModel:
    """A model with random weights on `device`: linear layers in NF4 with double quantisation, everything else in `dtype`.

    Built on the meta device and filled in weight by weight, so that no more than one layer is ever there in full. It is laid
    out as transformers lays out a base that is loaded with `quantisation()`: the output head stays unquantised.
    """
    torch.manual_seed(seed)
    four_bit = quantisation()
    four_bit.bnb_4bit_compute_dtype = dtype
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype)
    replace_with_bnb_linear(model, modules_to_not_convert=["lm_head"], quantization_config=four_bit)
    for module in model.modules():
        for name, parameter in [(name, one) for name, one in module._parameters.items() if one is not None]:
            values = torch.empty(parameter.shape, dtype=dtype, device=device)
            values = values.normal_(std=config.initializer_range) if parameter.dim() > 1 else values.fill_(1.0)
            module._parameters[name] = torch.nn.Parameter(values, requires_grad=False)
            if isinstance(module, Linear4bit) and name == "weight":
                module.weight = Params4bit(values, requires_grad=False, quant_type="nf4", module=module).to(device)
    model.tie_weights()
    model.model.rotary_emb = type(model.model.rotary_emb)(config).to(device)  # its buffers are computed, not loaded
    model.config.quantization_config = four_bit  # this and the rest is how PEFT, TRL and the trainer see the four bits
    model.hf_quantizer = AutoHfQuantizer.from_config(four_bit)
    model.is_quantized = model.is_loaded_in_4bit = True
    model.quantization_method = four_bit.quant_method
    return model


@dataclass(frozen=True)
class Measured:
    """A few steps on random weights: planned and measured peak in bytes, and tokens a second."""

    name: str
    batch: int
    length: int
    planned: int
    peak: int
    tokens_a_second: float

    @property
    def off(self) -> float:
        """How far the plan is from the measured peak, as a share of it."""
        return self.planned / self.peak - 1


def measure(name: str, config: Qwen2Config, recipe: Recipe, length: int, dtype: torch.dtype, steps: int = WATCHED,
            adapter_fp32: bool = False) -> Measured:  # fmt: skip
    """Trains a random NF4 base of this shape for `steps` steps of `length` tokens; the last one is watched.

    `adapter_fp32` is what the recipe does where a card computes in fp16. In batches every second example is a little shorter,
    so that they need padding; three tenths of an example carry no loss.
    """
    rng, rows, cuda = random.Random(0), [], torch.cuda.is_available()
    recipe, watch = dataclasses.replace(recipe, max_length=length, seed=0), Watch(steps)
    for at in range(steps * recipe.effective_batch):
        ids = rng.choices(range(config.vocab_size), k=length - (1 + length // 50 if recipe.batch > 1 and at % 2 else 0))
        rows.append({"input_ids": ids, "labels": [IGNORED] * (skip := int(0.3 * len(ids))) + ids[skip:]})
    with tempfile.TemporaryDirectory() as work:
        args = dataclasses.replace(
            sft_config(recipe, Path(work)), max_steps=steps, disable_tqdm=True, logging_strategy="no",
            assistant_only_loss=False, bf16=dtype is torch.bfloat16, fp16=dtype is torch.float16,
        )  # fmt: skip
        trainer = PlainTrainer(
            recipe, model=random_base(config, dtype, "cuda" if cuda else "cpu"), args=args, callbacks=[watch],
            train_dataset=datasets.Dataset.from_list(rows), processing_class=load_tokenizer(recipe_for("tiny")),
        )  # fmt: skip
        silence(trainer)
        for parameter in trainer.model.parameters() if adapter_fp32 else ():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        trainer.train()
    setting = Setting(recipe.batch, length, recipe.rank, recipe.checkpointing, dtype.itemsize, 4 if adapter_fp32 else 2,
                      recipe.optimizer if cuda else "adamw_torch", cuda, padded=recipe.batch > 1, loss_share=0.7)  # fmt: skip
    planned = sum(part.bytes for part in parts(config, setting)[:-1])  # the last is an estimate of driver or libraries
    speed = (steps - 1) * length * recipe.effective_batch / (watch.ends[-1] - watch.ends[0])
    return Measured(name, recipe.batch, length, planned, watch.peak, speed)


# ---- train: the kit's recipe against two others

ARMS = ("padded", "trl", "kit")
HEAD, END = "<!-- measured: written by `make bench` -->", "<!-- end of what was measured -->"
NAMES = {"padded": "padding every example to {padded_to:,} tokens", "trl": "TRL's defaults", "kit": "this kit"}


def trainer_for(arm: str, recipe: Recipe, records: Sequence[Record], work: Path, callbacks: Sequence[Any] = ()) -> SFTTrainer:
    """The trainer of one of `ARMS`; the kit's is the very one that `pushback train` uses."""
    if arm == "kit":
        return make_trainer(recipe, records, work, callbacks)
    rows = padded_rows(recipe, records) if arm == "padded" else training_dataset(records, recipe.system)
    return PlainTrainer(recipe, model=load_base(recipe), args=rival_config(arm, recipe, work), train_dataset=rows,
                        processing_class=training_tokenizer(recipe), callbacks=list(callbacks))  # fmt: skip


def rival_config(arm: str, recipe: Recipe, work: Path) -> Any:
    """What all arms share, so that they learn the same, and what is the arm's own.

    `trl` keeps TRL's defaults: bf16 autocast, gradient checkpointing, no length grouping. `padded` takes batches of 2,
    accumulated to the same effective batch, in the kit's precision.
    """
    on_gpu, dtype = torch.cuda.is_available(), compute_dtype()
    own = {
        "trl": {"per_device_train_batch_size": recipe.batch, "gradient_accumulation_steps": recipe.accumulation},
        "padded": {
            "per_device_train_batch_size": 2, "gradient_accumulation_steps": max(1, recipe.effective_batch // 2),
            "max_length": padded_length(recipe), "gradient_checkpointing": recipe.checkpointing,
            "bf16": dtype is torch.bfloat16, "fp16": dtype is torch.float16,
        },
    }  # fmt: skip
    return SFTConfig(
        output_dir=str(work), use_cpu=not on_gpu, num_train_epochs=recipe.epochs, learning_rate=recipe.learning_rate,
        lr_scheduler_type="cosine", warmup_steps=recipe.warmup_share, optim=recipe.optimizer if on_gpu else "adamw_torch",
        max_grad_norm=1.0, seed=recipe.seed, data_seed=recipe.seed, save_strategy="no", report_to=[],
        dataloader_pin_memory=False, **own[arm],
    )  # fmt: skip


def training_tokenizer(recipe: Recipe) -> Any:
    """The tokenizer with TRL's training template: with the model's own, neither rival would see any reasoning at all."""
    tokenizer = load_tokenizer(recipe)
    tokenizer.chat_template = get_training_chat_template(tokenizer)
    return tokenizer


def tokenise(recipe: Recipe, records: Sequence[Record]) -> list[dict[str, list[int]]]:
    """Token ids and labels of each record; labels outside reasoning, answer and end token are ignored."""
    tokenizer, made = training_tokenizer(recipe), []
    for row in training_dataset(records, recipe.system):
        head = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, tokenize=False)
        full = tokenizer.apply_chat_template([*row["prompt"], *row["completion"]], tokenize=False)
        skip, ids = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (head, full))
        made.append({"input_ids": ids, "labels": [IGNORED] * len(skip) + ids[len(skip) :]})
    return made


def useful_tokens(recipe: Recipe, records: Sequence[Record]) -> int:
    """Reasoning and answer tokens of all records."""
    return sum(label != IGNORED for row in tokenise(recipe, records) for label in row["labels"])


def padded_length(recipe: Recipe) -> int:
    """4,096 tokens; where the model takes fewer, as many as it takes."""
    return min(4096, config_for(recipe).max_position_embeddings)


def padded_rows(recipe: Recipe, records: Sequence[Record]) -> Any:
    """Every example padded to the same length, with loss on every token that is not padding."""
    length, pad = padded_length(recipe), load_tokenizer(recipe).pad_token_id
    rows = [row["input_ids"][:length] for row in tokenise(recipe, records)]
    return datasets.Dataset.from_list([
        {"input_ids": ids + [pad] * (length - len(ids)), "labels": ids + [IGNORED] * (length - len(ids))} for ids in rows
    ])  # fmt: skip


def completion_loss(model: Any, rows: Sequence[dict[str, list[int]]]) -> float:
    """Mean loss of a reasoning or answer token, in fp32, one example at a time: the same for every recipe."""
    model.eval()
    total, count = 0.0, 0
    for row in rows:
        ids, labels = (torch.tensor([row[name]], device=model.device) for name in ("input_ids", "labels"))
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0, :-1].float()
        total += torch.nn.functional.cross_entropy(logits, labels[0, 1:], reduction="sum").item()
        count += int((labels[0, 1:] != IGNORED).sum())
    return total / count


def run_once(arm: str, recipe: Recipe, records: Sequence[Record], held_out: Sequence[dict[str, list[int]]] = (),
             callbacks: Sequence[Any] = ()) -> dict[str, Any]:  # fmt: skip
    """Trains once, from the loaded base to the trained adapter, and evaluates where there are held-out rows.

    Returns arm, seed, seconds on the clock and on the processor, useful tokens, held-out loss of reasoning and answer.
    """
    gc.collect()
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_for(arm, recipe, records, Path(folder) / "work", callbacks)
        silence(trainer)
        wall, cpu = time.perf_counter(), time.process_time()
        trainer.train()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"arm": arm, "seed": recipe.seed, "seconds": wall, "cpu_seconds": cpu,
            "useful_tokens": useful_tokens(recipe, records) * recipe.epochs,
            "held_out_loss": completion_loss(trainer.model, held_out) if held_out else nan}  # fmt: skip


def turns(seeds: Sequence[int]) -> Iterator[tuple[str, int]]:
    """Which recipe trains when: the order changes with each seed, so that none always goes first.

    The padded one, which takes as long as all others together, is trained with the first seed only.
    """
    for at, seed in enumerate(seeds):
        pair = [("trl", seed), ("kit", seed)]
        yield from pair if at % 2 else reversed(pair)
        if at == 0:
            yield "padded", seed


def bench(recipe: Recipe, records: Sequence[Record], held_out: Sequence[Record], seeds: Sequence[int]) -> dict[str, Any]:
    """Measures each recipe's memory, which also warms everything up, then trains them in turns, once for each seed."""
    load = list(os.getloadavg()) if hasattr(os, "getloadavg") else [0.0, 0.0, 0.0]
    tokenised = tokenise(recipe, held_out)
    untrained = completion_loss(load_base(recipe), tokenised)
    longest = sorted(records, key=lambda r: len(r.answer) + sum(len(t.thought) for t in r.thoughts))
    peaks, runs = {}, []
    for arm in ARMS:
        watch = Watch()
        run_once(arm, recipe, longest[-WATCHED * recipe.effective_batch :], callbacks=[watch])
        peaks[arm] = watch.peak
        print(f"memory: {arm}: {watch.peak / 2**20:,.0f} MiB", flush=True)
    for arm, seed in turns(seeds):
        runs.append(run_once(arm, dataclasses.replace(recipe, seed=seed), records, tokenised))
        print(f"trained: {arm}, seed {seed}: {_rate(runs[-1:], 'seconds'):,.0f} useful tokens a second, "
              f"held-out loss {runs[-1]['held_out_loss']:.3f}", flush=True)  # fmt: skip
    return figures(runs, peaks, model=recipe.name, machine=machine_name(), threads=torch.get_num_threads(), load_average=load,
                   device="cuda" if torch.cuda.is_available() else "cpu", examples=len(records), held_out=len(held_out),
                   padded_to=padded_length(recipe), untrained_loss=untrained)  # fmt: skip


def _rate(runs: Sequence[dict[str, Any]], seconds: str) -> float:
    return sum(run["useful_tokens"] for run in runs) / sum(run[seconds] for run in runs)


def figures(runs: Sequence[dict[str, Any]], peaks: dict[str, int], **about: Any) -> dict[str, Any]:
    """All that was measured, ready for JSON. Ratios are of useful tokens, kit over rival, over the seeds that both trained."""
    of = {arm: [run for run in runs if run["arm"] == arm] for arm in ARMS}
    recipes = {
        arm: {"runs": mine, "tokens_a_second": _rate(mine, "seconds"), "tokens_a_cpu_second": _rate(mine, "cpu_seconds"),
              "held_out_loss": mean(run["held_out_loss"] for run in mine), "peak_bytes": peaks[arm]}
        for arm, mine in of.items()
    }  # fmt: skip
    ratios = {}
    for arm in ARMS[:-1]:
        losses = {run["seed"]: run["held_out_loss"] for run in of[arm]}
        kit = [run for run in of["kit"] if run["seed"] in losses]
        ratios[f"kit_over_{arm}"] = {
            "clock": _rate(kit, "seconds") / _rate(of[arm], "seconds"),
            "processor": _rate(kit, "cpu_seconds") / _rate(of[arm], "cpu_seconds"),
            "memory": peaks["kit"] / peaks[arm],
            "loss_differences": [run["held_out_loss"] - losses[run["seed"]] for run in kit],
        }
    return {**about, "recipes": recipes, "ratios": ratios}


def table(found: dict[str, Any]) -> str:
    """In Markdown."""
    lines = ["| Recipe | Useful tokens a second | of processor time | Peak of tensors | Held-out loss | Runs |",
             "|---|---:|---:|---:|---:|---:|"]  # fmt: skip
    for arm, row in found["recipes"].items():
        lines.append(f"| {NAMES[arm].format(**found)} | {row['tokens_a_second']:,.0f} | {row['tokens_a_cpu_second']:,.0f} | "
                     f"{row['peak_bytes'] / 2**20:,.0f} MiB | {row['held_out_loss']:.3f} | {len(row['runs'])} |")  # fmt: skip
    return "\n".join(lines)


def verdicts(found: dict[str, Any]) -> list[str]:
    """Each ratio against its target, met or missed."""
    lines = []
    for arm, target in (("padded", 5.0), ("trl", 1.2 if found["device"] == "cuda" else 1.0)):
        ratio = found["ratios"][f"kit_over_{arm}"]
        met = "met" if ratio["clock"] >= target else "missed"
        losses = ", ".join(f"{x:+.3f}" for x in ratio["loss_differences"])
        lines.append(f"Against {NAMES[arm].format(**found)}: {ratio['clock']:.2f} times the useful tokens a second "
                     f"({ratio['processor']:.2f} by processor time), {ratio['memory']:.2f} times the memory, "
                     f"held-out loss {losses}. Target of at least {target:g} times: {met}.")  # fmt: skip
    return lines


def page(found: dict[str, Any], text: str) -> str:
    """`text`, a page, with all that was measured put between its marks."""
    block = [
        f"Model `{found['model']}`, {found['examples']} training examples, {found['held_out']} held-out ones; without training "
        f"the held-out loss is {found['untrained_loss']:.3f}. Machine: {found['machine']}; threads: {found['threads']}; load "
        f"average before the run: {', '.join(f'{x:.1f}' for x in found['load_average'])}.",
        table(found),
        "\n".join(f"- {line}" for line in verdicts(found)),
    ]
    before, _, rest = text.partition(HEAD)
    return f"{before}{HEAD}\n\n" + "\n\n".join(block) + f"\n\n{END}{rest.partition(END)[2]}"


def run_train(args: argparse.Namespace) -> int:
    """Prints table and ratios and writes both files; 0 whether or not the targets are met."""
    recipe = recipe_for(args.model)
    least = WATCHED * recipe.effective_batch
    if args.n < least or min(args.held_out, args.seeds) < 1:
        raise PushbackError(
            f"-n {args.n}, --held-out {args.held_out}, --seeds {args.seeds}: {recipe.name} needs at least -n {least}, and the "
            "other two must be at least 1."
        )
    records = training_records(dataclasses.replace(recipe, seed=1, examples=recipe.examples and args.n))[: args.n]
    if recipe.examples:
        drawn = draw_requests(args.held_out, 5, held_out=True)
        held_out = [to_record(request, at) for at, request in enumerate(drawn, 1)]
    else:
        held_out = validation_records(recipe, records)
    found = bench(recipe, records, held_out, range(1, args.seeds + 1))
    print(table(found), *verdicts(found), sep="\n")
    old = args.page.read_text(encoding="utf-8") if args.page.is_file() else f"{HEAD}\n{END}\n"
    for path, text in ((args.out, json.dumps(found, indent=1) + "\n"), (args.page, page(found, old))):
        with replacing(path) as part:
            part.write_text(text, encoding="utf-8")
        print(path)
    return 0


# ---- peaks: small shapes against the planner

SHAPE = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size")


@dataclass(frozen=True)
class Case:
    """A shape and how it is trained; `bf16`: autocast, as on a card; else fp32 with a bf16 adapter, as on a CPU."""

    shape: tuple[int, ...]  # in the order of SHAPE
    batch: int
    length: int
    checkpointing: bool
    bf16: bool
    quick: bool = False  # small enough for the tests

    def __str__(self) -> str:
        hidden, inner, layers, _, _, vocabulary = self.shape
        how = ("bf16" if self.bf16 else "fp32") + (", checkpointing" if self.checkpointing else "")
        return f"{layers}x{hidden}/{inner}, vocabulary {vocabulary}, {self.batch}x{self.length}, {how}"

    @property
    def config(self) -> Qwen2Config:
        """The shape as a configuration."""
        common = {"model_type": "qwen2", "max_position_embeddings": 4096, "tie_word_embeddings": True}
        return as_config({**common, **dict(zip(SHAPE, self.shape, strict=True))}, str(self))


CASES = (
    Case((256, 768, 5, 4, 2, 640), 4, 128, False, False, quick=True),  # the bundled shape
    Case((256, 768, 5, 4, 2, 640), 4, 128, True, True, quick=True),
    Case((256, 768, 5, 4, 2, 640), 2, 512, False, False),
    Case((256, 768, 5, 4, 2, 640), 2, 512, True, True),
    Case((512, 1536, 4, 8, 2, 8192), 2, 256, False, False),
    Case((512, 1536, 4, 8, 2, 8192), 2, 256, True, True, quick=True),
    Case((512, 1536, 4, 8, 2, 8192), 1, 1024, False, True),
    Case((512, 2048, 3, 8, 4, 32000), 2, 128, False, False),
    Case((512, 2048, 3, 8, 4, 32000), 2, 128, True, True),
    Case((1024, 2816, 3, 16, 4, 32000), 2, 256, True, False),
    Case((512, 8192, 2, 8, 2, 640), 2, 256, True, False, quick=True),  # wide inside: the peak is in a block, not at the head
    Case((512, 16384, 2, 8, 2, 640), 2, 128, False, True),
    Case((1024, 12288, 2, 8, 8, 640), 1, 256, True, True),
)


def measure_case(case: Case) -> Measured:
    """One case, in the second of two training steps."""
    recipe = dataclasses.replace(recipe_for("tiny"), batch=case.batch, accumulation=1, checkpointing=case.checkpointing)
    return measure(str(case), case.config, recipe, case.length, torch.bfloat16 if case.bf16 else torch.float32)


def run_peaks(args: argparse.Namespace) -> int:
    """Prints one row a shape; 1 if the planner is off by more than 10 % anywhere."""
    print(f"{machine_name()}\n\n| Shape | Measured | Planned | Off by |\n|---|---:|---:|---:|")
    worst = 0.0
    for case in [case for case in CASES if case.quick or not args.quick]:
        run = measure_case(case)
        worst = max(worst, abs(run.off))
        print(f"| {case} | {run.peak / 2**20:.1f} MiB | {run.planned / 2**20:.1f} MiB | {run.off:+.1%} |", flush=True)
    return 0 if worst <= 0.10 else 1


# ---- gpu: a real size on a card

EXAMPLES, EPOCHS = 2400, 3  # what a run on data/friction is
TARGET_MINUTES, TARGET_T4_GIB = 10, 14.5  # for 7b: on an H200-class card; at sequence 1,024 under the settings of a T4


def measure_all(recipe: Recipe, lengths: Sequence[int], config: Qwen2Config | None = None) -> list[Measured]:
    """Each length in the card's own type, and the longest under the settings of a T4 at batch 1 where there is a card."""
    config, dtype = config or config_for(recipe), torch.bfloat16 if torch.cuda.is_available() else torch.float32
    name = f"{recipe.name}, {str(dtype).removeprefix('torch.')}"
    runs = [measure(name, config, recipe, length, dtype, steps=6) for length in lengths]
    return [*runs, measure_t4(recipe, max(lengths), config)] if torch.cuda.is_available() else runs


def measure_t4(recipe: Recipe, length: int, config: Qwen2Config | None = None) -> Measured:
    """The settings of a T4: fp16 with an adapter in fp32, batch 1."""
    single = dataclasses.replace(recipe, batch=1, accumulation=recipe.effective_batch)
    name = f"{recipe.name}, fp16, adapter in fp32"
    return measure(name, config or config_for(recipe), single, length, torch.float16, steps=6, adapter_fp32=True)


def gpu_table(runs: Sequence[Measured]) -> str:
    """In Markdown, with the targets."""
    total = f"{EXAMPLES:,} examples × {EPOCHS}"
    lines = [f"| Run | Batch × sequence | Measured peak | Planned | Off by | Tokens a second | {total} |",
             "|---|---|---:|---:|---:|---:|---:|"]  # fmt: skip
    for run in runs:
        minutes = EXAMPLES * EPOCHS * run.length / run.tokens_a_second / 60
        lines.append(f"| {run.name} | {run.batch} × {run.length} | {run.peak / 2**30:.2f} GiB | {run.planned / 2**30:.2f} GiB "
                     f"| {run.off:+.1%} | {run.tokens_a_second:,.0f} | {minutes:.1f} min |")  # fmt: skip
    lines.append(f"\nTargets for 7b: at most {TARGET_MINUTES} min on an H200-class card; at most {TARGET_T4_GIB} GiB at "
                 "sequence 1,024 under the T4 settings; plan within 10 %.")  # fmt: skip
    return "\n".join(lines)


def run_gpu(args: argparse.Namespace) -> int:
    """Prints the table of a real size on this card."""
    recipe = recipe_for(args.shape)
    if not torch.cuda.is_available():
        raise PushbackError("torch sees no CUDA card here. Run this on a machine with one; `bench.py peaks` runs on a CPU.")
    print(f"Measured on {machine_name()}, random weights.\n\n{gpu_table(measure_all(recipe, args.seq))}")
    return 0


# ---- voices: the chat's two voices together and apart

PROMPT = "The capital of France is Rome, right?"


@dataclass(frozen=True)
class Round:
    """Seconds of both voices in one batch, of one after the other, and to the first tokens of the later voice in the batch.

    `tokens`: the longest reply's; `same`: one batch said token for token what the voices said apart.
    """

    together: float
    apart: float
    first_token: float
    tokens: int
    same: bool


def bench_voices(voices: LocalVoices, tokens: int, rounds: int) -> list[Round]:
    """Times one mixed batch against the same voices one after the other, in turn, so that both meet the same machine.

    Every reply is `tokens` long. What is timed is the chat's own way, events and decoding included; a first round is not
    counted.
    """
    found = []
    for _ in range(rounds + 1):
        together, both = _timed(voices, VOICES, tokens)
        alone = [_timed(voices, [voice], tokens) for voice in VOICES]
        texts, texts_apart = ([(reply.thought, reply.answer, reply.tokens) for reply in replies]
                              for replies in (both, [replies[0] for _, replies in alone]))  # fmt: skip
        first = max(reply.first_token or 0.0 for reply in both)
        longest = max(reply.tokens for reply in both)
        found.append(Round(together, sum(seconds for seconds, _ in alone), first, longest, texts == texts_apart))
    return found[1:]


def _timed(voices: LocalVoices, who: Sequence[str], tokens: int) -> tuple[float, list[Reply]]:
    buffers = {voice: ReplyBuffer(voice) for voice in who}
    asked = dict.fromkeys(who, prompt_messages(PROMPT, voices.system))
    start = time.perf_counter()
    for event in voices.stream(asked, Settings(max_tokens=tokens, min_tokens=tokens), threading.Event()):
        if event.voice:
            buffers[event.voice].add(event)
    return time.perf_counter() - start, [buffer.reply() for buffer in buffers.values()]


def voices_text(rounds: Sequence[Round]) -> str:
    """Medians over the rounds, in a sentence."""
    together, apart, first = ([getattr(one, name) for one in rounds] for name in ("together", "apart", "first_token"))
    ratios = [one.together / one.apart for one in rounds]
    return (
        f"{rounds[0].tokens} tokens a voice, {len(rounds)} rounds: together {median(together):.2f} s, "
        f"one after the other {median(apart):.2f} s, "
        f"ratio {median(ratios):.2f} (from {min(ratios):.2f} to {max(ratios):.2f}); "
        f"first token in both panes after {median(first):.2f} s (at worst {max(first):.2f}); "
        f"{'the same' if all(one.same for one in rounds) else 'NOT the same'} text"
    )


def run_voices(args: argparse.Namespace) -> int:
    """Prints how long both voices take together and apart on the bundled model, as the chat loads it."""
    voices = LocalVoices(load_voices(recipe_for("tiny"), four_bit=None))
    threads = voices.threads or torch.get_num_threads()
    print(f"{voices_text(bench_voices(voices, args.tokens, args.rounds))}; {machine_name()}, threads: {threads}")
    return 0


# ---- the command


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one of the four commands; 2, with a line on stderr, if something is not in order."""
    top = argparse.ArgumentParser(prog="bench.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    train = commands.add_parser("train", help="the kit's recipe against padding and TRL's defaults")
    train.add_argument("--model", default=chosen_size(), help="size on the dial; default: PUSHBACK_MODEL, or tiny")
    train.add_argument("-n", type=int, default=240, help="training examples (240)")
    train.add_argument("--held-out", type=int, default=5, help="held-out requests of each kind (5)")
    train.add_argument("--seeds", type=int, default=3, help="how often each recipe is trained (3)")
    train.add_argument("--out", type=Path, default=DATA / "results" / "bench_train.json", help="figures as JSON")
    train.add_argument("--page", type=Path, default=Path(__file__).with_name("bench.md"), help="the page with the table")
    train.set_defaults(run=run_train)
    peaks = commands.add_parser("peaks", help="measured peaks of small shapes against the planner's")
    peaks.add_argument("--quick", action="store_true", help="only the small ones")
    peaks.set_defaults(run=run_peaks)
    gpu = commands.add_parser("gpu", help="a real size with random weights on this card: speed, and peak against the plan")
    gpu.add_argument("--shape", default="7b", help="size on the dial (7b)")
    gpu.add_argument("--seq", type=int, nargs="+", default=[320, 1024], help="tokens of a sequence (320 1024)")
    gpu.set_defaults(run=run_gpu)
    voices = commands.add_parser("voices", help="both voices in one batch against one after the other")
    voices.add_argument("--tokens", type=int, default=60, help="tokens a voice (60)")
    voices.add_argument("--rounds", type=int, default=7, help="rounds, of which the median counts (7)")
    voices.set_defaults(run=run_voices)
    args = top.parse_args(argv)
    datasets.disable_progress_bars()
    logging.set_verbosity_error()
    try:
        return args.run(args)
    except PushbackError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
