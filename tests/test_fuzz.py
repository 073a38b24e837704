"""A share of the fuzzer in each run of the tests; `python tests/support/fuzz.py --n 2000 --processes 100` is the whole."""

import subprocess
import sys
from pathlib import Path

import fuzz
import pytest

from pushback_lib.cli import parser

SCRIPT = Path(fuzz.__file__)


@pytest.mark.slow
def test_wrong_words_end_in_one_line_and_change_nothing():
    size = ["--n", "150", "--processes", "4", "--limit", "0.5", "--seconds", "60", "--seed", "20"]
    run = subprocess.run([sys.executable, SCRIPT, *size], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-2000:]
    assert " 0 findings" in run.stdout


def test_every_command_and_option_is_drawn():
    drawer = fuzz.Drawer(parser(), 1)
    drawn = {word for _ in range(4000) for word in drawer.line()}
    for words, actions in drawer.commands:
        assert drawn.issuperset(words)
        assert all(drawn.intersection(action.option_strings) for action in actions if action.option_strings)


def failing(line):
    """A command with every fault that the fuzzer is to see, one at a time."""
    match line:
        case ["traceback"]:
            raise ValueError("odd")
        case ["code"]:
            return 3
        case ["two"]:
            print("pushback: one\npushback: two", file=sys.stderr)
        case ["none"]:
            pass
        case ["canary", name]:
            Path(name).write_text("changed")
            return 1 if name == "secret" else 2
        case ["half"]:
            Path("thesis/.x.1.part").touch()
            Path("empty.jsonl").write_text("x")
            print("pushback: one", file=sys.stderr)
    return 2


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (["traceback"], "ended with 'traceback'"),
        (["code"], "ended with 3"),
        (["two"], "2 lines of error"),
        (["none"], "0 lines of error"),
        (["canary", "thesis/report.html"], "changed"),
        (["half"], "left"),
    ],
    ids=str,
)
def test_each_fault_is_a_finding(sandbox, line, says):
    fuzzer = fuzz.Fuzzer(sandbox, 5)
    fuzzer.inside(failing, line)
    assert says in str(fuzzer.findings)


CALLED = 'Traceback (most recent call last):\n  File "weakref.py", line 369, in remove\n    def remove(k):\n  \n'
IGNORED = f"Exception ignored in: <function remove at 0x7f>\n{CALLED}"


@pytest.mark.parametrize(
    ("errors", "found"),
    [
        (f"{IGNORED}KeyboardInterrupt: \npushback: Stopped.\n", False),
        (f"\r  0%| | 0/9{IGNORED}KeyboardInterrupt\n" * 2, False),
        (f"{IGNORED}ValueError: odd\n", True),
        (f"{IGNORED}ValueError: odd\nKeyboardInterrupt\n", True),
        (f"{CALLED}KeyboardInterrupt\n", True),
        (f"{IGNORED}KeyboardInterrupt: \n{CALLED}KeyboardInterrupt\n", True),
        ("Exception ignored in: <stdout>\nBrokenPipeError\n", True),
        ("pushback: Stopped.\n", False),
    ],
)
def test_only_a_ctrl_c_that_python_itself_ignored_is_no_finding(errors, found):
    assert fuzz.has_traceback(errors) == found


def test_a_command_that_succeeds_may_replace_what_it_was_told(sandbox):
    fuzzer = fuzz.Fuzzer(sandbox, 5)
    fuzzer.inside(failing, ["canary", "secret"])
    assert (fuzzer.findings, fuzzer.replaced) == ([], {"secret"})


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    top = tmp_path_factory.mktemp("sandbox").resolve()
    fuzz.sandbox(top)
    return top


@pytest.fixture
def sandbox(filled, monkeypatch):
    monkeypatch.chdir(filled)
    monkeypatch.setattr(fuzz.signal, "setitimer", lambda *_: None)
    yield filled
    (filled / "thesis" / ".x.1.part").unlink(missing_ok=True)
