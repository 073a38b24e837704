"""The model card: its figures are those of the file, and its code runs as it stands, on what was published."""

import json
import re
import shutil
from pathlib import Path

import pytest
from hub_server import TOKEN, HubServer
from hub_ship import GGUF, RATES, TINY, environment, figures, hub, make_ship, python
from huggingface_hub import ModelCard

from pushback_lib.core.common import PushbackError, repository
from pushback_lib.core.folders import TRAINING_FILE
from pushback_lib.core.stats import wilson
from pushback_lib.measure.judge import generation
from pushback_lib.model.checks import adapter_fingerprint
from pushback_lib.model.recipe import recipe_for
from pushback_lib.ship.card import figures_file, load_measured, model_card, write_model_card
from pushback_lib.ship.gguf import write_gguf

ADAPTER = TINY.shipped_adapter
NO_FIGURES = "No figures in .*: a card without them would claim what nobody measured. Measure the adapter with `pushback eval"


def measured(folder, found=None):
    path = folder / "figures.json"
    path.write_text(json.dumps(found or figures()), encoding="utf-8-sig")  # as some editors save it
    return load_measured(path, ADAPTER, TINY)


def eval_figures():
    """The shape of `pushback eval`'s figures.json, which the sizes beyond tiny come with."""
    rate = {name: figures()["rates"][name] for name in ("friction", "over_friction")}
    voices = {voice: {**rate, "right_content": rate["friction"]} for voice in ("baseline", "friction")}
    made = {"backend": "local", "generation": generation(0.6, 1024), "adapter": adapter_fingerprint(ADAPTER)}
    return {"kinds": [], "voices": voices, "provenance": {"baseline": {**made, "adapter": ""}, "friction": made}}


@pytest.fixture
def card(tmp_path):
    return model_card(TINY, ADAPTER, measured(tmp_path), ["x-F32.gguf", GGUF])


def test_the_figures_of_english_come_with_its_adapter():
    english = recipe_for("english")
    found = load_measured(figures_file(english, Path("nowhere")), english.shipped_adapter, english)
    assert {rate.n for (name, _), rate in found.rates.items() if name != "right_content"} == {103}
    assert "16 bit" in found.how


def test_the_hub_reads_the_metadata(card):
    data = ModelCard(card).data
    assert (data.base_model, data.base_model_relation, data.datasets) == ("OWNER/NAME-base", "finetune", ["OWNER/NAME-data"])
    assert (data.license, data.language, data.library_name) == ("apache-2.0", "en", "transformers")
    assert {"ai-friction", "reasoning"} <= set(data.tags)
    assert data.model_name == "Push-Back tiny"


@pytest.mark.parametrize(("metric", "counts"), [("friction", RATES["friction"]), ("over_friction", RATES["over_friction"]),
                                                ("right_content", (47, 50))])  # fmt: skip
def test_every_figure_carries_its_n_and_interval_in_metadata_and_text(card, metric, counts):
    rate = wilson(*counts)
    (result,) = [one for one in ModelCard(card).data.eval_results if one.metric_type == metric]
    assert result.metric_value == round(rate.share, 4)
    assert f"n = {rate.n}, 95 % interval {rate.low:.3f} to {rate.high:.3f}" in result.metric_name
    assert result.metric_args["hits"] == rate.hits
    assert f"{100 * rate.share:.1f} [{100 * rate.low:.1f}–{100 * rate.high:.1f}]" in card


def test_the_recipe_is_the_adapters_own(card):
    made = json.loads((ADAPTER / TRAINING_FILE).read_text())
    for name in ("rank", "alpha", "learning_rate", "epochs", "effective_batch", "seed"):
        assert f"| {name.replace('_', ' ')} | {made[name]} |" in card
    assert f'"{made["system"]}"' in card
    assert "| took | 100 s on a test |" in card


def test_the_limits_are_those_of_the_adapters_card(card):
    limits = (ADAPTER / "README.md").read_text(encoding="utf-8").partition("**Limits.** ")[2].strip()
    assert limits
    assert limits in card


def test_the_card_leads_to_the_kit(card):
    assert f"[Push-Back AI workshop kit]({repository()})" in card


def test_a_distill_gets_its_own_base_licence_limits_and_question(tmp_path):
    text = model_card(recipe_for("7b"), ADAPTER, measured(tmp_path, eval_figures()), ["x-Q4_K_M.gguf"])
    data = ModelCard(text).data
    assert data.base_model == "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B"
    assert data.license == "mit"
    assert "OWNER/NAME-base" not in text
    assert "temperature 0.6, top_p 0.95, no penalties, at most 1024 new tokens, the adapter over the base in NF4" in text
    assert "a model\nthat refuses more is not a safe model" in text
    assert "ollama run hf.co/OWNER/NAME:Q4_K_M" in text


def test_the_figures_that_come_with_the_kit_are_of_the_adapter_that_does():
    found = load_measured(figures_file(TINY, Path("nowhere")), ADAPTER, TINY)
    assert found.path.name == "demo.json"
    assert found.rates["friction", "friction"].n >= 100


def test_the_table_of_formats_stands_in_the_card_where_there_is_one(tmp_path, card):
    (tmp_path / GGUF).touch()
    text = write_model_card(tmp_path, TINY, ADAPTER, measured(tmp_path), "| format | bytes |").read_text(encoding="utf-8")
    assert "### The GGUF files\n\n| format | bytes |\n\n## How it was trained" in text
    assert "### The GGUF files" not in card


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, NO_FIGURES),
        ("{", "holds no figures of"),
        ("{}", "holds no figures of"),
        ('{"rates": {}, "provenance": {"adapter": "sha256:0"}}', "holds no figures of"),
        (json.dumps(figures("sha256:0")), "were measured on another adapter than"),
    ],
)
def test_figures_that_are_missing_or_not_of_this_adapter_are_errors(tmp_path, text, says):
    if text is not None:
        (tmp_path / "figures.json").write_text(text, encoding="utf-8")
    with pytest.raises(PushbackError, match=says):
        load_measured(tmp_path / "figures.json", ADAPTER, TINY)


def test_an_adapter_of_unknown_training_gets_no_card(tmp_path):
    bare = shutil.copytree(ADAPTER, tmp_path / "bare", ignore=shutil.ignore_patterns(TRAINING_FILE))
    (tmp_path / GGUF).touch()
    with pytest.raises(PushbackError, match=r"No pushback.json in .*bare, so how it was trained is not known"):
        write_model_card(tmp_path, TINY, bare, measured(tmp_path))
    assert not (tmp_path / "README.md").exists()


# Runs each python block of the published card as it stands, in order, in one process. Only the address of the llama-server
# is another: the one that the block before has started. `SAID` lines are what each block printed.
SNIPPETS = """
import contextlib, io, json, re, sys, torch
from huggingface_hub import ModelCard
names = {}
for block in re.findall(r"```python\\n(.*?)```", ModelCard.load("ada/tiny").text, flags=re.DOTALL):
    if "localhost:8080" in block:
        block = block.replace("http://localhost:8080", names["server"].listening_address)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(block, names)
    if "PeftModel" in block:
        with torch.inference_mode():
            friction = names["model"].generate(**names["inputs"], max_new_tokens=220, do_sample=False)
            with names["model"].disable_adapter():
                base = names["model"].generate(**names["inputs"], max_new_tokens=220, do_sample=False)
        print(*(names["tokenizer"].decode(out[0], skip_special_tokens=True) for out in (friction, base)), sep="|", file=said)
    print("SAID" + json.dumps(said.getvalue()))
"""


@pytest.mark.slow
def test_every_python_block_of_the_card_runs_as_it_stands_on_what_was_published(tmp_path):
    ship = make_ship(tmp_path / "ship")
    write_gguf(ship / "merged", ship / GGUF)  # of the model in the root, so that both must say the same
    with HubServer() as server:
        hub(server.url, tmp_path / "home", ship, (TOKEN, "ada/tiny"))
        run = python(SNIPPETS, env=environment(server.url, tmp_path / "stranger", HF_TOKEN=TOKEN))
    assert run.returncode == 0, run.stderr
    said = [json.loads(line.removeprefix("SAID")) for line in run.stdout.splitlines() if line.startswith("SAID")]
    card = (ship / "README.md").read_text(encoding="utf-8")
    assert len(said) == len(re.findall("```python", card)) == 4
    merged, peft, llama_cpp, client = said
    friction, base = peft.split("|")
    assert friction != base
    assert "Synthesizer" in friction, "the adapter was not loaded"
    assert "</think>" in merged
    answer = merged.partition("</think>")[2].strip()
    assert answer
    assert answer in llama_cpp, "llama.cpp and transformers answer differently"
    assert answer in client
