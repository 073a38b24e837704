"""A recipe for a model that is not on the dial: a Hub id or a folder; knows nothing about how training runs.

Every number is that of the smallest size on the dial that has at least as many parameters.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from .errors import PushbackError
from .recipe import RECIPES, Recipe


def own_recipe(name: str) -> Recipe:
    """The recipe for `./folder`, `owner/name` or `owner/name@revision`; only config.json is read.

    Raises PushbackError if there is no such model, or it is not of the Qwen2 architecture.
    """
    from .shapes import as_config, parameters

    values, base, revision = _config(name)
    count = parameters(as_config(values, name))
    longest = int(values.get("max_position_embeddings", 1024))
    like = _like(count)
    return dataclasses.replace(
        like, name=name, base=base, parameters=count, revision=revision, max_length=min(like.max_length, longest)
    )


def _config(name: str) -> tuple[dict[str, Any], str, str | None]:
    from .checks import check_base
    from .hub_checks import hub_config

    if Path(name).is_dir():
        return check_base(name), name, None
    if name.startswith((".", "/", "~")):
        raise PushbackError(f"No folder {name}. Check the path, or give a Hub id (owner/name).")
    base, _, revision = name.partition("@")
    return hub_config(base, revision or None), base, revision or None


def _like(count: int) -> Recipe:
    sizes = sorted((recipe for recipe in RECIPES.values() if recipe.name != "tiny"), key=lambda recipe: recipe.parameters)
    return next((recipe for recipe in sizes if recipe.parameters >= count), sizes[-1])
