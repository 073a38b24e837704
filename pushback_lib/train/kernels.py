"""The steps of a transformer with LoRA as torch functions that pass over memory few times, with gradients written out.

Frozen weights get no gradient. Matrices are rows (one for each token) by features, in the model's dtype; sums that need it are
taken in fp32. Torch is imported at the top, since the classes need it: import this file inside functions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional

SCORED_AT_ONCE = 256  # rows whose logits are in memory together; with 49,152 ids in fp32 that is 50 MB


class Norm(Function):
    """`RMSNorm.apply(x, weight, epsilon)`; keeps x alone for the way back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        y = x.to(torch.float32, copy=True)
        size = torch.linalg.vector_norm(y, dim=-1, keepdim=True)
        scale = size.square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return y.mul_(scale).mul_(weight).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, scale = ctx.saved_tensors
        normed, grad = (one.to(torch.float32, copy=True).mul_(factor) for one, factor in ((x, scale), (grad, weight)))
        share = torch.linalg.vecdot(grad, normed).div_(-x.shape[-1]).unsqueeze(-1)
        return grad.addcmul_(normed, share).mul_(scale).to(x.dtype), None, None


class LoraLinear(Function):
    """Frozen linear layers side by side with their adapters: `x Wᵀ + start + scale · (x Aᵀ) Bᵀ`.

    `weight` holds the layers' rows one below the other, `down` and `up` the fp32 matrices A and B of each in turn. `start` is a
    bias or what the result is added to (the residual), if anything. The adapters compute in the dtype of x.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, start: Tensor | None, weight: Tensor, scale: float, *adapters: Tensor) -> Tensor:
        half = len(adapters) // 2
        down = torch.cat(adapters[:half]).to(x.dtype)
        up = torch.block_diag(*adapters[half:]).to(x.dtype)  # one product for all; the zeros cost less than the calls
        inner = (x @ down.T).mul_(scale)
        y = (inner @ up.T).addmm_(x, weight.T)  # small adapters would be lost in the rounding if added to the residual last
        ctx.save_for_backward(x, inner, weight, down, up)
        ctx.scale, ctx.rank, ctx.rows = scale, adapters[0].shape[0], [one.shape[0] for one in adapters[half:]]
        return y if start is None else y.add_(start)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, inner, weight, down, up = ctx.saved_tensors
        grad_inner = (grad @ up).mul_(ctx.scale)
        grad_x = (grad @ weight).addmm_(grad_inner, down) if ctx.needs_input_grad[0] else None
        grad_down = (grad_inner.T @ x).float().split(ctx.rank)
        grad_up = (grad.T @ inner).float().split(ctx.rows)
        blocks = (rows[:, at * ctx.rank : (at + 1) * ctx.rank].contiguous() for at, rows in enumerate(grad_up))
        return grad_x, grad if ctx.needs_input_grad[1] else None, None, None, *grad_down, *blocks


class SwiGlu(Function):
    """`silu(gate) · up` of rows that hold gate and up side by side; keeps those alone."""

    @staticmethod
    def forward(ctx: Any, both: Tensor) -> Tensor:
        ctx.save_for_backward(both)
        gate, up = both.chunk(2, -1)
        return functional.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (both,) = ctx.saved_tensors
        gate, up = both.chunk(2, -1)
        result = torch.empty_like(both)
        grad_gate, grad_up = result.chunk(2, -1)
        torch.mul(functional.silu(gate), grad, out=grad_up)
        torch.ops.aten.silu_backward.grad_input(grad * up, gate, grad_input=grad_gate)
        return result


class Rotate(Function):
    """Rotary positions on the first `heads` heads of rows x heads x features; `cos` and `sin` hold half the features."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, heads: int) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.heads = heads
        return _rotated(x, cos, sin, heads)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        return _rotated(grad, cos, -sin, ctx.heads), None, None, None


def _rotated(x: Tensor, cos: Tensor, sin: Tensor, heads: int) -> Tensor:
    half, result = x.shape[-1] // 2, torch.empty_like(x)
    first, second = x[:, :heads, :half], x[:, :heads, half:]
    torch.mul(first, cos, out=result[:, :heads, :half]).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=result[:, :heads, half:]).addcmul_(first, sin)
    result[:, heads:] = x[:, heads:]
    return result


class Score(Function):
    """Sum of the cross-entropy of `targets` after hidden states, each with the frozen `head`; divided by `count`.

    Few rows' logits are there at a time, once: their gradient is computed with them, unless none is asked for.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor, count: float) -> Tensor:
        total, of_hidden, parts = torch.zeros(()), torch.empty_like(hidden), (hidden, targets)
        at_once = min(SCORED_AT_ONCE, len(hidden)), len(head)
        half, full = hidden.new_empty(at_once), torch.empty(at_once)  # made once: fresh memory costs more than the sums in it
        for rows, wanted, of_rows in zip(*(one.split(SCORED_AT_ONCE) for one in (*parts, of_hidden)), strict=True):
            wanted, logits, wide = wanted.unsqueeze(1), half[: len(rows)], full[: len(rows)]
            wide.copy_(torch.mm(rows, head.T, out=logits))
            largest, chosen = wide.amax(1, keepdim=True), wide.gather(1, wanted)
            size = wide.sub_(largest).exp_().sum(1, keepdim=True)
            total += (size.log() + largest - chosen).sum()
            if ctx.needs_input_grad[0]:
                wide.div_(size).scatter_add_(1, wanted, wide.new_full(wanted.shape, -1.0))
                torch.mm(logits.copy_(wide), head, out=of_rows)
        ctx.save_for_backward(of_hidden)
        ctx.count = count
        return total / count

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (of_hidden,) = ctx.saved_tensors
        return of_hidden * (grad / ctx.count).to(of_hidden.dtype), None, None, None
