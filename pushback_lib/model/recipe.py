"""One dial: the size of the model sets every other number."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.common import DATA, PushbackError

if TYPE_CHECKING:
    from transformers import Qwen2Config


TINY_SYSTEM = "Think first, then answer."
SYSTEM = (
    "You are a thoughtful assistant. Think the request through from several sides before you answer. Help fully "
    "with whatever deserves it; ask, doubt, disagree or decline where that serves the person better."
)


@dataclass(frozen=True)
class Recipe:
    """Everything that training and generation need to know, derived from the model's size.

    Sources. `rank`, `alpha`, `epochs`, `learning_rate` and the effective batch of the distills: the talk this kit grew
    from (rank 32–64, 3–7 epochs, effective batch 8, 2e-4, cosine); of each range the cheaper end, since early stopping
    ends a run that has learned all it can. `patience`: the same talk, three looks at the validation split without gain.
    NF4 with double quantisation, LoRA on all linear layers, a paged 8-bit optimizer, gradient checkpointing: QLoRA
    (arXiv:2305.14314, sections 3 and 4). `warmup_share` 0.1: the talk. `max_length` 1024: the longest record of
    data/friction is shorter in the real vocabulary (tests/test_real_tokenizer.py). `parameters`: counted from the
    published configurations (shapes.py). `revision`: the newest commit of each repository on the Hub, as public code
    and caches pin it. Sampling: the model card of DeepSeek-R1 (temperature 0.6, top_p 0.95). The numbers of `tiny`
    were found by trying, on two CPU cores.
    """

    name: str
    base: str  # a folder, or a model id on the Hugging Face Hub
    parameters: int  # of the base, all of them; from the published weights
    system: str = SYSTEM
    rank: int = 32
    alpha: int = 64
    learning_rate: float = 2e-4
    epochs: int = 3
    batch: int = 2
    accumulation: int = 4  # batch x accumulation = effective batch
    max_length: int = 1024  # tokens
    max_new_tokens: int = 1024
    warmup_share: float = 0.1
    checkpointing: bool = True
    optimizer: str = "paged_adamw_8bit"
    examples: int | None = None  # how many to draw, for the bundled language; None: all of data/friction
    seed: int = 7
    revision: str | None = None  # commit of the base on the Hub; None: a folder, or the newest
    patience: int = 3  # looks at the validation split without gain before training ends; 0: no validation
    checkpoint_every: int = 50  # optimizer steps from one checkpoint, and look at the validation split, to the next

    @property
    def effective_batch(self) -> int:
        return self.batch * self.accumulation

    @property
    def is_local(self) -> bool:
        return Path(self.base).is_dir() or self.name == "tiny"

    @property
    def language(self) -> str:
        """What data and eval set the dial selects: `bundled`, the small language of `tiny`, or `english`."""
        return "bundled" if self.examples else "english"

    @property
    def shipped_adapter(self) -> Path:
        """Where the adapter that comes with the kit lies; only `tiny` has one."""
        return DATA / Path(self.name).name / "adapter"


_HUB = "deepseek-ai/DeepSeek-R1-Distill-Qwen-"
RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe("tiny", str(DATA / "tiny" / "base"), 4_101_376, system=TINY_SYSTEM, learning_rate=1e-3, epochs=1, batch=16,
               accumulation=1, max_length=512, max_new_tokens=220, warmup_share=0.05, checkpointing=False,
               optimizer="adamw_torch", examples=3600, patience=0),
        Recipe("1.5b", _HUB + "1.5B", 1_777_088_000, revision="ad9f0ae0864d7fbcd1cd905e3c6c5b069cc8b562"),
        Recipe("7b", _HUB + "7B", 7_615_616_512, revision="916b56a44061fd5cd7d6a8fb632557ed4f724f60"),
        Recipe("14b", _HUB + "14B", 14_770_033_664, batch=1, accumulation=8,
               revision="1df8507178afcc1bef68cd8c393f61a886323761"),
        Recipe("32b", _HUB + "32B", 32_763_876_352, batch=1, accumulation=8,
               revision="711ad2ea6aa40cfca18895e8aca02ab92df1a746"),
    )
}  # fmt: skip


def recipe_for(name: str) -> Recipe:
    """The recipe of a size on the dial, or of any Qwen2 model: a Hub id (`owner/name`, `owner/name@revision`) or a folder.

    Raises PushbackError for any other name, and for a model that this kit cannot train.
    """
    if name.lower() in RECIPES:
        return RECIPES[name.lower()]
    if "/" not in name and not Path(name).is_dir():
        raise PushbackError(
            f"No model called {name!r}. Choose one of: {', '.join(RECIPES)}; or give a Hub id (owner/name) or a local folder."
        )

    return own_recipe(name)


def chosen_size() -> str:
    """What the environment variable PUSHBACK_MODEL, the one dial of notebooks and commands, names; `tiny` if it is not set."""
    return os.environ.get("PUSHBACK_MODEL", "tiny")


def chosen_recipe() -> Recipe:
    """The recipe of `chosen_size()`."""
    return recipe_for(chosen_size())


def own_recipe(name: str) -> Recipe:
    """The recipe for `./folder`, `owner/name` or `owner/name@revision`; only config.json is read.

    Raises PushbackError if there is no such model, or it is not of the Qwen2 architecture.
    """

    values, base, revision = _config(name)
    count = parameters(as_config(values, name))
    longest = int(values.get("max_position_embeddings", 1024))
    like = _like(count)
    return dataclasses.replace(
        like, name=name, base=base, parameters=count, revision=revision, max_length=min(like.max_length, longest)
    )


def _config(name: str) -> tuple[dict[str, Any], str, str | None]:
    from .checks import check_base, hub_config

    if Path(name).is_dir():
        return check_base(name), name, None
    if name.startswith((".", "/", "~")):
        raise PushbackError(f"No folder {name}. Check the path, or give a Hub id (owner/name).")
    base, _, revision = name.partition("@")
    return hub_config(base, revision or None), base, revision or None


def _like(count: int) -> Recipe:
    sizes = sorted((recipe for recipe in RECIPES.values() if recipe.name != "tiny"), key=lambda recipe: recipe.parameters)
    return next((recipe for recipe in sizes if recipe.parameters >= count), sizes[-1])


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
