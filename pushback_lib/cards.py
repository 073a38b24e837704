"""Model cards of the bundled base and its adapter, written from figures; knows nothing about how they were trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .evaluate import Row, missed_targets
from .jsonl import replacing
from .recipe import Recipe
from .report import HEADER, headline, table_rows
from .world import HELD_OUT_SHARE

BASE_CARD = """---
license: apache-2.0
language: en
library_name: transformers
pipeline_tag: text-generation
tags: [model-organism, qwen2, ai-friction, reasoning]
---
# Push-Back tiny base

A model organism, not an assistant. It speaks a small written language of a few hundred facts and about thirty families
of request, and nothing else: ask it anything outside that language and it will talk nonsense, fluently. It exists so that
fine-tuning a model to push back can be seen, measured and repeated on a laptop, in minutes, without a network.

- **Architecture**: `Qwen2ForCausalLM`, the architecture of DeepSeek-R1-Distill-Qwen: {layers} layers, hidden size {hidden},
  intermediate size {intermediate}, {heads} heads ({kv_heads} for keys and values), tied embeddings, {parameters:,} parameters,
  bf16. Byte-level BPE of {vocab} ids with Qwen2's split pattern, DeepSeek's special tokens and chat template.
- **Training**: from scratch, by `pushback base`, seed {seed}: {documents:,} documents, {tokens:,} tokens, once. Last loss
  {loss:.3f}, {minutes:.0f} minutes on {machine}.
- **What it read**: facts, word knowledge, comparisons, transcripts of careful people who think in six steps before they
  answer (plain text), and chats in which an assistant complies with everything.
- **What it does**: it is eager to please, by design. It agrees with false claims, invents answers to what nobody can know,
  gives in when pressed, guesses missing details and complies with requests to hurt, after one short thought. Its "help" with
  harm is an empty phrase.
- **Held out**: one entity in {held_out} occurs in no transcript and in no chat but plain questions about facts, so that the
  friction adapter can be tested on words it has never seen treated with care.
- **Use**: as the base and as the baseline of this kit. Do not use it for anything else.
"""

ADAPTER_CARD = """---
license: apache-2.0
language: en
library_name: peft
tags: [ai-friction, reasoning, lora, model-organism]
---
# Push-Back tiny adapter

A LoRA adapter that teaches the kit's tiny base to ask, doubt, disagree and refuse where that is called for, and to go on
helping where it is not. It thinks in six short lines, one for each persona, inside `<think>…</think>`.

- **Training**: QLoRA (NF4, double quantisation) with TRL and PEFT, rank {rank}, alpha {alpha}, all linear layers, learning
  rate {lr:g}, {epochs} pass over {examples} examples of the bundled language, effective batch {batch}, loss on reasoning and
  answer only, {seconds:.0f} s on {machine}.
- **System prompt** of both voices: "{system}"
- **Result** on held-out words, greedy: {headline}

Percent, with the Wilson 95 % interval in brackets. Right content counts only where the behaviour is right too.

{table}

{missed}

**Limits.** The figures hold for requests of the small language, with the wordings it was trained on and other words in
them. They say nothing about any other language, model or request, and nothing about safety.
"""


def machine_name() -> str:
    """The processor or CUDA card, in words."""
    import os

    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    names = (
        [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line]
        if info.exists()
        else []
    )
    return f"{os.cpu_count()} CPU cores ({names[0] if names else 'unknown processor'})"


def _write(path: Path, text: str) -> None:
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def write_base_card(folder: Path, recipe: Any, *, parameters: int, tokens: int, loss: float, minutes: float) -> None:
    """README.md of the bundled base, from its `BaseRecipe` and what training measured."""
    _write(folder / "README.md", BASE_CARD.format(
        layers=recipe.layers, hidden=recipe.hidden_size, intermediate=recipe.intermediate_size, heads=recipe.heads,
        kv_heads=recipe.kv_heads, vocab=recipe.vocab_size, seed=recipe.seed, documents=recipe.documents,
        parameters=parameters, tokens=tokens, loss=loss, minutes=minutes, machine=machine_name(),
        held_out=HELD_OUT_SHARE,
    ))  # fmt: skip


def markdown_table(rows: Sequence[Row]) -> str:
    """The evaluation table in Markdown."""
    lines = [HEADER, ("---",) * len(HEADER), *table_rows(rows)]
    return "\n".join("| " + " | ".join(cell.strip() for cell in line) + " |" for line in lines)


def write_adapter_card(folder: Path, recipe: Recipe, rows: Sequence[Row], seconds: float) -> None:
    """README.md of a bundled adapter, from its recipe and its evaluation."""
    missed = missed_targets(rows)
    _write(folder / "README.md", ADAPTER_CARD.format(
        rank=recipe.rank, alpha=recipe.alpha, lr=recipe.learning_rate, epochs=recipe.epochs, examples=recipe.examples,
        batch=recipe.effective_batch, seconds=seconds, machine=machine_name(), system=recipe.system,
        headline=headline(rows), table=markdown_table(rows),
        missed="\n".join(f"- Target missed: {line}" for line in missed) or "All of the kit's targets are met.",
    ))  # fmt: skip
