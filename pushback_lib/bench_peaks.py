"""The planner held against measured peaks of real training steps on this machine; knows nothing of cards or prices."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .planner import parts
from .planner_memory import Setting
from .recipe import recipe_for
from .shapes import as_config

if TYPE_CHECKING:
    from transformers import Qwen2Config


@dataclass(frozen=True)
class Case:
    """A shape and how it is trained; `bf16`: autocast, as on a card; else fp32 with a bf16 adapter, as on a CPU."""

    hidden: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    batch: int
    length: int
    checkpointing: bool
    bf16: bool
    quick: bool = False  # small enough for the tests

    def __str__(self) -> str:
        how = ("bf16" if self.bf16 else "fp32") + (", checkpointing" if self.checkpointing else "")
        return f"{self.layers}x{self.hidden}/{self.inner}, vocabulary {self.vocabulary}, {self.batch}x{self.length}, {how}"


CASES = (
    Case(256, 768, 5, 4, 2, 640, 4, 128, False, False, quick=True),  # the bundled shape
    Case(256, 768, 5, 4, 2, 640, 4, 128, True, True, quick=True),
    Case(256, 768, 5, 4, 2, 640, 2, 512, False, False),
    Case(256, 768, 5, 4, 2, 640, 2, 512, True, True),
    Case(512, 1536, 4, 8, 2, 8192, 2, 256, False, False),
    Case(512, 1536, 4, 8, 2, 8192, 2, 256, True, True, quick=True),
    Case(512, 1536, 4, 8, 2, 8192, 1, 1024, False, True),
    Case(512, 2048, 3, 8, 4, 32000, 2, 128, False, False),
    Case(512, 2048, 3, 8, 4, 32000, 2, 128, True, True),
    Case(1024, 2816, 3, 16, 4, 32000, 2, 256, True, False),
    Case(512, 8192, 2, 8, 2, 640, 2, 256, True, False, quick=True),  # wide inside: the peak is in a block, not at the head
    Case(512, 16384, 2, 8, 2, 640, 2, 128, False, True),
    Case(1024, 12288, 2, 8, 8, 640, 1, 256, True, True),
)


def config_of(case: Case) -> Qwen2Config:
    return as_config({"model_type": "qwen2", "hidden_size": case.hidden, "intermediate_size": case.inner,
                      "num_hidden_layers": case.layers, "num_attention_heads": case.heads,
                      "num_key_value_heads": case.kv_heads, "vocab_size": case.vocabulary,
                      "max_position_embeddings": 4096, "tie_word_embeddings": True}, str(case))  # fmt: skip


def expected(case: Case, cuda: bool = False) -> int:
    """Bytes that the planner says tensors hold at their highest."""
    setting = Setting(case.batch, case.length, 32, case.checkpointing, 2 if case.bf16 else 4, 2, "adamw_torch", cuda,
                      padded=case.batch > 1)  # fmt: skip
    return sum(part.bytes for part in parts(config_of(case), setting)[:-1])


def measured(case: Case) -> int:
    """Bytes that tensors really held at their highest, in the second of two training steps."""
    import torch

    from .bench_step import run_steps

    recipe = dataclasses.replace(recipe_for("tiny"), batch=case.batch, accumulation=1, checkpointing=case.checkpointing)
    changes: dict[str, Any] = {"bf16": True} if case.bf16 else {}
    dtype = torch.bfloat16 if case.bf16 else torch.float32
    return run_steps(config_of(case), recipe, dtype, length=case.length, **changes).peak.peak
