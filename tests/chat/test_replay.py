"""A recorded transcript as a backend."""

import threading
import time

import pytest
from chat_turns import listen, turn

from pushback_lib.chat.backend import Settings
from pushback_lib.chat.replay import RECORDED, RecordedVoices
from pushback_lib.chat.turns import load_turns, save_turns
from pushback_lib.core.common import VOICES, PushbackError
from pushback_lib.core.records import prompt_messages


@pytest.fixture
def path(tmp_path):
    timing = {"baseline": ((0.05, "Do", ""), (0.1, "ne.", ""), (0.3, "", "I sent it.")),
              "friction": ((0.05, "Nobody is named.", ""), (0.35, "", "To whom?"))}  # fmt: skip
    one = turn()
    timed = tuple(said.model_copy(update={"timing": timing[said.voice], "seconds": 0.4}) for said in one.said)
    save_turns(tmp_path / "chat.jsonl", [one.model_copy(update={"said": timed}), turn("Hello."), turn("Hello.", "Hello, you.")])
    return tmp_path / "chat.jsonl"


def play(voices, user, stop=None):
    return listen(voices, prompt_messages(user, ""), stop)


def test_a_replay_says_what_was_recorded_when_it_was(path):
    start = time.perf_counter()
    said = play(RecordedVoices(path), "Please send the parcel.")
    assert time.perf_counter() - start >= 0.4
    for one, thinking in zip(load_turns(path)[0].said, (0.3, 0.35), strict=True):
        assert said[one.voice] == one.model_copy(update={"first_token": 0.05, "thinking": thinking})


def test_a_faster_replay_waits_less_and_keeps_the_recorded_figures_and_order(path):
    start, asked = time.process_time(), dict.fromkeys(VOICES, prompt_messages("Please send the parcel.", ""))
    events = list(RecordedVoices(path, speed=0).stream(asked, Settings(), threading.Event()))
    assert time.process_time() - start < 0.3
    assert [event.seconds for event in events] == [0.05, 0.05, 0.1, 0.3, 0.35, 0.4, 0.4]
    assert {event.voice for event in events[:2]} == set(VOICES)


def test_a_prompt_that_was_said_twice_plays_both_in_turn(path):
    voices = RecordedVoices(path, speed=0)
    heard = [(play(voices, "Hello.")["friction"].answer, voices.hint("Hello.")) for _ in range(3)]
    first, second = ("To whom?", "Recording 1 of 2 of this prompt."), ("Hello, you.", "Recording 2 of 2 of this prompt.")
    assert heard == [first, second, first]
    assert [preset.text for preset in voices.presets] == ["Please send the parcel.", "Hello."]


def test_nothing_is_made_up(path):
    with pytest.raises(PushbackError, match="Nothing is recorded for 'What now"):
        play(RecordedVoices(path), "What now?")


def test_stop_ends_the_replay(path):
    stop = threading.Event()
    stop.set()
    assert play(RecordedVoices(path), "Please send the parcel.", stop)["friction"].answer == ""


def test_bad_replays_are_refused(path, tmp_path):
    with pytest.raises(PushbackError, match="The speed of a replay is -1"):
        RecordedVoices(path, speed=-1)
    with pytest.raises(PushbackError, match="No file at"):
        RecordedVoices(tmp_path / "none.jsonl")
    failed = turn().said[0].model_copy(update={"error": "broken", "end": "error"})
    save_turns(tmp_path / "failed.jsonl", [turn(said=(failed, turn().said[1]))])
    with pytest.raises(PushbackError, match="failed turns only"):
        RecordedVoices(tmp_path / "failed.jsonl")


def test_the_recording_that_comes_with_the_kit_plays():
    voices = RecordedVoices(RECORDED, speed=0)
    for preset in voices.presets:
        assert all(one.end == "stop" and one.thought and one.answer for one in play(voices, preset.text).values()), preset
    assert all(t.model == "tiny" for t in voices.turns)
