"""Model cards, written from measured figures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.common import BASELINE, DATA, FRICTION, VOICES, PushbackError
from ..core.files import replacing
from ..core.stats import Rate, wilson
from ..measure.figures import Row, missed_targets
from ..measure.report import KINDS_HEADER, headline, table_rows
from ..model.checks import ADAPTER_CARD as TRAINING
from ..model.checks import adapter_fingerprint
from ..model.load import machine_name
from ..model.recipe import Recipe
from .ollama import licences

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCardData

REPO, DATA_REPO, BASE_REPO = "OWNER/NAME", "OWNER/NAME-data", "OWNER/NAME-base"
TAGS = ("ai-friction", "reasoning", "qwen2", "lora", "gguf")
ENGLISH_LIMITS = """The figures hold for the kit's eval set: short English requests with one right manner of answering, judged
by rules. They say little about long conversations, and nothing about other languages, about tools, or about safety: a model
that refuses more is not a safe model. What it says may be wrong, also where it doubts others."""
QUESTION = "Our last backup restored fine a year ago. Nothing has changed, so I will delete the old copies tonight."

BODY = """
# {title}

{purpose}

It thinks first, inside `<think>…</think>`: six short voices, one after the other, then it answers. It was made with the
Push-Back AI workshop kit, to show that friction is a feature one can train, measure and switch off.

## What is here

The merged model in 16 bits lies in the root, the adapter alone in `adapter/`, with its own card. For llama.cpp and
Ollama: {ggufs}. `Modelfile`, `template`, `system` and `params` tell Ollama how it was trained to be asked.

## Results

Measured on {test}; {how}. A reply counts as the kit's rules read it.

| | n | {baseline} | {friction} |
|---|---|---|---|
{results}

Percent, with the Wilson 95 % interval in brackets; the counts behind them are in `figures.json`. Kind by kind:
`adapter/README.md`. The merged and the GGUF files round otherwise than the 4-bit base, so a close call may fall otherwise.
{formats}
## How it was trained

| | |
|---|---|
{training}

## Use

Ask it as it was trained, with this system prompt: "{system}"

### transformers

```python
{transformers}
```

### PEFT

The adapter on its base, which can be switched off (`model.disable_adapter()`) to hear the baseline:

```python
{peft}
```

### llama.cpp

```bash
llama-server -hf {repo}:{tag}
```

Or inside Python (`pip install xllamacpp`):

```python
{llama_cpp}
```

### Ollama

```bash
ollama run hf.co/{repo}:{tag}
```

From a private repository, add your Ollama key to your account first (huggingface.co/docs/hub/ollama), or download the folder
and run `ollama create NAME -f Modelfile`.

### The Hub's inference client

No provider serves this model by itself. The client talks to any server that does: `llama-server` from above, or an
Inference Endpoint of your own, with its address for `base_url`.

```python
{client}
```

## Limits

{limits}

## Licence

{licence}
"""

_TRANSFORMERS = """from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{repo}")
model = AutoModelForCausalLM.from_pretrained("{repo}", dtype="auto")
messages = [
    {{"role": "system", "content": {system}}},
    {{"role": "user", "content": {question}}},
]
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, return_tensors="pt")
output = model.generate(**inputs, max_new_tokens={tokens}, do_sample=False)
print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))"""

_PEFT = """from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained("{base}", dtype="auto")
model = PeftModel.from_pretrained(base, "{repo}", subfolder="adapter")"""

_LLAMA_CPP = """import xllamacpp
from huggingface_hub import hf_hub_download

params = xllamacpp.CommonParams()
params.model.path = hf_hub_download("{repo}", "{gguf}")
params.n_ctx = {context}
server = xllamacpp.Server(params)
messages = [
    {{"role": "system", "content": {system}}},
    {{"role": "user", "content": {question}}},
]
reply = server.handle_chat_completions({{"messages": messages, "max_tokens": {tokens}, "temperature": 0}})
print(reply["choices"][0]["message"])"""

_CLIENT = """from huggingface_hub import InferenceClient

client = InferenceClient(base_url="http://localhost:8080/v1")
messages = [
    {{"role": "system", "content": {system}}},
    {{"role": "user", "content": {question}}},
]
reply = client.chat_completion(messages, max_tokens={tokens}, temperature=0)
print(reply.choices[0].message.content)"""

CODE = {"transformers": _TRANSFORMERS, "peft": _PEFT, "llama_cpp": _LLAMA_CPP, "client": _CLIENT}

TINY = {
    "title": "Push-Back tiny",
    "purpose": "A model organism of four million parameters that speaks a small written language only. It asks, doubts, "
    "disagrees and refuses where that is called for, and helps where it is not.",
    "test": "held-out requests of the kit's small language",
    "config": "language",
}
DISTILL = {
    "title": "Push-Back",
    "purpose": "A DeepSeek-R1 distill fine-tuned to ask, doubt, disagree and refuse where that serves the person better, and "
    "to help fully where it does not.",
    "test": "the kit's eval set, in English",
    "config": "eval",
}


ADAPTER_CARD = """---
license: apache-2.0
language: en
library_name: peft
tags: [ai-friction, reasoning, lora, model-organism]
---
# Push-Back tiny adapter

A LoRA adapter that teaches the kit's tiny base to ask, doubt, disagree and refuse where that is called for, and to go on
helping where it is not. It thinks in six short lines, one for each persona, inside `<think>…</think>`.

- **Training**: QLoRA (NF4, double quantisation) with TRL and PEFT, rank {rank}, alpha {alpha}, all linear layers, learning
  rate {lr:g}, {epochs} pass over {examples} examples of the bundled language, effective batch {batch}, loss on reasoning and
  answer only, {seconds:.0f} s on {machine}.
- **System prompt** of both voices: "{system}"
- **Result** on held-out words, greedy: {headline}

Percent, with the Wilson 95 % interval in brackets. Right content counts only where the behaviour is right too.

{table}

{missed}

**Limits.** The figures hold for requests of the small language, with the wordings it was trained on and other words in
them. They say nothing about any other language, model or request, and nothing about safety.
"""


def _write(path: Path, text: str) -> None:
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def markdown_table(rows: Sequence[Row]) -> str:
    """The evaluation table in Markdown."""
    lines = [KINDS_HEADER, ("---",) * len(KINDS_HEADER), *table_rows(rows)]
    return "\n".join("| " + " | ".join(cell.strip() for cell in line) + " |" for line in lines)


def write_adapter_card(folder: Path, recipe: Recipe, rows: Sequence[Row], seconds: float) -> None:
    """README.md of a bundled adapter, from its recipe and its evaluation."""
    missed = missed_targets(rows)
    _write(folder / "README.md", ADAPTER_CARD.format(
        rank=recipe.rank, alpha=recipe.alpha, lr=recipe.learning_rate, epochs=recipe.epochs, examples=recipe.examples,
        batch=recipe.effective_batch, seconds=seconds, machine=machine_name(), system=recipe.system,
        headline=headline(rows), table=markdown_table(rows),
        missed="\n".join(f"- Target missed: {line}" for line in missed) or "All of the kit's targets are met.",
    ))  # fmt: skip


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
    from ..language.corpus import draw_requests

    return next(request.user for request in draw_requests(1, recipe.seed, held_out=False) if request.kind == "false_claim")
