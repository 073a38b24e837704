"""Reads the figures of a model's card from what `pushback demo` or `pushback eval` measured.

Knows nothing about cards. The figures must have been measured on the very adapter that the card is about.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .checks import adapter_fingerprint
from .errors import PushbackError
from .models import FRICTION
from .recipe import DATA, Recipe
from .stats import Rate, wilson
from .voices import BASELINE, VOICES

NAMES = {
    "friction": "pushes back where that is called for",
    "over_friction": "pushes back where it is not",
    "right_content": "right content, all requests",
}


@dataclass(frozen=True)
class Measured:
    """Rates by (figure, voice), the file they come from, and what training took where the file says so."""

    rates: Mapping[tuple[str, str], Rate]
    path: Path
    how: str
    seconds: int | None = None
    machine: str = ""


def figures_file(recipe: Recipe, folder: Path) -> Path:
    """Where a model's figures lie unless told otherwise: in the folder that is shipped, else those that come with the kit."""
    own = folder / "figures.json"
    return DATA / "results" / "demo.json" if recipe.name == "tiny" and not own.is_file() else own


def load_measured(path: Path, adapter: Path, model: str) -> Measured:
    """The figures in `path`, if they were measured on `adapter`.

    Raises PushbackError if there is no such file, if it holds no figures, or if they belong to another adapter.
    """
    cure = (f"Measure the adapter with `pushback eval --model {model} --adapter {adapter} --out runs/eval`, then pass "
            "--figures runs/eval/figures.json.")  # fmt: skip
    if not path.is_file():
        raise PushbackError(f"No figures in {path}: a card without them would claim what nobody measured. {cure}")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        measured_on = _adapter(found)
        rates = _demo_rates(found) if "rates" in found else _eval_rates(found)
    except (ValueError, KeyError, TypeError) as error:
        raise PushbackError(f"{path} holds no figures of `pushback demo` or `pushback eval` ({error!r}). {cure}") from error
    if measured_on != adapter_fingerprint(adapter):
        raise PushbackError(f"The figures in {path} were measured on another adapter than {adapter}. {cure}")
    return Measured(rates, path, _how(found["provenance"]), found.get("training_seconds"), found.get("machine", ""))


def _adapter(found: Mapping[str, Any]) -> str:
    made = found["provenance"]
    return made["adapter"] if "adapter" in made else made[FRICTION]["adapter"]


def _how(made: Mapping[str, Any]) -> str:
    if "adapter" in made:
        return "greedy, the adapter over the base in NF4"
    one = made[FRICTION]
    where = "the adapter over the base in NF4" if one["backend"] == "local" else "asked through a server"
    return f"temperature {one['temperature']:g}, {where}"


def _rate(found: Mapping[str, Any]) -> Rate:
    return Rate(*(found[key] for key in ("hits", "n", "low", "high")))


def _demo_rates(found: Mapping[str, Any]) -> dict[tuple[str, str], Rate]:
    keys = {("friction", FRICTION): "friction", ("over_friction", FRICTION): "over_friction",
            ("friction", BASELINE): "baseline", ("over_friction", BASELINE): "baseline_over_friction"}  # fmt: skip
    rates = {key: _rate(found["rates"][name]) for key, name in keys.items()}
    for voice in VOICES:
        lines = [line for line in found["kinds"] if line["voice"] == voice]
        rates["right_content", voice] = wilson(*(sum(line[key] for line in lines) for key in ("right_content", "n")))
    return rates


def _eval_rates(found: Mapping[str, Any]) -> dict[tuple[str, str], Rate]:
    return {(name, voice): _rate(found["voices"][voice][name]) for name in NAMES for voice in VOICES}
