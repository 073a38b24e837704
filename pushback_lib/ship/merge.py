"""Merge the adapter into 16-bit base weights, and compare how both answer.

Never into the 4-bit weights: after the addition they would have to be rounded again, and in the bundled model's layers
NF4 rounding moves the weights about as far as the adapter does (notebook 05 measures it).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..core.folders import check_folder, replacing_folder
from ..core.records import Message
from ..model.load import load_base, load_tokenizer, load_with_adapter, save_base
from ..model.recipe import Recipe
from ..model.voices import greedy


def merge_adapter(recipe: Recipe, adapter: str | Path | None, out: str | Path) -> Path:
    """Writes a plain 16-bit model, adapter included, to `out` (written aside, then renamed); returns `out`.

    With None for the adapter it is the base alone, so that the two folders differ in nothing but the adapter. Raises
    PushbackError before loading anything if `out` may not be written, the adapter does not fit or memory is short.
    """
    check_folder(out, [adapter, recipe.base_folder])
    if adapter is None:
        return _save(load_base(recipe, four_bit=False), recipe, Path(out))
    model = load_with_adapter(recipe, adapter, four_bit=False)
    _add_in_float64(model)
    return _save(model.unload(), recipe, Path(out))


def _add_in_float64(model: Any) -> None:
    """Merges every layer in double precision: the 16-bit result is then the same on every machine, to the last bit."""
    from peft.tuners.lora import LoraLayer

    for layer in [module for module in model.modules() if isinstance(module, LoraLayer)]:
        dtype = layer.get_base_layer().weight.dtype
        layer.double()
        layer.merge(safe_merge=True)
        layer.to(dtype)


def _save(model: Any, recipe: Recipe, out: Path) -> Path:
    with replacing_folder(out) as part:
        save_base(model, load_tokenizer(recipe), part)
    return out


def same_replies(
    recipe: Recipe, adapter: str | Path, merged: str | Path, conversations: Sequence[list[Message]]
) -> list[tuple[str, str]]:
    """Greedy (adapter on the 16-bit base, merged model) texts for each conversation, thought and answer.

    The models are loaded one after the other, so that only one is in memory at a time.
    """
    tokenizer = load_tokenizer(recipe)
    adapted = greedy(load_with_adapter(recipe, adapter, four_bit=False), tokenizer, recipe, conversations)
    model = load_base(replace(recipe, base=str(merged), revision=None), four_bit=False)
    return list(zip(adapted, greedy(model.eval(), tokenizer, recipe, conversations), strict=True))
