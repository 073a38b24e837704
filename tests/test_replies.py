"""Splitting a reply into thought and answer, whatever became of its tags."""

from __future__ import annotations

import pytest

from pushback_lib.replies import Reply, join_reply, split_reply

CASES = [
    ("<think>\na\n</think>\n\nb", True, Reply("a", "b", True)),
    ("a\n</think>\n\nb", True, Reply("a", "b", True)),
    ("  \n<think>a</think>b", False, Reply("a", "b", True)),
    ("</think>\nb", True, Reply("", "b", True)),
    ("<think>\n\n</think>\n\nb", True, Reply("", "b", True)),
    ("<think>a", True, Reply("a", "", False)),
    ("a", True, Reply("a", "", False)),
    ("<think>a", False, Reply("a", "", False)),
    ("b", False, Reply("", "b", True)),
    ("", True, Reply("", "", False)),
    ("", False, Reply("", "", True)),
    ("a</think>b</think>c", True, Reply("a", "b</think>c", True)),
]


@pytest.mark.parametrize(("text", "prefilled", "wanted"), CASES)
def test_split(text, prefilled, wanted):
    assert split_reply(text, prefilled=prefilled) == wanted


@pytest.mark.parametrize(("thought", "answer"), [("a", "b"), (" a\nc ", "b\n\nd\n"), ("", "b")])
def test_split_undoes_join(thought, answer):
    assert split_reply(join_reply(thought, answer)) == Reply(thought.strip(), answer.strip(), True)
