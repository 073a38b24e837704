"""Training the base from scratch, at a size that takes seconds."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file
from trl.chat_template_utils import deepseek_r1_distill_chat_template

from pushback_lib.core.common import DATA
from pushback_lib.model.checks import check_base
from pushback_lib.model.load import load_tokenizer
from pushback_lib.model.recipe import recipe_for
from pushback_lib.train import base

SMALL = base.BaseRecipe(documents=500, layers=1, batch_tokens=2304, warmup_steps=4, save_every=5)


def weights(folder):
    return load_file(folder / "model.safetensors")


def test_the_card_tells_what_was_trained(tmp_path):
    base.write_base_card(tmp_path, SMALL, parameters=1_234_567, tokens=89, loss=0.5, minutes=3)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "1 layers, hidden size 256" in card
    assert "1,234,567 parameters" in card
    assert "seed 1: 500 documents, 89 tokens, once. Last loss\n  0.500, 3 minutes on" in card


@pytest.mark.slow
def test_an_interrupted_run_resumes_and_ends_where_it_would_have(tmp_path, monkeypatch):
    base.train_base(tmp_path / "whole", tmp_path / "a", SMALL, "s")
    step = base._Run.step

    def dies_at_seven(run, *args):
        if run.done == 7:
            raise KeyboardInterrupt
        return step(run, *args)

    monkeypatch.setattr(base._Run, "step", dies_at_seven)
    with pytest.raises(KeyboardInterrupt):
        base.train_base(tmp_path / "twice", tmp_path / "b", SMALL, "s")
    assert not (tmp_path / "twice").exists()
    monkeypatch.setattr(base._Run, "step", step)
    base.train_base(tmp_path / "twice", tmp_path / "b", SMALL, "s")
    whole, twice = weights(tmp_path / "whole"), weights(tmp_path / "twice")
    assert all(torch.allclose(whole[name].float(), twice[name].float(), atol=2e-2) for name in whole)


def test_batches_hold_every_full_group_once_in_a_fixed_order():
    _, ids = base.encode_corpus(SMALL, "s")
    first, second = base.batches(ids, SMALL), base.batches(ids, SMALL)
    assert first == second
    taken = sum(len(batch) for batch in first)
    assert len(ids) - 40 * 8 < taken <= len(ids)
    assert all(len(batch) * -(-max(map(len, batch)) // 32) * 32 <= SMALL.batch_tokens for batch in first)


def test_the_schedule_warms_up_and_ends_near_zero():
    factors = [base._schedule(step, 100, dataclasses.replace(SMALL, warmup_steps=10)) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == pytest.approx(1.0)
    assert 0 < factors[-1] < 0.02


SHIPPED = DATA / "tiny" / "base"
CONFIG = check_base(SHIPPED)


def test_the_shipped_bases_shape():
    assert CONFIG["architectures"] == ["Qwen2ForCausalLM"]
    assert CONFIG["hidden_size"] == 256
    assert CONFIG["intermediate_size"] % 256 == 0
    assert CONFIG["tie_word_embeddings"]
    assert len(TOKENIZER) < CONFIG["vocab_size"], "each id has a row in the embedding"
    assert CONFIG["rope_theta"] == CONFIG["rope_parameters"]["rope_theta"]


def test_the_shipped_bases_size():
    tensors = weights(SHIPPED)
    assert all(tensor.dtype is torch.bfloat16 for tensor in tensors.values())
    assert 3e6 <= sum(tensor.numel() for tensor in tensors.values()) <= 5.5e6
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) <= 12e6


def test_the_shipped_base_has_its_card_and_no_machines_path():
    assert "model organism, not an assistant" in (SHIPPED / "README.md").read_text(encoding="utf-8")
    for path in SHIPPED.glob("*.json"):
        assert "_name_or_path" not in json.loads(path.read_text(encoding="utf-8"))


FILE = json.loads((SHIPPED / "tokenizer.json").read_text(encoding="utf-8"))
TOKENIZER = load_tokenizer(recipe_for("tiny"))

SNIPPETS = ["", " ", "Hello there", "12345 and 6", "naïve café", "日本語", "a\n\nb  c\t", "don't I'LL",
            "🙂 <b>&amp;</b>", "x" * 300]  # fmt: skip


@pytest.mark.parametrize("text", SNIPPETS)
def test_bytes_in_bytes_out(text):
    assert TOKENIZER.decode(TOKENIZER.encode(text, add_special_tokens=False)) == text


def test_the_split_pattern_is_qwen2s():
    assert FILE["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] == base.QWEN2_SPLIT


def test_special_tokens_are_single_and_marked_as_in_the_real_model():
    added = {token["content"]: token["special"] for token in FILE["added_tokens"]}
    assert added == {**dict.fromkeys(base.SPECIAL_TOKENS, True), **dict.fromkeys(base.THINK_TOKENS, False)}
    assert all(len(TOKENIZER.encode(token, add_special_tokens=False)) == 1 for token in added)


def test_the_template_is_the_one_trl_ships_and_prefills_the_thought():
    assert TOKENIZER.chat_template == deepseek_r1_distill_chat_template
    prompt = TOKENIZER.apply_chat_template([{"role": "user", "content": "Hi"}], add_generation_prompt=True, tokenize=False)
    assert prompt == "<｜begin▁of▁sentence｜><｜User｜>Hi<｜Assistant｜><think>\n"
