"""Records beyond the window: named before training, never cut, and left out only where that is asked for."""

import dataclasses
import json
import re

import pytest

from pushback_lib.cli import main
from pushback_lib.core.common import PushbackError
from pushback_lib.core.records import save_records
from pushback_lib.language.corpus import friction_records
from pushback_lib.model.recipe import recipe_for
from pushback_lib.train.run import make_trainer, train_adapter
from pushback_lib.train.window import fitting, token_lengths

TINY = recipe_for("tiny")
SHORT = friction_records(8, seed=1)
LONG = [
    one.model_copy(update={"id": f"long-{n}", "answer": one.answer * n}) for n, one in zip((9, 60, 12, 30), SHORT, strict=False)
]
LENGTHS = {one.id: length for one, length in zip(LONG, token_lengths(LONG, TINY), strict=True)}
MIXED = [*LONG[:1], *SHORT, *LONG[1:]]


def test_the_records_of_these_tests_lie_on_both_sides_of_the_window():
    assert max(token_lengths(SHORT, TINY)) <= 256 < min(LENGTHS.values())
    assert 1024 < LENGTHS["long-60"] < 4096
    assert sorted(LENGTHS, key=LENGTHS.get) == ["long-9", "long-12", "long-30", "long-60"]


def small(window: int):
    return dataclasses.replace(TINY, max_length=window)


def held(records):
    return max(token_lengths(records, TINY))


CASES = [
    (MIXED, 256, r"4 of 12 records are longer than the window of 256 tokens: long-60 .*, long-30 .*, long-12 .*, long-9 \("),
    (MIXED, 256, r"Shorten them \(this model takes 1,024\), or --drop-long \(drop_long=True\) to leave them out\."),
    (LONG[:1], 256, rf"1 of 1 records .*Pass --max-length {LENGTHS['long-9']} to hold them all\.$"),
    ([*SHORT, LONG[0]], LENGTHS["long-9"] - 1, rf"1 of 9 .*Pass --max-length {LENGTHS['long-9']} to hold them all, or --drop"),
    (SHORT * 2, 8, r"16 of 16 records .*\), …\. Pass --max-length \d+ to hold them all\.$"),
    (SHORT, 2048, "A sequence of 2048 tokens\\? This model takes 2 to 1,024"),
]


@pytest.mark.parametrize(("records", "window", "says"), CASES)
def test_records_that_are_too_long_are_counted_and_named_the_longest_first(records, window, says):
    with pytest.raises(PushbackError, match=says):
        fitting(records, small(window))


def test_the_window_that_is_named_holds_them_all():
    assert fitting([*SHORT, LONG[0]], small(LENGTHS["long-9"])) == [*SHORT, LONG[0]]


def test_those_to_be_left_out_are_named_and_the_others_kept_in_order():
    with pytest.warns(UserWarning, match=r"4 of 12 records .* long-60 \([\d,]+\).* They are left out\."):
        assert fitting(MIXED, small(256), drop_long=True) == SHORT
    with pytest.raises(PushbackError, match=r"4 of 4 records"):  # none would be left
        fitting(LONG, small(256), drop_long=True)


@pytest.mark.parametrize("build", [make_trainer, train_adapter])
@pytest.mark.parametrize("validation", [True, False])
def test_no_trainer_is_built_around_records_that_would_be_cut(tmp_path, build, validation):
    records, looks = (SHORT, MIXED) if validation else (MIXED, ())
    with pytest.raises(PushbackError, match=rf"4 of 12 {'validation ' if validation else ''}records are longer"):
        build(small(256), records, tmp_path / "out", validation=looks)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def folder(tmp_path):
    save_records(tmp_path / "data" / "train.jsonl", MIXED)
    save_records(tmp_path / "data" / "validation.jsonl", SHORT[:2])
    return tmp_path / "data"


def test_the_command_refuses_then_leaves_out_what_it_is_told_to_and_says_so_in_the_adapters_note(folder, tmp_path, capsys):
    command = ["train", "--data", str(folder), "--max-length", "256", "--out", str(tmp_path / "adapter")]
    assert main(command) == 2
    assert re.search(r"4 of 12 records .* long-60 .*--drop-long", capsys.readouterr().err)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    with pytest.warns(UserWarning, match="4 of 12 records"):
        assert main([*command, "--drop-long"]) == 0
    assert "8 records (4 too long)" in capsys.readouterr().out
    note = json.loads((tmp_path / "adapter" / "pushback.json").read_text())
    assert (note["dropped"], note["max_length"]) == (4, 256)
