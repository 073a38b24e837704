"""What ends a long run is told with its cure: NaN, no memory, no disk, the user's interrupt."""

import dataclasses
import errno
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from train_small import at, small

from pushback_lib.core.common import PushbackError
from pushback_lib.language.corpus import friction_records
from pushback_lib.model.recipe import recipe_for
from pushback_lib.train.guard import (
    MARK,
    check_adapter_finite,
    check_fits,
    check_room,
    explained,
    is_disk_full,
    is_out_of_memory,
    unfinished,
)
from pushback_lib.train.run import train_adapter

SCRIPT = Path(__file__).parents[1] / "support" / "train_small.py"


@pytest.mark.slow
def test_a_loss_that_is_no_number_stops_the_run_and_blames_the_step_size(tmp_path):
    recipe = small(learning_rate=1e30, warmup_share=0.0, epochs=1, checkpoint_every=1)
    with pytest.raises(PushbackError, match=r"stopped at step \d+: the loss is nan, with finite.*lower --learning-rate"):
        train_adapter(recipe, friction_records(64, 1), tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()
    whole = unfinished(tmp_path / "adapter")  # none of broken weights
    weights = load_file(whole / "adapter_model.safetensors") if whole else {}
    assert all(tensor.isfinite().all() for tensor in weights.values())


@pytest.mark.parametrize("trains", [True, False])
def test_weights_that_are_no_numbers_are_blamed_before_a_checkpoint_is_written(trains):
    model = torch.nn.Linear(2, 2).requires_grad_(trains)
    check_adapter_finite(model, small(), 7)
    model.weight.data[0, 0] = float("inf")
    if trains:
        with pytest.raises(PushbackError, match=r"step 7: the adapter's weights are no longer finite"):
            check_adapter_finite(model, small(), 7)
    else:
        check_adapter_finite(model, small(), 7)  # the base is looked at only when the loss is broken


def test_a_damaged_base_is_blamed_for_a_loss_that_is_no_number(tmp_path):
    base = Path(shutil.copytree(recipe_for("tiny").base, tmp_path / "base"))
    weights = load_file(base / "model.safetensors")
    weights["model.norm.weight"][3] = float("nan")
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(PushbackError, match=r"stopped at step 1: the loss is nan, because the base's weights .* Get it again"):
        train_adapter(small(base=str(base)), friction_records(16, 1), tmp_path / "adapter")


def test_an_interrupt_tells_how_to_go_on(tmp_path):
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(PushbackError, match=r"Stopped\. The checkpoint of step 1 is whole; .*--resume"):
        train_adapter(small(checkpoint_every=1), friction_records(48, 1), tmp_path / "adapter",
                      [at("on_step_end", interrupt, step=2)])  # fmt: skip


@pytest.mark.slow
def test_no_memory_left_becomes_advice(tmp_path):
    run = subprocess.run([sys.executable, str(SCRIPT), "memory", str(tmp_path / "adapter")], capture_output=True, text=True,
                         check=False)  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
    says = json.loads(run.stdout.splitlines()[-1])["says"]
    assert "Memory ran out: 'tiny' at sequence 512, batch 256" in says
    assert "would fit" in says


@pytest.mark.parametrize(
    ("error", "disk", "memory"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True, False),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), True, False),
        (OSError(errno.ENOENT, "No such file"), False, False),
        (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), True, False),
        (RuntimeError("[enforce fail at inline_container.cc:616] . unexpected pos 704 vs 598"), True, False),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), False, True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"), False, True),
        (MemoryError(), False, True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False, False),
    ],
)
def test_each_failure_is_told_apart(error, disk, memory):
    assert (is_disk_full(error), is_out_of_memory(error)) == (disk, memory)


def test_other_errors_are_left_alone(tmp_path):
    with pytest.raises(ValueError, match="odd"), explained(recipe_for("tiny"), tmp_path):
        raise ValueError("odd")


def test_half_written_checkpoints_go_when_the_disk_is_full(tmp_path):
    for step in (50, 100):
        (tmp_path / f"checkpoint-{step}").mkdir()
    (tmp_path / "checkpoint-50" / MARK).touch()
    says = r"no room left.*Make room\. The checkpoint of step 50 is whole"
    with pytest.raises(PushbackError, match=says), explained(recipe_for("tiny"), tmp_path):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-50"]


def test_too_little_room_is_said_before_training(tmp_path):
    check_room(tmp_path, 1000)
    with pytest.raises(PushbackError, match=r"need \d+ MiB, and \d+ MiB are free.*another --out"):
        check_room(tmp_path, 10**13)


@pytest.mark.parametrize(
    ("name", "gib", "says"),
    [
        ("7b", 14.75, None),  # a T4
        ("7b", 23.5, None),  # an RTX 4090
        ("32b", 79.0, None),
        (
            "7b",
            4.0,
            r"'7b' at sequence 1024, batch 2, needs about .* and this card has 4\.0\. 7b needs at least .*--model 1\.5b",
        ),
        ("32b", 14.75, r"Take a card with more memory, or choose --model (7b|14b), which fits"),
    ],
)
def test_a_card_too_small_is_said_before_any_download(name, gib, says):
    if says is None:
        check_fits(recipe_for(name), gib)
    else:
        with pytest.raises(PushbackError, match=says):
            check_fits(recipe_for(name), gib)


@pytest.mark.gpu
def test_a_cards_memory_running_out_becomes_advice(tmp_path):
    recipe = dataclasses.replace(recipe_for("tiny"), batch=3600, examples=3600)
    torch.cuda.set_per_process_memory_fraction(0.01)
    with pytest.raises(PushbackError, match=r"Memory ran out: 'tiny'.*would fit"):
        train_adapter(recipe, friction_records(3600, 1), tmp_path / "adapter")
