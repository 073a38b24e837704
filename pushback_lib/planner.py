"""What fits on a card before anything is loaded: memory by part, the longest sequence, the largest batch, time, rough cost.

Knows nothing about how training runs; the bytes come from `planner_memory.py`, cards and times from `planner_time.py`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import planner_memory as memory
from .errors import PushbackError
from .models import bitsandbytes_runs, compute_dtype
from .planner_memory import Setting
from .planner_time import Card, card_for, dollars, hours
from .recipe import RECIPES, Recipe, recipe_for
from .shapes import config_for, parameters

if TYPE_CHECKING:
    from transformers import Qwen2Config

GIB = 2**30
STEP = 128  # sequences are tried in steps of so many tokens
LARGEST_BATCH = 256
LIBRARIES = 0.7 * GIB  # what Python, torch and transformers take of a machine's memory; an estimate
EXAMPLES, MEAN_TOKENS = (
    {"english": 1887, "bundled": 3600},
    {"english": 320, "bundled": 130},
)  # tokens: the card of data/friction, with the system prompt


@dataclass(frozen=True)
class Part:
    """One part of the memory: its name, and bytes."""

    name: str
    bytes: int

    @property
    def gib(self) -> float:
        return self.bytes / GIB


@dataclass(frozen=True)
class Plan:
    """What training a recipe takes on a card. `longest` and `largest` are 0 where nothing fits; time and cost are ranges."""

    recipe: Recipe
    card: Card
    setting: Setting
    parameters: int
    trained: int
    parts: tuple[Part, ...]
    longest: int
    largest: int
    hours: tuple[float, float] | None
    dollars: tuple[float, float] | None

    @property
    def tensor_bytes(self) -> int:
        """The peak that an allocator measures: all parts but the overhead of driver, libraries and allocator."""
        return sum(part.bytes for part in self.parts[:-1])

    @property
    def gib(self) -> float:
        return sum(part.gib for part in self.parts)

    @property
    def fits(self) -> bool:
        return self.gib <= self.card.gib

    def _repr_markdown_(self) -> str:
        from .planner_text import markdown

        return markdown(self)

    def _repr_html_(self) -> str:
        from .planner_text import html

        return html(self)

    def __str__(self) -> str:
        from .planner_text import text

        return text(self)


def setting_for(recipe: Recipe, card: Card, length: int | None = None, batch: int | None = None) -> Setting:
    """How the kit would train this recipe on that card: see `models.compute_dtype`, `models.trainable_dtype`."""
    length, batch = length or recipe.max_length, batch or recipe.batch
    four_bit = card.cuda or bitsandbytes_runs()
    compute, adapter = (2, 2 if card.bf16 else 4) if card.cuda else (4, 2) if four_bit else (2, 4)
    optimizer = recipe.optimizer if card.cuda else "adamw_torch"
    return Setting(batch, length, recipe.rank, recipe.checkpointing, compute, adapter, optimizer, card.cuda,
                   padded=batch > 1, four_bit=four_bit)  # fmt: skip


def plan(
    recipe: Recipe | str, gpu: Card | str | float, length: int | None = None, batch: int | None = None,
    examples: int | None = None,
) -> Plan:  # fmt: skip
    """The plan for a recipe, or a size on the dial, on a card (`t4`, `4090`, …) or on so many GiB.

    `examples`: of the data set; by default what the recipe trains on. Raises PushbackError for unknown names and for lengths or
    batches that no model takes.
    """
    recipe = recipe_for(recipe) if isinstance(recipe, str) else recipe
    card = gpu if isinstance(gpu, Card) else card_for(gpu)
    config = config_for(recipe)
    _check(config, length, batch)
    setting = setting_for(recipe, card, length, batch)
    tokens = recipe.epochs * (examples or recipe.examples or EXAMPLES[recipe.language]) * MEAN_TOKENS[recipe.language]
    took = hours(config, setting, card, tokens)
    return Plan(
        recipe, card, setting, parameters(config), memory.adapter_parameters(config, recipe.rank),
        parts(config, setting), longest(config, setting, card), largest(config, setting, card), took, dollars(card, took),
    )  # fmt: skip


def _check(config: Qwen2Config, length: int | None, batch: int | None) -> None:
    if length is not None and not 2 <= length <= config.max_position_embeddings:
        raise PushbackError(
            f"A sequence of {length} tokens? This model takes 2 to {config.max_position_embeddings:,}. Choose one in between."
        )
    if batch is not None and not 1 <= batch <= 4096:
        raise PushbackError(f"A batch of {batch} examples? Choose 1 to 4096.")


def parts(config: Qwen2Config, setting: Setting) -> tuple[Part, ...]:
    """The memory of a training step by part, at its highest; the last part is overhead and only estimated."""
    activations, logits, gradients = memory.activation_bytes(config, setting)
    tensors = (
        *weights(config, setting),
        Part("adapter", setting.adapter * memory.adapter_parameters(config, setting.rank)),
        Part("gradients", gradients),
        Part("optimizer", memory.optimizer_bytes(config, setting)),
        Part("activations", activations),
        Part("logits", logits),
    )
    total = sum(part.bytes for part in tensors)
    overhead = memory.CUDA_CONTEXT + memory.FRAGMENTS * total if setting.cuda else LIBRARIES
    return (*tensors, Part("driver and allocator" if setting.cuda else "libraries", int(overhead)))


def weights(config: Qwen2Config, setting: Setting) -> tuple[Part, ...]:
    """The memory of the frozen base by part."""
    linear = (
        (Part("NF4 weights", memory.nf4_bytes(config)), Part("quantisation state", memory.state_bytes(config)))
        if setting.four_bit
        else (Part("weights in 16 bit", memory.linear_bytes(config, setting.compute)),)
    )
    return (*linear, Part("embeddings, head, norms", memory.unquantised_bytes(config, setting.compute)))


def loading_gib(recipe: Recipe) -> float:
    """What the base alone takes on this machine, libraries or driver included."""
    import torch

    cuda = torch.cuda.is_available()
    card = dataclasses.replace(card_for(1.0), cuda=cuda, bf16=compute_dtype() is torch.bfloat16)
    total = sum(part.bytes for part in weights(config_for(recipe), setting_for(recipe, card)))
    return (total + (memory.CUDA_CONTEXT if cuda else LIBRARIES)) / GIB


def needed_gib(config: Qwen2Config, setting: Setting) -> float:
    """All parts together."""
    return sum(part.gib for part in parts(config, setting))


def _most(fits: list[Setting], config: Qwen2Config, gib: float) -> Setting | None:
    """The last of ever larger settings that fits."""
    low, high = 0, len(fits)
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if needed_gib(config, fits[middle]) <= gib else (low, middle)
    return fits[low - 1] if low else None


def longest(config: Qwen2Config, setting: Setting, card: Card) -> int:
    """The longest sequence that fits at this batch, in steps of 128 up to what the model takes; 0 where none does."""
    tried = [dataclasses.replace(setting, length=n) for n in range(STEP, config.max_position_embeddings + 1, STEP)]
    found = _most(tried, config, card.gib)
    return found.length if found else 0


def largest(config: Qwen2Config, setting: Setting, card: Card) -> int:
    """The largest batch that fits at this length, up to 256; 0 where not even one example does."""
    tried = [dataclasses.replace(setting, batch=n, padded=n > 1) for n in range(1, LARGEST_BATCH + 1)]
    found = _most(tried, config, card.gib)
    return found.batch if found else 0


def advice(recipe: Recipe, gpu_gib: float, cuda: bool = True) -> str:
    """What would fit on so many GiB, in words, for someone whose memory ran out; never what they have just tried."""
    card = dataclasses.replace(card_for(gpu_gib), cuda=cuda)
    config, now = config_for(recipe), setting_for(recipe, card)
    if now.batch > 1 and needed_gib(config, single := dataclasses.replace(now, batch=1, padded=False)) <= gpu_gib:
        effective = recipe.effective_batch
        return (f"Batch 1 with accumulation {effective} would fit at sequence {now.length} (about "
                f"{needed_gib(config, single):.1f} GiB) and learns the same.")  # fmt: skip
    shorter = dataclasses.replace(now, batch=1, padded=False)
    length = min(longest(config, shorter, card), (now.length - 1) // STEP * STEP)
    if length:
        need = needed_gib(config, dataclasses.replace(shorter, length=length))
        return f"Sequence {length} would fit, at batch 1 (about {need:.1f} GiB); longer examples are cut off there."
    return too_small(recipe, gpu_gib, cuda)


def too_small(recipe: Recipe, gpu_gib: float, cuda: bool = True) -> str:
    """That not even the shortest sequence fits, what it would take, and which model on the dial would fit."""
    card = dataclasses.replace(card_for(gpu_gib), cuda=cuda)
    need = _smallest(recipe, card)
    smaller = [
        name for name, other in RECIPES.items() if other.parameters < recipe.parameters and _smallest(other, card) <= gpu_gib
    ]
    instead = f"choose --model {smaller[-1]}, which fits" if smaller else "train on a hosted notebook"
    return (f"{recipe.name} needs at least {need:.1f} GiB even at sequence {STEP} and batch 1, and there are {gpu_gib:.1f}. "
            f"Take a card with more memory, or {instead}.")  # fmt: skip


def _smallest(recipe: Recipe, card: Card) -> float:
    return needed_gib(config_for(recipe), dataclasses.replace(setting_for(recipe, card, STEP, 1), checkpointing=True))
