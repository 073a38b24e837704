"""From an adapter to everything a stranger would download: merged weights, GGUF files, Modelfile, table and card.

It knows nothing about Ollama or the Hub as servers.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..core.common import BASELINE, FRICTION, VOICES, PushbackError
from ..model.checks import adapter_fingerprint, check_adapter, fingerprint
from ..model.load import load_tokenizer
from ..model.recipe import Recipe
from .formats import REFERENCE, Table, measure, write_table
from .gguf import K_QUANTS, KINDS, About, check_room, quantise, write_gguf
from .merge import merge_adapter, save_baseline

ALL_KINDS = (*KINDS, *K_QUANTS)
TAKE_HOME = "Q8_0"  # the kind of the file that the Modelfile names: needs no extra package, and loses next to nothing
MODELFILE = "Modelfile"


@dataclass(frozen=True)
class Shipment:
    """What `ship_all` wrote: merged folder, friction files by kind, Modelfile, model card, table and its two files."""

    folder: Path
    merged: Path
    files: dict[str, Path]
    modelfile: Path
    card: Path
    table: Table
    results: tuple[Path, Path]


def file_name(recipe: Recipe, voice: str, kind: str) -> str:
    """The name of a GGUF file, as people look for it: `pushback-tiny-friction-Q8_0.gguf`."""
    return f"pushback-{Path(recipe.name).name}-{voice}-{kind}.gguf"


def about(recipe: Recipe, voice: str) -> About:
    """Model-card facts for a file's header."""
    local = recipe.is_local
    what = (
        "doubts, asks first, disagrees or refuses where that helps"
        if voice == FRICTION
        else "the base, before friction training"
    )
    return About(
        description=f"{what[0].upper()}{what[1:]}. Made with Push-Back AI.",
        licence="apache-2.0" if local else "mit",
        base_name="Push-Back AI tiny base" if local else recipe.base.rpartition("/")[2],
        base_url="" if local else f"https://huggingface.co/{recipe.base}",
    )


def write_file(model: Path, out: Path, kind: str, recipe: Recipe, voice: str) -> Path:
    """One GGUF of any kind from a plain 16-bit folder; a K-quant by way of an F32 file beside it that does not stay."""
    if kind in KINDS:
        name = f"Push-Back AI {Path(recipe.name).name} {voice}"
        return write_gguf(model, out, kind, name=name, about=about(recipe, voice))
    with tempfile.TemporaryDirectory(prefix=".f32-", dir=out.parent) as folder:
        return quantise(write_file(model, Path(folder) / "F32.gguf", REFERENCE, recipe, voice), out, kind)


def ship_gguf(
    recipe: Recipe, adapter: str | Path, out: str | Path, kinds: Sequence[str] = (TAKE_HOME,), merged: str | Path | None = None
) -> list[Path]:
    """Writes the friction voice's GGUF files and a Modelfile for the first of them into `out`; returns their paths.

    `merged` is a folder that `merge_adapter` made; without one the adapter is merged in a folder that does not stay.
    """
    out = Path(out)
    _check_kinds(kinds)
    if merged is None:
        check_adapter(adapter, recipe)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".merged-", dir=out) as folder:
        model = Path(merged) if merged else merge_adapter(recipe, adapter, Path(folder) / "merged")
        files = [write_file(model, out / file_name(recipe, FRICTION, kind), kind, recipe, FRICTION) for kind in kinds]
    return [*files, _modelfile(recipe, files[0].name, out)]


def ship_all(
    recipe: Recipe,
    adapter: str | Path,
    out: str | Path,
    kinds: Sequence[str] = (REFERENCE, TAKE_HOME, "Q4_K_M"),
    *,
    per_kind: int = 20,
    figures: Path | None = None,
) -> Shipment:
    """Merges, writes every kind for both voices, measures them all, and writes Modelfile and model card into `out`.

    The baseline's files lie in `out`/baseline: they are there to compare with, not to publish. `figures` are those of
    `pushback eval` or `pushback demo` for the card. Raises PushbackError, before anything slow, for what is missing.
    """
    from .card import figures_file, load_measured, write_model_card

    out, adapter = Path(out), Path(adapter)
    kinds = list(dict.fromkeys([REFERENCE, *kinds]))
    _check_kinds(kinds)
    check_adapter(adapter, recipe)
    measured = load_measured(figures or figures_file(recipe, out), adapter, recipe.name)
    check_room(out / "merged", recipe.parameters * (4 + 8 * len(kinds)))
    models = {
        BASELINE: save_baseline(recipe, out / BASELINE / "model"),
        FRICTION: merge_adapter(recipe, adapter, out / "merged"),
    }
    _copy(adapter, out / "adapter")
    files = _all_files(recipe, models, out, kinds)
    named = TAKE_HOME if TAKE_HOME in kinds else kinds[0]
    modelfile = _modelfile(recipe, files[named][FRICTION].name, out)
    origin = {"model": fingerprint(recipe), "adapter": adapter_fingerprint(adapter)}
    table = measure(files, recipe, per_kind=per_kind, provenance=origin)
    card = write_model_card(out, recipe, adapter, measured, table._repr_markdown_())
    results = write_table(table, out)
    return Shipment(out, models[FRICTION], {kind: files[kind][FRICTION] for kind in kinds}, modelfile, card, table, results)


def _all_files(recipe: Recipe, models: dict[str, Path], out: Path, kinds: Sequence[str]) -> dict[str, dict[str, Path]]:
    """Every kind of both voices; the K-quants from the F32 file that is written first."""
    files: dict[str, dict[str, Path]] = {kind: {} for kind in kinds}
    for voice in VOICES:
        folder = out / BASELINE if voice == BASELINE else out
        for kind in kinds:
            path = folder / file_name(recipe, voice, kind)
            whole = files[REFERENCE].get(voice)
            files[kind][voice] = quantise(whole, path, kind) if kind in K_QUANTS and whole else write_file(
                models[voice], path, kind, recipe, voice
            )  # fmt: skip
    return files


def _modelfile(recipe: Recipe, gguf: str, out: Path) -> Path:
    from .ollama import write_modelfile

    return write_modelfile(recipe, load_tokenizer(recipe), gguf, out / MODELFILE)


def _check_kinds(kinds: Sequence[str]) -> None:
    unknown = [kind for kind in kinds if kind not in ALL_KINDS]
    if unknown or not kinds:
        raise PushbackError(f"No GGUF kind {unknown[0] if unknown else 'given'!r}. Choose from {', '.join(ALL_KINDS)}.")


def _copy(adapter: Path, to: Path) -> None:
    if adapter.resolve() == to.resolve():
        return
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(adapter, to, ignore=shutil.ignore_patterns("checkpoint-*", "*.bin", "*.pt", "*.pth", "*.pkl"))
