"""The bundled tokenizer has the shape of DeepSeek-R1-Distill-Qwen's."""

import json

import pytest

from pushback_lib.models import load_tokenizer
from pushback_lib.recipe import DATA, recipe_for
from pushback_lib.tokenizer import QWEN2_SPLIT, SPECIAL_TOKENS, THINK_TOKENS

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
