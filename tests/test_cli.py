"""The shipped adapter on the held-out test: what `make demo` promises, checked on the files in `data/`."""

import os
import subprocess
import sys

import pytest

from pushback_lib.cli import SHOWN, main
from pushback_lib.core.common import BASELINE, DATA, FRICTION
from pushback_lib.language.requests import FRICTION_KINDS
from pushback_lib.measure.figures import evaluate, friction_rate, missed_targets
from pushback_lib.measure.report import pair_text, side_by_side
from pushback_lib.model.recipe import recipe_for
from pushback_lib.model.voices import load_speaker


def pushback(*args, cwd=None, env=None):
    return subprocess.run(
        [sys.executable, "-m", "pushback_lib.cli", *args], capture_output=True, text=True, cwd=cwd, env=env, check=False
    )


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["train", "--model", "huge", "--out", "x"], "No model called 'huge'. Choose one of: tiny"),
        (["train", "--data", "nowhere.jsonl", "--out", "x"], "No file at nowhere.jsonl"),
    ],
)
def test_bad_input_is_an_error_with_its_cure_and_no_traceback(tmp_path, args, says):
    run = pushback(*args, cwd=tmp_path)
    assert run.returncode == 2
    assert says in run.stderr
    assert "Traceback" not in run.stderr
    assert not list(tmp_path.iterdir())


def test_a_model_that_the_hub_does_not_give_is_an_error_with_its_cure(tmp_path):
    arguments = ["train", "--model", "1.5b", "--data", str(DATA / "micro.jsonl"), "--out", "adapter"]
    run = pushback(*arguments, cwd=tmp_path, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    assert run.returncode == 2, run.stderr
    assert "DeepSeek-R1-Distill-Qwen-1.5B could not be loaded" in run.stderr
    assert "Traceback" not in run.stderr


def test_a_broken_line_is_named_by_its_number(tmp_path, capsys):
    path = tmp_path / "data.jsonl"
    path.write_text('{"id": "x"}\n', encoding="utf-8")
    assert main(["train", "--data", str(path), "--out", str(tmp_path / "adapter")]) == 2
    assert "line 1" in capsys.readouterr().err


def test_help_names_every_command():
    run = pushback("--help")
    assert run.returncode == 0
    for command in ("demo", "train", "base", "data", "eval", "experiments", "markers"):
        assert command in run.stdout


@pytest.fixture(scope="module")
def rows():
    return evaluate(load_speaker(recipe_for("tiny")))


@pytest.mark.slow
def test_the_shipped_adapter_meets_every_target(rows):
    assert missed_targets(rows) == []


@pytest.mark.slow
def test_friction_lies_wholly_above_the_baseline(rows):
    assert friction_rate(rows, FRICTION, FRICTION_KINDS).low > friction_rate(rows, BASELINE, FRICTION_KINDS).high


@pytest.mark.slow
@pytest.mark.parametrize("at", range(len(SHOWN)))
def test_the_examples_show_both_voices_thinking(rows, at):
    text = pair_text(*side_by_side(rows, SHOWN)[at])
    assert "baseline thinks:\n" in text
    assert "    Problem Framer: " in text
