"""The side-by-side chat without a browser: the buttons are clicked, the widgets are read."""

import random
import re
import sys
import threading
import time
import types

import pytest

from pushback_lib.chat.backend import Event, Preset
from pushback_lib.chat.panel import chat_panel
from pushback_lib.chat.replay import RecordedVoices
from pushback_lib.chat.turns import load_turns
from pushback_lib.core.common import VOICES, PushbackError
from pushback_lib.model.recipe import recipe_for
from pushback_lib.model.voices import load_voices

CLAIM = "The capital of France is Rome, right?"
NASTY = ["<img src=x onerror=alert(1)>", "<script>alert(2)</script>", "<b>unclosed <textarea><!--", "</div></div>&amp;\"'"]


class Echo:
    """A backend of our own: thinks what it is asked, and answers it; waits, fails or says `text` where a test wants it to."""

    name, note, system, recorded, dial, max_tokens = "echo <1>", "", "", False, 1.0, 50
    presets = (Preset("disagree", "Rome?"), Preset("disagree", "Paris?"), Preset("doubt", "Who\nwins?"))
    waits, fails, text = False, None, ""

    def __init__(self):
        self.go, self.asked, self.settings = threading.Event(), [], []

    def hint(self, user):
        return f"An echo of <{user}>." if "echo" in user else ""

    def stream(self, conversations, settings, stop):
        self.asked.append({voice: [m["content"] for m in messages] for voice, messages in conversations.items()})
        self.settings.append(settings)
        text = self.text or conversations["baseline"][-1]["content"]
        for voice in VOICES:
            yield Event(voice, 0.1, thought=text, tokens=1)
        while self.waits and not self.go.wait(0.02) and not stop.is_set():
            yield Event("", 0.2)
        if stop.is_set():
            return
        if self.fails:
            raise self.fails
        for voice in VOICES:
            yield Event(voice, 0.5, answer=f"{voice}: {text}", tokens=3, end="stop")


@pytest.fixture
def echo(tmp_path):
    return chat_panel(Echo(), export_to=tmp_path)


def say(panel, text):
    panel.view.prompt.value = text
    panel.view.send.click()
    return panel.join(60)


def shown(pane):
    return pane.title.value + pane.earlier.value + pane.thought.value + pane.answer.value + pane.figures.value + pane.copy.value


def test_what_the_backend_knows_about_a_prompt_stands_above_the_replies(echo):
    say(echo, "No echo?")
    assert "An echo of &lt;No echo?&gt;." in echo.view.status.value
    say(echo, "Rome?")
    assert "echo" not in echo.view.status.value


def test_the_bundled_model_chats_in_two_panes_and_the_dial_changes_its_answer_in_its_place(tmp_path):
    panel = chat_panel(load_voices(recipe_for("tiny"), four_bit=False), export_to=tmp_path)
    assert "small language" in panel.view.notice.value
    turn = say(panel, CLAIM)
    first, second = panel.view.panes
    assert "baseline" in first.title.value
    assert "Yes, the capital of France is Rome." in first.answer.value
    assert "Paris, not Rome" in second.answer.value
    assert "Problem Framer" in second.thought.value
    assert second.toggle.description.startswith("Thought for ")
    assert f"{turn.of('friction').tokens} tokens · first after" in second.figures.value
    assert "tokens/s" in second.figures.value
    assert (panel.view.stop.disabled, panel.view.send.disabled, panel.view.prompt.value) == (True, False, "")
    panel.view.dial.value = 0.0
    panel.view.again.click()
    at_nought = panel.join(60)
    assert at_nought.of("friction").answer == at_nought.of("baseline").answer != turn.of("friction").answer
    assert (at_nought.dial, at_nought.regenerated, len(panel.conversation), len(panel.turns)) == (0.0, True, 1, 2)


def test_stop_comes_within_half_a_second_and_keeps_what_was_said_on_screen_only(echo):
    echo.backend.waits = True
    echo.send("Hello.")
    while not echo.view.panes[0].thought.value:
        time.sleep(0.01)
    start = time.perf_counter()
    echo.view.stop.click()
    turn = echo.join(60)
    assert time.perf_counter() - start < 0.5 + 5  # half a second, and five for a busy machine
    assert [(said.thought, said.end) for said in turn.said] == [("Hello.", "stopped")] * 2
    assert all("[no answer]" in pane.answer.value and "stopped" in pane.figures.value for pane in echo.view.panes)
    echo.backend.waits = False
    say(echo, "Again.")
    assert echo.backend.asked[1] == {voice: ["Again."] for voice in VOICES}  # a turn without an answer is not remembered
    assert all("Hello." in pane.earlier.value and "[no answer" in pane.earlier.value for pane in echo.view.panes)


def test_while_the_voices_speak_only_stop_and_the_prompt_are_enabled(echo):
    view, echo.backend.waits = echo.view, True
    echo.send("Hello.")
    assert (view.stop.disabled, view.prompt.disabled) == (False, False)
    assert all(w.disabled for w in (view.send, view.again, view.clear, view.export, view.blind, view.preset, view.behaviour))
    for action in (lambda: echo.send("Again."), echo.regenerate, echo.clear):
        action()
        assert "still speaking" in view.status.value
    with pytest.raises(PushbackError, match=r"No finished turn after 0\.1 s"):
        echo.join(0.1)
    echo.backend.go.set()
    echo.join(60)
    assert (len(echo.turns), view.stop.disabled) == (1, True)


def test_enter_sends_but_no_empty_prompt(echo):
    for typed in ("  ", "Hello."):
        echo.view.prompt.value = typed
        echo.view.prompt._handle_string_msg(None, {"event": "submit"}, [])  # what the browser sends at Enter, and only then
        assert ("The prompt is empty" in echo.view.status.value) == (typed == "  ")
    assert (echo.join(60).user, len(echo.turns)) == ("Hello.", 1)


@pytest.mark.parametrize("remember", [True, False])
def test_only_with_memory_the_voices_read_earlier_turns_without_their_thoughts(echo, remember):
    echo.view.memory.value = remember
    assert echo.view.memory.description == f"Remember earlier turns: {'on' if remember else 'off'}"
    say(echo, "One.")
    say(echo, "Two.")
    assert echo.backend.asked[1] == {v: ["One.", f"{v}: One.", "Two."] if remember else ["Two."] for v in VOICES}
    assert len(echo.conversation) == (2 if remember else 1)
    assert ("One." in echo.view.panes[0].earlier.value) == remember
    echo.view.clear.click()
    assert shown(echo.view.panes[0]) == echo.view.panes[0].title.value
    say(echo, "Three.")
    assert echo.backend.asked[2] == {key: ["Three."] for key in VOICES}
    assert len(echo.turns) == 3


def test_settings_reach_both_voices_and_regenerate_draws_again(echo):
    echo.view.seed.value, echo.view.temperature.value, echo.view.max_tokens.value = 5, 0.7, 33
    say(echo, "One.")
    echo.view.again.click()
    echo.join(60)
    sent = [(s.seed, s.temperature, s.max_tokens) for s in echo.backend.settings]
    assert sent == [(5, 0.7, 33), (6, 0.7, 33)]
    assert echo.backend.asked[1] == {key: ["One."] for key in VOICES}


@pytest.mark.parametrize("text", [*NASTY, "\n".join(NASTY)])
def test_text_is_shown_as_text(echo, text):
    say(echo, text)
    say(echo, "And?")
    for place in (*map(shown, echo.view.panes), echo._repr_html_()):
        assert text.splitlines()[0] not in place
        for tag in ("<img", "<script", "<b>", "<!--", "&amp;\"'", "echo <1>"):
            assert tag not in place


def test_an_error_is_shown_as_text_too(echo):
    echo.backend.fails = PushbackError(NASTY[0] + " Fix it.")
    turn = say(echo, "Hello.")
    for pane in echo.view.panes:
        assert "<strong>Error:</strong> &lt;img src=x onerror=alert(1)&gt; Fix it." in pane.answer.value
    assert {said.end for said in turn.said} == {"error"}
    assert not echo.view.send.disabled
    echo.backend.fails = None
    assert say(echo, "Again.").said[0].end == "stop"
    assert echo.backend.asked[1]["baseline"] == ["Again."]


@pytest.mark.parametrize("where", ["prompt", "reply"])
def test_a_megabyte_is_capped_on_screen_and_complete_in_the_export(echo, where):
    long = "<b>" * 333_334
    echo.backend.text = long if where == "reply" else "short"
    start = time.process_time()
    say(echo, long if where == "prompt" else "Hello.")
    assert time.process_time() - start < 10
    for pane in echo.view.panes:
        assert "characters are not shown here" in shown(pane)
        assert len(pane.earlier.value) + len(pane.thought.value) + len(pane.answer.value) < 300_000
        assert len(pane.copy.value) < 1_000_000
    exported = load_turns(echo.export()[0])[0]
    assert long in (exported.user, exported.of("friction").thought)


def test_the_thinking_hides_behind_its_toggle_and_stays_as_it_was_left(echo):
    say(echo, "Hello.")
    pane = echo.view.panes[0]
    assert (pane.toggle.description, pane.thought.layout.display) == ("Thought for 0.5 s (hide)", "block")
    pane.toggle.value = False
    assert (pane.toggle.description, pane.thought.layout.display) == ("Thought for 0.5 s (show)", "none")
    say(echo, "Again.")
    assert (pane.toggle.value, pane.thought.layout.display) == (False, "none")


def test_examples_fill_the_prompt(echo):
    view = echo.view
    assert view.behaviour.options == ("disagree", "doubt")
    view.behaviour.value = "doubt"
    assert [label for label, _ in view.preset.options] == ["Choose an example", "Who wins?"]
    view.preset.value = "Who\nwins?"
    assert view.prompt.value == "Who wins?"


@pytest.mark.parametrize(("seed", "order"), [(0, VOICES[::-1]), (1, VOICES)])
def test_a_blind_vote_hides_everything_until_it_is_cast(tmp_path, seed, order):
    panel = chat_panel(Echo(), export_to=tmp_path, draw=random.Random(seed))
    say(panel, "Earlier.")
    panel.view.blind.value = True
    turn = say(panel, "Hello.")
    assert turn.panes == order
    assert panel.backend.asked[1] == {key: ["Hello."] for key in VOICES}  # no earlier turn tells the voices apart
    for pane, voice in zip(panel.view.panes, turn.panes, strict=True):
        hidden = shown(pane).replace(f"{voice}: Hello.", "")
        assert not any(word in hidden for word in (*VOICES, "tokens", "Thought", "Earlier", "Copy")), hidden
        assert f"{voice}: Hello." in pane.answer.value
        assert pane.toggle.disabled
    assert "Hello." not in panel._repr_html_()
    panel.view.votes["A"].click()
    assert panel.turns[-1].preferred == turn.panes[0]
    for pane, voice in zip(panel.view.panes, turn.panes, strict=True):
        assert voice in pane.title.value
        assert "Hello." in pane.thought.value
    assert f"{turn.panes[0]} 1" in panel.view.tally.value
    assert all(button.disabled for button in panel.view.votes.values())
    panel.vote("B")
    assert "nothing to vote on" in panel.view.status.value
    assert load_turns(panel.export()[0])[-1].vote == "A"


def test_the_answers_of_a_blind_turn_appear_together(echo):
    """Who ends first would tell who is who."""
    echo.backend.waits = echo.view.blind.value = True
    echo.send("Hello.")
    time.sleep(0.3)
    assert all(pane.answer.value == pane.thought.value == "" for pane in echo.view.panes)
    echo.backend.go.set()
    echo.join(60)
    assert all("Hello." in pane.answer.value for pane in echo.view.panes)


@pytest.mark.parametrize("give_up", [lambda p: setattr(p.view.blind, "value", False), lambda p: p.clear(), None])
def test_a_vote_that_is_given_up_or_on_a_failed_turn_counts_nothing(echo, give_up):
    echo.view.blind.value, echo.backend.fails = True, None if give_up else ValueError("broken")
    say(echo, "Hello.")
    if give_up:
        give_up(echo)
    assert all(button.disabled for button in echo.view.votes.values())
    echo.vote("A")
    assert (echo.tally.decided, echo.turns[-1].vote) == (0, "")


def test_export_writes_both_files_and_says_where_or_why_not(echo, tmp_path):
    for button, what in ((echo.view.again, "nothing to regenerate yet"), (echo.view.export, "nothing to export yet")):
        button.click()
        assert what in echo.view.status.value
    say(echo, "Hello.")
    echo.view.export.click()
    written = sorted(tmp_path.iterdir())
    assert [path.suffix for path in written] == [".jsonl", ".md"]
    assert all(path.name in echo.view.status.value for path in written)
    assert load_turns(written[0]) == echo.turns
    echo.export_to = written[0]  # no folder
    echo.view.export.click()
    assert "Error: " in echo.view.status.value


def test_a_saved_notebook_keeps_what_was_said(echo, outputs):
    say(echo, "Hello.")
    echo._ipython_display_()
    live, copy = outputs
    assert live["data"]["application/vnd.jupyter.widget-view+json"]["model_id"] == echo.view.root.model_id
    assert "baseline: Hello." in live["data"]["text/html"]
    assert "Transcript: 1 turn, kept" in copy["data"]["text/html"]
    say(echo, "And on.")
    (update,) = outputs[2:]
    assert (update["update"], update["transient"]) == (True, copy["transient"])
    for text in ("Transcript: 2 turns, kept", "baseline: And on."):
        assert text in update["data"]["text/html"]


def test_the_copy_names_no_voice_before_the_vote(outputs):
    panel = chat_panel(Echo(), blind=True)
    panel._ipython_display_()
    assert "Nothing yet" in outputs[0]["data"]["text/html"]
    assert outputs[1]["data"]["text/html"] == ""
    say(panel, "Hello.")
    assert outputs[-1]["data"]["text/html"] == ""
    panel.vote("tie")
    assert "baseline: Hello." in outputs[-1]["data"]["text/html"]


def test_a_recording_says_so_on_screen():
    panel = chat_panel(RecordedVoices(speed=0))
    assert "Recorded: these replies come from recorded.jsonl" in panel.view.notice.value
    assert "nothing is generated" in panel.view.notice.value
    assert panel.view.dial.disabled
    assert say(panel, CLAIM).recorded
    for pane, title in zip(panel.view.panes, ("A: baseline (recorded)", "B: friction (recorded)"), strict=True):
        assert re.sub("<[^>]+>", "", pane.title.value) == title
        assert "Rome" in pane.answer.value
    assert "<em>(recorded)</em>" in panel._repr_html_()
    assert say(panel, "What is this?").said[0].error.startswith("Nothing is recorded for 'What is this?'")
    assert "Nothing is recorded for &#x27;What is this?&#x27;" in panel.view.panes[0].answer.value


def test_on_colab_the_callback_itself_generates_and_an_interruption_stops(echo, monkeypatch):
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    callers, stream = [], echo.backend.stream
    echo.backend.stream = lambda *args: (callers.append(threading.current_thread()), *stream(*args))[1:]
    echo.send("Hello.")
    assert (callers, echo.busy) == ([threading.main_thread()], False)
    assert "Hello." in echo.view.panes[0].answer.value
    echo.backend.fails = KeyboardInterrupt()
    assert say(echo, "Hello.").said[1].end == "stopped"


def test_every_control_has_its_class_and_inputs_have_labels(echo):
    names, stack = set(), [echo.view.root]
    while stack:
        widget = stack.pop()
        stack += list(getattr(widget, "children", ()))
        names |= {name.removeprefix("pushback-") for name in widget._dom_classes}
        if "value" in widget.keys and type(widget).__name__ != "HTML":
            assert widget.description, widget
    assert names >= {"chat", "notice", "behaviour", "preset", "prompt", "send", "stop", "pane-a", "pane-b", "toggle-a",
                     "thought-a", "answer-a", "figures-a", "copy-a", "vote-a", "vote-b", "vote-tie", "vote-both-bad", "tally",
                     "again", "clear", "blind", "export", "dial", "temperature", "max-tokens", "seed", "status"}  # fmt: skip
