"""Rebuilds the tokenizers of DeepSeek-R1-Distill-Qwen and of Qwen3, offline, from Qwen's vocabulary in the package `dashscope`.

That vocabulary is a list of byte strings by rank; the merges that byte-pair encoding needs are read off it: each string's
parts are what the lower ranks make of it. The special tokens are the published ones (tokenizer.json of any of the models,
quoted in many public files). The rest of the folder is the published configuration around random weights of a
small width, so that every tool sees the true vocabulary in a model that runs in seconds.
"""

import base64
import itertools
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pushback_lib.core.common import PushbackError
from pushback_lib.model.family import QWEN2_SPLIT, QWEN3, R1_DISTILL

SPECIAL = ("<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>", "<｜begin▁of▁sentence｜>",
           "<|EOT|>", "<think>", "</think>")  # fmt: skip
QWEN3_SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>",
    "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
    "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>",
    "<|file_sep|>", "<tool_response>", "</tool_response>", "<think>", "</think>",
)  # fmt: skip
FIRST_SPECIAL = 151643
ROWS = 151936  # of the embedding, as published


def ranks() -> dict[bytes, int]:
    """Qwen's vocabulary: byte strings and their ids."""
    spec = find_spec("dashscope")
    if spec is None:
        raise PushbackError("Qwen's vocabulary is not installed. Get it: `pip install --no-deps dashscope==2.0.2`.")
    path = Path(spec.submodule_search_locations[0]) / "resources" / "qwen.tiktoken"
    pairs = (line.split() for line in path.read_text(encoding="ascii").splitlines() if line)
    return {base64.b64decode(token): int(rank) for token, rank in pairs}


def _parts(token: bytes, known: dict[bytes, int]) -> list[bytes]:
    """The two strings that byte-pair encoding joins last to make the token."""
    parts = [bytes([byte]) for byte in token]
    while True:
        pairs = [(known.get(left + right), at) for at, (left, right) in enumerate(itertools.pairwise(parts))]
        rank, at = min(((rank, at) for rank, at in pairs if rank is not None), default=(None, 0))
        if rank is None or rank >= known[token]:
            return parts
        parts[at : at + 2] = [parts[at] + parts[at + 1]]


def tokenizer_json(special: tuple[str, ...] = SPECIAL, marked: tuple[str, ...] = (SPECIAL[0], SPECIAL[3])) -> str:
    """The text of tokenizer.json; of the added tokens only those `marked` are `special` there."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    known, letters = ranks(), bytes_to_unicode()
    spelled = {token: token.decode("latin-1").translate(letters) for token in known}
    merges = [tuple(spelled[part] for part in _parts(token, known)) for token in sorted(known, key=known.get) if len(token) > 1]
    bpe = Tokenizer(models.BPE(vocab={spelled[token]: rank for token, rank in known.items()}, merges=merges))
    bpe.normalizer, bpe.decoder = normalizers.NFC(), decoders.ByteLevel()
    split = pre_tokenizers.Split(Regex(QWEN2_SPLIT), behavior="isolated")
    bpe.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    for token in special:
        bpe.add_tokens([AddedToken(token, special=token in marked, normalized=False)])
    return bpe.to_str()


def real_folder(folder: Path) -> Path:
    """A model folder with the distills' true tokenizer and vocabulary size, the published template, random weights."""
    from transformers import Qwen2Config

    about = {"bos_token": SPECIAL[3], "eos_token": SPECIAL[0], "pad_token": SPECIAL[0],
             "chat_template": R1_DISTILL.chat_template()}  # fmt: skip
    config = Qwen2Config(**SMALL, bos_token_id=FIRST_SPECIAL + 3, eos_token_id=FIRST_SPECIAL)
    return _folder(folder, config, tokenizer_json(), about)


def qwen3_folder(folder: Path) -> Path:
    """The same of Qwen3, with its published template."""
    from transformers import Qwen3Config

    about = {"eos_token": QWEN3_SPECIAL[2], "pad_token": QWEN3_SPECIAL[0], "chat_template": QWEN3.chat_template()}
    config = Qwen3Config(**SMALL, head_dim=32, bos_token_id=FIRST_SPECIAL, eos_token_id=FIRST_SPECIAL + 2)
    return _folder(folder, config, tokenizer_json(QWEN3_SPECIAL, QWEN3_SPECIAL[:14]), about)


SMALL = {"vocab_size": ROWS, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
         "num_key_value_heads": 1, "tie_word_embeddings": True, "max_position_embeddings": 4096}  # fmt: skip


def _folder(folder: Path, config: Any, tokenizer: str, about: dict[str, str]) -> Path:
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).to(torch.bfloat16).save_pretrained(folder)
    (folder / "tokenizer.json").write_text(tokenizer, encoding="utf-8")
    about |= {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 16384, "clean_up_tokenization_spaces": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(about), encoding="utf-8")
    return folder
