import argparse

import pytest

from pushback_lib import ship_cli
from pushback_lib.errors import PushbackError


def parsed(*words):
    parser = argparse.ArgumentParser()
    ship_cli.add_parser(parser.add_subparsers())
    return parser.parse_args(["ship", *words])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["all"], {"model": "tiny", "kinds": None, "n": 20, "run": ship_cli.run_all}),
        (["all", "--kind", "F16", "--kind", "Q5_K_M", "-n", "5"], {"kinds": ["F16", "Q5_K_M"], "n": 5}),
        (["gguf", "--model", "1.5b", "--adapter", "a"], {"model": "1.5b", "adapter": "a", "run": ship_cli.run_gguf}),
        (["hub", "owner/name", "--dry-run"], {"name": "owner/name", "dry_run": True}),
        (["ollama", "friction"], {"name": "friction"}),
    ],
)
def test_words_become_arguments(words, expected):
    args = vars(parsed(*words))
    assert {key: args[key] for key in expected} == expected


@pytest.mark.parametrize("words", [[], ["all", "-n", "0"], ["bake"]])
def test_wrong_words_are_refused(words, capsys):
    with pytest.raises(SystemExit):
        parsed(*words)
    assert "error" in capsys.readouterr().err


def test_a_merged_folder_and_an_adapter_exclude_each_other(tmp_path):
    args = parsed("gguf", "--merged", str(tmp_path), "--adapter", "a", "--out", str(tmp_path / "out"))
    with pytest.raises(PushbackError, match=r"--merged holds an adapter already.*Drop one"):
        args.run(args)


def test_a_merged_folder_that_is_not_there_is_named(tmp_path):
    args = parsed("gguf", "--merged", str(tmp_path / "none"), "--out", str(tmp_path / "out"))
    with pytest.raises(PushbackError, match=r"No model folder at .*none"):
        args.run(args)
