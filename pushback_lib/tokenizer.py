"""Trains the bundled model's tokenizer: byte-level BPE in the shape of DeepSeek-R1-Distill-Qwen's, with few merges.

It knows nothing about what the text says. The split regex is Qwen2's and the special tokens are DeepSeek's, in the
order of the real vocabulary (ids 151643 to 151649 there). The vocabulary is small on purpose: with 1,536 entries
every noun was one token, and the model learned the nouns instead of learning to copy.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# Split pattern of Qwen/Qwen2 and deepseek-ai/DeepSeek-R1-Distill-Qwen-*, tokenizer.json
QWEN2_SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
EOS, USER, ASSISTANT, BOS = "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>", "<｜begin▁of▁sentence｜>"
SPECIAL_TOKENS = (EOS, USER, ASSISTANT, BOS, "<|EOT|>")
THINK_TOKENS = ("<think>", "</think>")
N_BYTES_AND_MERGES = 625  # with the seven tokens above and the <|endoftext|> that transformers adds: 633 ids


def train_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Trains the tokenizer on plain texts and gives it TRL's copy of the model family's chat template."""
    from tokenizers import (
        AddedToken,
        Regex,
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        processors,
        trainers,
    )
    from transformers import PreTrainedTokenizerFast
    from trl.chat_template_utils import deepseek_r1_distill_chat_template

    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.NFC()
    bpe.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(QWEN2_SPLIT), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    bpe.decoder = decoders.ByteLevel()
    bpe.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(vocab_size=N_BYTES_AND_MERGES, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())  # fmt: skip
    bpe.train_from_iterator(texts, trainer)
    bpe.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    bpe.add_tokens([AddedToken(token, special=False, normalized=False) for token in THINK_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=EOS,
        chat_template=deepseek_r1_distill_chat_template,
        clean_up_tokenization_spaces=False,
        model_max_length=1024,
    )
