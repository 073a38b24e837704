"""Write the cards of model and adapter from measured figures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.common import BASELINE, DATA, FRICTION, VOICES, PushbackError, repository
from ..core.files import replacing
from ..core.folders import TRAINING_FILE
from ..core.show import markdown_table
from ..core.stats import Rate, wilson
from ..measure.figures import Figures, cells
from ..model.checks import adapter_fingerprint
from ..model.load import family_for, machine_name
from ..model.recipe import Recipe
from .ollama import licences

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData

REPO, DATA_REPO, BASE_REPO = "OWNER/NAME", "OWNER/NAME-data", "OWNER/NAME-base"
QUESTION = "Our last backup restored fine a year ago. Nothing has changed, so I will delete the old copies tonight."
FIGURES = {
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
    """The default figures of a model: those in the folder that is shipped, else those that come with the kit."""
    own, shipped = folder / "figures.json", recipe.shipped_adapter.with_name("figures.json")
    if own.is_file():
        return own
    return DATA / "results" / "demo.json" if recipe.name == "tiny" else shipped if shipped.is_file() else own


def load_measured(path: Path, adapter: Path, recipe: Recipe) -> Measured:
    """The figures in `path`, if they were measured on `adapter`.

    Raises PushbackError if there is no such file, if it holds no figures, or if they belong to another adapter.
    """
    advice = (f"Measure the adapter with `pushback eval --model {recipe.name} --adapter {adapter} --out runs/eval`, then pass "
              "--figures runs/eval/figures.json.")  # fmt: skip
    if not path.is_file():
        raise PushbackError(f"No figures in {path}: a card without them would claim what nobody measured. {advice}")
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
        measured_on, how, rates = _of_demo(found) if "rates" in found else _of_eval(found, recipe)
    except (ValueError, KeyError, TypeError) as error:
        raise PushbackError(f"{path} holds no figures of `pushback demo` or `pushback eval` ({error!r}). {advice}") from error
    if measured_on != adapter_fingerprint(adapter):
        raise PushbackError(f"The figures in {path} were measured on another adapter than {adapter}. {advice}")
    return Measured(rates, path, how, found.get("training_seconds"), found.get("machine", ""))


def _of_demo(found: Mapping[str, Any]) -> tuple[str, str, dict[tuple[str, str], Rate]]:
    """The adapter, how it was asked, and the rates, from a file of `pushback demo`."""
    keys = {("friction", FRICTION): "friction", ("over_friction", FRICTION): "over_friction",
            ("friction", BASELINE): "baseline", ("over_friction", BASELINE): "baseline_over_friction"}  # fmt: skip
    rates = {key: Rate.from_dict(found["rates"][name]) for key, name in keys.items()}
    for voice in VOICES:
        lines = [line for line in found["kinds"] if line["voice"] == voice]
        rates["right_content", voice] = wilson(*(sum(line[key] for line in lines) for key in ("right_content", "n")))
    return found["provenance"]["adapter"], f"{found['provenance']['generation']}, the adapter over the base in NF4", rates


def _of_eval(found: Mapping[str, Any], recipe: Recipe) -> tuple[str, str, dict[tuple[str, str], Rate]]:
    """The adapter, how it was asked, and the rates, from a file of `pushback eval`."""
    made = found["provenance"][FRICTION]
    local = f"the adapter over the base in {'NF4' if recipe.four_bit else '16 bit'}"
    where = local if made["backend"] == "local" else "asked through a server"
    rates = {(name, voice): Rate.from_dict(found["voices"][voice][name]) for name in FIGURES for voice in VOICES}
    return made["adapter"], f"{made['generation']}, {where}", rates


def write_model_card(
    folder: Path, recipe: Recipe, adapter: Path, measured: Measured | None = None, formats: str = ""
) -> Path:  # fmt: skip
    """Writes README.md beside the files it describes; returns its path. `formats` is the table of the GGUF files, as Markdown.

    Without `measured`, the figures are those in the folder, or the kit's own. Raises PushbackError if the card cannot be
    written, if there are no figures of this adapter, or if it is not known how the adapter was trained.
    """
    measured = measured or load_measured(figures_file(recipe, folder), adapter, recipe)
    text = model_card(recipe, adapter, measured, [path.name for path in sorted(folder.glob("[!.]*.gguf"))], formats)
    return _write(folder / "README.md", text)


def _write(path: Path, text: str) -> Path:
    try:
        with replacing(path) as part:
            part.write_text(text, encoding="utf-8")
    except OSError as error:
        raise PushbackError(
            f"{path} could not be written ({error.strerror}). Free some space there, then run again."
        ) from error
    return path


def model_card(recipe: Recipe, adapter: Path, measured: Measured, ggufs: Sequence[str], formats: str = "") -> str:
    """The card's text: metadata as YAML, then Markdown. What it says of the training is the adapter's own record."""
    path = adapter / TRAINING_FILE
    if not path.is_file():
        raise PushbackError(f"No {TRAINING_FILE} in {adapter}, so how it was trained is not known. `pushback train` writes it; "
                            "train with that, or write the card yourself, as README.md in the shipped folder.")  # fmt: skip
    made = json.loads(path.read_text(encoding="utf-8"))
    gguf = next((name for name in ggufs if "q8_0" in name.lower()), ggufs[0])
    return _render(
        "model_card.md", card_data=card_data(recipe, measured), tiny=recipe.name == "tiny", made=made, measured=measured,
        what=_what(recipe), four_bit=recipe.four_bit,
        figures=FIGURES, formats=formats.strip(), repo=REPO, gguf=gguf, ggufs=ggufs, tag=_tag(gguf),
        system=json.dumps(made["system"]), question=json.dumps(_question(recipe)), tokens=recipe.max_new_tokens,
        context=recipe.max_length * 2, licences=licences(recipe), repository=repository(),
    )  # fmt: skip


def _render(template: str, **values: Any) -> str:
    """A template of this folder, filled. Raises jinja2.UndefinedError for a value that is missing."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    found = Environment(loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined)
    return found.get_template(template).render(values) + "\n"


def card_data(recipe: Recipe, measured: Measured) -> ModelCardData:
    """The metadata that the Hub shows and searches: base, data, licence, tags, and the friction voice's figures.

    n and interval stand in a figure's name, since the Hub shows nothing else beside the value.
    """
    from huggingface_hub import EvalResult, ModelCardData

    tiny = recipe.name == "tiny"
    test = ("held-out requests of the kit's small language", "language") if tiny else ("the kit's English prompts", "eval")
    results = [
        EvalResult(
            task_type="text-generation", dataset_type=DATA_REPO, dataset_name=test[0], dataset_config=test[1],
            dataset_split="test", metric_type=name, metric_value=round(rate.share, 4), metric_args=rate.to_dict(),
            metric_name=f"{words} (n = {rate.n}, 95 % interval {rate.low:.3f} to {rate.high:.3f})",
        )
        for name, words in FIGURES.items()
        for rate in (measured.rates[name, FRICTION],)
    ]  # fmt: skip
    family = family_for(recipe)
    licence = "apache-2.0" if tiny else family.licence
    return ModelCardData(
        language="en", license=licence, library_name="transformers", pipeline_tag="text-generation",
        base_model=BASE_REPO if recipe.is_local else recipe.base, base_model_relation="finetune", datasets=[DATA_REPO],
        tags=["ai-friction", "reasoning", family.model_type, "lora", "gguf", *(["model-organism"] if tiny else [])],
        model_name="Push-Back tiny" if tiny else "Push-Back",
        eval_results=results,
    )  # fmt: skip


def _what(recipe: Recipe) -> str:
    """The base, in a few words of the card's first sentence."""
    millions = recipe.parameters / 1e6
    size = f"{millions:.0f} million" if millions < 1000 else f"{millions / 1000:.1f} billion"
    return f"{family_for(recipe).what} of {size} parameters"


def _tag(gguf: str) -> str:
    """What llama.cpp and Ollama call a quantisation: the last part of the file's name."""
    return gguf.removesuffix(".gguf").replace(".", "-").rpartition("-")[2].upper()


def _question(recipe: Recipe) -> str:
    """A request that calls for friction, in the language the model speaks."""
    if not recipe.examples:
        return QUESTION
    from ..language.corpus import draw_requests

    return next(request.user for request in draw_requests(1, recipe.seed, held_out=False) if request.kind == "false_claim")


def write_adapter_card(folder: Path, recipe: Recipe, found: Figures, seconds: float) -> None:
    """README.md of a bundled adapter, from its recipe and its evaluation."""
    _write(folder / "README.md", _render(
        "adapter_card.md", recipe=recipe, seconds=seconds, machine=machine_name(), headline=found.headline,
        generation=found.generation, table=markdown_table(*cells(found.by_kind())), missed=found.missed_targets(),
    ))  # fmt: skip
