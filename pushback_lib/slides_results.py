"""Reads data/results for the slides and refuses what was measured on another model; knows nothing about how it is shown."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .checks import adapter_fingerprint, fingerprint
from .errors import PushbackError
from .recipe import DATA, recipe_for
from .stats import Rate

RESULTS = DATA / "results"
Results = Mapping[str, Any]

# results file -> the command that makes it
MADE_BY: dict[str, str] = {
    "demo": "pushback demo --results data/results && cp runs/demo/adapter/* data/tiny/adapter/",
    "dial": "pushback experiments --out data/results",
    "thinking": "pushback experiments --out data/results",
    "gguf": "make ship && cp runs/ship/gguf.json runs/ship/gguf.png data/results/",
}


def load_results(folder: Path = RESULTS) -> dict[str, Any]:
    """Every results file by name. Raises PushbackError if one is missing, damaged, or measured on other weights than
    those in data/tiny now."""
    recipe = recipe_for("tiny")
    now = {"model": fingerprint(recipe), "adapter": adapter_fingerprint(recipe.shipped_adapter)}
    return {name: _result(folder / f"{name}.json", command, now) for name, command in MADE_BY.items()}


def _result(path: Path, command: str, now: Mapping[str, str]) -> dict[str, Any]:
    if not path.is_file():
        raise PushbackError(f"No results at {path}. Measure with `{command}`, then build the slides again.")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise PushbackError(f"{path} is damaged ({error}). Measure again with `{command}`.") from error
    made_on = found.get("provenance", {})
    for part, print_now in now.items():
        if made_on.get(part) != print_now:
            raise PushbackError(
                f"{path} is stale: measured on {part} {str(made_on.get(part))[:15]}…, and data/tiny now holds "
                f"{print_now[:15]}…. Measure again with `{command}`, then build the slides again."
            )
    return found


def rate(found: Mapping[str, Any]) -> Rate:
    """A rate as results files hold it."""
    return Rate(found["hits"], found["n"], found["low"], found["high"])


def at_setting(results: Results, scale: float, split: str = "test") -> dict[str, Rate]:
    """The dial's rates at one setting."""
    line = next(one for one in results["dial"]["scales"] if one["scale"] == scale and one["split"] == split)
    return {name: rate(one) for name, one in line.items() if isinstance(one, dict)}


def with_reasoning(results: Results, reasoning: str, prompts: str = "friction called for") -> dict[str, Rate]:
    """The thinking experiment's rates under one condition."""
    lines = results["thinking"]["conditions"]
    line = next(one for one in lines if one["reasoning"] == reasoning and one["prompts"] == prompts)
    return {name: rate(one) for name, one in line.items() if isinstance(one, dict)}


# what the slides' sentences claim, and the figures that must bear it out
CLAIMS: tuple[tuple[str, Callable[[Results], bool]], ...] = (
    ("the friction voice pushes back where it is due far more often than the baseline",
     lambda r: r["demo"]["rates"]["friction"]["low"] > r["demo"]["rates"]["baseline"]["high"] + 0.5),
    ("the friction voice rarely pushes back where it is not due", lambda r: r["demo"]["rates"]["over_friction"]["high"] < 0.05),
    ("a quarter of the adapter changes nothing", lambda r: at_setting(r, 0.25)["friction"].high < 0.05),
    ("half of the adapter does most of it", lambda r: at_setting(r, 0.5)["friction"].low > 0.7),
    ("beyond the recommended setting nothing is gained",
     lambda r: at_setting(r, 1.5)["friction"].share <= at_setting(r, r["dial"]["recommended"])["friction"].share),
    ("without its reasoning the voice is right less often",
     lambda r: with_reasoning(r, "no reasoning")["right"].high < with_reasoning(r, "own reasoning")["right"].low),
    ("with another prompt's reasoning it pushes back on the wrong thing",
     lambda r: with_reasoning(r, "another prompt's")["right"].low
     > with_reasoning(r, "another prompt's")["right_content"].high),
    ("with its twin's reasoning it does the opposite",
     lambda r: with_reasoning(r, "the twin's")["right"].high < 0.1
     and with_reasoning(r, "the twin's", "innocent")["pushes_back"].low > 0.9),
)  # fmt: skip


def check_claims(results: Results) -> None:
    """Raises PushbackError if the figures no longer bear out what a slide says in words."""
    broken = [claim for claim, holds in CLAIMS if not holds(results)]
    if broken:
        raise PushbackError(
            f"The figures in data/results no longer show that {'; that '.join(broken)}. Rewrite those slides in "
            "slides/deck.md, then mend CLAIMS in pushback_lib/slides_results.py."
        )
