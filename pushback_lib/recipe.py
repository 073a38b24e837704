"""The one dial: the model's size, and every number that follows from it; knows nothing about how training runs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from .errors import PushbackError

DATA = Path(__file__).resolve().parent.parent / "data"

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
    from .own_model import own_recipe

    return own_recipe(name)


def chosen_size() -> str:
    """What the environment variable PUSHBACK_MODEL, the one dial of notebooks and commands, names; `tiny` if it is not set."""
    return os.environ.get("PUSHBACK_MODEL", "tiny")


def chosen_recipe() -> Recipe:
    """The recipe of `chosen_size()`."""
    return recipe_for(chosen_size())
