"""Writes the card of a published model from what was measured and how it was trained; types no figure by hand.

Knows nothing about the Hub's connection: the card lies in the folder, to be read and edited, before anything is published.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .cards import ADAPTER_CARD
from .checks import ADAPTER_CARD as TRAINING
from .errors import PushbackError
from .jsonl import replacing
from .model_card_figures import NAMES, Measured
from .model_card_text import BASE_REPO, BODY, CODE, DATA_REPO, DISTILL, ENGLISH_LIMITS, QUESTION, REPO, TAGS, TINY
from .modelfile import licences
from .models import FRICTION
from .recipe import Recipe
from .stats import Rate
from .voices import BASELINE

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCardData


def write_model_card(folder: Path, recipe: Recipe, adapter: Path, measured: Measured, formats: str = "") -> Path:
    """Writes README.md beside the files it describes; returns its path. `formats` is the table of the GGUF files, as Markdown.

    Raises PushbackError if the card cannot be written, or how the adapter was trained is not known.
    """
    text = model_card(recipe, adapter, measured, [path.name for path in sorted(folder.glob("*.gguf"))], formats)
    path = folder / "README.md"
    try:
        with replacing(path) as part:
            part.write_text(text, encoding="utf-8")
    except OSError as error:
        raise PushbackError(
            f"{path} could not be written ({error.strerror}). Free some space there, then run again."
        ) from error
    return path


def model_card(recipe: Recipe, adapter: Path, measured: Measured, ggufs: Sequence[str], formats: str = "") -> str:
    """The card's text: metadata as YAML, then Markdown."""
    from huggingface_hub import ModelCard

    gguf = next((name for name in ggufs if "q8_0" in name.lower()), ggufs[0])
    system = _made(adapter)["system"]
    values = {"repo": REPO, "base": _base(recipe), "gguf": gguf, "context": recipe.max_length * 2, "system": json.dumps(system),
              "tokens": recipe.max_new_tokens, "question": json.dumps(_question(recipe))}  # fmt: skip
    body = BODY.format(
        **{name: code.format(**values) for name, code in CODE.items()}, **_facts(recipe), how=measured.how,
        repo=REPO, tag=_tag(gguf), system=system,
        ggufs=", ".join(f"`{name}`" for name in ggufs), baseline=BASELINE, friction=FRICTION,
        results="\n".join(_lines(measured)), training=_training(recipe, adapter, measured), limits=_limits(recipe),
        formats=f"\n### The GGUF files\n\n{formats.strip()}\n" if formats else "",
        licence="\n".join(f"- {line}" for line in licences(recipe)),
    )  # fmt: skip
    return str(ModelCard(f"---\n{card_data(recipe, measured).to_yaml()}\n---\n{body}"))


def card_data(recipe: Recipe, measured: Measured) -> ModelCardData:
    """The metadata that the Hub shows and searches: base, data, licence, tags, and the figures as `model-index`."""
    from huggingface_hub import ModelCardData

    tiny = recipe.name == "tiny"
    return ModelCardData(
        language="en", license="apache-2.0" if tiny else "mit", library_name="transformers", pipeline_tag="text-generation",
        base_model=_base(recipe), base_model_relation="finetune", datasets=[DATA_REPO],
        tags=[*TAGS, *(["model-organism"] if tiny else [])], model_name=_facts(recipe)["title"],
        eval_results=_results(recipe, measured),
    )  # fmt: skip


def _results(recipe: Recipe, measured: Measured) -> list[EvalResult]:
    """The friction voice's figures; n and interval stand in the name, since the Hub shows nothing else beside the value."""
    from huggingface_hub import EvalResult

    facts = _facts(recipe)
    return [
        EvalResult(
            task_type="text-generation", dataset_type=DATA_REPO, dataset_name=facts["test"], dataset_config=facts["config"],
            dataset_split="test",
            metric_type=name, metric_value=round(rate.share, 4),
            metric_name=f"{words} (n = {rate.n}, 95 % interval {rate.low:.3f} to {rate.high:.3f})",
            metric_args={"hits": rate.hits, "n": rate.n, "low": round(rate.low, 4), "high": round(rate.high, 4)},
        )
        for name, words in NAMES.items()
        for rate in (measured.rates[name, FRICTION],)
    ]  # fmt: skip


def _facts(recipe: Recipe) -> dict[str, str]:
    return TINY if recipe.name == "tiny" else DISTILL


def _lines(measured: Measured) -> list[str]:
    return [
        f"| {words} | {measured.rates[name, FRICTION].n} | "
        + " | ".join(_percent(measured.rates[name, voice]) for voice in (BASELINE, FRICTION)) + " |"
        for name, words in NAMES.items()
    ]  # fmt: skip


def _percent(rate: Rate) -> str:
    return f"{100 * rate.share:.1f} [{100 * rate.low:.1f}–{100 * rate.high:.1f}]"


def _made(adapter: Path) -> dict[str, Any]:
    path = adapter / TRAINING
    if not path.is_file():
        raise PushbackError(f"No {TRAINING} in {adapter}, so how it was trained is not known. `pushback train` writes it; "
                            "train with that, or write the card yourself, as README.md in the shipped folder.")  # fmt: skip
    return json.loads(path.read_text(encoding="utf-8"))


_MADE = ("rank", "alpha", "learning_rate", "epochs", "effective_batch", "seed")


def _training(recipe: Recipe, adapter: Path, measured: Measured) -> str:
    """What the adapter's own record says, not what the recipe says today."""
    made = _made(adapter)
    rows = {
        "base": f"`{_base(recipe)}`",
        "data": f"`{DATA_REPO}`" + (", `language/train.jsonl`" if recipe.examples else ", `train.jsonl`"),
        "method": "QLoRA with TRL and PEFT: base in NF4 with double quantisation, LoRA on all linear layers",
        "loss": "on thought and answer only",
        **{name.replace("_", " "): made[name] for name in _MADE},
        "merged": "into the 16-bit base weights, never into the 4-bit ones",
    }  # fmt: skip
    if measured.seconds:
        rows["took"] = f"{measured.seconds} s on {measured.machine}"
    return "\n".join(f"| {name} | {value} |" for name, value in rows.items())


def _limits(recipe: Recipe) -> str:
    return ADAPTER_CARD.partition("**Limits.** ")[2].strip() if recipe.name == "tiny" else ENGLISH_LIMITS


def _base(recipe: Recipe) -> str:
    return BASE_REPO if recipe.is_local else recipe.base


def _tag(gguf: str) -> str:
    """What llama.cpp and Ollama call a quantisation: the last part of the file's name."""
    return gguf.removesuffix(".gguf").replace(".", "-").rpartition("-")[2].upper()


def _question(recipe: Recipe) -> str:
    """A request that calls for friction, in the language the model speaks."""
    if not recipe.examples:
        return QUESTION
    from .corpus import draw_requests

    return next(request.user for request in draw_requests(1, recipe.seed, held_out=False) if request.kind == "false_claim")
