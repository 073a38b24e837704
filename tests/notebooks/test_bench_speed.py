"""The benchmark of a step: every way trains a small Llama, all but the smaller adapter learn the same; table and page."""

import dataclasses

import bench_speed
import pytest
from chatml_twin import twin

from pushback_lib.language.corpus import friction_records

COMPILED, SMALLER = "the same, compiled with `torch.compile`", "adapter on the upper half of the layers only"


@pytest.mark.slow
def test_every_way_trains_and_the_table_names_them(tmp_path, monkeypatch):
    ways = {way: how for way, how in bench_speed.WAYS.items() if way != COMPILED}  # a compiler takes minutes
    monkeypatch.setattr(bench_speed, "WAYS", ways)
    recipe = dataclasses.replace(twin(tmp_path / "base"), four_bit=False, rank=4, batch=4, accumulation=1, checkpointing=False)
    found = bench_speed.bench(recipe, friction_records(24, 1), steps=6, few=3)
    assert [len(run["losses"]) for run in found["runs"]] == [3] * len(bench_speed.WAYS) + [6, 6]
    usual, kit = found["runs"][-2:]
    assert usual["tokens"] == kit["tokens"] > 0
    assert kit["losses"] == pytest.approx(usual["losses"], abs=0.02)
    text = bench_speed.page(found, f"# Mine\n{bench_speed.HEAD}\nold\n{bench_speed.END}\nMore.\n")
    assert all(f"| {way} | " in text for way in bench_speed.WAYS)
    assert (text.startswith("# Mine\n"), text.endswith("More.\n"), "old" in text) == (True, True, False)


def test_short_runs_are_set_beside_short_ones_and_long_beside_long_and_a_failed_one_is_named():
    def run(way, steps, seconds, losses):
        return {"way": way, "steps": steps, "tokens": 100, "seconds": seconds, "losses": losses}

    runs = [run(way, 2, 1.0, [2.0, 1.5]) for way in bench_speed.WAYS]
    runs[1] = {"way": COMPILED, "steps": 2, "error": "no compiler"}
    runs += [run(bench_speed.FIRST, 3, 4.0, [2.0, 1.6, 1.4]), run(bench_speed.KIT, 3, 0.5, [2.0, 1.5, 1.3])]
    lines = bench_speed.table({"model": "m", "machine": "an abacus", "load_average": [0.1], "threads": 2, "rank": 4, "batch": 8,
                               "records": 1000, "runs": runs})  # fmt: skip
    assert f"| {bench_speed.FIRST} | 100 | 1.00 | 25 | 1.00 |" in lines
    assert f"| {bench_speed.KIT} | 100 | 1.00 | 200 | 8.00 |" in lines
    assert f"| {COMPILED} | failed |  |  |  |" in lines
    assert "at most 0.1000 under autocast and 0.0000 with the kit" in lines


def test_a_size_that_is_not_trained_in_16_bit_is_one_line_and_2(tmp_path, capsys):
    assert bench_speed.main(["--model", "tiny", "--out", str(tmp_path / "x.json"), "--page", str(tmp_path / "x.md")]) == 2
    assert "Pass --model english" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
