"""Benchmarks of the kit, each printing the table that its page quotes."""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import os
import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import TYPE_CHECKING, Any

from pushback_lib.chat.backend import Settings
from pushback_lib.chat.local import LocalVoices
from pushback_lib.chat.turns import Reply, ReplyBuffer
from pushback_lib.core.common import DATA, VOICES, PushbackError
from pushback_lib.core.files import replacing
from pushback_lib.core.records import Record, prompt_messages
from pushback_lib.model.load import compute_dtype, load_base, load_tokenizer, quiet
from pushback_lib.model.recipe import Recipe, as_config, chosen_size, config_for, recipe_for
from pushback_lib.model.voices import Speaker
from pushback_lib.train.memory import Setting
from pushback_lib.train.plan import parts
from pushback_lib.train.run import make_trainer, sft_config, training_dataset

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, Qwen2Config, TrainerCallback
    from trl import SFTTrainer

GUIDE = DATA.parent / "notebooks" / "guide"


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Adds `bench` and its commands."""
    bench = subparsers.add_parser("bench", help="measure speed and memory of training on this machine")
    commands = bench.add_subparsers(required=True, metavar="COMMAND")
    train = commands.add_parser("train", help="the kit's recipe against the ancestor's and TRL's defaults")
    train.add_argument("--model", default=chosen_size(), help="size on the dial; default: PUSHBACK_MODEL, or tiny")
    train.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="where it must run; auto: where it can"
    )
    train.add_argument("-n", type=int, default=240, help="training examples (240)")
    train.add_argument("--held-out", type=int, default=5, help="held-out requests of each kind (5)")
    train.add_argument("--seeds", type=int, default=3, help="how often each recipe is trained (3)")
    train.add_argument("--out", type=Path, default=DATA / "results" / "bench_train.json", help="figures as JSON")
    train.add_argument("--page", type=Path, default=GUIDE / "bench.md", help="the page with the table")
    train.set_defaults(run=run_train)
    peaks = commands.add_parser("peaks", help="measured peaks of small shapes against the planner's")
    peaks.add_argument("--quick", action="store_true", help="only the small ones")
    peaks.set_defaults(run=run_peaks)
    gpu = commands.add_parser("gpu", help="a real size with random weights on this card: speed, and peak against the plan")
    gpu.add_argument("--shape", default="7b", help="size on the dial (7b)")
    gpu.add_argument("--seq", type=int, nargs="+", default=[320, 1024], help="tokens of a sequence (320 1024)")
    gpu.add_argument("--out", type=Path, help="also append the table to this page")
    gpu.set_defaults(run=run_gpu)

    voices = commands.add_parser("voices", help="both voices in one batch against one after the other")
    voices.add_argument("--tokens", type=int, default=60, help="tokens a voice (60)")
    voices.add_argument("--rounds", type=int, default=7, help="rounds, of which the median counts (7)")
    voices.set_defaults(run=run_voices)


def _check_device(device: str) -> None:
    import torch

    there = torch.cuda.is_available()
    if device == "cuda" and not there:
        raise PushbackError("--device cuda, but torch sees no CUDA card. Leave it out to measure on the CPU.")
    if device == "cpu" and there:
        raise PushbackError("--device cpu, but torch would use the card. Set CUDA_VISIBLE_DEVICES= to hide it.")


def run_train(args: argparse.Namespace) -> int:
    """Prints table and ratios and writes both files; 0 whether or not the targets are met."""
    if min(args.n, args.held_out, args.seeds) < 1:
        raise PushbackError(f"-n {args.n}, --held-out {args.held_out}, --seeds {args.seeds}: each must be at least 1.")
    from pushback_lib.model.recipe import recipe_for

    recipe = recipe_for(args.model)
    _check_device(args.device)

    load = load_average()
    if args.n < WATCHED * recipe.effective_batch:
        raise PushbackError(f"-n {args.n}: {recipe.name} needs at least {WATCHED * recipe.effective_batch} examples here.")
    hush()
    records, held_out = _records(recipe, args.n, args.held_out)
    found = figures(bench(recipe, records, held_out, range(1, args.seeds + 1), _say), recipe.name, load)
    print(table(found), *verdicts(found), sep="\n")
    for path in write(found, args.out, args.page):
        print(path)
    return 0


def _say(text: str) -> None:
    print(text, flush=True)


def _records(recipe: Recipe, n: int, held_out: int) -> tuple[list[Record], list[Record]]:
    if recipe.language == "bundled":
        from pushback_lib.language.corpus import draw_requests, friction_records, to_record

        held = [to_record(request, at) for at, request in enumerate(draw_requests(held_out, 5, held_out=True), 1)]
        return friction_records(n, 1), held
    from pushback_lib.core.records import load_records

    return load_records(DATA / "friction" / "train.jsonl")[:n], load_records(DATA / "friction" / "validation.jsonl")


def run_peaks(args: argparse.Namespace) -> int:
    """Prints one row a shape; 1 if the planner is off by more than 10 % anywhere."""
    from pushback_lib.model.load import machine_name

    hush()
    print(f"{machine_name()}\n\n| Shape | Measured | Planned | Off by |\n|---|---:|---:|---:|")
    worst = 0.0
    for case in CASES:
        if args.quick and not case.quick:
            continue
        peak, planned = measured(case), expected(case)
        worst = max(worst, abs(planned / peak - 1))
        _say(f"| {case} | {peak / 2**20:.1f} MiB | {planned / 2**20:.1f} MiB | {planned / peak - 1:+.1%} |")
    return 0 if worst <= 0.10 else 1


def run_gpu(args: argparse.Namespace) -> int:
    """Prints the table of a real size on this card."""
    from pushback_lib.model.recipe import recipe_for

    recipe = recipe_for(args.shape)
    import torch

    if not torch.cuda.is_available():
        raise PushbackError(
            "torch sees no CUDA card here. Run this on a machine with one; `pushback bench peaks` runs on a CPU."
        )
    from pushback_lib.core.files import replacing
    from pushback_lib.model.load import machine_name

    hush()
    text = f"Measured on {machine_name()}, random weights.\n\n{table(measure_all(recipe, tuple(args.seq)))}\n"
    print(text)
    if args.out:
        before = args.out.read_text(encoding="utf-8") if args.out.is_file() else ""
        with replacing(args.out) as part:
            part.write_text(f"{before}\n{text}", encoding="utf-8")
    return 0


def run_voices(args: argparse.Namespace) -> int:
    """Prints how long both voices take together and apart on the bundled model, as the chat loads it."""
    from pushback_lib.model.recipe import recipe_for
    from pushback_lib.model.voices import load_chat_speaker

    print(bench_voices(load_chat_speaker(recipe_for("tiny")), tokens=args.tokens, rounds=args.rounds))
    return 0


QUANTISED = ("absmax", "code", "offset")


@dataclass(frozen=True)
class Peak:
    """Bytes that tensors hold before a training step, and the most that they held within it."""

    resident: int
    peak: int


def storage_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of the storages behind the tensors, each storage once."""
    seen = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors if not tensor.is_meta}
    return sum(seen.values())


def quantisation_state(model: torch.nn.Module) -> Iterator[torch.Tensor]:
    """The tensors that bitsandbytes keeps beside each NF4 weight: scales, their own scales, code books, offset."""
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        while state is not None:
            yield from (getattr(state, name) for name in QUANTISED if getattr(state, name) is not None)
            state = state.state2


def optimizer_state(optimizer: Any) -> Iterator[torch.Tensor]:
    """The tensors of an optimizer's state, but for its step counts."""
    import torch

    inner = getattr(optimizer, "optimizer", optimizer)  # accelerate wraps it
    for state in inner.state.values():
        yield from (value for value in state.values() if isinstance(value, torch.Tensor))


class StepPeak:
    """Watches one training step, the `at`-th, and keeps its `peak`; the optimizer's state must exist, so `at` is 2 or more."""

    def __init__(self, at: int = 2) -> None:
        self.at, self.peak = at, Peak(0, 0)
        self._resident, self._profile = 0, None

    def callback(self) -> TrainerCallback:
        """For a trainer; made here so that importing this module stays light."""
        from transformers import TrainerCallback

        watch = self

        class Watch(TrainerCallback):
            def on_step_begin(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
                if state.global_step == watch.at - 1:
                    watch.begin(parts["model"], parts["optimizer"])

            def on_step_end(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
                if state.global_step == watch.at:
                    watch.end()

        return Watch()

    def begin(self, model: torch.nn.Module, optimizer: Any) -> None:
        import torch

        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
            self._resident = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            return
        tensors = [*model.parameters(), *model.buffers(), *quantisation_state(model), *optimizer_state(optimizer)]
        self._resident = storage_bytes(tensors)
        activities = [torch.profiler.ProfilerActivity.CPU]
        self._profile = torch.profiler.profile(activities=activities, profile_memory=True, acc_events=True)
        self._profile.__enter__()

    def end(self) -> None:
        import torch

        if torch.cuda.is_available():
            torch.cuda.synchronize()
            self.peak = Peak(self._resident, torch.cuda.max_memory_allocated())
            return
        self._profile.__exit__(None, None, None)
        self.peak = Peak(self._resident, self._resident + climb(self._profile))


def climb(profile: Any) -> int:
    """The highest sum of bytes taken and given back while the profile ran, from torch's CPU allocator."""
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


def random_base(config: Qwen2Config, dtype: torch.dtype, device: str, seed: int = 0) -> PreTrainedModel:
    """The model on `device`: linear layers in NF4 with double quantisation, everything else in `dtype`.

    Built on the meta device and filled in layer by layer, so that no more than one layer is ever there in full. It is laid out
    as transformers lays out a base loaded with `models.quantisation()`: the output head stays unquantised.
    """
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    _quantise_layers(model.model, dtype, device)
    for module in model.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None and parameter.is_meta:
                module._parameters[name] = _filled(parameter, device, std=config.initializer_range)
    model.tie_weights()
    model.model.rotary_emb = type(model.model.rotary_emb)(config).to(device)  # its buffers are computed, not loaded
    return _marked_as_quantised(model.requires_grad_(False), dtype)


def _filled(parameter: torch.Tensor, device: str, std: float) -> torch.nn.Parameter:
    import torch

    values = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
    values = values.normal_(std=std) if parameter.dim() > 1 else values.fill_(1.0)
    return torch.nn.Parameter(values, requires_grad=False)


def _quantise_layers(backbone: torch.nn.Module, dtype: torch.dtype, device: str) -> None:
    import bitsandbytes as bnb
    import torch

    for name, layer in list(backbone.named_modules()):
        if not isinstance(layer, torch.nn.Linear):
            continue
        with torch.device("meta"):
            four_bit = bnb.nn.Linear4bit(layer.in_features, layer.out_features, bias=layer.bias is not None,
                                         compute_dtype=dtype, quant_type="nf4")  # fmt: skip
        values = torch.empty(layer.weight.shape, dtype=dtype, device=device).normal_(std=0.02)
        four_bit.weight = bnb.nn.Params4bit(values, requires_grad=False, quant_type="nf4", module=four_bit).to(device)
        if layer.bias is not None:
            four_bit.bias = _filled(layer.bias, device, std=0.02)
        backbone.set_submodule(name, four_bit)


def _marked_as_quantised(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """Sets what PEFT, TRL and the trainer look at to see that a model was loaded in four bit."""
    from transformers import BitsAndBytesConfig
    from transformers.quantizers import AutoHfQuantizer

    config: Any = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
                                     bnb_4bit_compute_dtype=dtype)  # fmt: skip
    model.config.quantization_config = config
    model.hf_quantizer = AutoHfQuantizer.from_config(config)
    model.is_quantized = model.is_loaded_in_4bit = True
    model.quantization_method = config.quant_method
    return model


@dataclass(frozen=True)
class Case:
    """A shape and how it is trained; `bf16`: autocast, as on a card; else fp32 with a bf16 adapter, as on a CPU."""

    hidden: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    batch: int
    length: int
    checkpointing: bool
    bf16: bool
    quick: bool = False  # small enough for the tests

    def __str__(self) -> str:
        how = ("bf16" if self.bf16 else "fp32") + (", checkpointing" if self.checkpointing else "")
        return f"{self.layers}x{self.hidden}/{self.inner}, vocabulary {self.vocabulary}, {self.batch}x{self.length}, {how}"


CASES = (
    Case(256, 768, 5, 4, 2, 640, 4, 128, False, False, quick=True),  # the bundled shape
    Case(256, 768, 5, 4, 2, 640, 4, 128, True, True, quick=True),
    Case(256, 768, 5, 4, 2, 640, 2, 512, False, False),
    Case(256, 768, 5, 4, 2, 640, 2, 512, True, True),
    Case(512, 1536, 4, 8, 2, 8192, 2, 256, False, False),
    Case(512, 1536, 4, 8, 2, 8192, 2, 256, True, True, quick=True),
    Case(512, 1536, 4, 8, 2, 8192, 1, 1024, False, True),
    Case(512, 2048, 3, 8, 4, 32000, 2, 128, False, False),
    Case(512, 2048, 3, 8, 4, 32000, 2, 128, True, True),
    Case(1024, 2816, 3, 16, 4, 32000, 2, 256, True, False),
    Case(512, 8192, 2, 8, 2, 640, 2, 256, True, False, quick=True),  # wide inside: the peak is in a block, not at the head
    Case(512, 16384, 2, 8, 2, 640, 2, 128, False, True),
    Case(1024, 12288, 2, 8, 8, 640, 1, 256, True, True),
)


def config_of(case: Case) -> Qwen2Config:
    return as_config({"model_type": "qwen2", "hidden_size": case.hidden, "intermediate_size": case.inner,
                      "num_hidden_layers": case.layers, "num_attention_heads": case.heads,
                      "num_key_value_heads": case.kv_heads, "vocab_size": case.vocabulary,
                      "max_position_embeddings": 4096, "tie_word_embeddings": True}, str(case))  # fmt: skip


def expected(case: Case, cuda: bool = False) -> int:
    """Bytes that the planner says tensors hold at their highest."""
    setting = Setting(case.batch, case.length, 32, case.checkpointing, 2 if case.bf16 else 4, 2, "adamw_torch", cuda,
                      padded=case.batch > 1)  # fmt: skip
    return sum(part.bytes for part in parts(config_of(case), setting)[:-1])


def measured(case: Case) -> int:
    """Bytes that tensors really held at their highest, in the second of two training steps."""
    import torch

    recipe = dataclasses.replace(recipe_for("tiny"), batch=case.batch, accumulation=1, checkpointing=case.checkpointing)
    changes: dict[str, Any] = {"bf16": True} if case.bf16 else {}
    dtype = torch.bfloat16 if case.bf16 else torch.float32
    return run_steps(config_of(case), recipe, dtype, length=case.length, **changes).peak.peak


PROMPT = "The capital of France is Rome, right?"


@dataclass(frozen=True)
class VoiceTimes:
    """One measurement each round: seconds of both voices in one batch, one after the other, and to the first tokens."""

    tokens: int
    together: tuple[float, ...]
    apart: tuple[float, ...]
    first_token: tuple[float, ...]  # of the later voice
    same: bool  # whether one batch said token for token what the voices said apart
    threads: int
    load: tuple[float, float]  # processes that wanted to run, over the last minute, before and after

    @property
    def ratio(self) -> float:
        """Median over the rounds of (together / apart)."""
        return median(both / one for both, one in zip(self.together, self.apart, strict=True))

    def __str__(self) -> str:
        rounds = [both / one for both, one in zip(self.together, self.apart, strict=True)]
        return (
            f"{self.tokens} tokens a voice, {len(rounds)} rounds, threads: {self.threads}; "
            f"together {median(self.together):.2f} s, one after the other {median(self.apart):.2f} s, "
            f"ratio {self.ratio:.2f} (from {min(rounds):.2f} to {max(rounds):.2f}); "
            f"first token in both panes after {median(self.first_token):.2f} s (at worst {max(self.first_token):.2f}); "
            f"{'the same' if self.same else 'NOT the same'} text; "
            f"load {self.load[0]:.1f} before, {self.load[1]:.1f} after, on {os.cpu_count()} cores"
        )


def bench_voices(speaker: Speaker, tokens: int = 60, rounds: int = 7, prompt: str = PROMPT) -> VoiceTimes:
    """Times one mixed batch against the same voices one after the other, in turn, so that both meet the same machine.

    Every reply is `tokens` long. What is timed is the chat's own way, events and decoding included; a first round is not
    counted.
    """
    import torch

    voices, load, times = LocalVoices(speaker), os.getloadavg()[0], []
    for _ in range(rounds + 1):
        together, both = _timed(voices, VOICES, prompt, tokens)
        alone = [_timed(voices, [voice], prompt, tokens) for voice in VOICES]
        first = max(said.first_token or 0.0 for said in both)
        same = [_text(said) for said in both] == [_text(said[0]) for _, said in alone]
        times.append((together, sum(seconds for seconds, _ in alone), first, same))
    counted = times[1:]
    return VoiceTimes(tokens, *(tuple(time[at] for time in counted) for at in range(3)), all(time[3] for time in times),
                      voices.threads or torch.get_num_threads(), (load, os.getloadavg()[0]))  # fmt: skip


def _timed(voices: LocalVoices, who: Sequence[str], prompt: str, tokens: int) -> tuple[float, list[Reply]]:
    hearings = {voice: ReplyBuffer(voice) for voice in who}
    asked = dict.fromkeys(who, prompt_messages(prompt, voices.system))
    start = time.perf_counter()
    for event in voices.stream(asked, Settings(max_tokens=tokens, min_tokens=tokens), threading.Event()):
        if event.voice:
            hearings[event.voice].add(event)
    return time.perf_counter() - start, [hearing.reply() for hearing in hearings.values()]


def _text(said: Reply) -> tuple[str, str, int]:
    return said.thought, said.answer, said.tokens


@dataclass(frozen=True)
class VoiceBytes:
    """Bytes of all weights: of one base with its adapter, and of two models of the base's size."""

    base: int
    adapter: int

    @property
    def ratio(self) -> float:
        """One base and adapter, as a share of two loaded models."""
        return (self.base + self.adapter) / (2 * self.base)


def voice_bytes(recipe: Recipe, config: Any, dtype: Any = None) -> VoiceBytes:
    """Counts the tensors of a model of this shape and of the recipe's adapter, on the meta device: no weight is made.

    `config` is the base's transformers config; `dtype` its weights' (bf16 by default). The adapter's are fp32, as PEFT
    loads them.
    """
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype or torch.bfloat16)
        adapter = LoraConfig(r=recipe.rank, lora_alpha=recipe.alpha, target_modules="all-linear", task_type="CAUSAL_LM")
        voices = get_peft_model(model, adapter)
    sizes = {name: tensor.numel() * tensor.element_size() for name, tensor in voices.named_parameters()}
    lora = sum(size for name, size in sizes.items() if "lora_" in name)
    return VoiceBytes(sum(sizes.values()) - lora, lora)


@dataclasses.dataclass(frozen=True)
class StepRun:
    """What the steps of a run took: the watched step's peak, seconds of the steps after the first, tokens in one step."""

    peak: Peak
    seconds_a_step: float
    tokens_a_step: int


def plain_trainer() -> type[SFTTrainer]:
    """TRL's trainer as it comes, but that it tells the Hub nothing."""
    from trl import SFTTrainer

    class PlainTrainer(SFTTrainer):
        """See above."""

        def _send_telemetry(self) -> None:
            """TRL would tell the Hub about every run."""

    return PlainTrainer


def silence(trainer: SFTTrainer) -> None:
    """Takes away what shows progress or prints figures: a benchmark prints its own."""
    from transformers import PrinterCallback
    from transformers.trainer_callback import ProgressCallback

    for callback in list(trainer.callback_handler.callbacks):
        if isinstance(callback, ProgressCallback | PrinterCallback):
            trainer.remove_callback(callback)


def hush() -> None:
    """For the rest of this process: no progress bars of data sets, no hints of transformers."""
    import datasets
    from transformers.utils import logging

    datasets.disable_progress_bars()
    logging.set_verbosity_error()


def clock(ends: list[float]) -> TrainerCallback:
    """A callback that notes when each step ended."""
    import torch
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            ends.append(time.perf_counter())

    return Clock()


def random_rows(config: Qwen2Config, length: int, rows: int, ragged: bool, prompt_share: float = 0.3) -> list[dict[str, Any]]:
    """Tokenised examples of random ids; `ragged`: every second is a little shorter, so that batches need padding."""
    rng, made = random.Random(0), []
    for at in range(rows):
        n = length - (1 + length // 50 if ragged and at % 2 else 0)
        ids = [rng.randrange(config.vocab_size) for _ in range(n)]
        made.append({"input_ids": ids, "labels": [-100] * int(n * prompt_share) + ids[int(n * prompt_share) :]})
    return made


def run_steps(
    config: Qwen2Config,
    recipe: Recipe,
    dtype: torch.dtype,
    *,
    length: int,
    steps: int = 2,
    ragged: bool = True,
    adapter_fp32: bool = False,
    **changes: Any,
) -> StepRun:
    """Trains a random NF4 base of this shape for `steps` steps of `length` tokens; the last one is watched."""
    quiet()
    import torch
    from datasets import Dataset
    from peft import LoraConfig

    device = "cuda" if torch.cuda.is_available() else "cpu"
    recipe = dataclasses.replace(recipe, max_length=length, seed=0)
    rows = random_rows(config, length, steps * recipe.effective_batch, ragged and recipe.batch > 1)
    with tempfile.TemporaryDirectory() as work:
        args = dataclasses.replace(sft_config(recipe, Path(work)), max_steps=steps, disable_tqdm=True, logging_strategy="no",
                                   assistant_only_loss=False, **changes)  # fmt: skip
        watch, ends = StepPeak(steps), []
        trainer = plain_trainer()(
            model=random_base(config, dtype, device), args=args, train_dataset=Dataset.from_list(rows),
            processing_class=load_tokenizer(recipe_for("tiny")), callbacks=[watch.callback(), clock(ends)],
            peft_config=LoraConfig(r=recipe.rank, lora_alpha=recipe.alpha, target_modules="all-linear", task_type="CAUSAL_LM"),
        )  # fmt: skip
        silence(trainer)
        if adapter_fp32:  # what the recipe does where the card computes in fp16
            for parameter in trainer.model.parameters():
                if parameter.requires_grad:
                    parameter.data = parameter.data.float()
        trainer.train()
    return StepRun(watch.peak, (ends[-1] - ends[0]) / max(1, len(ends) - 1), length * recipe.effective_batch)


IGNORED = -100
ARMS = ("ancestor", "trl", "kit")


def trainer_for(arm: str, recipe: Recipe, records: Sequence[Record], work: Path, callbacks: Sequence[Any] = ()) -> SFTTrainer:
    """The trainer of one of `ARMS`; the kit's is the very one that `pushback train` uses."""
    if arm == "kit":
        return make_trainer(recipe, records, work, callbacks)
    from peft import LoraConfig

    tokenizer = training_tokenizer(recipe)
    return plain_trainer()(
        model=load_base(recipe),
        args=ancestor_config(recipe, work) if arm == "ancestor" else trl_config(recipe, work),
        train_dataset=ancestor_rows(recipe, records) if arm == "ancestor" else training_dataset(records, recipe.system),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=recipe.rank, lora_alpha=recipe.alpha, target_modules="all-linear", task_type="CAUSAL_LM"),
        callbacks=list(callbacks),
    )


def training_tokenizer(recipe: Recipe) -> Any:
    """The tokenizer with TRL's training template: with the model's own, neither rival would see any reasoning at all."""
    from trl.chat_template_utils import get_training_chat_template

    tokenizer = load_tokenizer(recipe)
    tokenizer.chat_template = get_training_chat_template(tokenizer)
    return tokenizer


def _equal(recipe: Recipe, work: Path) -> dict[str, Any]:
    """What all three share, so that they learn the same: examples, steps, rate, schedule, clipping, optimizer."""
    import torch

    on_gpu = torch.cuda.is_available()
    return dict(  # noqa: C408
        output_dir=str(work), use_cpu=not on_gpu, num_train_epochs=recipe.epochs, learning_rate=recipe.learning_rate,
        lr_scheduler_type="cosine", warmup_steps=recipe.warmup_share, optim=recipe.optimizer if on_gpu else "adamw_torch",
        max_grad_norm=1.0, seed=recipe.seed, data_seed=recipe.seed, save_strategy="no", report_to=[],
        dataloader_pin_memory=False,
    )  # fmt: skip


def trl_config(recipe: Recipe, work: Path) -> Any:
    """TRL's own defaults: bf16 autocast, gradient checkpointing, no length grouping; loss on the completion."""
    from trl import SFTConfig

    return SFTConfig(per_device_train_batch_size=recipe.batch, gradient_accumulation_steps=recipe.accumulation,
                     **_equal(recipe, work))  # fmt: skip


def ancestor_config(recipe: Recipe, work: Path) -> Any:
    """The ancestor's: batches of 2 (accumulated to the same effective batch), in the kit's precision."""
    import torch
    from trl import SFTConfig

    dtype = compute_dtype()
    return SFTConfig(per_device_train_batch_size=2, gradient_accumulation_steps=max(1, recipe.effective_batch // 2),
                     max_length=padded_length(recipe), gradient_checkpointing=recipe.checkpointing,
                     bf16=dtype is torch.bfloat16, fp16=dtype is torch.float16, **_equal(recipe, work))  # fmt: skip


def padded_length(recipe: Recipe) -> int:
    """The ancestor pads to 4,096 tokens; where the model takes fewer, to as many as it takes."""
    from pushback_lib.model.recipe import config_for

    return min(4096, config_for(recipe).max_position_embeddings)


def tokenise(recipe: Recipe, records: Sequence[Record]) -> list[dict[str, list[int]]]:
    """Token ids and labels of each record; labels outside reasoning, answer and end token are ignored."""
    tokenizer, made = training_tokenizer(recipe), []
    for row in training_dataset(records, recipe.system):
        head = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, tokenize=False)
        whole = tokenizer.apply_chat_template([*row["prompt"], *row["completion"]], tokenize=False)
        ids = tokenizer(whole, add_special_tokens=False)["input_ids"]
        skip = len(tokenizer(head, add_special_tokens=False)["input_ids"])
        made.append({"input_ids": ids, "labels": [IGNORED] * skip + ids[skip:]})
    return made


def useful_tokens(recipe: Recipe, records: Sequence[Record]) -> int:
    """Reasoning and answer tokens of all records."""
    return sum(label != IGNORED for row in tokenise(recipe, records) for label in row["labels"])


def ancestor_rows(recipe: Recipe, records: Sequence[Record]) -> Any:
    """Every example padded to the same length, with loss on every token that is not padding."""
    from datasets import Dataset

    length, pad = padded_length(recipe), load_tokenizer(recipe).pad_token_id
    rows = []
    for row in tokenise(recipe, records):
        ids = row["input_ids"][:length]
        rows.append({"input_ids": ids + [pad] * (length - len(ids)), "labels": ids + [IGNORED] * (length - len(ids))})
    return Dataset.from_list(rows)


TARGET_EXAMPLES, TARGET_EPOCHS, TARGET_MINUTES = 2400, 3, 10.0  # on an H200-class card
TARGET_T4_GIB = 14.5


@dataclass(frozen=True)
class Measured:
    """One run: planned and measured peak in bytes, tokens a second, minutes for 2,400 examples × 3 passes at it."""

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

    @property
    def minutes(self) -> float:
        return TARGET_EXAMPLES * TARGET_EPOCHS * self.length / self.tokens_a_second / 60


def measure(recipe: Recipe, *, length: int, fp16: bool = False, steps: int = 6, config: Any = None) -> Measured:
    """Trains random NF4 weights of the recipe's shape; `fp16`: the settings of a T4, fp16 with an adapter in fp32."""
    import torch

    config = config_for(recipe) if config is None else config
    cuda = torch.cuda.is_available()
    compute, adapter = (2, 4 if fp16 else 2) if cuda or fp16 else (4, 2)
    dtype = torch.float16 if fp16 else torch.bfloat16 if cuda else torch.float32
    optimizer = recipe.optimizer if cuda else "adamw_torch"
    setting = Setting(recipe.batch, length, recipe.rank, recipe.checkpointing, compute, adapter, optimizer, cuda,
                      padded=recipe.batch > 1, loss_share=0.7)  # fmt: skip
    changes = {"bf16": False, "fp16": True} if fp16 else {}
    run = run_steps(config, recipe, dtype, length=length, steps=steps, adapter_fp32=fp16, **changes)
    planned = sum(part.bytes for part in parts(config, setting)[:-1])
    name = f"{recipe.name}, {'fp16, adapter in fp32' if fp16 else str(dtype).split('.')[-1]}"
    return Measured(name, recipe.batch, length, planned, run.peak.peak, run.tokens_a_step / run.seconds_a_step)


def measure_all(recipe: Recipe, lengths: tuple[int, ...] = (320, 1024), config: Any = None) -> list[Measured]:
    """Both lengths in the card's own type, and the longest under the settings of a T4 at batch 1 where there is a card."""
    import torch

    runs = [measure(recipe, length=length, config=config) for length in lengths]
    if torch.cuda.is_available():
        single = dataclasses.replace(recipe, batch=1, accumulation=recipe.effective_batch)
        runs.append(measure(single, length=max(lengths), fp16=True, config=config))
    return runs


def gpu_table(runs: list[Measured]) -> str:
    """In Markdown, with the targets."""
    lines = ["| Run | Batch × sequence | Measured peak | Planned | Off by | Tokens a second | 2,400 examples × 3 |",
             "|---|---|---:|---:|---:|---:|---:|"]  # fmt: skip
    for run in runs:
        lines.append(f"| {run.name} | {run.batch} × {run.length} | {run.peak / 2**30:.2f} GiB | "
                     f"{run.planned / 2**30:.2f} GiB | {run.off:+.1%} | {run.tokens_a_second:,.0f} | "
                     f"{run.minutes:.1f} min |")  # fmt: skip
    lines.append("\nTargets for 7b: at most 10 min on an H200-class card; at most 14.5 GiB at sequence 1,024 under the T4 "
                 "settings; plan within 10 %.")  # fmt: skip
    return "\n".join(lines)


WATCHED = 2  # optimizer steps of the run in which memory is measured
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Run:
    """One training run: seconds on the clock and on the processor, useful tokens, held-out loss of reasoning and answer."""

    arm: str
    seed: int
    seconds: float
    cpu_seconds: float
    useful_tokens: int
    held_out_loss: float

    @property
    def tokens_a_second(self) -> float:
        return self.useful_tokens / self.seconds

    @property
    def tokens_a_cpu_second(self) -> float:
        return self.useful_tokens / self.cpu_seconds


@dataclass(frozen=True)
class Bench:
    """All runs, in the order in which they were made, and the peak tensor bytes of each recipe on the longest examples."""

    runs: tuple[Run, ...]
    peaks: dict[str, int]
    examples: int
    held_out: int
    padded_to: int
    untrained_loss: float

    def of(self, arm: str) -> list[Run]:
        return [run for run in self.runs if run.arm == arm]


def bench(
    recipe: Recipe, records: Sequence[Record], held_out: Sequence[Record], seeds: Sequence[int], progress: Progress = print
) -> Bench:
    """Measures each recipe's memory, which also warms everything up, then trains them in turns, once for each seed.

    The ancestor's recipe, which takes as long as all others together, is trained with the first seed only.
    """
    quiet()
    tokenised = tokenise(recipe, held_out)
    untrained = completion_loss(load_base(recipe), tokenised)
    longest = sorted(records, key=lambda r: len(r.answer) + sum(len(t.thought) for t in r.thoughts))
    longest = longest[-WATCHED * recipe.effective_batch :]
    peaks = {}
    for arm in ARMS:
        peaks[arm] = peak_bytes(arm, recipe, longest)
        progress(f"memory: {arm}: {peaks[arm] / 2**20:,.0f} MiB")
    runs = []
    for arm, seed in turns(seeds):
        run = run_once(arm, dataclasses.replace(recipe, seed=seed), records, tokenised)
        progress(f"trained: {arm}, seed {seed}: {run.tokens_a_second:,.0f} useful tokens a second, "
                 f"{run.tokens_a_cpu_second:,.0f} of processor time, held-out loss {run.held_out_loss:.3f}")  # fmt: skip
        runs.append(run)
    return Bench(tuple(runs), peaks, len(records), len(held_out), padded_length(recipe), untrained)


def turns(seeds: Sequence[int]) -> Iterator[tuple[str, int]]:
    """Which recipe trains when: the order changes with each seed, so that none always goes first."""
    for at, seed in enumerate(seeds):
        pair = [("trl", seed), ("kit", seed)]
        yield from pair if at % 2 else reversed(pair)
        if at == 0:
            yield "ancestor", seed


def peak_bytes(arm: str, recipe: Recipe, records: Sequence[Record]) -> int:
    """The most that tensors hold in the second of two steps on these records."""
    watch = StepPeak(WATCHED)
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_for(arm, recipe, records, Path(folder) / "work", [watch.callback()])
        silence(trainer)
        trainer.train()
    del trainer
    gc.collect()
    return watch.peak.peak


def run_once(arm: str, recipe: Recipe, records: Sequence[Record], held_out: Sequence[dict[str, list[int]]]) -> Run:
    """Trains once, from the loaded base to the trained adapter, and evaluates."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_for(arm, recipe, records, Path(folder) / "work")
        silence(trainer)
        wall, cpu = time.perf_counter(), time.process_time()
        trainer.train()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    loss = completion_loss(trainer.model, held_out)
    del trainer
    gc.collect()
    return Run(arm, recipe.seed, wall, cpu, useful_tokens(recipe, records) * recipe.epochs, loss)


def completion_loss(model: Any, rows: Sequence[dict[str, list[int]]], batch: int = 16) -> float:
    """Mean loss of a reasoning or answer token, in fp32, the same way for every recipe."""
    import torch

    model.eval()
    total, count = 0.0, 0
    for at in range(0, len(rows), batch):
        part = rows[at : at + batch]
        width = max(len(row["input_ids"]) for row in part)
        ids = torch.tensor([row["input_ids"] + [0] * (width - len(row["input_ids"])) for row in part]).to(model.device)
        labels = torch.tensor([row["labels"] + [IGNORED] * (width - len(row["labels"])) for row in part]).to(model.device)
        mask = torch.tensor([[1] * len(row["input_ids"]) + [0] * (width - len(row["input_ids"])) for row in part])
        with torch.no_grad():
            logits = model(input_ids=ids, attention_mask=mask.to(model.device)).logits[:, :-1].float()
        total += torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), reduction="sum").item()
        count += int((labels[:, 1:] != IGNORED).sum())
    return total / count


NAMES = {"ancestor": "the ancestor's recipe", "trl": "TRL's defaults", "kit": "this kit"}


def figures(bench: Bench, model: str, load: tuple[float, float, float]) -> dict[str, Any]:
    """All that was measured, ready for JSON. Ratios are of useful tokens, kit over rival, over the seeds that both trained."""
    import torch

    from pushback_lib.model.load import machine_name

    arms = {
        arm: {
            "runs": [vars(run) for run in bench.of(arm)],
            "tokens_a_second": _rate(bench, arm, "seconds"),
            "tokens_a_cpu_second": _rate(bench, arm, "cpu_seconds"),
            "held_out_loss": mean(run.held_out_loss for run in bench.of(arm)),
            "peak_bytes": bench.peaks[arm],
        }
        for arm in ARMS
    }
    ratios = {
        f"kit_over_{arm}": {
            "clock": _ratio(bench, arm, "seconds"),
            "processor": _ratio(bench, arm, "cpu_seconds"),
            "memory": bench.peaks["kit"] / bench.peaks[arm],
            "loss_differences": loss_differences(bench, arm),
        }
        for arm in ARMS[:-1]
    }
    return {"model": model, "machine": machine_name(), "threads": torch.get_num_threads(), "load_average": list(load),
            "device": "cuda" if torch.cuda.is_available() else "cpu", "examples": bench.examples, "held_out": bench.held_out,
            "padded_to": bench.padded_to, "untrained_loss": bench.untrained_loss,
            "recipes": arms, "ratios": ratios}  # fmt: skip


def _rate(bench: Bench, arm: str, seconds: str, seeds: set[int] | None = None) -> float:
    runs = [run for run in bench.of(arm) if seeds is None or run.seed in seeds]
    return sum(run.useful_tokens for run in runs) / sum(getattr(run, seconds) for run in runs)


def _ratio(bench: Bench, arm: str, seconds: str) -> float:
    seeds = {run.seed for run in bench.of(arm)}
    return _rate(bench, "kit", seconds, seeds) / _rate(bench, arm, seconds)


def loss_differences(bench: Bench, arm: str) -> list[float]:
    """Held-out loss of the kit less that of the rival, seed by seed; below 0 the kit learned better."""
    rival = {run.seed: run.held_out_loss for run in bench.of(arm)}
    return [run.held_out_loss - rival[run.seed] for run in bench.of("kit") if run.seed in rival]


def table(found: dict[str, Any]) -> str:
    """In Markdown."""
    lines = ["| Recipe | Useful tokens a second | of processor time | Peak of tensors | Held-out loss | Runs |",
             "|---|---:|---:|---:|---:|---:|"]  # fmt: skip
    for arm, row in found["recipes"].items():
        lines.append(f"| {NAMES[arm]} | {row['tokens_a_second']:,.0f} | {row['tokens_a_cpu_second']:,.0f} | "
                     f"{row['peak_bytes'] / 2**20:,.0f} MiB | {row['held_out_loss']:.3f} | {len(row['runs'])} |")  # fmt: skip
    return "\n".join(lines)


def verdicts(found: dict[str, Any]) -> list[str]:
    """Each ratio against its target, met or missed."""
    on_gpu, lines = found["device"] == "cuda", []
    for arm, target in (("ancestor", 5.0), ("trl", 1.2 if on_gpu else 1.0)):
        ratio = found["ratios"][f"kit_over_{arm}"]
        met = "met" if ratio["clock"] >= target else "missed"
        losses = ", ".join(f"{x:+.3f}" for x in ratio["loss_differences"])
        lines.append(f"Against {NAMES[arm]}: {ratio['clock']:.2f} times the useful tokens a second "
                     f"({ratio['processor']:.2f} by processor time), {ratio['memory']:.2f} times the memory, "
                     f"held-out loss {losses}. Target of at least {target:g} times: {met}.")  # fmt: skip
    return lines


def page(found: dict[str, Any]) -> str:
    """notebooks/guide/bench.md."""
    load = ", ".join(f"{x:.1f}" for x in found["load_average"])
    return f"""# What the recipe costs, measured

Written by `pushback bench train`; run it again to measure your own machine.

{table(found)}

{chr(10).join('- ' + line for line in verdicts(found))}

**How.** Model `{found["model"]}`, {found["examples"]} training examples, {found["held_out"]} held-out ones.
Machine: {found["machine"]}; threads: {found["threads"]}; load average before the run: {load}.
A load near or above the number of cores means that other programs ran: then trust the column of processor time. The recipes
train in turns in one process, from the same NF4 base, with the same adapter, learning rate, schedule, effective batch, number
of examples and seeds; a ratio compares runs of the same seeds.

- *Useful tokens* are those of reasoning and answer.
- *Held-out loss* is the mean loss of a reasoning or answer token on requests whose words no training example holds, reckoned
  the same way for all; the untrained base has {found["untrained_loss"]:.3f}. The differences above are kit
  less rival, seed by seed.
- *Peak of tensors* is what torch's allocator hands out at its highest in one step on the longest examples. It excludes
  Python and the libraries. Part of it is the buffer for logits that TRL allots for 32,768 words whatever the vocabulary.

The recipes:

- **The ancestor's recipe** pads every example to {found["padded_to"]:,} tokens (4,096 in the original, or as many as the model
  takes), puts loss on the prompt as well, and trains in batches of 2, accumulated. It is trained with one seed.
- **TRL's defaults**: `SFTTrainer` as it comes, which means bf16 autocast and gradient checkpointing. What was
  changed, so that it can learn the same: batch, learning rate and schedule are the kit's, and it gets the training template,
  because with the model's own template it would see no reasoning at all.
- **This kit**: what `pushback train` does. Where the recipe has no checkpointing, as for `tiny`, it takes more memory for
  speed; for the sizes that need a card it checkpoints too.

No GPU was at hand: nothing on this page was run on one. `pushback bench gpu` measures there.
""" if found["device"] == "cpu" else _gpu_page(found)  # fmt: skip


def _gpu_page(found: dict[str, Any]) -> str:
    lines = "\n".join("- " + line for line in verdicts(found))
    return f"# What the recipe costs, measured on {found['machine']}\n\n{table(found)}\n\n{lines}\n"


def write(found: dict[str, Any], results: Path, guide: Path) -> list[Path]:
    """Writes the figures as JSON and the page."""
    with replacing(results) as part:
        part.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    with replacing(guide) as part:
        part.write_text(page(found), encoding="utf-8")
    return [results, guide]


def load_average() -> tuple[float, float, float]:
    """Of the last 1, 5 and 15 minutes; zeros where the system keeps none."""
    return os.getloadavg() if hasattr(os, "getloadavg") else (0.0, 0.0, 0.0)
