"""Measures what one model for two voices costs: seconds in one batch and apart, and bytes; knows no widget.

Seconds depend on the machine and on what else it does, so the load stands beside them.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from .recipe import Recipe
from .records import prompt_messages
from .side_by_side import Settings
from .stream_local import LocalVoices
from .transcript import Hearing, Said
from .voices import VOICES, Speaker

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


def _timed(voices: LocalVoices, who: Sequence[str], prompt: str, tokens: int) -> tuple[float, list[Said]]:
    hearings = {voice: Hearing(voice) for voice in who}
    asked = dict.fromkeys(who, prompt_messages(prompt, voices.system))
    start = time.perf_counter()
    for event in voices.stream(asked, Settings(max_tokens=tokens, min_tokens=tokens), threading.Event()):
        if event.voice:
            hearings[event.voice].hear(event)
    return time.perf_counter() - start, [hearing.said() for hearing in hearings.values()]


def _text(said: Said) -> tuple[str, str, int]:
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
