"""The `pushback` command: its help, its errors, and what `make demo` promises of the shipped adapter."""

import argparse
import os
import subprocess
import sys

import pytest

from pushback_lib.cli import SHOWN, _prompts, main, parser
from pushback_lib.core.common import BASELINE, DATA, FRICTION
from pushback_lib.measure.figures import figures_of
from pushback_lib.measure.prompts import bundled_prompts
from pushback_lib.measure.report import pair_text
from pushback_lib.measure.run import evaluate
from pushback_lib.model.recipe import recipe_for
from pushback_lib.model.voices import load_voices


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--model", "huge"], "No model called 'huge'. Choose one of: tiny"),
        (["--data", "nowhere.jsonl"], "No file at nowhere.jsonl"),
        (["--model", "1.5b", "--data", str(DATA / "micro.jsonl")], "DeepSeek-R1-Distill-Qwen-1.5B could not be loaded"),
    ],
)
def test_bad_input_is_an_error_with_its_cure_and_no_traceback(tmp_path, args, says):
    command = [sys.executable, "-m", "pushback_lib.cli", "train", *args, "--out", "x"]
    offline = {**os.environ, "HF_HUB_OFFLINE": "1"}
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=offline, check=False)
    assert run.returncode == 2, run.stderr
    assert says in run.stderr
    assert "Traceback" not in run.stderr
    assert not list(tmp_path.iterdir())


def test_a_broken_line_is_named_by_its_number(tmp_path, capsys):
    path = tmp_path / "data.jsonl"
    path.write_text('{"id": "x"}\n', encoding="utf-8")
    assert main(["train", "--data", str(path), "--out", str(tmp_path / "adapter")]) == 2
    assert "line 1" in capsys.readouterr().err


@pytest.mark.parametrize("model", ["tiny", "TINY"])
def test_the_bundled_model_is_asked_in_its_own_language_however_it_is_written(model):
    assert {prompt.domain for prompt in _prompts(parser().parse_args(["eval", "--model", model]))} == {"bundled language"}


def commands(top, name=""):
    """Every command that does something, by its full name."""
    inner = [action for action in top._actions if isinstance(action, argparse._SubParsersAction)]
    found = [commands(below, f"{name} {word}".strip()) for action in inner for word, below in action.choices.items()]
    return {key: value for one in found for key, value in one.items()} if inner else {name: top}


def test_help_names_every_command_and_explains_every_option():
    found = commands(parser())
    assert list(found) == ["demo", "base", "data make", "data check", "data card", "data micro", "train", "fit", "eval",
                           "experiments", "markers", "ship all", "ship gguf", "ship ollama", "ship hub"]  # fmt: skip
    top = parser().format_help()
    assert all(name.split()[0] in top for name in found)
    assert [(name, action.dest) for name, one in found.items() for action in one._actions if not action.help] == []


@pytest.fixture(scope="module")
def rows():
    return evaluate(load_voices(recipe_for("tiny")), bundled_prompts(10))


@pytest.mark.slow
def test_the_shipped_adapter_meets_every_target_and_lies_wholly_above_the_baseline(rows):
    found = figures_of(rows)
    assert found.missed_targets() == []
    assert found.voices[FRICTION]["friction"].low > found.voices[BASELINE]["friction"].high


@pytest.mark.time
@pytest.mark.slow
def test_the_shipped_adapter_measures_what_the_readme_says():
    found = figures_of(evaluate(load_voices(recipe_for("tiny"))))
    assert found.missed_targets() == []
    assert found.headline == "friction 99 % [97–100] of 400, over-friction 0 % [0–1] of 500, baseline 0 % [0–1] of 400"


@pytest.mark.slow
@pytest.mark.parametrize("kind", SHOWN)
def test_the_examples_show_both_voices_thinking(rows, kind):
    text = pair_text(rows, kind)
    assert "baseline thinks:\n" in text
    assert "    Problem Framer: " in text
