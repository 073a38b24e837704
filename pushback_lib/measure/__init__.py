"""Evaluation: friction and over-friction of both voices, with intervals (notebook 04)."""

from .figures import figures_of
from .judge import classify
from .markers.find import find_markers
from .plots import kinds_picture
from .prompts import load_prompts, pairs_of, prompts_for
from .report import write_report
from .run import evaluate, load_responses, save_responses

__all__ = [
    "classify",
    "evaluate",
    "figures_of",
    "find_markers",
    "kinds_picture",
    "load_prompts",
    "load_responses",
    "pairs_of",
    "prompts_for",
    "save_responses",
    "write_report",
]
