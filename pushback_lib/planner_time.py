"""Cards, and how long QLoRA training takes on one: operations, an assumed share of the datasheet's speed, a price; no memory.

All of it is an estimate. The share of the datasheet's tensor speed that QLoRA reaches is taken from two published tables:
Q-LoRA of Qwen-7B on an A100 (README of QwenLM/Qwen, "Profiling of Memory and Speed": 8 sequences of 256, 1,024 and 4,096
tokens in 3.0, 3.5 and 11.6 s, which is 0.09, 0.32 and 0.46), and of Qwen2.5-1.5B on an RTX 4060 (arXiv:2509.12229: 628 tokens a
second, about 0.2). Hence the range from `SLOW` to `FAST`; batches of a few hundred tokens can be slower still.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .errors import PushbackError
from .planner_memory import Setting, adapter_parameters, head_size, linears

if TYPE_CHECKING:
    from transformers import Qwen2Config

SLOW, FAST = 0.15, 0.40
PRICES = "https://deploybase.ai/articles/runpod-gpu-pricing and /tesla-t4-price, March 2026, spot to on-demand"


@dataclass(frozen=True)
class Card:
    """`gib`: what torch reports as its memory; `tflops`: dense tensor speed in 16 bit, fp32 sums; `price`: dollars an hour."""

    name: str
    gib: float
    tflops: float
    source: str
    price: tuple[float, float] | None = None
    bf16: bool = True
    cuda: bool = True


CARDS: dict[str, Card] = {
    "laptop": Card("laptop without a GPU (16 GB)", 10.0, 0.5, "assumed: 10 GiB free, eight cores with AVX2", cuda=False),
    "t4": Card("T4", 14.75, 65, "nvidia.com, T4 datasheet: 16 GB, 65 TFLOPS in fp16, no bf16", (0.20, 0.76), bf16=False),
    "l4": Card("L4", 22.0, 121, "nvidia.com, L4 datasheet: 24 GB, 242 TFLOPS with sparsity, half of it without", (0.44, 0.78)),
    "4090": Card("RTX 4090", 23.5, 165, "NVIDIA Ada architecture paper, appendix A: 24 GB, 165.2 TFLOPS", (0.34, 0.60)),
    "a100": Card("A100 80 GB", 79.1, 312, "nvidia.com, A100 datasheet: 80 GB, 312 TFLOPS", (1.39, 2.45)),
    "h100": Card("H100 SXM", 79.1, 989, "nvidia.com, H100 datasheet: 80 GB, 1,979 TFLOPS with sparsity", (2.69, 4.76)),
    "h200": Card("H200 SXM", 139.0, 989, "nvidia.com, H200 datasheet: 141 GB, 1,979 TFLOPS with sparsity", (3.59, 6.35)),
}


def card_for(gpu: str | float) -> Card:
    """The card of a name (`t4`), or one of so many GiB as torch reports them (`16`), of which only the memory is known:
    reckoned with an adapter in fp32, as on a T4, which takes more.

    Raises PushbackError for any other name, and for memory that no card has.
    """
    key = str(gpu).lower().replace("rtx", "").replace("_", " ").strip()
    if key in CARDS:
        return CARDS[key]
    try:
        gib = float(key)
    except ValueError as error:
        raise PushbackError(
            f"No card called {gpu!r}. Choose one of: {', '.join(CARDS)}; or give its memory in GiB, as in 16."
        ) from error
    if not 0 < gib <= 1024:
        raise PushbackError(f"A card of {gib:g} GiB? Give the memory of one card in GiB, as in 16.")
    return Card(f"card of {gib:g} GiB", gib, 0.0, "given", bf16=False)


def operations_a_token(config: Qwen2Config, setting: Setting) -> float:
    """Floating-point operations for one token of training: two a weight, forward, again where checkpointed, and back.

    Frozen weights need no gradient of their own, so the way back costs two, not four; the adapter's do. Attention is counted in
    full, without what a causal kernel leaves out.
    """
    passes = 3 if setting.checkpointing else 2
    blocks = config.num_hidden_layers * sum(inputs * outputs for inputs, outputs in linears(config))
    head = 3 * 2 * config.vocab_size * config.hidden_size * (setting.loss_share if setting.cuda else 1.0)
    attention = 4 * setting.length * config.num_attention_heads * head_size(config) * config.num_hidden_layers
    adapter = 2 * (passes + 1) * adapter_parameters(config, setting.rank)
    return passes * (2 * blocks + attention) + head + adapter


def hours(config: Qwen2Config, setting: Setting, card: Card, tokens: float) -> tuple[float, float] | None:
    """From best to worst, for so many tokens in all; None where the card's speed is not known."""
    if not card.tflops:
        return None
    at_full_speed = operations_a_token(config, setting) * tokens / (card.tflops * 1e12) / 3600
    return at_full_speed / FAST, at_full_speed / SLOW


def dollars(card: Card, took: tuple[float, float] | None) -> tuple[float, float] | None:
    """From the lowest price and best time to the highest and worst; None where there is no price."""
    return (card.price[0] * took[0], card.price[1] * took[1]) if card.price and took else None
