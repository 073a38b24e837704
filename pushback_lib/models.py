"""Loads base, tokenizer and adapter, quantised as the recipe says; knows nothing about data or generation."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .checks import check_adapter, check_base, check_memory
from .errors import PushbackError
from .recipe import Recipe

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

FRICTION = "friction"  # the adapter's name inside the model


def compute_dtype() -> torch.dtype:
    """bf16 on CUDA cards of capability 8.0 (Ampere) and later, fp16 on older ones, fp32 on a CPU."""
    import torch

    if torch.cuda.is_available():
        return torch.bfloat16 if torch.cuda.get_device_capability() >= (8, 0) else torch.float16
    return torch.float32


def quantisation() -> Any:
    """NF4 with double quantisation, as QLoRA trains on; None on macOS, where bitsandbytes does not run."""
    from transformers import BitsAndBytesConfig

    if sys.platform == "darwin":
        return None
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
                              bnb_4bit_compute_dtype=compute_dtype())  # fmt: skip


def load_tokenizer(recipe: Recipe) -> PreTrainedTokenizerFast:
    """The base's tokenizer, padding on the left for generation, with the family's published chat template."""
    from transformers import AutoTokenizer
    from trl.chat_template_utils import deepseek_r1_distill_chat_template

    tokenizer = AutoTokenizer.from_pretrained(recipe.base, padding_side="left", trust_remote_code=False)
    tokenizer.chat_template = deepseek_r1_distill_chat_template
    return tokenizer


def quiet() -> None:
    """Hides what only developers of the kit can act on: deprecations in transformers, a hint about optional kernels."""
    import logging
    import warnings

    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def load_base(recipe: Recipe, four_bit: bool = True) -> PreTrainedModel:
    """The base model: in NF4, or (`four_bit=False`) as it was published, for merging.

    Raises PushbackError before loading if a local folder is not whole, memory is short, or the Hub has or gives no such model.
    """
    quiet()
    import torch
    from transformers import AutoModelForCausalLM

    if recipe.is_local:
        check_base(recipe.base)
    check_memory(recipe)
    try:
        return AutoModelForCausalLM.from_pretrained(
            recipe.base,
            dtype=compute_dtype(),
            quantization_config=quantisation() if four_bit else None,
            device_map="auto" if torch.cuda.is_available() else None,
            use_safetensors=True,
            trust_remote_code=False,
        )
    except OSError as error:  # what transformers raises for no network, no such model, no access
        raise PushbackError(
            f"{recipe.base} could not be loaded: {str(error).splitlines()[0]} Check the connection (and that "
            "HF_HUB_OFFLINE is not set), or turn the dial to tiny, which comes with the kit."
        ) from error


def load_with_adapter(recipe: Recipe, adapter: str | Path, four_bit: bool = True) -> PeftModel:
    """The base with the friction adapter on top, under the name `friction`; raises PushbackError if they do not fit."""
    quiet()  # before the import, which is when bitsandbytes speaks
    from peft import PeftModel

    check_adapter(adapter, recipe)
    model = PeftModel.from_pretrained(load_base(recipe, four_bit), str(adapter), adapter_name=FRICTION)
    return model.eval()
