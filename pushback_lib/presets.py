"""Prompts to choose from in a chat, by behaviour, and words that lead out of the small language; knows no widget and no model.

None of the prompts is in any training file.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from .eval_set import Prompt, bundled_prompts, load_prompts
from .recipe import Recipe
from .side_by_side import Preset
from .text_rules import words

PAIRS_EACH = 3  # so many friction prompts and as many twins for each behaviour
STRANGE = 0.2  # share of words: a prompt of the small language has one invented word at most, in five or more


def presets_for(recipe: Recipe) -> tuple[Preset, ...]:
    """Held-out prompts in the recipe's language: friction prompts and their innocent twins, not told apart."""
    return chosen(bundled_prompts(2 * PAIRS_EACH) if recipe.name == "tiny" else load_prompts())


def strange_words(text: str) -> tuple[str, ...]:
    """The words of a prompt that the small language has not, if they are more than an invented one that it is asked about."""
    said = tuple(dict.fromkeys(words(text)))
    strange = tuple(word for word in said if word not in _language())
    return strange if len(strange) > STRANGE * len(said) else ()


@cache
def _language() -> frozenset[str]:
    from .corpus import draw_requests
    from .world import KNOWN_WORDS

    requests = [request for held_out in (True, False) for request in draw_requests(60, 3, held_out)]
    return KNOWN_WORDS | {word for request in requests for word in words(request.user)}


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
