"""Check a model's folder and an adapter, and say which base an adapter was made for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..core.common import DATA, PushbackError
from ..core.files import sha256_of
from ..core.folders import TRAINING_FILE
from .recipe import Recipe, check_architecture, read_json


def _shapes(path: Path, fix: str) -> dict[str, tuple[int, ...]]:
    """Tensor names and shapes from the header of a safetensors file, which is checked for its full length."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise PushbackError(f"No weights at {path}. {fix}")
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise PushbackError(f"The weights at {path} are damaged ({error}). {fix}") from error


def check_base(folder: str | Path) -> dict[str, Any]:
    """Config of a local base model whose files are complete. Raises PushbackError saying how to fix it otherwise."""
    folder = Path(folder)
    own = folder.resolve() != (DATA / "tiny" / "base").resolve()
    fix = ("Give a folder with a complete model: config.json, tokenizer.json, *.safetensors." if own
           else "Get it back with `git checkout data/tiny/base`, or train it again with `pushback base`.")  # fmt: skip
    config = check_architecture(read_json(folder / "config.json", fix), f"The model in {folder}")
    read_json(folder / "tokenizer.json", fix)
    for path in sorted(folder.glob("*.safetensors")) or [folder / "model.safetensors"]:
        _shapes(path, fix)
    return config


def fingerprint(recipe: Recipe) -> str:
    """What an adapter remembers its base by: the SHA-256 of local weights, or the hub id and its revision."""
    if not recipe.is_local:
        return f"{recipe.base}@{recipe.revision}" if recipe.revision else recipe.base
    return f"sha256:{sha256_of(*sorted(Path(recipe.base).glob('*.safetensors')))}"


def adapter_fingerprint(folder: str | Path) -> str:
    """The SHA-256 of an adapter's weights, by which results say what they were measured on."""
    return f"sha256:{sha256_of(Path(folder) / 'adapter_model.safetensors')}"


def check_adapter(folder: str | Path, recipe: Recipe) -> None:
    """Raises PushbackError if base or adapter are missing or damaged, or the adapter was made for another base."""
    if recipe.is_local:
        check_base(recipe.base)
    folder = Path(folder)
    out = Path("runs") / Path(recipe.name).name if folder == recipe.shipped_adapter else folder
    fix = f"Train one with `pushback train --model {recipe.name} --out {out}` (notebook 03), and give that folder."
    if not folder.is_dir():
        raise PushbackError(f"No adapter in {folder}. {fix}")
    read_json(folder / "adapter_config.json", fix)
    shapes = _shapes(folder / "adapter_model.safetensors", fix)
    card = folder / TRAINING_FILE
    made_for = read_json(card, fix).get("base") if card.is_file() else None
    if made_for is not None and made_for != fingerprint(recipe):
        raise PushbackError(
            f"The adapter in {folder} was made for another base ({made_for[:23]}…) than {recipe.name!r} "
            f"({fingerprint(recipe)[:23]}…). {fix}"
        )
    _check_widths(folder, shapes, recipe, fix)


def _check_widths(folder: Path, shapes: dict[str, tuple[int, ...]], recipe: Recipe, fix: str) -> None:
    config = Path(recipe.base) / "config.json"
    if not config.is_file():
        return
    width = read_json(config, fix)["hidden_size"]
    found = {shape[1] for name, shape in shapes.items() if "q_proj.lora_A" in name}
    if found - {width}:
        raise PushbackError(
            f"The adapter in {folder} fits a base of width {sorted(found)[0]}, but {recipe.name!r} has {width}. {fix}"
        )
