"""Looks at a model on the Hub before anything large is fetched: its config.json alone; knows nothing about weights."""

from __future__ import annotations

import difflib
import json
from typing import Any

from .errors import PushbackError
from .recipe import RECIPES, Recipe

PATIENCE = 10  # seconds for the Hub to answer
_BUNDLED = "or turn the dial to tiny, which comes with the kit."


def hub_config(model: str, revision: str | None = None) -> dict[str, Any]:
    """The config.json of a model on the Hub, from the cache where it lies there, else fetched (a few kilobytes).

    Raises PushbackError for a misspelt, private or gated id, a revision that does not exist, no connection, a repository
    that holds no model, and a model of another architecture.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        path = try_to_load_from_cache(model, "config.json", revision=revision)
        if not isinstance(path, str):
            get_hf_file_metadata(hf_hub_url(model, "config.json", revision=revision), timeout=PATIENCE)  # fails at once
            path = hf_hub_download(model, "config.json", revision=revision)
    except HFValidationError as error:
        raise PushbackError(f"{model!r} is not a Hub id (owner/name): {str(error).split('.')[0]}. Check --model.") from error
    except HfHubHTTPError as error:
        raise PushbackError(_refused(model, revision, error)) from error
    except (OSError, _http_error()) as error:
        raise PushbackError(_unreachable(model, revision)) from error
    with open(path, encoding="utf-8") as file:
        return checked_config(json.load(file), model)


def _http_error() -> type[Exception]:
    """What the HTTP library under huggingface_hub raises where there is no connection; which library depends on its version."""
    from huggingface_hub.errors import HfHubHTTPError

    return next(kind for kind in HfHubHTTPError.__mro__ if kind.__name__ == "HTTPError")


def checked_config(config: dict[str, Any], where: str) -> dict[str, Any]:
    """The configuration, if it is a Qwen2 causal language model. Raises PushbackError otherwise."""
    if config.get("model_type") != "qwen2":
        raise PushbackError(
            f"{where} is of architecture {config.get('model_type')!r}; this kit needs 'qwen2'. Choose a "
            f"DeepSeek-R1-Distill-Qwen model, {_BUNDLED}"
        )
    return config


def _unreachable(model: str, revision: str | None) -> str:
    what = f"revision {revision}" if revision else "the model"
    return (
        f"{model} could not be loaded: the Hub does not answer, and {what} is not in this machine's cache. "
        f"Check the connection (and that HF_HUB_OFFLINE is not set), {_BUNDLED}"
    )


def _refused(model: str, revision: str | None, error: Exception) -> str:
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    if isinstance(error, GatedRepoError):  # before RepositoryNotFoundError, of which it is a kind
        return (
            f"{model} is gated: its owner wants you to accept terms first. Do so on its page on the Hub, log in with "
            f"`hf auth login`, and run again; or choose an ungated model: {', '.join(RECIPES)}."
        )
    if isinstance(error, RevisionNotFoundError):
        return (
            f"{model} has no revision {revision!r}. Look it up under Files, History on the model's page, or leave it out "
            "to take the newest."
        )
    if isinstance(error, RepositoryNotFoundError):
        near = difflib.get_close_matches(model, [recipe.base for recipe in RECIPES.values() if recipe.name != "tiny"], 1, 0.8)
        hint = f" Did you mean {near[0]}?" if near else ""
        return f"The Hub has no model {model!r}, or it is private.{hint} Check the spelling, or log in with `hf auth login`."
    if isinstance(error, EntryNotFoundError):
        return f"{model} holds no config.json, so it is no transformers model. Check the id: a GGUF repository has none."
    return f"{model} could not be loaded: {str(error).splitlines()[0]} Try again later, {_BUNDLED}"


def check_source(recipe: Recipe) -> None:
    """Raises PushbackError if the Hub does not give the recipe's base, before any weights are fetched."""
    if not recipe.is_local:
        hub_config(recipe.base, recipe.revision)
