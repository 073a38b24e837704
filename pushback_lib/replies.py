"""Joins and splits the thought and the answer of a reply; knows nothing about models or tokens."""

from __future__ import annotations

from dataclasses import dataclass

OPEN, CLOSE = "<think>", "</think>"


@dataclass(frozen=True)
class Reply:
    """A reply split in two. `finished_thinking` is False when the closing tag never came."""

    thought: str
    answer: str
    finished_thinking: bool


def join_reply(thought: str, answer: str) -> str:
    """Gives the text of a whole assistant turn: `<think>`, thought, `</think>`, blank line, answer."""
    return f"{OPEN}\n{thought.strip()}\n{CLOSE}\n\n{answer.strip()}"


def split_reply(text: str, *, prefilled: bool = True) -> Reply:
    """Splits generated text into thought and answer.

    DeepSeek-R1 generation prompts end in `<think>`, so text normally starts inside the thought. An opening tag
    in front is tolerated, and so is an empty thought. Where the closing tag is missing, everything is thought if the
    thought was opened (by a tag, or by the prompt: `prefilled`), else everything is answer.
    """
    head = text.lstrip()
    opened = head.startswith(OPEN)
    body = head[len(OPEN) :] if opened else text
    thought, tag, answer = body.partition(CLOSE)
    if tag:
        return Reply(thought.strip(), answer.strip(), True)
    if opened or prefilled:
        return Reply(body.strip(), "", False)
    return Reply("", body.strip(), True)
