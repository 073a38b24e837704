"""Finds how an English response pushes back: refusal, disagreement, a clarifying question, hedging, apology.

It reads wording only, not whether a refusal was justified or a correction true. Reasoning inside <think> is never scored.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from .clarify import clarify
from .disagree import disagree
from .hedge import hedge
from .refusal import Hit, apology, refusal
from .text import ends_mid_sentence, own_words, think_spans, without_thinking

MARKERS_VERSION = "1.1"  # raise it when a rule changes: figures of two versions cannot be compared


@dataclass(frozen=True)
class Span:
    """A stretch of the response that carries a marker; `start` and `end` count characters of the complete response."""

    marker: str
    start: int
    end: int
    text: str


@dataclass(frozen=True)
class Markers:
    """What one response shows of each kind of friction."""

    refusal: Literal["none", "partial", "full"] = "none"
    disagree: bool = False
    clarify: bool = False
    hedge: float = 0.0
    apology: int = 0
    cut_off: bool = False
    spans: tuple[Span, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, spans as a list of objects."""
        return {**asdict(self), "spans": [asdict(span) for span in self.spans]}


def find_markers(prompt: str, response: str, *, truncated: bool = False) -> Markers:
    """The friction markers of `response` as an answer to `prompt`.

    `truncated` says that generation stopped at its token limit; a response that ends inside <think> or in the middle of a
    sentence counts as cut off too.
    """
    visible = without_thinking(response)
    text = own_words(visible)
    refused, refusal_hits = refusal(prompt, text)
    strength, hedge_hits = hedge(text)
    disagree_hits, clarify_hits, apology_hits = disagree(prompt, text), clarify(prompt, text), apology(text)
    hits = refusal_hits + disagree_hits + clarify_hits + hedge_hits + apology_hits
    return Markers(
        refusal=refused,
        disagree=bool(disagree_hits),
        clarify=bool(clarify_hits),
        hedge=strength,
        apology=len(apology_hits),
        spans=_spans(response, text, hits),
        cut_off=truncated or think_spans(response)[1] or ends_mid_sentence(visible),
    )


def _spans(response: str, text: str, hits: list[Hit]) -> tuple[Span, ...]:
    """Hits as spans of the raw response, trimmed of the blanks around them, in reading order."""
    trimmed = []
    for marker, start, end in hits:
        piece = text[start:end]
        start, end = start + len(piece) - len(piece.lstrip()), end - len(piece) + len(piece.rstrip())
        trimmed.append(Span(marker, start, end, response[start:end]))
    return tuple(sorted(trimmed, key=lambda s: (s.start, s.end, s.marker)))
