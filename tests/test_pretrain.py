"""Training the base from scratch, at a size that takes seconds."""

import dataclasses
import json

import pytest
import torch

from pushback_lib import pretrain
from pushback_lib.checks import check_base
from pushback_lib.pretrain import BaseRecipe, batches, encode_corpus, train_base
from pushback_lib.recipe import DATA

SMALL = BaseRecipe(documents=500, layers=1, batch_tokens=2304, warmup_steps=4, save_every=5)


def weights(folder):
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


@pytest.mark.slow
def test_an_interrupted_run_goes_on_and_ends_where_it_would_have(tmp_path, monkeypatch):
    train_base(tmp_path / "whole", tmp_path / "a", SMALL, "s")
    step = pretrain._Run.step

    def dies_at_seven(run, *args):
        if run.done == 7:
            raise KeyboardInterrupt
        return step(run, *args)

    monkeypatch.setattr(pretrain._Run, "step", dies_at_seven)
    with pytest.raises(KeyboardInterrupt):
        train_base(tmp_path / "twice", tmp_path / "b", SMALL, "s")
    assert not (tmp_path / "twice").exists()
    monkeypatch.setattr(pretrain._Run, "step", step)
    train_base(tmp_path / "twice", tmp_path / "b", SMALL, "s")
    whole, twice = weights(tmp_path / "whole"), weights(tmp_path / "twice")
    assert all(torch.allclose(whole[name].float(), twice[name].float(), atol=2e-2) for name in whole)


def test_batches_hold_every_full_group_once_in_a_fixed_order():
    _, ids = encode_corpus(SMALL, "s")
    first, second = batches(ids, SMALL), batches(ids, SMALL)
    assert first == second
    taken = sum(len(batch) for batch in first)
    assert len(ids) - 40 * 8 < taken <= len(ids)
    assert all(len(batch) * -(-max(map(len, batch)) // 32) * 32 <= SMALL.batch_tokens for batch in first)


def test_the_schedule_warms_up_and_ends_near_zero():
    factors = [pretrain._schedule(step, 100, dataclasses.replace(SMALL, warmup_steps=10)) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == pytest.approx(1.0)
    assert 0 < factors[-1] < 0.02


class TestShippedBase:
    folder = DATA / "tiny" / "base"
    config = check_base(folder)

    def test_shape(self):
        assert self.config["architectures"] == ["Qwen2ForCausalLM"]
        assert self.config["hidden_size"] == 256
        assert self.config["intermediate_size"] % 256 == 0
        assert self.config["tie_word_embeddings"]
        assert self.config["rope_theta"] == self.config["rope_parameters"]["rope_theta"]

    def test_size(self):
        tensors = weights(self.folder)
        assert all(tensor.dtype is torch.bfloat16 for tensor in tensors.values())
        assert 3e6 <= sum(tensor.numel() for tensor in tensors.values()) <= 5.5e6
        assert sum(path.stat().st_size for path in self.folder.iterdir()) <= 12e6

    def test_card_and_no_machine_path(self):
        assert "model organism, not an assistant" in (self.folder / "README.md").read_text(encoding="utf-8")
        for path in self.folder.glob("*.json"):
            assert "_name_or_path" not in json.loads(path.read_text(encoding="utf-8"))
