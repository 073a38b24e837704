"""The published configurations of DeepSeek-R1-Distill-Qwen, and how many parameters a configuration has.

Knows nothing about memory, time or weights: `planner.py` reckons with what stands here.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import PushbackError
from .recipe import Recipe

if TYPE_CHECKING:
    from transformers import Qwen2Config

ARCHITECTURE = "qwen2"
SOURCE = "https://huggingface.co/deepseek-ai/DeepSeek-R1-Distill-Qwen-{size}/blob/main/config.json"

# What the four models' config.json have in common. Read again in public files that quote them: ollama/ollama#9245 (14B),
# likelovewant/ollama-for-amd#54 (7B), both the header that llama.cpp writes from config.json.
_COMMON = {
    "model_type": ARCHITECTURE, "hidden_act": "silu", "attention_dropout": 0.0, "initializer_range": 0.02,
    "bos_token_id": 151643, "eos_token_id": 151643, "max_position_embeddings": 131072, "sliding_window": None,
    "use_sliding_window": False, "tie_word_embeddings": False, "use_cache": True,
}  # fmt: skip

# hidden size, intermediate size, layers, heads, heads for keys and values, vocabulary, RMS epsilon, RoPE theta
_SIZES: dict[str, tuple[int, int, int, int, int, int, float, float]] = {
    "1.5b": (1536, 8960, 28, 12, 2, 151936, 1e-6, 1e4),
    "7b": (3584, 18944, 28, 28, 4, 152064, 1e-6, 1e4),
    "14b": (5120, 13824, 48, 40, 8, 152064, 1e-5, 1e6),
    "32b": (5120, 27648, 64, 40, 8, 152064, 1e-5, 1e6),
}
_FIELDS = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
           "vocab_size", "rms_norm_eps", "rope_theta")  # fmt: skip

PUBLISHED_PARAMETERS = {"1.5b": 1_777_088_000, "7b": 7_615_616_512, "14b": 14_770_033_664, "32b": 32_763_876_352}


def published_config(name: str) -> Qwen2Config:
    """The configuration of a published size, `1.5b`, `7b`, `14b` or `32b`. Raises PushbackError for any other name."""
    if name not in _SIZES:
        raise PushbackError(f"No published configuration called {name!r}. Choose one of: {', '.join(_SIZES)}.")
    return as_config({**_COMMON, **dict(zip(_FIELDS, _SIZES[name], strict=True))}, SOURCE.format(size=name.upper()))


def as_config(values: dict[str, Any], source: str) -> Qwen2Config:
    """A configuration from the values of a config.json. Raises PushbackError if it is of another architecture, or not whole."""
    if values.get("model_type") != ARCHITECTURE:
        raise PushbackError(
            f"{source} is of architecture {values.get('model_type')!r}; this kit needs {ARCHITECTURE!r}. "
            "Choose a DeepSeek-R1-Distill-Qwen model."
        )
    missing = [field for field in _FIELDS[:6] if not isinstance(values.get(field), int) or values[field] < 1]
    if missing:
        raise PushbackError(f"{source} does not say {', '.join(missing)}. Get the model's own config.json again.")
    from transformers import Qwen2Config

    return Qwen2Config.from_dict({"tie_word_embeddings": False, **values})


def config_for(recipe: Recipe) -> Qwen2Config:
    """The configuration of a recipe's base: published, from its folder, or from the Hub (config.json alone).

    Raises PushbackError if it is of another architecture, damaged, or cannot be had.
    """
    if recipe.name in _SIZES and not Path(recipe.base).is_dir():
        return published_config(recipe.name)
    folder = Path(recipe.base)
    if not folder.is_dir():
        return as_config(_from_hub(recipe), recipe.base)
    path = folder / "config.json"
    try:
        return as_config(json.loads(path.read_text(encoding="utf-8")), str(path))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise PushbackError(f"{path} cannot be read ({error}). Get the model's folder again.") from error


def _from_hub(recipe: Recipe) -> dict[str, Any]:
    from transformers import PreTrainedConfig

    try:
        return PreTrainedConfig.get_config_dict(recipe.base, revision=getattr(recipe, "revision", None))[0]
    except OSError as error:  # what transformers raises for no network, no such model, no access
        raise PushbackError(
            f"{recipe.base} could not be reached: {str(error).splitlines()[0]} Check the name and the connection, or plan "
            f"with a size that comes with the kit: {', '.join(_SIZES)}."
        ) from error


def parameters(config: Qwen2Config) -> int:
    """How many parameters the model has, counted on the meta device; tied embeddings count once."""
    return _counted(config.to_json_string(use_diff=False))


@lru_cache(maxsize=32)
def _counted(text: str) -> int:
    import torch
    from transformers import AutoModelForCausalLM, Qwen2Config

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(Qwen2Config.from_dict(json.loads(text)))
    return sum(parameter.numel() for parameter in model.parameters())
