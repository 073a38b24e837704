import copy
import json
from pathlib import Path

import pytest

from pushback_lib.errors import PushbackError
from pushback_lib.gguf_tokenizer import CHAT_TEMPLATE, tokenizer_fields
from pushback_lib.models import load_tokenizer
from pushback_lib.recipe import recipe_for

TINY = recipe_for("tiny")
TOKENIZER = json.loads((Path(TINY.base) / "tokenizer.json").read_text(encoding="utf-8"))
CONFIG = json.loads((Path(TINY.base) / "config.json").read_text(encoding="utf-8"))


def said(*pairs):
    return [{"role": role, "content": text} for role, text in pairs]


TALKS = {
    "one turn": said(("user", "What is the sky?")),
    "system": said(("system", "Think first, then answer."), ("user", "Why?")),
    "several turns": said(("system", "S"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"), ("user", "e")),
    "a thought in the history": said(("user", "a"), ("assistant", "<think>\nhm\n</think>\n\nb"), ("user", "c")),
    "two closing tags": said(("user", "a"), ("assistant", "x</think>y</think>z"), ("user", "c")),
    "empty texts": said(("system", ""), ("user", "")),
    "spaces, newlines and braces stay": said(("system", "  {{ x }}\n"), ("user", "\n {% if %} \n\n")),
    "two system messages": said(("system", "first"), ("user", "a"), ("system", "second")),
    "quotes, emoji, CJK": said(("user", 'it\'s "so" 🙂 你好 é')),
}


@pytest.mark.parametrize("case", TALKS)
@pytest.mark.parametrize("prompt", [True, False])
def test_the_embedded_template_renders_what_the_family_s_does(case, prompt):
    tokenizer = load_tokenizer(TINY)
    expected = tokenizer.apply_chat_template(TALKS[case], add_generation_prompt=prompt, tokenize=False)
    got = tokenizer.apply_chat_template(TALKS[case], chat_template=CHAT_TEMPLATE, add_generation_prompt=prompt, tokenize=False)
    assert got == expected


def test_the_embedded_template_knows_no_tools():
    assert "tool" not in CHAT_TEMPLATE


def test_every_id_has_its_token_and_type():
    fields = tokenizer_fields(TOKENIZER, CONFIG)
    tokens, types = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    assert len(tokens) == len(types) == len(set(tokens)) == 640
    hf = load_tokenizer(TINY)
    assert tokens[:632] == [hf.convert_ids_to_tokens(at) for at in range(632)]
    assert tokens[632:] == [f"[PAD{at}]" for at in range(632, 640)]
    assert types == [1] * 625 + [3] * 5 + [4] * 2 + [5] * 8  # normal, control, <think> and </think>, unused
    ids = {name: fields[f"tokenizer.ggml.{name}_token_id"] for name in ("bos", "eos", "padding")}
    assert ids == {"bos": hf.bos_token_id, "eos": hf.eos_token_id, "padding": hf.pad_token_id}
    assert fields["tokenizer.ggml.pre"] == "deepseek-r1-qwen"
    assert fields["tokenizer.ggml.merges"][0] == "Ġ a"


def other_split(tokenizer):
    tokenizer["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\p{N}{1,3}|\s+"


BAD = {
    "another split": (other_split, {}, r"splits text by .*not DeepSeek-R1-Distill-Qwen's"),
    "no split": (lambda t: t.update(pre_tokenizer={"type": "ByteLevel"}), {}, r"splits text by \[\]"),
    "another model": (lambda t: t["model"].update(type="Unigram"), {}, r"is 'Unigram'"),
    "no BOS": (lambda t: t["added_tokens"].pop(3), {}, r"has 6 added tokens"),
    "another normaliser": (lambda t: t["normalizer"].update(type="NFKC"), {}, r"normalises text by 'NFKC'"),
    "more tokens than the embedding": (lambda t: None, {"vocab_size": 600}, r"numbers 632 tokens.*vocab_size 600"),
}


@pytest.mark.parametrize("case", BAD)
def test_another_family_s_tokenizer_is_refused(case):
    change, config, message = BAD[case]
    tokenizer = copy.deepcopy(TOKENIZER)
    change(tokenizer)
    with pytest.raises(PushbackError, match=message):
        tokenizer_fields(tokenizer, CONFIG | config)
