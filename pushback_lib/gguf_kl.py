"""Kullback-Leibler divergence of a quantised GGUF from the F32 one, token by token; knows nothing about behaviour.

The F32 file answers some prompts greedily; at every third token of its replies both files are asked for the whole
distribution of the next token, after the same tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .llama_cpp import LlamaCpp
from .records import Message
from .stats import cluster_bootstrap

if TYPE_CHECKING:
    import numpy as np

STRIDE = 3  # tokens from one measured position to the next


@dataclass(frozen=True)
class Reference:
    """Where the distributions are compared: (number of the reply, tokens before), and F32's, shape (positions, vocabulary)."""

    contexts: tuple[tuple[int, tuple[int, ...]], ...]
    values: np.ndarray


@dataclass(frozen=True)
class Divergence:
    """Mean over `positions` in nats, with a 95 % bootstrap interval that draws whole replies; and the worst position."""

    mean: float
    low: float
    high: float
    worst: float
    positions: int
    replies: int

    def __str__(self) -> str:
        return f"{self.mean:.2g} [{self.low:.2g}–{self.high:.2g}] nats at {self.positions} positions of {self.replies} replies"


def reference(f32: str | Path, conversations: Sequence[Sequence[Message]], max_tokens: int, stride: int = STRIDE) -> Reference:
    """The F32 file's own greedy replies, and its distribution at every `stride`-th of their tokens."""
    import numpy as np

    contexts: list[tuple[int, tuple[int, ...]]] = []
    with LlamaCpp(f32, exact=True) as server:
        for number, messages in enumerate(conversations):
            prompt = server.tokenise(server.render(messages))
            reply = server.complete(prompt, max_tokens).ids
            contexts += [(number, (*prompt, *reply[:at])) for at in range(0, len(reply), stride)]
        values = [server.log_probabilities(ids) for _, ids in _bar(contexts, "kl F32")]
    return Reference(tuple(contexts), np.stack(values).astype("float32"))


def divergence(gguf: str | Path, against: Reference) -> Divergence:
    """How far a file's distributions are from the reference's: KL(F32 || file)."""
    with LlamaCpp(gguf, exact=True) as server:
        found = [
            kl(true, server.log_probabilities(ids))
            for (_, ids), true in zip(_bar(against.contexts, f"kl {Path(gguf).stem}"), against.values, strict=True)
        ]
    clusters = [number for number, _ in against.contexts]
    low, high = cluster_bootstrap(found, clusters)
    return Divergence(sum(found) / len(found), low, high, max(found), len(found), len(set(clusters)))


def kl(true: np.ndarray, other: np.ndarray) -> float:
    """KL divergence in nats of `other` from `true`, both as log-probabilities; never below 0."""
    import numpy as np

    true, other = true.astype("float64"), other.astype("float64")
    seen = np.isfinite(true)
    return max(0.0, float(np.sum(np.exp(true[seen]) * (true[seen] - other[seen]))))


def _bar(items: Any, what: str) -> Any:
    from tqdm import tqdm

    return tqdm(items, what, unit="position", mininterval=1, delay=1, leave=False)
