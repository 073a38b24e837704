"""Make everything that a stranger would download from an adapter: merged weights, GGUF files, Modelfile, table and card."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..core.common import BASELINE, FRICTION
from ..core.files import real_place
from ..core.folders import check_folder, claim_folder, replacing_folder
from ..model.checks import adapter_fingerprint, check_adapter, fingerprint
from ..model.load import load_tokenizer
from ..model.recipe import Recipe
from .card import Measured, figures_file, load_measured, write_model_card
from .formats import REFERENCE, Table, compare_formats
from .gguf import K_QUANTS, PICKLES, check_kinds, check_room, file_name, odd_rows, quantise, write_gguf
from .merge import Merge, merge_adapter
from .ollama import Modelfile

TAKE_HOME = "Q8_0"  # the kind of the file that the Modelfile names: needs no extra package, and loses next to nothing
MODELFILE = "Modelfile"


@dataclass(frozen=True)
class Shipment:
    """What `ship_all` wrote: merged folder, friction files by kind, Modelfile, model card, table and its two files."""

    merged: Path
    files: dict[str, Path]
    modelfile: Path
    card: Path
    table: Table
    results: tuple[Path, Path]


def default_kinds(recipe: Recipe) -> tuple[str, ...]:
    """What `ship_all` makes of a model where nothing else is asked for."""
    return (REFERENCE, TAKE_HOME) if odd_rows(recipe) else (REFERENCE, TAKE_HOME, "Q4_K_M")


def ship_gguf(
    recipe: Recipe, adapter: str | Path, out: str | Path, kinds: Sequence[str] = (TAKE_HOME,), merged: str | Path | None = None
) -> list[Path]:
    """Writes the friction voice's GGUF files and a Modelfile for the first of them into `out`; returns their paths.

    `merged` is a folder that `merge_adapter` made; without one the adapter is merged in a folder that is deleted afterwards.
    """
    out = Path(out)
    check_kinds(kinds, recipe)
    if merged is None:
        check_adapter(adapter, recipe)
    modelfile = _modelfile(recipe, kinds[0])
    with claim_folder(out, [adapter, merged, recipe.base_folder]):
        with tempfile.TemporaryDirectory(prefix=".merged-", suffix=f".{os.getpid()}.part", dir=out) as folder:
            model = merged or merge_adapter(recipe, adapter, Path(folder) / "merged")
            files = [write_gguf(model, out, kind, recipe) for kind in kinds]
        return [*files, modelfile.write(out / MODELFILE)]


def _modelfile(recipe: Recipe, kind: str) -> Modelfile:
    """The Modelfile for the friction voice's file of this kind. Raises PushbackError for a name that Ollama does not take."""
    return Modelfile.read(Modelfile.for_recipe(recipe, load_tokenizer(recipe), file_name(recipe, FRICTION, kind)).text)


def ship_all(
    recipe: Recipe,
    adapter: str | Path,
    out: str | Path,
    kinds: Sequence[str] | None = None,
    *,
    per_kind: int = 20,
    figures: Path | None = None,
) -> Shipment:
    """Merges, writes every kind for both voices, measures them all, and writes Modelfile and model card into `out`.

    By default the kinds are F32, Q8_0 and, where the rows of this model's matrices allow it, Q4_K_M.
    The baseline's files are in `out`/baseline, to compare with, not to publish. `figures` are those of `pushback eval` or
    `pushback demo` for the card. Raises PushbackError, before anything slow, for what is missing.
    """
    adapter, needed = Path(adapter), [adapter, recipe.base_folder]
    for place in ("merged", f"{BASELINE}/model", *(["adapter"] if _is_elsewhere(adapter, Path(out) / "adapter") else [])):
        check_folder(Path(out) / place, needed)
    check_folder(out)
    out = Path(out)
    kinds = list(dict.fromkeys([REFERENCE, *(default_kinds(recipe) if kinds is None else kinds)]))
    check_kinds(kinds, recipe)
    check_adapter(adapter, recipe)
    measured = load_measured(figures or figures_file(recipe, out), adapter, recipe)
    modelfile = _modelfile(recipe, TAKE_HOME if TAKE_HOME in kinds else REFERENCE)
    check_room(out / "merged", recipe.parameters * (4 + 8 * len(kinds)))
    with claim_folder(out):
        (out / MODELFILE).unlink(missing_ok=True)  # written last: without it nobody ships what a stopped run left
        made = _ship(recipe, adapter, out, kinds, per_kind, measured)
        modelfile.write(made.modelfile)
        return made


def _ship(recipe: Recipe, adapter: Path, out: Path, kinds: Sequence[str], per_kind: int, measured: Measured) -> Shipment:
    """All but the Modelfile."""
    baseline = merge_adapter(recipe, None, out / BASELINE / "model")
    merged = merge_adapter(recipe, adapter, out / "merged")
    _copy(adapter, out / "adapter")
    plain = _write_kinds(baseline, out / BASELINE, kinds, recipe, BASELINE)
    files = _write_kinds(merged, out, kinds, recipe, FRICTION)
    pairs = {kind: {BASELINE: plain[kind], FRICTION: files[kind]} for kind in kinds}
    origin = {"model": fingerprint(recipe), "adapter": adapter_fingerprint(adapter), "merge": str(Merge.read(merged))}
    table = compare_formats(pairs, recipe, per_kind=per_kind, provenance=origin)
    card = write_model_card(out, recipe, adapter, measured, table._repr_markdown_())
    return Shipment(merged, files, out / MODELFILE, card, table, table.save(out))


def _write_kinds(model: Path, out: Path, kinds: Sequence[str], recipe: Recipe, voice: str) -> dict[str, Path]:
    """Every kind of one voice; F32 is among them, and the K-quants are made from it."""
    files = {REFERENCE: write_gguf(model, out, REFERENCE, recipe, voice)}
    for kind in kinds:
        if kind in K_QUANTS:
            files[kind] = quantise(files[REFERENCE], out / file_name(recipe, voice, kind), kind)
        elif kind != REFERENCE:
            files[kind] = write_gguf(model, out, kind, recipe, voice)
    return files


def _copy(adapter: Path, to: Path) -> None:
    if _is_elsewhere(adapter, to):
        with replacing_folder(to, [adapter]) as part:
            shutil.copytree(adapter, part, ignore=shutil.ignore_patterns("checkpoint-*", *(f"*{end}" for end in PICKLES)))


def _is_elsewhere(one: Path, other: Path) -> bool:
    return real_place(one) != real_place(other)
