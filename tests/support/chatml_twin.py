"""A small Llama with random weights and a tokenizer of SmolLM2's make: ChatML tokens, byte pairs, each digit alone."""

import dataclasses
from pathlib import Path

from pushback_lib.core.records import thought_text
from pushback_lib.language.corpus import friction_records
from pushback_lib.model.load import save_base
from pushback_lib.model.recipe import Recipe, recipe_for

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>")  # the first four of SmolLM2's seventeen
SIZE = 600


def tokenizer():
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    special = [AddedToken(token, special=True, normalized=False) for token in SPECIAL]
    trainer = trainers.BpeTrainer(vocab_size=SIZE - 8, show_progress=False, special_tokens=special,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())  # fmt: skip
    texts = (f"{record.user_input}\n{thought_text(record)}\n{record.answer}" for record in friction_records(400, seed=3))
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token=SPECIAL[1], eos_token=SPECIAL[2], pad_token=SPECIAL[2],
                                   unk_token=SPECIAL[0], clean_up_tokenization_spaces=False, model_max_length=1024)  # fmt: skip


def twin(folder: Path) -> Recipe:
    """The twin in a folder, and its recipe: that of `tiny` but for the family."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=SIZE, hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=8,
                         num_key_value_heads=2, max_position_embeddings=1024, tie_word_embeddings=True, rms_norm_eps=1e-5,
                         rope_theta=1e5, initializer_range=0.2)  # fmt: skip
    save_base(LlamaForCausalLM(config), tokenizer(), folder)
    return dataclasses.replace(recipe_for("tiny"), name=str(folder), base=str(folder), parameters=372_352)
