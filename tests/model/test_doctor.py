"""The doctor: what it says of the kit's families and of others' templates, and each planted fault found with its cure."""

import dataclasses
import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
from chatml_twin import qwen3_twin, smollm3_twin, twin

from pushback_lib.core.common import PushbackError
from pushback_lib.language.corpus import friction_records
from pushback_lib.model import doctor
from pushback_lib.model.doctor import (
    CHAT,
    PURPOSES,
    SHIPPING,
    TRAINING,
    Templates,
    examine_file,
    examine_model,
    examine_templates,
)
from pushback_lib.model.family import CHATML_LLAMA, FAMILIES, QWEN3, R1_DISTILL, SMOLLM3
from pushback_lib.model.recipe import recipe_for
from pushback_lib.train import run

TINY = recipe_for("tiny")
TRL = Path(find_spec("trl").origin).parent / "chat_templates"
NAMES = sorted(path.stem for path in TRL.glob("*.jinja"))


def of(family):
    return Templates(family.chat_template(), family.training_template(), family.gguf_template)


def trls(name):
    return (TRL / f"{name}.jinja").read_text(encoding="utf-8")


def spoiling(findings):
    return {(one.what, one.spoils) for one in findings if one.spoils}


@pytest.fixture(scope="module", params=["tiny", "chatml-llama", "qwen3", "smollm3"])
def model(request, tmp_path_factory):
    make = {"chatml-llama": twin, "qwen3": qwen3_twin, "smollm3": smollm3_twin}.get(request.param)
    if not make:
        return TINY
    recipe = make(tmp_path_factory.mktemp(request.param) / "twin")
    path = Path(recipe.base) / "tokenizer_config.json"
    family = {"chatml-llama": CHATML_LLAMA, "qwen3": QWEN3, "smollm3": SMOLLM3}[request.param]
    about = {**json.loads(path.read_text(encoding="utf-8")), "chat_template": family.chat_template()}
    path.write_text(json.dumps(about), encoding="utf-8")
    return recipe


def test_the_kits_own_families_are_fit_for_everything(model):
    report = examine_model(model)
    assert report.ok, str(report)
    assert {one.what for one in report.findings} >= {"mask", "stop token", "own template", "how text is cut", "padding"}
    assert "training yes, chat yes, shipping yes" in str(report)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_the_templates_of_a_family_are_fit(family):
    assert spoiling(examine_templates(of(family), family.bos, family.eos)) == set()


def without_marks(template):
    return template.replace("{% generation %}", "").replace("{% endgeneration %}", "")


DATED = "{{ strftime_now('%d %B %Y') }}"
FAULTS = {
    "thoughts dropped in training": (
        {"training": R1_DISTILL.chat_template()}, R1_DISTILL, "thought, in training", (TRAINING,), "between the tags"),
    "stop token not learned": (
        {"training": CHATML_LLAMA.training_template().replace(
            " + '<|im_end|>' }}{% endgeneration %}", " }}{% endgeneration %}{{ '<|im_end|>' }}")},
        CHATML_LLAMA, "stop token", (TRAINING,), "The voice would never stop"),
    "no marks": (
        {"training": without_marks(CHATML_LLAMA.training_template())}, CHATML_LLAMA, "mask", (TRAINING,), "Put `{% generation"),
    "an empty thought in the mask": (
        {"training": CHATML_LLAMA.training_template().replace(
            "{% generation %}{{", "{% generation %}{{ '<think>\n\n</think>\n\n' }}{{")},
        CHATML_LLAMA, "mask", (TRAINING,), "nothing else"),
    "empty thoughts in earlier turns": (
        {"training": trls("qwen3_training")}, QWEN3, "earlier replies", (TRAINING,), "render earlier turns in training as in"),
    "today's date": ({"chat": DATED + CHATML_LLAMA.chat_template(), "training": DATED + CHATML_LLAMA.training_template()},
                     CHATML_LLAMA, "date in the prompt", (TRAINING, SHIPPING), "give the date as a constant"),
    "tool branches": ({"gguf": trls("qwen3")}, QWEN3, "tools, in the GGUF", (SHIPPING,), "without those branches"),
    "thinking off": ({"chat": trls("qwen3_5_nothink")}, QWEN3, "prompt's end", (TRAINING, CHAT), "enable_thinking=True"),
    "no system message": (
        {"chat": CHATML_LLAMA.chat_template().replace("{% for message in messages %}", "{% for message in messages[1:] %}")},
        CHATML_LLAMA, "system message", PURPOSES, "in front of the first request"),
    "no text": ({"chat": trls("smolvlm")}, CHATML_LLAMA, "prompt's end", PURPOSES, "template of a text model"),
    "system refused": ({"chat": trls("gemma")}, CHATML_LLAMA, "renders", PURPOSES, "that knows system messages"),
    "no Jinja": ({"chat": "{% if %}"}, CHATML_LLAMA, "renders", PURPOSES, "text model"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found_with_its_cure(name):
    changes, family, what, spoils, cure = FAULTS[name]
    templates = dataclasses.replace(of(family), **changes)
    assert templates != of(family)
    found = {one.what: one for one in examine_templates(templates, family.bos, family.eos)}
    assert found[what].spoils == spoils, found[what]
    assert cure in found[what].advice


@pytest.mark.parametrize("name", NAMES)
def test_every_template_that_trl_carries_is_answered(name):
    report = examine_file(TRL / f"{name}.jinja")
    assert report.name == f"{name}.jinja"
    assert all(one.cure for one in report.findings if one.spoils)
    assert not report.fit(TRAINING) or doctor.MARKS.search(trls(name))


def test_what_is_known_of_published_templates_is_found():
    said = {name: {one.what: one.found for one in examine_file(TRL / f"{name}.jinja").findings} for name in NAMES}
    assert said["deepseek_r1_distill"]["thought, in the chat"] == "dropped, however it is stored"
    assert said["llama3_2"]["date in the prompt"] == said["gptoss"]["date in the prompt"] == "today's"
    assert "an empty thought is in it" in said["qwen3_8_training"]["mask"]
    assert "lacks the thought" in said["deepseekv3_training"]["mask"]


def test_another_rule_of_cutting_text_and_another_template_are_found(tmp_path):
    base = shutil.copytree(TINY.base, tmp_path / "base")
    path = base / "tokenizer.json"
    path.write_text(path.read_text(encoding="utf-8").replace(r"\\p{N}| ?", r"\\p{N}{1,3}| ?"), encoding="utf-8")
    (base / "chat_template.jinja").write_text("{{ bos_token }}" + CHATML_LLAMA.chat_template(), encoding="utf-8")
    found = {one.what: one for one in examine_model(dataclasses.replace(TINY, base=str(base))).findings}
    assert found["how text is cut"].spoils == (SHIPPING,)
    assert found["own template"].spoils == (CHAT,)
    assert "take the base's own tokenizer" in found["how text is cut"].advice


def test_a_template_that_adds_todays_date_to_its_familys_is_told_apart_from_another(tmp_path):
    """As SmolLM3's published one does; the kit leaves the line out."""
    small, line = smollm3_twin(tmp_path / "twin"), "June 2025\n"
    own = SMOLLM3.chat_template()
    for text, spoils in ((f"{line}Today Date: ' + strftime_now('%d %B %Y') + '\n", ()), (f"{line}Be curt.\n", (CHAT,))):
        template = own.replace(line, text)
        (Path(small.base) / "chat_template.jinja").write_text(template, encoding="utf-8")
        [found] = [one for one in examine_model(small).findings if one.what == "own template"]
        assert (found.spoils, template != own) == (spoils, True)
        assert ("adds today's date" in found.found) == (not spoils)


def test_a_tokenizer_without_a_template_is_told_in_a_line(tmp_path):
    small = qwen3_twin(tmp_path / "twin")
    with pytest.raises(PushbackError, match=r"has no chat template\. Choose a model that was made to chat"):
        examine_model(small)


def test_it_is_asked_before_every_training(monkeypatch, tmp_path):
    broken = dataclasses.replace(R1_DISTILL, training_template=R1_DISTILL.chat_template)
    monkeypatch.setattr(doctor, "family_for", lambda recipe: broken)
    monkeypatch.setattr(run, "make_trainer", lambda *_, **__: pytest.fail("the base is loaded"))
    with pytest.raises(
        PushbackError, match=r"would spoil this training \(thought, in training: dropped.*`pushback doctor tiny`"
    ):
        run.train_adapter(TINY, friction_records(4, 1), tmp_path / "adapter")
