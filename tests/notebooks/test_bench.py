"""The training benchmark: real trainers of all three recipes on the bundled model, few examples; figures, ratios and page."""

import dataclasses
import json

import bench as bench_table
import pytest
from bench import (
    ARMS,
    IGNORED,
    Bench,
    Measured,
    Run,
    VoiceTimes,
    ancestor_rows,
    bench_voices,
    completion_loss,
    gpu_table,
    measure,
    measure_all,
    run_train,
    tokenise,
    trainer_for,
    turns,
    useful_tokens,
    voice_bytes,
)

from pushback_lib.core.common import PushbackError
from pushback_lib.language.corpus import friction_records
from pushback_lib.model.recipe import as_config, recipe_for
from pushback_lib.model.voices import load_speaker

TINY = recipe_for("tiny")
RECORDS = friction_records(4, seed=3)
SMALL = as_config({"model_type": "qwen2", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
                   "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 700}, "made")  # fmt: skip


@pytest.mark.parametrize("arm", ["trl", "kit"])
def test_both_rivals_learn_the_same_tokens_as_the_benchmark_counts(arm, tmp_path):
    trainer = trainer_for(arm, TINY, RECORDS, tmp_path)
    rows = [{name: list(row[name]) for name in ("input_ids", "labels")} for row in trainer.train_dataset]
    assert rows == tokenise(TINY, RECORDS)
    assert sum(label != IGNORED for row in rows for label in row["labels"]) == useful_tokens(TINY, RECORDS)


def test_the_ancestors_rows_are_padded_to_the_end_with_loss_on_the_prompt_too():
    rows, own = ancestor_rows(TINY, RECORDS), tokenise(TINY, RECORDS)
    for row, mine in zip(rows, own, strict=True):
        assert len(row["input_ids"]) == len(row["labels"]) == 1024
        assert row["labels"][: len(mine["input_ids"])] == mine["input_ids"]
        assert set(row["labels"][len(mine["input_ids"]) :]) == {IGNORED}


def test_trl_keeps_its_defaults_and_all_share_what_decides_quality(tmp_path):
    configs = {arm: trainer_for(arm, TINY, RECORDS, tmp_path).args for arm in ARMS}
    assert configs["trl"].gradient_checkpointing
    assert configs["trl"].bf16
    assert {c.per_device_train_batch_size * c.gradient_accumulation_steps for c in configs.values()} == {TINY.effective_batch}
    for name in ("learning_rate", "lr_scheduler_type", "num_train_epochs", "max_grad_norm", "weight_decay", "seed", "optim"):
        assert len({str(getattr(config, name)) for config in configs.values()}) == 1, name


def test_the_held_out_loss_does_not_depend_on_padding():
    from pushback_lib.model.load import load_base

    model, rows = load_base(TINY), tokenise(TINY, RECORDS)
    assert completion_loss(model, rows, batch=4) == pytest.approx(completion_loss(model, rows, batch=1), rel=1e-3)


def test_every_seed_trains_both_rivals_and_the_order_changes():
    order = list(turns([1, 2, 3]))
    assert order == [("kit", 1), ("trl", 1), ("ancestor", 1), ("trl", 2), ("kit", 2), ("kit", 3), ("trl", 3)]


def made(kit: float) -> Bench:
    runs = [
        Run("kit", 1, 10 / kit, 10 / kit, 1000, 0.9),
        Run("trl", 1, 10, 10, 1000, 1.0),
        Run("ancestor", 1, 50, 50, 1000, 1.1),
    ]
    return Bench(tuple(runs), {"kit": 50, "trl": 100, "ancestor": 400}, 8, 4, 1024, 2.0)


@pytest.mark.parametrize(("kit", "met"), [(1.0, True), (0.9, False)])
def test_a_missed_target_is_reported_as_missed(kit, met, tmp_path):
    found = bench_table.figures(made(kit), "tiny", (0.5, 0.5, 0.5))
    assert found["ratios"]["kit_over_trl"]["clock"] == pytest.approx(kit)
    assert found["ratios"]["kit_over_trl"]["loss_differences"] == [pytest.approx(-0.1)]
    assert bench_table.verdicts(found)[1].endswith("met." if met else "missed.")
    paths = bench_table.write(found, tmp_path / "a" / "bench.json", tmp_path / "bench.md")
    assert json.loads(paths[0].read_text())["machine"] in paths[1].read_text()


def test_the_gpu_measurement_runs_on_a_cpu_at_small_size_and_the_plan_holds():
    recipe = dataclasses.replace(recipe_for("7b"), batch=2, accumulation=2)
    runs = measure_all(recipe, lengths=(64, 96), config=SMALL)
    assert [run.length for run in runs] == [64, 96]
    assert all(abs(run.off) <= 0.10 for run in runs), runs
    assert all(run.tokens_a_second > 0 for run in runs)
    assert "2 × 96" in gpu_table(runs)


@pytest.mark.gpu
def test_seven_billion_on_a_card_meets_its_targets():
    recipe = dataclasses.replace(recipe_for("7b"), batch=1, accumulation=8)
    run: Measured = measure(recipe, length=1024, fp16=True)
    assert run.peak / 2**30 <= 14.5
    assert abs(run.off) <= 0.10


@pytest.mark.parametrize("changed", [{"n": 0}, {"seeds": 0}, {"held_out": 0}, {"device": "cuda"}, {"n": 8}, {"model": "9b"}])
def test_bad_input_is_refused_before_anything_is_trained(changed, tmp_path):
    import argparse

    args = {
        "model": "tiny",
        "device": "auto",
        "n": 64,
        "held_out": 1,
        "seeds": 1,
        "out": tmp_path / "x.json",
        "page": tmp_path / "x.md",
    }
    with pytest.raises(PushbackError):
        run_train(argparse.Namespace(**{**args, **changed}))
    assert list(tmp_path.iterdir()) == []


def config_of(layers, **shape):
    from transformers import Qwen2Config

    return Qwen2Config(num_hidden_layers=layers, **shape)


SHAPES = {  # hidden, intermediate, layers, heads, KV heads, vocabulary, from the published config files
    "1.5b": (1536, 8960, 28, 12, 2, 151936),
    "7b": (3584, 18944, 28, 28, 4, 152064),
}


@pytest.mark.parametrize("name", SHAPES)
def test_two_voices_take_at_most_0_6_of_two_models(name):
    hidden, intermediate, layers, heads, kv_heads, words = SHAPES[name]
    config = config_of(layers, hidden_size=hidden, intermediate_size=intermediate, num_attention_heads=heads,
                       num_key_value_heads=kv_heads, vocab_size=words, tie_word_embeddings=False)  # fmt: skip
    recipe = recipe_for(name)
    counted = voice_bytes(recipe, config)
    assert counted.base == 2 * recipe.parameters
    assert 0.5 < counted.ratio <= 0.6


def test_a_measurement_is_of_the_length_it_says_and_says_what_it_is():
    times = bench_voices(load_speaker(recipe_for("tiny"), four_bit=False), tokens=30, rounds=2)
    assert (times.tokens, len(times.together), len(times.apart), len(times.first_token)) == (30, 2, 2, 2)
    assert times.same
    assert all(0 < first < both for first, both in zip(times.first_token, times.together, strict=True))
    assert "30 tokens a voice, 2 rounds" in str(times)


def test_the_ratio_is_the_median_of_the_rounds():
    times = VoiceTimes(60, (1.0, 3.0, 1.2), (2.0, 3.0, 2.0), (0.1, 0.1, 0.3), False, 2, (0.1, 0.2))
    assert times.ratio == pytest.approx(0.6)
    assert "from 0.50 to 1.00" in str(times)
    assert "NOT the same" in str(times)
