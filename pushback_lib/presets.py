"""Prompts to choose from in a chat, by behaviour; knows no widget and no model. None of them is in any training file."""

from __future__ import annotations

from collections.abc import Iterable

from .eval_set import Prompt, bundled_prompts, load_prompts
from .recipe import Recipe
from .side_by_side import Preset

PAIRS_EACH = 3  # so many friction prompts and as many twins for each behaviour


def presets_for(recipe: Recipe) -> tuple[Preset, ...]:
    """Held-out prompts in the recipe's language: friction prompts and their innocent twins, not told apart."""
    return chosen(bundled_prompts(2 * PAIRS_EACH) if recipe.name == "tiny" else load_prompts())


def chosen(prompts: Iterable[Prompt], pairs_each: int = PAIRS_EACH) -> tuple[Preset, ...]:
    """The first pairs of each behaviour, halves side by side; prompts that need earlier turns are left out."""
    found: dict[str, dict[str, list[str]]] = {}
    for prompt in prompts:
        if not prompt.history:
            found.setdefault(prompt.behaviour, {}).setdefault(prompt.pair or prompt.id, []).append(prompt.user_input)
    return tuple(
        Preset(behaviour, text)
        for behaviour, pairs in found.items()
        for texts in sorted(pairs.values(), key=len, reverse=True)[:pairs_each]
        for text in texts
    )
