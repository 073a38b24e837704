"""Turns tokenizer.json into llama.cpp's tokenizer fields, with a chat template; knows nothing about weights."""

from __future__ import annotations

from typing import Any

from .errors import PushbackError
from .tokenizer import ASSISTANT, BOS, EOS, QWEN2_SPLIT, USER

PRE_TOKENIZER = "deepseek-r1-qwen"  # llama.cpp's name for Qwen2's split with DeepSeek's special tokens
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # llama.cpp's token types (gguf.TokenType)

# What the family's published template does for system, user and assistant messages, without its tool branches: a template
# that mentions tool calls makes Ollama ignore the Modelfile's TEMPLATE. llama.cpp looks for the very words
# `content.split('</think>')` to know that replies begin inside a thought, and then gives it apart as reasoning_content.
CHAT_TEMPLATE = (
    "{%- set ns = namespace(system='') -%}"
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'system' -%}{%- set ns.system = message['content'] -%}{%- endif -%}"
    "{%- endfor -%}"
    "{{- bos_token -}}{{- ns.system -}}"
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'user' -%}{{- '" + USER + "' + message['content'] -}}{%- endif -%}"
    "{%- if message['role'] == 'assistant' -%}{%- set content = message['content'] -%}"
    "{{- '" + ASSISTANT + "' + content.split('</think>')[-1] + '" + EOS + "' -}}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '" + ASSISTANT + "<think>\\n' -}}{%- endif -%}"
)


def tokenizer_fields(tokenizer: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """GGUF header fields, by key, from the contents of tokenizer.json and config.json (for `vocab_size`).

    BOS is left to the runtime (`add_bos_token`): llama.cpp and Ollama put it in front of a rendered prompt and take it out
    of the template's text, so that there is one. Raises PushbackError for any tokenizer but the family's, since llama.cpp
    would load it silently and split text in other places.
    """
    _check_family(tokenizer)
    tokens, types = _tokens(tokenizer, config["vocab_size"])
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in tokenizer["model"]["merges"]]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": PRE_TOKENIZER,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": tokens.index(BOS),
        "tokenizer.ggml.eos_token_id": tokens.index(EOS),
        "tokenizer.ggml.padding_token_id": tokens.index(EOS),
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": False,
    }


def _check_family(tokenizer: dict[str, Any]) -> None:
    model, before = tokenizer.get("model") or {}, tokenizer.get("pre_tokenizer") or {}
    steps = before.get("pretokenizers", [before])
    splits = [step.get("pattern", {}).get("Regex") for step in steps if step.get("type") == "Split"]
    named = {token["content"] for token in tokenizer.get("added_tokens", [])}
    if model.get("type") != "BPE" or splits != [QWEN2_SPLIT] or not {BOS, EOS, USER, ASSISTANT} <= named:
        raise PushbackError(
            f"This tokenizer.json is {model.get('type')!r}, splits text by {splits} and has {len(named)} added tokens; "
            "that is not DeepSeek-R1-Distill-Qwen's. Take tokenizer.json from the base model's folder, unchanged."
        )
    if (tokenizer.get("normalizer") or {}).get("type") not in (None, "NFC"):
        raise PushbackError(
            f"This tokenizer.json normalises text by {tokenizer['normalizer']['type']!r}; llama.cpp cannot, and the "
            "family's is 'NFC'. Take tokenizer.json from the base model's folder, unchanged."
        )


def _tokens(tokenizer: dict[str, Any], size: int) -> tuple[list[str], list[int]]:
    """Every id's text and type; ids that the embedding has and the tokenizer does not are named [PADn]."""
    words = dict.fromkeys(range(size), ("", UNUSED))
    words |= {at: (text, NORMAL) for text, at in tokenizer["model"]["vocab"].items()}
    words |= {token["id"]: (token["content"], _type(token)) for token in tokenizer["added_tokens"]}
    if len(words) > size:
        raise PushbackError(
            f"tokenizer.json numbers {max(words) + 1} tokens, and config.json says vocab_size {size}: they are of different "
            "models. Take both from one folder."
        )
    return [words[at][0] or f"[PAD{at}]" for at in range(size)], [words[at][1] for at in range(size)]


def _type(token: dict[str, Any]) -> int:
    """CONTROL for special tokens and for those that look it, as llama.cpp's converter decides."""
    looks_special = token["content"].startswith(("<|", "<｜")) and token["content"].endswith(("|>", "｜>"))
    return CONTROL if token["special"] or looks_special else USER_DEFINED
