"""Splitting a stream of text into thought and answer, and events from a thread."""

import random
import threading
import time

import pytest

from pushback_lib.chat.backend import GRACE, Event, ThoughtSplitter, in_thread
from pushback_lib.core.common import PushbackError
from pushback_lib.core.records import split_reply

TEXTS = [
    "I wonder.\nStill.\n</think>\n\nNo.",
    "<think>\nI wonder. </think> No.\n\n",
    "\n <think>I wonder",
    "<think></think>\n\nAt once.",
    "Plain answer, no tags.",
    "Plain </thin and < and </think nothing closes",
    "one</think>two</think>three",
    "",
    "   \n",
    "<thi",
    "thought with <think> inside</think> and answer with <think> inside",
    "Wide spaces   stay.\n\n\nAnd lines.</think>\n\nSo  do\n\nthese. ",
    "<img src=x onerror=alert(1)><script>alert(2)</script></think><b>unclosed",
]


def streamed(text, prefilled, cuts):
    splitter, thought, answer = ThoughtSplitter(prefilled), "", ""
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    for more, said, misfiled in [*map(splitter.feed, pieces), splitter.flush()]:
        if misfiled:
            thought, answer = answer, ""
        thought, answer = thought + more, answer + said
    return thought, answer


@pytest.mark.parametrize("prefilled", [True, False])
@pytest.mark.parametrize("text", TEXTS)
def test_pieces_split_as_the_whole_does(text, prefilled):
    draw, whole = random.Random(1), split_reply(text, prefilled=prefilled)
    for cuts in [
        list(range(1, len(text))),
        [],
        *(sorted(draw.sample(range(len(text) + 1), min(4, len(text)))) for _ in range(30)),
    ]:
        assert streamed(text, prefilled, cuts) == (whole.thought, whole.answer), cuts


def test_half_a_tag_is_never_shown():
    splitter = ThoughtSplitter()
    shown = [splitter.feed(piece) for piece in ("I wonder.", "</th", "ink>", "\n\nNo")]
    assert shown == [("I wonder.", "", False), ("", "", False), ("", "", False), ("", "No", False)]


def test_a_megabyte_in_small_pieces_is_split_in_linear_time():
    splitter, start = ThoughtSplitter(), time.process_time()
    text = "".join(splitter.feed("<b>x ")[0] for _ in range(200_000)) + splitter.flush()[0]
    assert len(text) == 999_999
    assert time.process_time() - start < 8  # a second or so; were it quadratic, minutes


def test_a_thread_that_fails_ends_every_voice_with_its_error():
    def fails(put):
        put(Event("a", 0.0, answer="so far"))
        raise PushbackError("The kettle is cold. Boil it.")

    events = [event for event in in_thread(fails, threading.Event(), ("a", "b")) if event.voice]
    assert [(e.voice, e.answer, e.end, e.error) for e in events] == [
        ("a", "so far", "", ""),
        ("a", "", "error", "The kettle is cold. Boil it."),
        ("b", "", "error", "The kettle is cold. Boil it."),
    ]


def test_another_error_is_told_with_its_kind():
    def fails(put):
        raise ValueError("no such thing")

    assert next(iter(in_thread(fails, threading.Event(), ("a",)))).error.startswith("ValueError: no such thing. ")


def test_stop_does_not_wait_for_a_thread_that_hangs():
    stop, release = threading.Event(), threading.Event()
    events = in_thread(lambda put: release.wait(30), stop)
    assert next(events).voice == ""  # nothing has come, but time has passed
    stop.set()
    start = time.perf_counter()
    assert all(event.voice == "" for event in events)
    assert time.perf_counter() - start < GRACE + 5
    release.set()
