"""Each step, forwards and backwards, against the same in plain torch and transformers."""

import pytest
import torch
from torch.nn import functional
from transformers.models.llama.modeling_llama import LlamaRMSNorm, apply_rotary_pos_emb

from pushback_lib.train.kernels import SCORED_AT_ONCE, LoraLinear, Norm, Rotate, Score, SwiGlu

ROWS, WIDTH, RANK, SCALE = 37, 24, 4, 1.7
CLOSE = {torch.float32: 2e-5, torch.bfloat16: 3e-2}  # of the largest value


def noise(*shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype).requires_grad_()


def plain_norm(x, weight):
    norm = LlamaRMSNorm(WIDTH, 1e-5)
    norm.weight = torch.nn.Parameter(weight.detach(), requires_grad=False)
    return norm(x)


def frozen_bias(start):
    return start.detach() if start is not None and start.dim() == 1 else start


def plain_lora(x, start, weight, *adapters):
    start, half = frozen_bias(start), len(adapters) // 2
    each = [
        SCALE * (x @ down.T.to(x.dtype) @ up.T.to(x.dtype)) for down, up in zip(adapters[:half], adapters[half:], strict=True)
    ]
    y = functional.linear(x, weight.detach()) + torch.cat(each, 1)
    return y if start is None else y + start


def lora(x, start, weight, *adapters):
    return LoraLinear.apply(x, frozen_bias(start), weight.detach(), SCALE, *adapters)


def adapters(*sizes):
    return [noise(RANK, WIDTH, seed=at) for at in range(len(sizes))] + [
        noise(size, RANK, seed=at) for at, size in enumerate(sizes)
    ]


def plain_rotation(x, cos, sin):
    q, rest = x[:, :3], x[:, 3:]
    both = (torch.cat([one, one], -1)[None, :, 0] for one in (cos, sin))
    turned, _ = apply_rotary_pos_emb(q.transpose(0, 1)[None], q.transpose(0, 1)[None], *both)
    return torch.cat([turned[0].transpose(0, 1), rest], 1)


ANGLES = noise(ROWS, 1, 4).detach()
LONG = 2 * SCORED_AT_ONCE + 5
TARGETS = torch.randint(0, 50, (LONG,), generator=torch.Generator().manual_seed(1))


def cases(dtype):
    """(name, fast, plain, inputs)"""
    x, weight = noise(ROWS, WIDTH, dtype=dtype), noise(WIDTH, dtype=dtype, seed=1)
    turns = [f(ANGLES).to(dtype) for f in (torch.cos, torch.sin)]
    head = noise(50, WIDTH, dtype=dtype, seed=2)
    for sizes, start in (((40,), None), ((40,), (ROWS, 40)), ((24, 8, 8), (40,)), ((30, 30), None)):
        inputs = [
            x,
            start and noise(*start, dtype=dtype, seed=9),
            noise(sum(sizes), WIDTH, dtype=dtype, seed=2),
            *adapters(*sizes),
        ]
        yield f"lora {sizes} on {start}", lora, plain_lora, inputs
    yield "norm", lambda x, w: Norm.apply(x, w.detach(), 1e-5), plain_norm, [x, weight]
    yield "swiglu", SwiGlu.apply, lambda x: functional.silu(x[:, :12]) * x[:, 12:], [x]
    yield "rotate", lambda x: Rotate.apply(x, *turns, 3), lambda x: plain_rotation(x, *turns), [noise(ROWS, 5, 8, dtype=dtype)]
    yield ("score", lambda h: Score.apply(h, head.detach(), TARGETS, 7.0),
           lambda h: functional.cross_entropy((h @ head.detach().T).float(), TARGETS, reduction="sum") / 7,
           [noise(LONG, WIDTH, dtype=dtype)])  # fmt: skip


def outcome(step, inputs):
    """The result, and the gradient of every input that has one."""
    inputs = [one if one is None else one.detach().clone().requires_grad_() for one in inputs]
    result = step(*inputs)
    result.backward(noise(*result.shape, dtype=result.dtype, seed=5).detach())
    return [result, *(one.grad for one in inputs if one is not None and one.grad is not None)]


@pytest.mark.parametrize("dtype", CLOSE, ids=str)
@pytest.mark.parametrize("name", [name for name, *_ in cases(torch.float32)])
def test_a_step_and_its_gradients_are_those_of_plain_torch(name, dtype):
    ((fast, plain, inputs),) = [case[1:] for case in cases(dtype) if case[0] == name]
    found, expected = outcome(fast, inputs), outcome(plain, inputs)
    assert len(found) == len(expected)
    for at, (one, other) in enumerate(zip(found, expected, strict=True)):
        assert one.dtype == other.dtype
        assert (one - other).abs().max() <= CLOSE[dtype] * other.abs().max(), f"{name}: {at} of {len(found)}"
