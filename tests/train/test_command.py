"""The `pushback train` command: choices, bad input, and what it leaves."""

import argparse

import pytest

from pushback_lib import cli
from pushback_lib.core.common import PushbackError
from pushback_lib.model.recipe import recipe_for
from pushback_lib.train.guard import MARK, work_folder


def parsed(*args: str) -> argparse.Namespace:
    top = argparse.ArgumentParser()
    cli._add_train(top.add_subparsers(required=True))
    return top.parse_args(["train", *args])


@pytest.mark.parametrize(
    ("model", "args", "expected"),
    [
        ("7b", [], {"batch": 2, "accumulation": 4, "epochs": 3, "max_length": 1024, "patience": 3}),
        ("7b", ["--epochs", "5", "--max-length", "512"], {"epochs": 5, "max_length": 512}),
        ("7b", ["--micro-batch", "1"], {"batch": 1, "accumulation": 8}),
        ("7b", ["--batch", "16"], {"batch": 2, "accumulation": 8}),
        ("7b", ["--batch", "9"], {"batch": 1, "accumulation": 9}),
        ("7b", ["--batch", "32", "--micro-batch", "8"], {"batch": 8, "accumulation": 4}),
        ("7b", ["--patience", "0", "--learning-rate", "1e-4"], {"patience": 0, "learning_rate": 1e-4}),
        ("tiny", [], {"batch": 16, "accumulation": 1, "patience": 0, "epochs": 1}),
        ("tiny", ["--validation", "some.jsonl"], {"patience": 3}),
    ],
)
def test_the_command_line_changes_the_recipe_and_nothing_else(model, args, expected):
    recipe = cli.with_choices(recipe_for(model), parsed("--out", "x", *args))
    assert {name: getattr(recipe, name) for name in expected} == expected
    if not args:
        assert recipe == recipe_for(model)


@pytest.mark.parametrize("args", [["--epochs", "0"], ["--max-length", "-5"], ["--batch", "none"], ["--log", "wandb"]])
def test_a_number_that_is_none_is_refused(args):
    with pytest.raises(SystemExit):
        parsed("--out", "x", *args)


def test_an_unfinished_run_is_not_thrown_away(tmp_path):
    checkpoint = work_folder(tmp_path / "adapter") / "checkpoint-50"
    checkpoint.mkdir(parents=True)
    (checkpoint / MARK).touch()
    with pytest.raises(PushbackError, match=r"unfinished run .* at step 50\. Add --resume"):
        cli.run_train(parsed("--out", str(tmp_path / "adapter")))
    assert checkpoint.is_dir()


def test_a_logger_that_is_not_installed_is_named_with_its_cure(tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "find_spec", lambda name: None)
    with pytest.raises(PushbackError, match="`pip install trackio`"):
        cli.set_up_log("trackio", tmp_path / "adapter")


@pytest.mark.parametrize(("log", "variable"), [("tensorboard", "TENSORBOARD_LOGGING_DIR"), ("trackio", "TRACKIO_DIR")])
def test_a_log_stays_on_this_machine_beside_the_adapter(tmp_path, monkeypatch, log, variable):
    import os

    monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(cli, "find_spec", lambda name: True)
    look = cli.set_up_log(log, tmp_path / "adapter")
    assert os.environ.pop(variable) == str(tmp_path / f"adapter.{log}")
    assert log in look
    assert f"adapter.{log}" in look
