"""Bytes that QLoRA training holds, part by part, from a model's configuration and a few settings.

The formulas list what the libraries of this kit really keep: bitsandbytes 0.50 (`functional.quantize_4bit`), PEFT 0.21
(`tuners.lora.bnb.Linear4bit.forward`), transformers 5.23 (`modeling_qwen2`), TRL 1.16 (`kernels.chunked_logprob`, which never
builds the whole logits). `tests/train/test_plan.py` holds them against measured peaks.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

from ..model.family import family_of

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

BLOCK, NESTED = 64, 256  # bitsandbytes' defaults: weights that share a scale, scales that share a second scale
CODE_BOOKS = (16 + 256 + 1) * 4  # NF4's 16 levels, the 256 of the scales, the scales' offset; fp32, beside each weight
HEAD_TILE = 32768  # columns of TRL's buffer for logits, whatever the vocabulary (_CHUNKED_LOGPROB_CHUNK_SIZE)
HEAD_ROWS = 4096  # and its rows, or fewer tokens (TOKEN_CHUNK_SIZE)
SMALL = 4096  # bitsandbytes' 8-bit optimizers keep tensors of fewer elements in 32 bit
FRAGMENTS = 0.05  # share that the caching allocator holds beyond the tensors; an estimate


@dataclass(frozen=True)
class Setting:
    """How one trains: `compute` and `adapter` are bytes of a number; `padded`: batches need an attention mask."""

    batch: int
    length: int
    rank: int = 32
    checkpointing: bool = True
    compute: int = 2
    adapter: int = 2
    optimizer: str = "paged_adamw_8bit"
    cuda: bool = True
    padded: bool = True
    loss_share: float = 1.0  # share of the tokens that carry loss; 1 is the safe side
    four_bit: bool = True  # else the base is in `compute`, and training is plain LoRA

    @property
    def tokens(self) -> int:
        return self.batch * self.length

    @property
    def casts(self) -> bool:
        """Whether PEFT copies each layer's input for its adapter: on a CPU, where the two types differ."""
        return not self.cuda and self.compute != self.adapter


def linears(config: PreTrainedConfig) -> tuple[tuple[int, int], ...]:
    """(inputs, outputs) of the seven linear layers of a block: q, k, v, o, gate, up, down."""
    d, f, head = config.hidden_size, config.intermediate_size, head_size(config)
    q, kv = config.num_attention_heads * head, config.num_key_value_heads * head
    return (d, q), (d, kv), (d, kv), (q, d), (d, f), (d, f), (f, d)


def head_size(config: PreTrainedConfig) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def nf4_bytes(config: PreTrainedConfig) -> int:
    """The linear layers' weights, half a byte each."""
    return config.num_hidden_layers * sum(ceil(inputs * outputs / 2) for inputs, outputs in linears(config))


def state_bytes(config: PreTrainedConfig) -> int:
    """Double quantisation: one byte a scale, one fp32 for 256 scales, and the code books."""
    total = 0
    for inputs, outputs in linears(config):
        scales = ceil(inputs * outputs / BLOCK)
        total += scales + 4 * ceil(scales / NESTED) + CODE_BOOKS
    return config.num_hidden_layers * total


def unquantised_bytes(config: PreTrainedConfig, compute: int) -> int:
    """Embeddings, the output head where it is not tied, norms, and the biases and norms of q, k and v that the family has."""
    d = config.hidden_size
    embeddings = config.vocab_size * d * (1 if config.tie_word_embeddings else 2)
    family = family_of(config)
    biases = sum(outputs for _, outputs in linears(config)[:3]) if family.qkv_bias else 0
    head_norms = 2 * head_size(config) if family.qk_norm else 0
    return compute * (embeddings + d + config.num_hidden_layers * (2 * d + biases + head_norms))


def adapter_parameters(config: PreTrainedConfig, rank: int) -> int:
    """Of LoRA on all linear layers."""
    return config.num_hidden_layers * rank * sum(inputs + outputs for inputs, outputs in linears(config))


def optimizer_bytes(config: PreTrainedConfig, setting: Setting) -> int:
    """Adam's two averages: 8 bit with a scale for 256 numbers, or in the adapter's own type."""
    if "8bit" not in setting.optimizer:
        return 2 * setting.adapter * adapter_parameters(config, setting.rank)
    total = 0.0
    for inputs, outputs in linears(config):
        for numbers in (inputs * setting.rank, outputs * setting.rank):
            total += 2 * (numbers + 4 * ceil(numbers / NESTED)) if numbers >= SMALL else 8 * numbers
    return ceil(config.num_hidden_layers * total)


def block_bytes(config: PreTrainedConfig, setting: Setting) -> int:
    """What one transformer block keeps for its backward pass."""
    t, c, a = setting.tokens, setting.compute, min(setting.adapter, setting.compute)
    d, f, heads, head = config.hidden_size, config.intermediate_size, config.num_attention_heads, head_size(config)
    q = heads * head
    kv = q if setting.padded else config.num_key_value_heads * head  # with a mask, keys and values are repeated for each head
    attention = t * c * (2 * q + 2 * kv) + 4 * t * heads  # query, output, keys, values; the log-sum of the softmax
    mask = setting.batch * setting.length**2 * c if setting.padded else 0  # as numbers, for each block
    norms = 2 * t * (4 * d + 4)  # in fp32
    norms += t * 4 * (q + config.num_key_value_heads * head) if family_of(config).qk_norm else 0
    mlp = 3 * t * f * c  # gate, its SiLU, up
    copies = sum(inputs for inputs, _ in linears(config))  # each of the seven adapters takes its own
    shared = 2 * d + f  # both norms' outputs and what goes down; the attention's output is counted above
    adapter = a * t * ((copies if setting.casts else shared) + 7 * setting.rank)
    return attention + mask + norms + mlp + adapter


def head_bytes(config: PreTrainedConfig, setting: Setting) -> int:
    """The most that TRL's chunked head holds at once; on a CPU it scores every token, in plain torch."""
    d, c = config.hidden_size, setting.compute
    tokens = ceil(setting.tokens * setting.loss_share) if setting.cuda else setting.batch * (setting.length - 1)
    rows, columns = min(tokens, HEAD_ROWS), min(config.vocab_size, HEAD_TILE)
    tile = rows * HEAD_TILE * c
    hidden = tokens * d * (c + 4)  # the tokens' own copy, and their gradient in fp32
    in_fp32 = 0 if setting.cuda else ceil(7.25 * 4 * rows * columns)  # of `_backward_tile`; Triton's kernel works in place
    return tile + hidden + in_fp32 + 3 * 4 * tokens


def backward_bytes(config: PreTrainedConfig, setting: Setting) -> int:
    """What a block's backward pass takes beyond what the forward pass kept, at its most: around the layer that goes down.

    Either two gradients and the weight out of NF4, or the three gradients of the gate's product; the layer's input is free by
    then.
    """
    t, c, d, f = setting.tokens, setting.compute, config.hidden_size, config.intermediate_size
    free = t * f * min(setting.adapter, c)
    return c * (max(2 * t * f + d * f, 3 * t * f) + 2 * t * d) - free


def activation_bytes(config: PreTrainedConfig, setting: Setting) -> tuple[int, int, int]:
    """(activations, logits, gradients) of the adapter at the moment of the step at which they are most together."""
    t, c, d, blocks = setting.tokens, setting.compute, config.hidden_size, config.num_hidden_layers
    block, head, backward = block_bytes(config, setting), head_bytes(config, setting), backward_bytes(config, setting)
    gradients = setting.adapter * adapter_parameters(config, setting.rank)
    if setting.adapter > c:  # autocast keeps the adapter's weights once more, in 16 bit
        block += c * adapter_parameters(config, setting.rank) // blocks
    rotations = 2 * t * c * head_size(config)
    kept = (blocks * t * c * d if setting.checkpointing else blocks * block) + rotations
    recomputed = block if setting.checkpointing else 0
    moments = [
        (kept + t * (4 * d + 4) + t * c * d, head, 0),  # at the output head, with the last norm
        (kept + t * c * d + recomputed + backward, 0, gradients // blocks),  # in the last block
        (kept // blocks + t * c * d + recomputed + backward, 0, gradients),  # in the first, when all gradients are there
        (0, 0, gradients + (gradients if setting.cuda and "8bit" not in setting.optimizer else 0)),  # in the optimizer's step
    ]
    return max(moments, key=sum)
