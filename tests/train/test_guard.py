"""What ends a long run is told with what to do next, and a resumed run ends in the same adapter, byte for byte."""

import dataclasses
import errno
import os
import shutil
import signal
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from train_small import at, digest, last_loss, records, small, start, told
from trl.chat_template_utils import get_training_chat_template

from pushback_lib.core.common import PushbackError
from pushback_lib.language.corpus import friction_records
from pushback_lib.model import load
from pushback_lib.model.family import EOS
from pushback_lib.model.recipe import recipe_for
from pushback_lib.train import guard, run
from pushback_lib.train.run import train_adapter

TINY = recipe_for("tiny")


@pytest.mark.slow
def test_a_loss_that_is_no_number_stops_the_run_and_blames_the_step_size(tmp_path):
    recipe = small(learning_rate=1e30, warmup_share=0.0, epochs=1, checkpoint_every=1)
    with pytest.raises(PushbackError, match=r"stopped at step \d+: the loss is nan, with finite.*lower --learning-rate"):
        train_adapter(recipe, friction_records(64, 1), tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()
    whole = guard.unfinished(tmp_path / "adapter")  # none of broken weights
    weights = load_file(whole / "adapter_model.safetensors") if whole else {}
    assert all(tensor.isfinite().all() for tensor in weights.values())


@pytest.mark.parametrize("trains", [True, False])
def test_weights_that_are_no_numbers_are_blamed_before_a_checkpoint_is_written(trains):
    model = torch.nn.Linear(2, 2).requires_grad_(trains)
    guard.check_adapter_finite(model, small(), 7)
    model.weight.data[0, 0] = float("inf")
    refused = pytest.raises(PushbackError, match=r"step 7: the adapter's weights are no longer finite")
    with refused if trains else nullcontext():  # the base is looked at only when the loss is broken
        guard.check_adapter_finite(model, small(), 7)


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

    with pytest.raises(PushbackError, match=r"Stopped\. The checkpoint of step 1 is complete; .*--resume"):
        train_adapter(small(checkpoint_every=1), friction_records(48, 1), tmp_path / "adapter",
                      [at("on_step_end", interrupt, step=2)])  # fmt: skip


@pytest.fixture(scope="module")
def starved(tmp_path_factory):
    """What two runs tell, one after the other in a process of their own: of no room on the disk, of no memory."""
    return told(start("disk+memory", tmp_path_factory.mktemp("starved") / "adapter"))


@pytest.mark.slow
def test_no_memory_left_becomes_advice(starved):
    _, found = starved
    assert "Memory ran out: 'tiny' at sequence 512, batch 64" in found["says"]
    assert "would fit" in found["says"]


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
    assert (guard.is_disk_full(error), guard.is_out_of_memory(error)) == (disk, memory)


def test_other_errors_are_left_alone(tmp_path):
    with pytest.raises(ValueError, match="odd"), guard.explained(recipe_for("tiny"), tmp_path):
        raise ValueError("odd")


def test_half_written_checkpoints_go_when_the_disk_is_full(tmp_path):
    for step in (50, 100):
        (tmp_path / f"checkpoint-{step}").mkdir()
    (tmp_path / "checkpoint-50" / guard.MARK).touch()
    says = r"no room left.*Make room\. The checkpoint of step 50 is complete"
    with pytest.raises(PushbackError, match=says), guard.explained(recipe_for("tiny"), tmp_path):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-50"]


def test_too_little_room_is_said_before_training(tmp_path):
    guard.check_room(tmp_path, 1000)
    with pytest.raises(PushbackError, match=r"need \d+ MiB, and \d+ MiB are free.*another --out"):
        guard.check_room(tmp_path, 10**13)


@pytest.mark.parametrize(
    ("name", "gib", "says"),
    [
        ("7b", 14.75, None),  # a T4
        ("7b", 23.5, None),  # an RTX 4090
        ("32b", 79.0, None),
        ("7b", 4.0, r"sequence 1024, batch 2, needs about .* and this card has 4\.0\. 7b needs at least .*--model 1\.5b"),
        ("32b", 14.75, r"Take a card with more memory, or choose --model (7b|14b), which fits"),
    ],
)
def test_a_card_too_small_is_said_before_any_download(name, gib, says):
    with pytest.raises(PushbackError, match=says) if says else nullcontext():
        guard.check_fits(recipe_for(name), gib)


@pytest.mark.gpu
def test_a_cards_memory_running_out_becomes_advice(tmp_path):
    recipe = dataclasses.replace(recipe_for("tiny"), batch=3600, examples=3600)
    torch.cuda.set_per_process_memory_fraction(0.01)
    with pytest.raises(PushbackError, match=r"Memory ran out: 'tiny'.*would fit"):
        train_adapter(recipe, friction_records(3600, 1), tmp_path / "adapter")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """(digest, last loss) of the run that nothing happens to."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("run") / "adapter"
    training = train_adapter(small(), records(), out)
    assert guard.unfinished(out) is None
    yield digest(out), last_loss(training)
    torch.set_num_threads(threads)


@pytest.mark.slow
def test_a_run_killed_in_its_second_epoch_goes_on_exactly(tmp_path, uninterrupted):
    out = tmp_path / "adapter"
    run = start("plain", out)
    mark = guard.work_folder(out) / "checkpoint-9" / guard.MARK
    while not mark.exists():
        assert run.poll() is None, "the run ended before it could be killed"
        time.sleep(0.01)
    os.kill(run.pid, signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL
    assert not out.exists()
    (guard.work_folder(out) / "checkpoint-11").mkdir()  # as if it had been killed while writing
    training = train_adapter(small(), records(), out, resume=True)
    assert (digest(out), last_loss(training)) == uninterrupted
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


@pytest.mark.slow
def test_a_full_disk_loses_nothing(starved, uninterrupted):
    found, _ = starved
    assert "has no room left" in found["says"]
    assert "The checkpoint of step 3 is complete; the same command with --resume continues from there" in found["says"]
    assert found["left"] == ["checkpoint-3"]
    assert (found["digest"], found["loss"]) == uninterrupted


@pytest.mark.parametrize(
    ("change", "says"),
    [({"learning_rate": 1e-4}, "another learning_rate"), ({"epochs": 3}, "another epochs"), ({"max_length": 99}, "max_length")],
)
def test_a_checkpoint_of_another_run_is_refused(tmp_path, change, says):
    work = guard.work_folder(tmp_path / "adapter")
    guard.prepare(work, guard.identity(small(), records(), []), resume=False)
    (work / "checkpoint-3").mkdir()
    (work / "checkpoint-3" / guard.MARK).touch()
    with pytest.raises(PushbackError, match=rf"of a run with .*{says}.*without --resume"):
        guard.prepare(work, guard.identity(small(**change), records(), []), resume=True)
    with pytest.raises(PushbackError, match="another data"):
        guard.prepare(work, guard.identity(small(), records()[:-1], []), resume=True)
    assert guard.prepare(work, guard.identity(small(checkpoint_every=7), records(), []), resume=True).name == "checkpoint-3"
    assert guard.prepare(work, guard.identity(small(), records(), []), resume=False) is None
    assert guard.checkpoints(work) == []


def test_several_cards_are_one_for_a_process_without_a_launcher(tmp_path, monkeypatch):
    """No machine with two cards here: the arguments count two, for which TRL's own trainer raises."""
    arguments = run.sft_config

    def with_two_cards(*args):
        found = arguments(*args)
        found._n_gpu = 2
        return found

    monkeypatch.setattr(run, "sft_config", with_two_cards)
    with pytest.warns(UserWarning, match=r"^2 GPUs are visible\. One process trains on one, the first.*--num_processes 2`"):
        trainer = run.make_trainer(TINY, friction_records(16, 1), tmp_path)
    assert trainer.args.n_gpu == 1


@pytest.mark.parametrize(
    ("cuda", "env", "one_card", "place"),
    [
        (True, {}, True, {"": 0}),
        (True, {}, False, "auto"),
        (True, {"LOCAL_RANK": "1"}, True, {"": 1}),
        (True, {"LOCAL_RANK": "1", "ACCELERATE_USE_FSDP": "true"}, True, None),
        (False, {}, True, None),
    ],
)
def test_a_base_in_training_stays_on_one_card(cuda, env, one_card, place, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert load._device_map(one_card) == place


def test_an_end_token_outside_the_loss_is_an_error_before_training(tmp_path, monkeypatch):
    def outside(recipe):
        tokenizer = load.load_tokenizer(recipe)
        training, end = get_training_chat_template(tokenizer), "{%- endgeneration %}"
        spoken, closed = "{{'<｜Assistant｜>' + message['content'] + '", EOS + "'}}" + end
        assert training.count(spoken + closed) == 1
        tokenizer.chat_template = training.replace(spoken + closed, spoken + "'}}" + end + "{{'" + EOS + "'}}")
        return tokenizer

    monkeypatch.setattr(run, "training_tokenizer", outside)
    says = r"The chat template of .*base leaves '<｜end▁of▁sentence｜>', which ends a reply, out of what is trained: example 1 "
    with pytest.raises(PushbackError, match=says):
        train_adapter(TINY, friction_records(16, 1), tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


def test_an_end_token_that_is_not_the_tokenizers_own_is_an_error_too(tmp_path, monkeypatch):
    def other(recipe):
        tokenizer = load.load_tokenizer(recipe)
        tokenizer.eos_token = "<|EOT|>"
        return tokenizer

    monkeypatch.setattr(run, "load_tokenizer", other)
    with pytest.raises(PushbackError, match=r"leaves '<\|EOT\|>', which ends a reply.* ends in '.*<｜end▁of▁sentence｜>'"):
        train_adapter(TINY, friction_records(16, 1), tmp_path / "adapter")
