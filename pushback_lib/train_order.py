"""The order of the examples: batches of like length, and the same again after a resume; knows nothing about training."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from .jsonl import replacing


class EpochOrder:
    """A sampler whose order depends on seed and epoch alone, so that a resumed epoch skips what was trained, nothing else.

    The first epoch of a single process draws from torch's global generator, as transformers does; a checkpoint
    therefore holds that order (`save`, `load`). Several processes must all draw alike, so they use the seed from the start.
    """

    def __init__(self, lengths: Sequence[int], batch: int, seed: int, alone: bool) -> None:
        self.lengths, self.batch, self.seed, self.alone = list(lengths), batch, seed, alone
        self.epoch = 0
        self._drawn: tuple[int, list[int]] | None = None

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        if self._drawn is None or self._drawn[0] != self.epoch:
            self._drawn = (self.epoch, self._draw())
        return iter(self._drawn[1])

    def _draw(self) -> list[int]:
        import torch
        from transformers.trainer_pt_utils import get_length_grouped_indices

        seeded = None if self.alone and self.epoch == 0 else torch.Generator().manual_seed(1_000 * self.seed + self.epoch)
        return get_length_grouped_indices(self.lengths, self.batch, generator=seeded)

    def save(self, path: Path) -> None:
        """Writes the current epoch and its order."""
        if self._drawn:
            with replacing(path) as part:
                part.write_text(json.dumps({"epoch": self._drawn[0], "order": self._drawn[1]}), encoding="utf-8")

    def load(self, path: Path) -> None:
        """Takes over the epoch and order that `save` wrote."""
        stored = json.loads(path.read_text(encoding="utf-8"))
        self._drawn = (stored["epoch"], stored["order"])
