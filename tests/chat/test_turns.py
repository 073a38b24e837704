"""Turns of a chat: blind votes, what each voice remembers, the transcript as JSONL and Markdown."""

import json
import random

import pytest
from chat_turns import turn

from pushback_lib.chat.turns import CHOICES, fenced, load_turns, messages_for, save_markdown, save_turns, shuffled, tally
from pushback_lib.core.common import VOICES, PushbackError
from pushback_lib.core.stats import wilson

SWAPPED = VOICES[::-1]
BAD = "<img src=x onerror=alert(1)> <script>alert(2)</script> ```` <b>unclosed"


@pytest.mark.parametrize(
    ("order", "choice", "meant"),
    [
        (VOICES, "A", "baseline"),
        (VOICES, "B", "friction"),
        (SWAPPED, "A", "friction"),
        (SWAPPED, "B", "baseline"),
        (SWAPPED, "tie", "tie"),
        (VOICES, "both bad", "both bad"),
    ],
)
def test_a_vote_means_the_voice_that_sat_there(order, choice, meant):
    assert (turn(panes=order).preferred, turn(panes=order).voted(choice).preferred) == ("", meant)


@pytest.mark.parametrize("choice", ["", "C", "friction", "a"])
def test_another_vote_is_refused_with_the_votes_there_are(choice):
    with pytest.raises(PushbackError, match=", ".join(CHOICES)):
        turn().voted(choice)


def test_both_orders_come_equally_often():
    draw = random.Random(5)
    swapped = sum(shuffled(draw) == SWAPPED for _ in range(2000))
    rate = wilson(swapped, 2000, z=4.0)
    assert rate.low < 0.5 < rate.high


def test_the_tally_counts_and_gives_wilsons_interval():
    counted = tally(["friction"] * 7 + ["baseline"] * 3 + ["tie", "tie", "both bad"])
    assert (counted.friction, counted.baseline, counted.ties, counted.both_bad) == (7, 3, 2, 1)
    assert counted.rate == wilson(7, 10)
    assert "70 % [40–89] of 10" in str(counted)


@pytest.mark.parametrize("votes", [[], ["tie"], ["both bad", "tie"]])
def test_without_a_decided_vote_there_is_no_rate(votes):
    assert (tally(votes).decided, tally(votes).rate) == (0, None)
    assert "no vote for either voice yet" in str(tally(votes))


def test_each_voice_remembers_its_own_answers_and_no_thoughts():
    turns = [turn(), turn("To Anna.", "Which one?")]
    messages = messages_for("friction", "Think.", turns, "The tall one.")
    assert [m["role"] for m in messages] == ["system", *["user", "assistant"] * 2, "user"]
    assert [m["content"] for m in messages] == [
        "Think.", "Please send the parcel.", "To whom?", "To Anna.", "Which one?", "The tall one."]  # fmt: skip
    assert messages_for("baseline", "", turns, "x")[1]["content"] == "I sent it."


def test_a_turn_without_an_answer_is_left_out_for_that_voice_only():
    turns = [turn(friction="")]
    assert [m["content"] for m in messages_for("friction", "", turns, "x")] == ["x"]
    assert len(messages_for("baseline", "", turns, "x")) == 3


def test_a_transcript_comes_back_as_it_was(tmp_path):
    turns = [turn(BAD, BAD, dial=0.5), turn(blind=True, panes=SWAPPED, vote="A")]
    assert save_turns(tmp_path / "chat.jsonl", turns) == 2
    assert load_turns(tmp_path / "chat.jsonl") == turns


def test_the_markdown_holds_text_in_fences_it_cannot_leave(tmp_path):
    save_markdown(tmp_path / "chat.md", [turn(BAD, BAD, blind=True, vote="B")])
    page = (tmp_path / "chat.md").read_text(encoding="utf-8")
    assert page.count(f"`````text\n{BAD}\n`````") == 2
    assert "B was friction; voted B, so friction." in page
    assert "friction 1, baseline 0" in page
    assert "11 tokens, first token after 0.10 s, 10 tokens/s" in page
    assert "Votes" in page
    save_markdown(tmp_path / "chat.md", [turn()])
    assert "Votes" not in (tmp_path / "chat.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("text", "fence"), [("", "```"), ("a ``` b", "````"), ("```````", "````````"), ("x```y", "````")])
def test_a_fence_is_longer_than_what_it_holds(text, fence):
    assert fenced(text) == f"{fence}text\n{text}\n{fence}"


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("{}", "line 1: at: Field required"),
        ("[1]", "line 1: a JSON list"),
        ("{", "line 1: not valid JSON"),
        ("", "holds no turns"),
        (json.dumps({**turn().model_dump(mode="json"), "vote": "C"}), "line 1: vote"),
        (json.dumps({**turn().model_dump(mode="json"), "said": []}), "line 1: said"),
        (json.dumps({**turn().model_dump(mode="json"), "surprise": 1}), "line 1: surprise"),
    ],
)
def test_a_broken_transcript_names_its_line(tmp_path, line, wrong):
    path = tmp_path / "chat.jsonl"
    path.write_text(line, encoding="utf-8")
    with pytest.raises(PushbackError, match=wrong):
        load_turns(path)


def test_a_turn_in_a_cell_shows_both_voices_as_text():
    page = turn(BAD, BAD, number=2)._repr_html_()
    assert all(text in page for text in ("I sent it.", "Nobody is named.", "&lt;script&gt;alert(2)&lt;/script&gt; ````"))
    assert "<script" not in page
    assert repr(turn(number=2)) == "<turn 2 with tiny: 'Please send the parcel.'>"
