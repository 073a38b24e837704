"""The loss of a batch with less work than PEFT and transformers do for it on a CPU, for the same adapter.

The sums are the same. Tokens are rows of one matrix: padding is left out, and the beginning that all texts of a batch share,
such as the system prompt, is computed once, since a causal model finds the same there for each. Base and adapter compute in one
dtype, without autocast; the adapter's own weights stay in fp32. Every step is one of `kernels.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional

from .guard import IGNORED
from .kernels import LoraLinear, Norm, Rotate, Score, SwiGlu


@dataclass(frozen=True)
class Rows:
    """A padded batch as rows, one for each token that is computed, and the cells of the padded grid that they stand for.

    `cells`: the cell of each row; `row_of`: the row of each cell, any for padding; the first `shared` rows stand for as many
    cells of every text. `scored` are the rows whose next token, in `targets`, has a label.
    """

    shape: tuple[int, int]  # texts, cells of a text
    ids: Tensor
    positions: Tensor
    cells: Tensor
    row_of: Tensor
    shared: int
    scored: Tensor
    targets: Tensor


def rows_of(ids: Tensor, mask: Tensor, labels: Tensor) -> Rows:
    """The rows of a batch that is padded on the right, as the trainer's collator makes it."""
    if (mask[:, 1:] > mask[:, :-1]).any():
        raise ValueError("The batch is padded on the left; the positions of its tokens would be wrong.")
    targets = functional.pad(labels[:, 1:], (0, 1), value=IGNORED)
    same = ((ids == ids[:1]) & mask.bool() & (targets == IGNORED)).all(0)
    shared = int(same.cumprod(0).sum())
    computed = mask != 0
    computed[1:, :shared] = False
    cells = computed.flatten().nonzero().squeeze(1)
    row_of = (computed.flatten().cumsum(0) - 1).view(ids.shape).clamp(min=0)
    row_of[1:, :shared] = row_of[0, :shared]
    scored = (targets.flatten()[cells] != IGNORED).nonzero().squeeze(1)
    return Rows(tuple(ids.shape), ids.flatten()[cells], cells % ids.shape[1], cells, row_of.flatten(), shared, scored,
                targets.flatten()[cells[scored]])  # fmt: skip


class ToCells(Function):
    """Rows to the cells of the padded grid, where attention looks; on the way back a shared row gets what all its cells get."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Rows) -> Tensor:
        ctx.rows = rows
        return x.index_select(0, rows.row_of)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        rows = ctx.rows
        result = grad.index_select(0, rows.cells)
        result[: rows.shared] = grad.view(*rows.shape, -1)[:, : rows.shared].sum(0)
        return result, None


class ToRows(Function):
    """Cells of the padded grid back to rows; those of padding and of what is shared count once or not at all."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Rows) -> Tensor:
        ctx.rows = rows
        return x.index_select(0, rows.cells)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        result = grad.new_zeros(ctx.rows.row_of.numel(), grad.shape[1])
        return result.index_copy_(0, ctx.rows.cells, grad), None


class Stack:
    """Linear layers that take the same input, with their adapters, as one; their weights move into one matrix."""

    def __init__(self, *layers: Any) -> None:
        self.weight = torch.cat([layer.weight.data for layer in layers])
        biases = [layer.bias for layer in layers if layer.bias is not None]
        self.bias = torch.cat([bias.data for bias in biases]) if biases else None
        for layer, rows in zip(layers, self.weight.split([layer.weight.shape[0] for layer in layers]), strict=True):
            layer.weight.data = rows  # a view: nothing is held twice
        self.adapted = [layer for layer in layers if hasattr(layer, "lora_A")]

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        start = self.bias if residual is None else residual
        if not self.adapted:
            return functional.linear(x, self.weight) if start is None else torch.addmm(start, x, self.weight.T)
        (name,) = self.adapted[0].active_adapters
        matrices = [
            matrix[name].weight for part in ("lora_A", "lora_B") for matrix in (getattr(one, part) for one in self.adapted)
        ]
        return LoraLinear.apply(x, start, self.weight, self.adapted[0].scaling[name], *matrices)


class Block:
    """A transformer block: attention and the gated layers, each after a norm and added to what came in."""

    def __init__(self, layer: Any, epsilon: float, heads: tuple[int, int]) -> None:
        attention, gated = layer.self_attn, layer.mlp
        self.norms = (layer.input_layernorm.weight, layer.post_attention_layernorm.weight)
        self.qkv, self.out = Stack(attention.q_proj, attention.k_proj, attention.v_proj), Stack(attention.o_proj)
        self.gate_up, self.down = Stack(gated.gate_proj, gated.up_proj), Stack(gated.down_proj)
        self.epsilon, self.heads = epsilon, heads

    def __call__(self, x: Tensor, rows: Rows, cos: Tensor, sin: Tensor) -> Tensor:
        first, second = self.norms
        x = self.out(self._attended(self.qkv(Norm.apply(x, first, self.epsilon)), rows, cos, sin), x)
        return self.down(SwiGlu.apply(self.gate_up(Norm.apply(x, second, self.epsilon))), x)

    def _attended(self, qkv: Tensor, rows: Rows, cos: Tensor, sin: Tensor) -> Tensor:
        """Causal attention in the padded grid; padding stands behind all else, so nothing sees it and no mask is needed."""
        queries, keys = self.heads
        turned = Rotate.apply(qkv.view(len(qkv), queries + 2 * keys, -1), cos, sin, queries + keys).flatten(1)
        cells = ToCells.apply(turned, rows).view(*rows.shape, queries + 2 * keys, -1).transpose(1, 2)
        q, k, v = cells.split((queries, keys, keys), 1)
        found = functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return ToRows.apply(found.transpose(1, 2).reshape(len(rows.row_of), -1), rows)


class FastModel:
    """A Llama or Qwen2 model with a LoRA adapter on its linear layers, as PEFT made it, whose loss is computed the fast way.

    It computes with the model's own weights and trains the adapter's own parameters, so saving and resuming know nothing of it.
    """

    def __init__(self, model: Any) -> None:
        self.base = model.get_base_model()
        config, inner = self.base.config, self.base.model
        heads = (config.num_attention_heads, config.num_key_value_heads)
        self.epsilon = config.rms_norm_eps
        self.blocks = [Block(layer, self.epsilon, heads) for layer in inner.layers]

    def loss(self, ids: Tensor, mask: Tensor, labels: Tensor, count: float | None = None) -> Tensor:
        """Cross-entropy of the labels over `count`, by default their number, with gradients for the adapter."""
        rows = rows_of(ids, mask, labels)
        hidden = self._hidden(rows).index_select(0, rows.scored)
        return Score.apply(hidden, self.base.lm_head.weight, rows.targets, float(count or max(len(rows.targets), 1)))

    def _hidden(self, rows: Rows) -> Tensor:
        inner = self.base.model
        x = functional.embedding(rows.ids, inner.embed_tokens.weight)
        cos, sin = (one[0, :, None, : one.shape[-1] // 2] for one in inner.rotary_emb(x, rows.positions[None]))
        for block in self.blocks:
            x = block(x, rows, cos, sin)
        return Norm.apply(x, inner.norm.weight, self.epsilon)
