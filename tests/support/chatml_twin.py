"""Small models with random weights and ChatML: a Llama with a tokenizer of SmolLM2's make, a Qwen3, a SmolLM3."""

import dataclasses
from pathlib import Path

from pushback_lib.core.records import thought_text
from pushback_lib.language.corpus import friction_records
from pushback_lib.model.family import LLAMA3_SPLIT, QWEN2_SPLIT
from pushback_lib.model.load import save_base
from pushback_lib.model.recipe import Recipe, recipe_for

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>")  # the first four of SmolLM2's seventeen
QWEN3_SPECIAL = (*SPECIAL[:3], "<think>", "</think>")  # of Qwen3's added tokens, the last two not `special`
SMOLLM3_SPECIAL = ("<|begin_of_text|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>")  # of SmolLM3's 256
SIZE = 600


def tokenizer(special=SPECIAL, bos=SPECIAL[1]):
    """A byte-pair tokenizer that cuts text as SmolLM2's does, or Qwen3's or SmolLM3's where `special` are its tokens."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    split = {QWEN3_SPECIAL: QWEN2_SPLIT, SMOLLM3_SPECIAL: LLAMA3_SPLIT}.get(special)
    first = pre_tokenizers.Split(Regex(split), "isolated") if split else pre_tokenizers.Digits(individual_digits=True)
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence([first, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not split)])
    bpe.decoder = decoders.ByteLevel()
    if special == QWEN3_SPECIAL:
        bpe.normalizer = normalizers.NFC()
    named = [AddedToken(token, special="think" not in token, normalized=False) for token in special]
    trainer = trainers.BpeTrainer(vocab_size=SIZE - 8, show_progress=False, special_tokens=named,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())  # fmt: skip
    texts = (f"{record.user_input}\n{thought_text(record)}\n{record.answer}" for record in friction_records(400, seed=3))
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token=bos, eos_token=special[2], pad_token=special[2],
                                   unk_token=special[0], clean_up_tokenization_spaces=False, model_max_length=1024)  # fmt: skip


COMMON = {"vocab_size": SIZE, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 8,
          "num_key_value_heads": 2, "max_position_embeddings": 1024, "tie_word_embeddings": True,
          "initializer_range": 0.2}  # fmt: skip


def twin(folder: Path) -> Recipe:
    """The Llama twin in a folder, and its recipe: that of `tiny` but for the family."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(**COMMON, rms_norm_eps=1e-5, rope_theta=1e5)
    save_base(LlamaForCausalLM(config), tokenizer(), folder)
    return dataclasses.replace(recipe_for("tiny"), name=str(folder), base=str(folder), parameters=372_352)


def qwen3_twin(folder: Path) -> Recipe:
    """The same of Qwen3: heads wider than the model's width divided by their number, and norms of queries and keys."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    config = Qwen3Config(**COMMON, head_dim=32, rms_norm_eps=1e-6, rope_theta=1e6, bos_token_id=0, eos_token_id=2)
    model = Qwen3ForCausalLM(config)
    for name, values in model.named_parameters():
        if name.endswith(("q_norm.weight", "k_norm.weight")):  # ones, as they are made, would hide a norm that is lost
            torch.nn.init.uniform_(values, 0.5, 1.5)
    save_base(model, tokenizer(QWEN3_SPECIAL, bos=SPECIAL[0]), folder)
    count = sum(values.numel() for values in model.parameters())
    return dataclasses.replace(recipe_for("tiny"), name=str(folder), base=str(folder), parameters=count)


def smollm3_twin(folder: Path) -> Recipe:
    """The same of SmolLM3: four layers, the last of which rotates nothing."""
    import torch
    from transformers import SmolLM3Config, SmolLM3ForCausalLM

    torch.manual_seed(0)
    sizes = {**COMMON, "num_hidden_layers": 4}
    config = SmolLM3Config(**sizes, rms_norm_eps=1e-6, rope_theta=5e6, bos_token_id=0, eos_token_id=2, pad_token_id=2)
    model = SmolLM3ForCausalLM(config)
    save_base(model, tokenizer(SMOLLM3_SPECIAL, bos=SMOLLM3_SPECIAL[0]), folder)
    count = sum(values.numel() for values in model.parameters())
    return dataclasses.replace(recipe_for("tiny"), name=str(folder), base=str(folder), parameters=count)
