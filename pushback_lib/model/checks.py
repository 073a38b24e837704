"""Check model folders, adapters and Hub names before anything slow starts."""

from __future__ import annotations

import difflib
import hashlib
import json
from pathlib import Path
from typing import Any

from ..core.common import DATA, PushbackError
from .recipe import RECIPES, Recipe

ADAPTER_CARD = "pushback.json"  # beside the adapter: which base it was made for, and by which recipe


def _json(path: Path, cure: str) -> dict[str, Any]:
    if not path.is_file():
        raise PushbackError(f"No {path.name} in {path.parent}. {cure}")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise PushbackError(f"{path} is damaged ({error}). {cure}") from error


def _shapes(path: Path, cure: str) -> dict[str, tuple[int, ...]]:
    """Tensor names and shapes from the header of a safetensors file, which is checked for its full length."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise PushbackError(f"No weights at {path}. {cure}")
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise PushbackError(f"The weights at {path} are damaged ({error}). {cure}") from error


def check_base(folder: str | Path) -> dict[str, Any]:
    """Config of a local base model folder whose files are whole. Raises PushbackError naming the cure otherwise."""
    folder = Path(folder)
    own = folder.resolve() != (DATA / "tiny" / "base").resolve()
    cure = ("Give a folder with a whole model: config.json, tokenizer.json, *.safetensors." if own
            else "Get it back with `git checkout data/tiny/base`, or train it anew with `pushback base`.")  # fmt: skip
    config = _json(folder / "config.json", cure)
    if config.get("model_type") != "qwen2":
        raise PushbackError(
            f"The model in {folder} is of architecture {config.get('model_type')!r}; this kit needs 'qwen2'. "
            "Choose a DeepSeek-R1-Distill-Qwen model."
        )
    _json(folder / "tokenizer.json", cure)
    weights = sorted(folder.glob("*.safetensors"))
    for path in weights or [folder / "model.safetensors"]:
        _shapes(path, cure)
    return config


def fingerprint(recipe: Recipe) -> str:
    """What an adapter remembers its base by: the SHA-256 of local weights, or the hub id and its revision."""
    if not recipe.is_local:
        return f"{recipe.base}@{recipe.revision}" if recipe.revision else recipe.base
    digest = hashlib.sha256()
    for path in sorted(Path(recipe.base).glob("*.safetensors")):
        digest.update(path.read_bytes())
    return f"sha256:{digest.hexdigest()}"


def adapter_fingerprint(folder: str | Path) -> str:
    """The SHA-256 of an adapter's weights, by which results say what they were measured on."""
    return f"sha256:{hashlib.sha256((Path(folder) / 'adapter_model.safetensors').read_bytes()).hexdigest()}"


def check_adapter(folder: str | Path, recipe: Recipe) -> None:
    """Raises PushbackError if base or adapter are missing or damaged, or the adapter was made for another base."""
    if recipe.is_local:
        check_base(recipe.base)
    folder = Path(folder)
    out = Path("runs") / Path(recipe.name).name if folder == recipe.shipped_adapter else folder
    cure = f"Train one with `pushback train --model {recipe.name} --out {out}` (notebook 03), and give that folder."
    if not folder.is_dir():
        raise PushbackError(f"No adapter in {folder}. {cure}")
    _json(folder / "adapter_config.json", cure)
    shapes = _shapes(folder / "adapter_model.safetensors", cure)
    card = folder / ADAPTER_CARD
    made_for = _json(card, cure).get("base") if card.is_file() else None
    if made_for is not None and made_for != fingerprint(recipe):
        raise PushbackError(
            f"The adapter in {folder} was made for another base ({made_for[:23]}…) than {recipe.name!r} "
            f"({fingerprint(recipe)[:23]}…). {cure}"
        )
    _check_widths(folder, shapes, recipe, cure)


def _check_widths(folder: Path, shapes: dict[str, tuple[int, ...]], recipe: Recipe, cure: str) -> None:
    config = Path(recipe.base) / "config.json"
    if not config.is_file():
        return
    width = _json(config, cure)["hidden_size"]
    found = {shape[1] for name, shape in shapes.items() if "q_proj.lora_A" in name}
    if found - {width}:
        raise PushbackError(
            f"The adapter in {folder} fits a base of width {sorted(found)[0]}, but {recipe.name!r} has {width}. {cure}"
        )


def free_memory_gib() -> float:
    """Free memory in GiB: of the CUDA card if there is one, else of the machine."""
    import psutil
    import torch

    if torch.cuda.is_available():
        return torch.cuda.mem_get_info()[0] / 2**30
    return psutil.virtual_memory().available / 2**30


def check_memory(recipe: Recipe, free_gib: float | None = None) -> None:
    """Raises PushbackError if the planner says that the base alone does not fit into free memory."""
    from ..train.plan import loading_gib

    free, need = free_memory_gib() if free_gib is None else free_gib, loading_gib(recipe)
    if free < need:
        raise PushbackError(
            f"{recipe.name!r} needs about {need:.1f} GiB to load, and {free:.1f} GiB are free. "
            "Close other programs and notebooks, or choose a smaller model on the dial."
        )


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
