"""The benchmarks: real trainers of all three recipes on the bundled model, few examples; figures, ratios and page."""

import argparse
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import bench
import pytest
import torch

from pushback_lib.chat.local import LocalVoices
from pushback_lib.core.common import DATA, PushbackError
from pushback_lib.language.corpus import friction_records
from pushback_lib.model.load import load_base
from pushback_lib.model.recipe import as_config, recipe_for
from pushback_lib.model.voices import load_voices

TINY = recipe_for("tiny")
RECORDS = friction_records(4, seed=3)
SMALL = as_config({"model_type": "qwen2", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
                   "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 700}, "made")  # fmt: skip


@pytest.mark.parametrize("arm", ["trl", "kit"])
def test_both_rivals_learn_the_same_tokens_as_the_benchmark_counts(arm, tmp_path):
    trainer = bench.trainer_for(arm, TINY, RECORDS, tmp_path)
    rows = [{name: list(row[name]) for name in ("input_ids", "labels")} for row in trainer.train_dataset]
    assert rows == bench.tokenise(TINY, RECORDS)
    assert sum(label != bench.IGNORED for row in rows for label in row["labels"]) == bench.useful_tokens(TINY, RECORDS)


def test_padded_rows_are_padded_to_the_end_with_loss_on_the_prompt_too():
    rows, own = bench.padded_rows(TINY, RECORDS), bench.tokenise(TINY, RECORDS)
    for row, mine in zip(rows, own, strict=True):
        assert len(row["input_ids"]) == len(row["labels"]) == 1024
        assert row["labels"][: len(mine["input_ids"])] == mine["input_ids"]
        assert set(row["labels"][len(mine["input_ids"]) :]) == {bench.IGNORED}


def test_trl_keeps_its_defaults_and_all_share_what_decides_quality(tmp_path):
    configs = {arm: bench.trainer_for(arm, TINY, RECORDS, tmp_path).args for arm in bench.ARMS}
    assert configs["trl"].gradient_checkpointing
    assert configs["trl"].bf16
    assert {c.per_device_train_batch_size * c.gradient_accumulation_steps for c in configs.values()} == {TINY.effective_batch}
    for name in ("learning_rate", "lr_scheduler_type", "num_train_epochs", "max_grad_norm", "weight_decay", "seed", "optim"):
        assert len({str(getattr(config, name)) for config in configs.values()}) == 1, name


def test_the_held_out_loss_is_what_transformers_computes_over_all_tokens():
    model, rows = load_base(TINY), bench.tokenise(TINY, RECORDS)
    with torch.no_grad():
        losses = [model(**{name: torch.tensor([part]) for name, part in row.items()}).loss.item() for row in rows]
    counts = [sum(label != bench.IGNORED for label in row["labels"]) for row in rows]
    mean = sum(loss * count for loss, count in zip(losses, counts, strict=True)) / sum(counts)
    assert bench.completion_loss(model, rows) == pytest.approx(mean, rel=1e-3)


def test_every_seed_trains_both_rivals_and_the_order_changes():
    order = list(bench.turns([1, 2, 3]))
    assert order == [("kit", 1), ("trl", 1), ("padded", 1), ("trl", 2), ("kit", 2), ("kit", 3), ("trl", 3)]


@pytest.mark.parametrize(("kit", "met"), [(1.0, True), (0.9, False)])
def test_a_missed_target_is_reported_as_missed(kit, met):
    runs = [{"arm": arm, "seed": 1, "seconds": seconds, "cpu_seconds": seconds, "useful_tokens": 1000, "held_out_loss": loss}
            for arm, seconds, loss in (("kit", 10 / kit, 0.9), ("trl", 10, 1.0), ("padded", 50, 1.1))]  # fmt: skip
    found = bench.figures(runs, {"kit": 50, "trl": 100, "padded": 400}, device="cpu", padded_to=1024)
    assert found["ratios"]["kit_over_trl"]["clock"] == pytest.approx(kit)
    assert found["ratios"]["kit_over_trl"]["loss_differences"] == [pytest.approx(-0.1)]
    assert found["ratios"]["kit_over_trl"]["memory"] == 0.5
    assert bench.verdicts(found)[1].endswith("met." if met else "missed.")


def test_the_page_holds_the_figures_and_keeps_its_own_words():
    found = json.loads((DATA / "results" / "bench_train.json").read_text(encoding="utf-8"))
    text = Path(bench.__file__).with_name("bench.md").read_text(encoding="utf-8")
    for line in [*bench.table(found).splitlines(), *bench.verdicts(found), found["machine"]]:
        assert line in text
    other = bench.page({**found, "machine": "an abacus"}, text)
    assert "an abacus" in other
    assert found["machine"] not in other.partition(bench.END)[0]
    own_words = [[part.split(bench.END)[-1] for part in one.split(bench.HEAD)] for one in (text, other)]
    assert own_words[0] == own_words[1]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, bench.__file__, *map(str, arguments)], capture_output=True, text=True, check=False)


@pytest.mark.time
@pytest.mark.slow
def test_the_command_measures_and_writes_figures_and_page(tmp_path):
    out, page = tmp_path / "results" / "bench.json", tmp_path / "bench.md"
    done = run("train", "--model", "tiny", "-n", 32, "--held-out", 1, "--seeds", 1, "--out", out, "--page", page)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text(encoding="utf-8"))
    assert [len(found["recipes"][arm]["runs"]) for arm in bench.ARMS] == [1, 1, 1]
    assert all(0 < row["held_out_loss"] < found["untrained_loss"] for row in found["recipes"].values())
    assert bench.table(found) in page.read_text(encoding="utf-8")
    assert bench.table(found) in done.stdout


@pytest.mark.parametrize("changed", [{"n": 0}, {"seeds": 0}, {"held_out": 0}, {"n": 8}, {"model": "9b"}])
def test_bad_input_is_refused_before_anything_is_trained(changed, tmp_path):
    args = {"model": "tiny", "n": 64, "held_out": 1, "seeds": 1, "out": tmp_path / "x.json", "page": tmp_path / "x.md"}
    with pytest.raises(PushbackError):
        bench.run_train(argparse.Namespace(**{**args, **changed}))
    assert list(tmp_path.iterdir()) == []


def test_an_error_is_one_line_and_exit_code_2():
    done = run("train", "-n", 1)
    assert done.returncode == 2
    assert done.stderr.startswith("bench: -n 1, --held-out 5, --seeds 3: tiny needs at least -n 32")
    assert done.stderr.count("\n") == 1


def test_the_gpu_measurement_runs_on_a_cpu_at_small_size_and_the_plan_holds():
    recipe = dataclasses.replace(recipe_for("7b"), batch=2, accumulation=2)
    runs = bench.measure_all(recipe, lengths=(64, 96), config=SMALL)
    assert [run.length for run in runs] == [64, 96]
    assert all(abs(run.off) <= 0.10 for run in runs), runs
    assert all(run.tokens_a_second > 0 for run in runs)
    assert "2 × 96" in bench.gpu_table(runs)


@pytest.mark.gpu
def test_seven_billion_on_a_card_meets_its_targets():
    run = bench.measure_t4(recipe_for("7b"), 1024)
    assert run.peak / 2**30 <= 14.5
    assert abs(run.off) <= 0.10


def test_both_voices_are_timed_at_the_length_asked_for_and_say_the_same():
    rounds = bench.bench_voices(LocalVoices(load_voices(TINY, four_bit=False)), tokens=30, rounds=2)
    assert len(rounds) == 2
    assert all(one.same and one.tokens == 30 for one in rounds)
    assert all(0 < one.first_token < one.together for one in rounds)


def test_the_ratio_is_the_median_of_the_rounds():
    seconds = ((1.0, 2.0, 0.1), (3.0, 3.0, 0.1), (1.2, 2.0, 0.3))
    text = bench.voices_text([bench.Round(*one, tokens=60, same=one[0] < 3) for one in seconds])
    assert "60 tokens a voice, 3 rounds" in text
    assert "ratio 0.60 (from 0.50 to 1.00)" in text
    assert "NOT the same" in text
