"""Evaluation: friction and over-friction of both voices, with intervals (notebook 04)."""

from .figures import figures_of
from .judge import behaviour_of, judge_replies
from .markers.find import find_markers
from .plots import kinds_picture
from .prompts import bundled_prompts, load_prompts
from .report import pair_text, write_report
from .run import evaluate, load_responses, save_responses

__all__ = [
    "behaviour_of",
    "bundled_prompts",
    "evaluate",
    "figures_of",
    "find_markers",
    "judge_replies",
    "kinds_picture",
    "load_prompts",
    "load_responses",
    "pair_text",
    "save_responses",
    "write_report",
]
