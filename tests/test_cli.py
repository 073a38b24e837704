"""The `pushback` command: its help, its errors, and what `make demo` promises of the shipped adapter."""

import argparse
import asyncio
import gc
import os
import signal
import subprocess
import sys
import time
import warnings
from unittest import mock

import pytest

from pushback_lib.cli import SHOWN, _prompts, _run, main, parser
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


PUSHBACK = [sys.executable, "-m", "pushback_lib.cli"]
MARK_SOME = f"markers {DATA / 'micro.jsonl'} marked.jsonl"  # a command that prints, and loads nothing heavy
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}


@pytest.mark.parametrize(
    ("words", "env", "out", "code", "says"),
    [
        (MARK_SOME, {}, None, 1, ""),  # a pipe that nobody reads, as after `| head -1`
        (MARK_SOME, {}, "/dev/full", 2, "The output: No space left on device. Make room there"),
        ("fit --model tiny", ASCII, "/dev/null", 0, ""),  # more than ASCII is printed
        (
            "fit --model caf\N{LATIN SMALL LETTER E WITH ACUTE}",
            ASCII,
            "/dev/null",
            2,
            r"The argument b'caf\xc3\xa9' is no text",
        ),
        (
            f"data micro {DATA / 'micro.jsonl'} --out /proc/x/y",
            {},
            "/dev/null",
            2,
            "No such file or directory. Correct the path",
        ),
        (f"data micro {DATA / 'micro.jsonl'} --out /dev/full", {}, "/dev/null", 2, "No space left on device. Make room there"),
        (f"markers {DATA / 'micro.jsonl'} {'x' * 300}", {}, "/dev/null", 2, "File name too long"),
    ],
)
def test_what_a_terminal_or_a_disk_does_is_one_line_and_an_exit_code(tmp_path, words, env, out, code, says):
    ours, theirs = os.pipe() if out is None else (None, os.open(out, os.O_WRONLY))
    if ours is not None:
        os.close(ours)
    run = subprocess.run([*PUSHBACK, *words.split()], stdout=theirs, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
                         stdin=subprocess.DEVNULL, env={**os.environ, **env}, check=False)  # fmt: skip
    os.close(theirs)
    assert (run.returncode, run.stderr.count("\n")) == (code, bool(says)), run.stderr
    assert says in run.stderr


def test_ctrl_c_is_one_line_and_130_and_what_is_complete_stays(tmp_path):
    out = tmp_path / "out.jsonl"
    command = [*PUSHBACK, "data", "make", "--backend", "scripted", "-n", "100000", "--out", str(out)]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not out.exists() or not out.stat().st_size:
        assert child.poll() is None
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    said = child.communicate()[1].splitlines()
    assert child.returncode == 130
    assert [line for line in said if line.startswith("pushback")] == [
        "pushback: Stopped. What is complete stays; run the same command again for the rest."
    ]
    assert not [line for line in said if "Traceback" in line]
    assert out.read_bytes().endswith(b"\n")


def test_ctrl_c_while_the_libraries_load_is_one_line_too():
    code = """if True:
        import sys
        class Stop:
            def find_spec(name, *_):
                if name == "pushback_lib":
                    raise KeyboardInterrupt
        sys.meta_path.insert(0, Stop)
        import pushback
        sys.exit(pushback.main())"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (130, "pushback: Stopped.\n")


def test_ctrl_c_in_the_making_of_a_task_leaves_no_word_of_asyncio(caplog):
    """As a second Ctrl-C can: the first only asks the work to end."""

    async def work():
        loop, sleep = asyncio.get_running_loop(), asyncio.sleep(1)
        with mock.patch.object(loop, "call_soon", side_effect=KeyboardInterrupt):
            await asyncio.gather(sleep)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that sleep was never awaited
        with pytest.raises(KeyboardInterrupt):
            _run(work())
        gc.collect()
    assert not caplog.records


def test_a_fault_of_the_kit_itself_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr("pushback_lib.cli.plan", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["fit"])


def commands(top, name=""):
    """Every command that does something, by its full name."""
    inner = [action for action in top._actions if isinstance(action, argparse._SubParsersAction)]
    found = [commands(below, f"{name} {word}".strip()) for action in inner for word, below in action.choices.items()]
    return {key: value for one in found for key, value in one.items()} if inner else {name: top}


def test_help_names_every_command_and_explains_every_option():
    found = commands(parser())
    assert list(found) == [
        "demo", "base", "data make", "data check", "data card", "data micro", "data import", "train", "fit", "doctor", "chat",
        "eval", "experiments", "markers", "ship all", "ship gguf", "ship lora", "ship ollama", "ship hub",
    ]  # fmt: skip
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


def test_the_doctor_says_what_it_found_and_its_exit_code_is_its_verdict(tmp_path, capsys):
    assert main(["doctor", "tiny"]) == 0
    assert capsys.readouterr().out.endswith("tiny: training yes, chat yes, shipping yes\n")
    (tmp_path / "bare.jinja").write_text("{{ messages[-1]['content'] }}", encoding="utf-8")
    assert main(["doctor", str(tmp_path / "bare.jinja")]) == 1
    out = capsys.readouterr().out
    assert "! system message" in out
    assert out.endswith("bare.jinja: training NO, chat NO, shipping NO\n")
