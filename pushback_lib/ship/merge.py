"""Merges the adapter into 16-bit base weights and compares how both answer; knows nothing about file formats to come.

Never into the 4-bit weights: after the addition they would have to be rounded again, and in the bundled model's layers
NF4 rounding moves the weights about as far as the adapter does (notebook 05 measures it).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..core.common import PushbackError
from ..core.records import Message
from ..model.checks import free_memory_gib
from ..model.load import compute_dtype, load_base, load_tokenizer, load_with_adapter
from ..model.recipe import Recipe
from ..train.base import save_base


def merge_adapter(recipe: Recipe, adapter: str | Path, out: str | Path) -> Path:
    """Writes a plain 16-bit model, adapter included, to `out` (written aside, then renamed); returns `out`.

    Raises PushbackError before loading anything if the adapter does not fit or memory is short.
    """
    _check_room(recipe)
    model = load_with_adapter(recipe, adapter, four_bit=False)
    _add_in_float64(model)
    return _save(model.unload(), recipe, Path(out))


def save_baseline(recipe: Recipe, out: str | Path) -> Path:
    """Writes the base alone as `merge_adapter` writes the merged model, so that only the adapter tells the two apart."""
    _check_room(recipe)
    return _save(load_base(recipe, four_bit=False), recipe, Path(out))


def _add_in_float64(model: Any) -> None:
    """Merges every layer in double precision: the 16-bit result is then the same on every machine, to the last bit."""
    from peft.tuners.lora import LoraLayer

    for layer in [module for module in model.modules() if isinstance(module, LoraLayer)]:
        dtype = layer.get_base_layer().weight.dtype
        layer.double()
        layer.merge(safe_merge=True)
        layer.to(dtype)


def _save(model: Any, recipe: Recipe, out: Path) -> Path:
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        save_base(model, load_tokenizer(recipe), part)
        if out.exists():
            shutil.rmtree(out)
        part.replace(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return out


def _check_room(recipe: Recipe) -> None:
    need, free = recipe.parameters * compute_dtype().itemsize / 2**30, free_memory_gib()
    if free < need:
        raise PushbackError(
            f"Merging {recipe.name!r} needs about {need:.1f} GiB for its unquantised weights, and {free:.1f} GiB are "
            "free. Close other programs and notebooks, or merge on a larger machine."
        )


def same_replies(
    recipe: Recipe, adapter: str | Path, merged: str | Path, conversations: Sequence[list[Message]]
) -> list[tuple[str, str]]:
    """Greedy (adapter on the 16-bit base, merged model) texts for each conversation, thought and answer whole.

    The models are loaded one after the other, so that only one is in memory at a time.
    """
    from transformers import AutoModelForCausalLM

    voice = _greedy(load_with_adapter(recipe, adapter, four_bit=False), recipe, conversations)
    model = AutoModelForCausalLM.from_pretrained(merged, dtype=compute_dtype(), use_safetensors=True)
    return list(zip(voice, _greedy(model.eval(), recipe, conversations), strict=True))


def _greedy(model: Any, recipe: Recipe, conversations: Sequence[list[Message]]) -> list[str]:
    import torch

    tokenizer = load_tokenizer(recipe)
    prompts = [tokenizer.apply_chat_template(c, add_generation_prompt=True, tokenize=False) for c in conversations]
    inputs = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False).to(model.device)
    with torch.inference_mode():
        out = model.generate(
            **inputs, do_sample=False, max_new_tokens=recipe.max_new_tokens, pad_token_id=tokenizer.pad_token_id
        )
    return tokenizer.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
