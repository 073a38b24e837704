"""Replies of two voices that do exactly what they should, for the requests of the small language."""

from pushback_lib.core.records import join_reply, split_reply
from pushback_lib.language.corpus import draw_requests


def spoken(thought, answer):
    text = join_reply(thought, answer).removeprefix("<think>\n")
    return split_reply(text, tokens=10, end="stop")


def perfect(requests):
    return [{"baseline": spoken(*r.eager), "friction": spoken("\n".join(r.careful), r.answer)} for r in requests]


REQUESTS = draw_requests(40, seed=11, held_out=True)
