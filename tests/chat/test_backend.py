"""Events that become replies, and events from a thread."""

import random
import re
import threading
import time

import pytest

from pushback_lib.chat.backend import STOP_GRACE_SECONDS, Event, ReplyBuffer, in_thread
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
    "<<think>a</think>a",
    "thought with <think> inside</think> and answer with <think> inside",
    "Wide spaces   stay.\n\n\nAnd lines.</think>\n\nSo  do\n\nthese. ",
    "<img src=x onerror=alert(1)><script>alert(2)</script></think><b>unclosed",
]


def heard(*events):
    buffer = ReplyBuffer("friction")
    for event in events:
        buffer.add(event)
    return buffer.reply(timing=True)


def streamed(text, prefilled, cuts):
    """The replies after each piece, the last one once the voice has ended."""
    buffer, shown = ReplyBuffer("friction"), []
    for at, (start, end) in enumerate(zip([0, *cuts], [*cuts, len(text)], strict=True)):
        buffer.add(Event("friction", float(at), text=text[start:end], prefilled=prefilled))
        shown.append(buffer.reply())
    buffer.add(Event("friction", float(len(cuts)), prefilled=prefilled, end="stop"))
    return [*shown, buffer.reply(timing=True)]


@pytest.mark.parametrize("prefilled", [True, False])
@pytest.mark.parametrize("text", TEXTS)
def test_pieces_split_as_the_complete_text_does(text, prefilled):
    draw, whole = random.Random(1), split_reply(text, prefilled=prefilled)
    drawn = [sorted(draw.sample(range(len(text) + 1), min(4, len(text)))) for _ in range(30)]
    for cuts in [list(range(1, len(text))), [], *drawn]:
        said = streamed(text, prefilled, cuts)[-1]
        assert (said.thought, said.answer) == (whole.thought, whole.answer), cuts
        assert "".join(thought for _, thought, _ in said.timing) == whole.thought, cuts
        assert "".join(answer for _, _, answer in said.timing) == whole.answer, cuts
        answered = [seconds for seconds, _, answer in said.timing if answer and whole.thought]
        assert said.thinking == (answered[0] if answered else None), cuts


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("I wonder.</think>\n\nNo", "I wonder."),
        ("<think>I wonder.</think>\n\nNo", "I wonder."),
        ("Is 1<2?</think>Yes", "Is 1<2?"),
    ],
)
def test_half_a_tag_is_never_shown(text, shown):
    said = streamed(text, True, list(range(1, len(text))))
    assert all(shown.startswith(one.thought) for one in said)
    assert all(text.endswith(one.answer) for one in said[-1:])
    assert {one.answer for one in said if one.thought != shown} == {""}


def test_a_megabyte_in_small_pieces_is_split_in_linear_time():
    buffer, start = ReplyBuffer("friction"), time.process_time()
    for at in range(200_000):
        buffer.add(Event("friction", 0.1, text="<b>x ", tokens=at))
        if at % 2_000 == 0:
            buffer.reply()
    assert len(buffer.reply(timing=True).answer) == 999_999
    assert time.process_time() - start < 8  # a second or so; were it quadratic, minutes


def test_events_become_a_reply_with_its_figures():
    said = heard(Event("friction", 0.5, thought="I ", tokens=1), Event("friction", 0.75, thought="wonder.", tokens=2),
                 Event("friction", 1.0, tokens=3), Event("friction", 1.5, answer="No.", tokens=5, end="stop"))  # fmt: skip
    assert (said.thought, said.answer, said.end, said.tokens) == ("I wonder.", "No.", "stop", 5)
    assert (said.first_token, said.thinking, said.seconds) == (0.5, 1.5, 1.5)
    assert said.tokens_per_second == 4.0
    assert said.timing == ((0.5, "I ", ""), (0.75, "wonder.", ""), (1.5, "", "No."))


def test_after_a_thought_that_came_apart_text_is_answer_and_an_answer_that_was_thought_moves():
    apart = heard(Event("friction", 0.5, thought="I wonder."), Event("friction", 1.0, text="\n\nNo.", prefilled=True))
    unopened = [Event("friction", 0.5, text="I wonder.", tokens=1), Event("friction", 1.0, text="</think>\n\nNo.", tokens=2)]
    assert heard(unopened[0]).answer == "I wonder."
    for said in (apart, heard(*unopened)):
        assert (said.thought, said.answer, said.thinking) == ("I wonder.", "No.", 1.0)
        assert said.timing == ((0.5, "I wonder.", ""), (1.0, "", "No."))


@pytest.mark.parametrize("events", [[], [Event("friction", 1.0, tokens=1, answer="x")]])
def test_no_speed_is_made_up_from_one_token(events):
    assert heard(*events).tokens_per_second is None


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (PushbackError("The kettle is cold. Boil it."), r"The kettle is cold\. Boil it\."),
        (ValueError("no such thing"), r"ValueError: no such thing\. .+"),
    ],
)
def test_a_thread_that_fails_ends_every_voice_with_its_error(error, told):
    def fails(put):
        put(Event("a", 0.0, answer="so far"))
        raise error

    first, *ends = [event for event in in_thread(fails, threading.Event(), ("a", "b")) if event.voice]
    assert (first.voice, first.answer, first.end, first.error) == ("a", "so far", "", "")
    assert [(one.voice, one.answer, one.end) for one in ends] == [("a", "", "error"), ("b", "", "error")]
    assert all(re.fullmatch(told, one.error) for one in ends)


def test_stop_does_not_wait_for_a_thread_that_hangs():
    stop, release = threading.Event(), threading.Event()
    events = in_thread(lambda put: release.wait(30), stop, ("a",))
    assert next(events).voice == ""  # nothing has come, but time has passed
    stop.set()
    start = time.perf_counter()
    assert all(event.voice == "" for event in events)
    assert time.perf_counter() - start < STOP_GRACE_SECONDS + 5
    release.set()
