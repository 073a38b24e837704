"""One voice's reply token by token: decoding, `generate`'s streamer, and drawing with shared randomness; knows no adapter."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .side_by_side import Event, Put, Settings, ThoughtSplitter

TOP_P = 0.95  # the model card of DeepSeek-R1


@dataclass
class Row:
    """One voice's reply while it is generated."""

    voice: str
    start: float
    put: Put
    tokenizer: Any
    splitter: ThoughtSplitter = field(default_factory=ThoughtSplitter)
    ids: list[int] = field(default_factory=list)
    end: str = ""
    _told: int = 0  # ids up to here have been put as text

    def token(self, token: int, limit: int) -> None:
        """Decodes one more token and puts the event that it makes."""
        if token == self.tokenizer.eos_token_id:
            return self.finish("stop")
        self.ids.append(token)
        self._say(self.splitter.feed(self._new_text()))
        if len(self.ids) >= limit:
            self.finish("length")

    def finish(self, end: str) -> None:
        """Puts what was held back, and the end."""
        self.end = end
        self._say(self.splitter.feed(self._new_text(last=True)))
        self._say(self.splitter.flush(), end)

    def _say(self, pieces: tuple[str, str, bool], end: str = "") -> None:
        thought, answer, misfiled = pieces
        self.put(Event(self.voice, time.perf_counter() - self.start, thought, answer, len(self.ids), misfiled, end))

    def _new_text(self, last: bool = False) -> str:
        """Text of the ids not yet told; held back while it ends in half a character, which the next token completes.

        Byte-level tokenizers, which this family of models has, decode to the same text piece by piece.
        """
        text = self.tokenizer.decode(self.ids[self._told :])
        if text.endswith("\ufffd") and not last:
            return ""
        self._told = len(self.ids)
        return text


class Streamer:
    """What `generate` hands its tokens to: the prompt once, then one token a row."""

    def __init__(self, rows: Sequence[Row], limit: int) -> None:
        self.rows, self.limit, self._prompt_seen = rows, limit, False

    def put(self, value: Any) -> None:
        if not self._prompt_seen:
            self._prompt_seen = True
            return
        for row, token in zip(self.rows, value.tolist(), strict=True):
            row.token(token, self.limit)

    def end(self) -> None:
        """Nothing to do: a row ends with its own token."""


class SameDraw:
    """Draws the next token of every row with the same random numbers (the Gumbel-max trick), so that greedy choice samples.

    The noise depends on the seed and the number of the token alone: a voice says the same alone and in a batch.
    """

    def __init__(self, settings: Settings, drawn: int) -> None:
        self.settings, self.step = settings, drawn

    def __call__(self, _ids: Any, scores: Any) -> Any:
        import torch

        scores = scores / self.settings.temperature
        ordered, order = scores.softmax(-1).sort(descending=True)
        out = (ordered.cumsum(-1) - ordered >= TOP_P).scatter(-1, order, ordered.cumsum(-1) - ordered >= TOP_P)
        generator = torch.Generator().manual_seed(self.settings.seed * 1_000_003 + self.step)
        self.step += 1
        uniform = torch.rand(scores.shape[-1], generator=generator, dtype=torch.float64).clamp_min(1e-300)
        noise = -torch.log(-torch.log(uniform))
        return (scores - scores.logsumexp(-1, keepdim=True)).masked_fill(out, float("-inf")) + noise.to(scores)
