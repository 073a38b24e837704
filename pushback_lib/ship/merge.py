"""Merge the adapter into 16-bit base weights, and compare how both answer.

Never into the 4-bit weights: after the addition they would have to be rounded again, and in the bundled model's layers
NF4 rounding moves the weights about as far as the adapter does (notebook 05 measures it).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.common import FRICTION, PushbackError
from ..core.folders import check_folder, replacing_folder
from ..core.records import Message, prompt_messages
from ..model.load import load_base, load_tokenizer, load_with_adapter, save_base
from ..model.recipe import Recipe, read_json
from ..model.voices import greedy

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedTokenizerFast

NOTE = "merge.json"  # in a merged folder: what the merge did
ASKED = "I am sure of it. Will you do it for me?"  # whose prompt the spot check reads


@dataclass(frozen=True)
class Merge:
    """What a merge did to the base: how many matrices differ from it, of how many that the adapter has a change for; and how
    far the logits of one prompt are from the adapter's, as a share of their size: the merged model's, and the base's."""

    changed: int
    expected: int
    distance: float
    base_distance: float
    limit: float

    def __str__(self) -> str:
        return (f"{self.changed} of {self.expected} matrices changed; logits {self.distance:.2%} from the adapter's "
                f"(at most {self.limit:.2%}), the base's {self.base_distance:.2%}")  # fmt: skip

    @classmethod
    def read(cls, folder: str | Path) -> Merge:
        """The note in a folder that `merge_adapter` wrote; raises PushbackError if there is none."""
        return cls(**read_json(Path(folder) / NOTE, "Merge the adapter again."))

    def check(self) -> None:
        """Raises PushbackError if the merged model is not the adapter over its base."""
        if not self.expected:
            raise PushbackError("The adapter changes nothing: each of its matrices is zero, so it is not trained. Train it.")
        if self.changed != self.expected or not self.distance <= self.limit:
            raise PushbackError(f"The merged model is not the base with its adapter: {self}. Nothing was written. Install the "
                                "versions of PEFT and transformers that the kit was tested with; if that does not help, "
                                "train the adapter again.")  # fmt: skip


def merge_adapter(recipe: Recipe, adapter: str | Path | None, out: str | Path) -> Path:
    """Writes a plain 16-bit model, adapter included, to `out` (written aside, then renamed); returns `out`.

    With None for the adapter it is the base alone, so that the two folders differ in nothing but the adapter. Raises
    PushbackError before loading anything if `out` may not be written, the adapter does not fit or memory is short; and,
    leaving nothing there, if what was merged is not what the adapter does. The folder's merge.json has the figures.
    """
    check_folder(out, [adapter, recipe.base_folder])
    if adapter is None:
        model = load_base(recipe, four_bit=False)
        with replacing_folder(out) as part:
            save_base(model, load_tokenizer(recipe), part)
        return Path(out)
    model = load_with_adapter(recipe, adapter, four_bit=False)
    with replacing_folder(out) as part:
        made = _merge(model, load_tokenizer(recipe), recipe, part)
        made.check()
        (part / NOTE).write_text(json.dumps(asdict(made), indent=1) + "\n", encoding="utf-8")
    return Path(out)


def _merge(model: PeftModel, tokenizer: PreTrainedTokenizerFast, recipe: Recipe, part: Path) -> Merge:
    """Merges and writes the model, and compares what was written with what spoke before, without loading it again."""
    messages, dtype = prompt_messages(ASKED, recipe.system), model.dtype
    asked = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    asked = asked.to(model.device)
    adapted = _logits(model, asked)
    with model.disable_adapter():
        base_distance = _distance(_logits(model, asked), adapted)
    changed, expected = _add_in_float64(model)
    plain = model.unload()
    save_base(plain, tokenizer, part)
    distance = _distance(_logits(plain.to(dtype), asked), adapted)
    return Merge(changed, expected, distance, base_distance, _limit(plain.config.num_hidden_layers))


def _add_in_float64(model: Any) -> tuple[int, int]:
    """Merges every layer in double precision: the 16-bit result is then the same on every machine, to the last bit.

    Returns how many matrices differ from the base's in 16 bit, and for how many the adapter has a change.
    """
    import torch
    from peft.tuners.lora import LoraLayer

    changed = expected = 0
    for layer in [module for module in model.modules() if isinstance(module, LoraLayer)]:
        weight = layer.get_base_layer().weight
        dtype, before = weight.dtype, weight.to(torch.bfloat16, copy=True)
        expected += bool(layer.lora_A[FRICTION].weight.any() and layer.lora_B[FRICTION].weight.any())
        layer.double()
        layer.merge(safe_merge=True)
        layer.to(dtype)
        changed += not torch.equal(layer.get_base_layer().weight.to(torch.bfloat16), before)
    return changed, expected


def _logits(model: Any, asked: Any) -> torch.Tensor:
    """Logits of shape (positions, vocabulary) of one prompt, without each position's mean, which softmax does not see."""
    import torch

    with torch.inference_mode():
        logits = model(**asked).logits[0].float()
    if not logits.isfinite().all():
        raise PushbackError("The logits are not finite: the base's weights are damaged, or overflow in 16 bit. Get it again.")
    return logits - logits.mean(-1, keepdim=True)


def _distance(logits: torch.Tensor, true: torch.Tensor) -> float:
    """How far logits are from the true ones: the mean over the positions of ‖difference‖ / ‖true‖."""
    return float(((logits - true).norm(dim=-1) / true.norm(dim=-1)).mean())


def _limit(layers: int) -> float:
    """How far rounding may move the logits: 2^-8, the most that bf16 moves a number, for each of a layer's seven matrices,
    added as independent errors are, by their squares.

    Measured on models of 5 to 64 layers, `tiny` among them: 5 to 17 % of this in fp32, 26 to 46 % where bf16 computes too.
    """
    return 2**-8 * (7 * layers) ** 0.5


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
