"""`pushback fit` from the command line: answers, exit codes, and what is said to bad input."""

import argparse

import pytest

from pushback_lib import fit_cli
from pushback_lib.errors import PushbackError


def run(*arguments: str) -> int:
    top = argparse.ArgumentParser()
    fit_cli.add_parser(top.add_subparsers(required=True))
    args = top.parse_args(["fit", *arguments])
    return args.run(args)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("--model", "7b", "--gpu", "16"), 0, "Fits: 7b at sequence 1,024 and batch 2"),
        (("--model", "7b", "--gpu", "t4", "--seq", "4096", "--batch", "64"), 1, "What would fit"),
        (("--model", "32b", "--gpu", "h200"), 0, "32,763,876,352 parameters"),
        (("--model", "tiny", "--gpu", "laptop"), 0, "4,101,376 parameters"),
    ],
)
def test_the_plan_is_printed_and_the_exit_code_says_whether_it_fits(arguments, code, says, capsys):
    assert run(*arguments) == code
    assert says in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--model", "7b", "--gpu", "4"), "needs at least"),
        (("--model", "7b", "--gpu", "gtx 1"), "No card called"),
        (("--model", "9b"), "No model called"),
        (("--model", "7b", "--seq", "0"), "tokens"),
        (("--model", "7b", "--batch", "-2"), "batch of -2"),
        (("--model", "7b", "--examples", "0"), "at least 1"),
    ],
)
def test_bad_input_is_answered_with_the_cure(arguments, says):
    with pytest.raises(PushbackError, match=says):
        run(*arguments)


def test_a_model_of_another_architecture_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(PushbackError, match="'llama'"):
        run("--model", str(tmp_path))
