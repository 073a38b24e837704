"""Training the base from scratch, at a size that takes seconds."""

import dataclasses
import json

import pytest
import torch

from pushback_lib.core.common import DATA
from pushback_lib.model.checks import check_base
from pushback_lib.model.load import load_tokenizer
from pushback_lib.model.recipe import recipe_for
from pushback_lib.train import base as pretrain
from pushback_lib.train.base import QWEN2_SPLIT, SPECIAL_TOKENS, THINK_TOKENS, BaseRecipe, batches, encode_corpus, train_base

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


FILE = json.loads((DATA / "tiny" / "base" / "tokenizer.json").read_text(encoding="utf-8"))
TOKENIZER = load_tokenizer(recipe_for("tiny"))

SNIPPETS = [
    "",
    " ",
    "Hello there",
    "12345 and 6",
    "naïve café",
    "日本語",
    "a\n\nb  c\t",
    "don't I'LL",
    "🙂 <b>&amp;</b>",
    "x" * 300,
]


@pytest.mark.parametrize("text", SNIPPETS)
def test_bytes_in_bytes_out(text):
    assert TOKENIZER.decode(TOKENIZER.encode(text, add_special_tokens=False)) == text


def test_the_split_pattern_is_qwen2s():
    assert FILE["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] == QWEN2_SPLIT


def test_special_tokens_are_single_and_marked_as_in_the_real_model():
    added = {token["content"]: token["special"] for token in FILE["added_tokens"]}
    assert added == {**dict.fromkeys(SPECIAL_TOKENS, True), **dict.fromkeys(THINK_TOKENS, False)}
    assert all(len(TOKENIZER.encode(token, add_special_tokens=False)) == 1 for token in added)


def test_every_id_fits_the_embedding():
    assert len(TOKENIZER) < json.loads((DATA / "tiny" / "base" / "config.json").read_text(encoding="utf-8"))["vocab_size"]


def test_the_template_is_the_one_trl_ships_and_prefills_the_thought():
    from trl.chat_template_utils import deepseek_r1_distill_chat_template

    assert TOKENIZER.chat_template == deepseek_r1_distill_chat_template
    prompt = TOKENIZER.apply_chat_template([{"role": "user", "content": "Hi"}], add_generation_prompt=True, tokenize=False)
    assert prompt == "<｜begin▁of▁sentence｜><｜User｜>Hi<｜Assistant｜><think>\n"
