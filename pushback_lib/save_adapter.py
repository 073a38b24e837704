"""Writes a trained adapter to disk, whole or not at all; knows nothing about how it was trained."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from .checks import ADAPTER_CARD, fingerprint
from .recipe import Recipe


def trained_weights(model: Any) -> dict[str, Any]:
    """The adapter's parameters by name, whether or not they are being trained now."""
    return {name: parameter for name, parameter in model.named_parameters() if "lora_" in name}


def save_adapter(model: Any, recipe: Recipe, out: Path, state: dict[str, Any] | None = None) -> None:
    """Writes the adapter beside `out`, then puts it in place; the trainable weights become bf16.

    `state` is the whole model's state where the model itself holds only a part of it (FSDP).
    """
    import torch

    if state is None:
        for parameter in trained_weights(model).values():
            parameter.data = parameter.data.to(torch.bfloat16)
    else:
        state = {name: tensor.to(torch.bfloat16) for name, tensor in state.items() if "lora_" in name}
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    model.peft_config["default"].base_model_name_or_path = Path(recipe.base).name if recipe.is_local else recipe.base
    model.peft_config["default"].revision = recipe.revision
    try:
        model.save_pretrained(part, state_dict=state, save_embedding_layers=False)
        (part / "README.md").unlink(missing_ok=True)  # PEFT's empty card template
        (part / ADAPTER_CARD).write_text(json.dumps(_card(recipe), indent=2) + "\n", encoding="utf-8")
        if out.exists():
            shutil.rmtree(out)
        part.replace(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _card(recipe: Recipe) -> dict[str, Any]:
    return {"base": fingerprint(recipe), "model": recipe.name, "rank": recipe.rank, "alpha": recipe.alpha,
            "learning_rate": recipe.learning_rate, "epochs": recipe.epochs, "effective_batch": recipe.effective_batch,
            "system": recipe.system, "seed": recipe.seed}  # fmt: skip
