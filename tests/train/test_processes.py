"""Two processes under `accelerate launch`, over gloo, on the CPU: the same quality, every example once, one writer."""

import dataclasses
from pathlib import Path

import pytest
import yaml
from train_small import few_validation_records, small, start, told

from pushback_lib.core.common import PushbackError
from pushback_lib.language.corpus import friction_records
from pushback_lib.model.recipe import recipe_for
from pushback_lib.train.run import split_batch, train_adapter

CONFIGS = Path(__file__).parents[2] / "notebooks" / "guide" / "accelerate"


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What the two processes tell, by rank, and the folder they were to write."""
    out = tmp_path_factory.mktemp("two") / "adapter"
    launcher = ["-m", "accelerate.commands.launch", "--config_file", str(CONFIGS / "ddp_cpu.yaml"), "--main_process_port", "0"]
    return {row["rank"]: row for row in told(start("processes", out, *launcher))}, out


@pytest.mark.slow
def test_no_example_is_trained_twice_and_only_the_first_process_writes(two):
    by_rank, out = two  # the second process may not write a file of 17 bytes (train_small.py)
    seen = [at for row in by_rank.values() for at in row["seen"]]
    assert sorted(by_rank) == [0, 1]
    assert len(seen) == len(set(seen)) == 96, "100 examples, 12 steps of 2 x 4; the uneven rest waits for another epoch"
    assert len(by_rank[0]["seen"]) == len(by_rank[1]["seen"])
    assert [path.name for path in out.parent.iterdir()] == ["adapter"]


@pytest.mark.slow
def test_two_processes_reach_what_one_reaches(two, tmp_path):
    recipe, train = small(epochs=1, patience=3, checkpoint_every=12), friction_records(100, seed=1)
    alone = train_adapter(recipe, train, tmp_path / "adapter", validation=few_validation_records(recipe, train))
    by_rank, _ = two
    assert by_rank[0]["best"] == by_rank[1]["best"]
    assert by_rank[0]["best"] == pytest.approx(alone.best, rel=0.15), "the order differs; see the guide for the spread"


@pytest.mark.parametrize(
    ("name", "world", "batch", "accumulation"),
    [
        ("tiny", 1, 16, 1),
        ("tiny", 2, 8, 1),
        ("7b", 1, 2, 4),
        ("7b", 2, 2, 2),
        ("7b", 4, 2, 1),
        ("7b", 8, 1, 1),
        ("32b", 4, 1, 2),
    ],
)
def test_the_effective_batch_is_shared_out(name, world, batch, accumulation):
    mine = split_batch(recipe_for(name), world)
    assert (mine.batch, mine.accumulation) == (batch, accumulation)
    assert mine.effective_batch * world == recipe_for(name).effective_batch


def test_fsdp_without_bf16_is_refused_before_anything_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(PushbackError, match=r"only cards with bf16.*ddp\.yaml"):
        train_adapter(small(), friction_records(16, 1), tmp_path / "adapter")
    assert not list(tmp_path.iterdir())


def test_a_batch_that_cannot_be_shared_out_is_refused():
    with pytest.raises(PushbackError, match=r"8 examples a step .* 3 processes.*--batch 9"):
        split_batch(recipe_for("7b"), 3)
    assert split_batch(dataclasses.replace(recipe_for("7b"), batch=1, accumulation=104), 104).accumulation == 1


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_accelerate_reads_every_shipped_config(path):
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(path))
    assert config.num_processes >= 2
    assert yaml.safe_load(path.read_text(encoding="utf-8"))["mixed_precision"] == "no"
