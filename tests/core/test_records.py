"""The schema: what holds together, what is refused and how it is named, and the messages a record becomes."""

from __future__ import annotations

import json

import pytest
from examples import record, row, thought

from pushback_lib.core.common import PushbackError
from pushback_lib.core.files import to_row
from pushback_lib.core.records import (
    BEHAVIOURS,
    PERSONA_NAMES,
    PERSONAS,
    join_reply,
    load_records,
    prompt_messages,
    save_records,
    split_reply,
    to_messages,
)

SIX = row()["thoughts"]

BROKEN = [
    ({"thoughts": [{**SIX[0], "persona": "Devil's Advocate"}, *SIX[1:]]}, "thoughts.0.persona"),
    ({"thoughts": SIX[:5]}, "5 thoughts; disagreement needs six"),
    ({"thoughts": []}, "0 thoughts"),
    ({"thoughts": [SIX[1], SIX[0], *SIX[2:]]}, "out of order"),
    ({"thoughts": [SIX[0], *SIX[:5]]}, "repeated or out of order"),
    ({"thoughts": [{**SIX[0], "friction": "not in there"}, *SIX[1:]]}, "not part of the thought"),
    ({"thoughts": [{**SIX[0], "thought": " ", "friction": ""}, *SIX[1:]]}, "is empty"),
    ({"answer": "  "}, "answer is empty"),
    ({"id": ""}, "id is empty"),
    ({"behaviour": "refuse"}, "does not belong to subset"),
    ({"behaviour": "sulk"}, "behaviour"),
    ({"subset": "silence"}, "subset"),
    ({"extra": 1}, "extra"),
    ({"provenance": {"source": "found on the street"}}, "provenance.source"),
]


@pytest.mark.parametrize(("change", "says"), BROKEN)
def test_a_record_that_breaks_the_schema_is_named_with_its_line(tmp_path, change, says):
    path = tmp_path / "f.jsonl"
    path.write_text(f"{json.dumps(row(1))}\n{json.dumps(row(2) | change)}\n")
    with pytest.raises(PushbackError, match=says) as caught:
        load_records(path)
    assert f"{path}, line 2: " in str(caught.value)


def test_a_missing_field_is_named(tmp_path):
    broken = row()
    del broken["scenario"]
    (tmp_path / "f.jsonl").write_text(json.dumps(broken))
    with pytest.raises(PushbackError, match="line 1: scenario: Field required"):
        load_records(tmp_path / "f.jsonl")


def test_an_empty_file_names_the_cure(tmp_path):
    (tmp_path / "f.jsonl").write_text("\n")
    with pytest.raises(PushbackError, match="pushback data make"):
        load_records(tmp_path / "f.jsonl")


@pytest.mark.parametrize("behaviour", [name for names in BEHAVIOURS.values() for name in names])
def test_saved_records_are_loaded_again(tmp_path, behaviour):
    records = [record(number, behaviour) for number in range(3)]
    assert save_records(tmp_path / "f.jsonl", records) == 3
    assert load_records(tmp_path / "f.jsonl") == records


@pytest.mark.parametrize("count", [1, 2, 6])
def test_plain_records_take_one_to_six_thoughts(count):
    thoughts = [thought(name, "kettle", False) for name in PERSONA_NAMES[:count]]
    assert len(record(0, "comply", thoughts=thoughts).thoughts) == count


def test_history_is_left_out_of_the_row_where_it_is_empty():
    turns = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Hello."}]
    assert "history" not in to_row(record())
    assert to_row(record(history=turns))["history"] == turns


def test_messages_hold_system_history_request_and_reply():
    turns = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Hello."}]
    found = record(history=turns)
    messages = to_messages(found, "Be kind.")
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user", "assistant"]
    assert messages[3]["content"] == found.user_input
    reply = split_reply(messages[-1]["content"])
    assert reply.answer == found.answer
    assert [line.split(": ")[0] for line in reply.thought.splitlines()] == list(PERSONA_NAMES)


def test_an_empty_system_prompt_is_left_out():
    assert prompt_messages("Hello.", "") == [{"role": "user", "content": "Hello."}]


def test_personas_are_six_with_a_task_each():
    assert len({persona.name for persona in PERSONAS}) == len({persona.task for persona in PERSONAS}) == 6


def test_datasets_loads_the_file_in_one_line(tmp_path):
    from datasets import load_dataset

    save_records(tmp_path / "f.jsonl", [record(number, "comply" if number % 2 else "doubt") for number in range(8)])
    path = str(tmp_path / "f.jsonl")
    data = load_dataset("json", data_files=path, split="train", cache_dir=str(tmp_path / "cache"))
    assert data.num_rows == 8
    assert data[0]["thoughts"][0]["persona"] == "Problem Framer"


CASES = [
    ("<think>\na\n</think>\n\nb", True, ("a", "b", True)),
    ("a\n</think>\n\nb", True, ("a", "b", True)),
    ("  \n<think>a</think>b", False, ("a", "b", True)),
    ("</think>\nb", True, ("", "b", True)),
    ("<think>\n\n</think>\n\nb", True, ("", "b", True)),
    ("<think>a", True, ("a", "", False)),
    ("a", True, ("a", "", False)),
    ("<think>a", False, ("a", "", False)),
    ("b", False, ("", "b", True)),
    ("", True, ("", "", False)),
    ("", False, ("", "", True)),
    ("a</think>b</think>c", True, ("a", "b</think>c", True)),
]


@pytest.mark.parametrize(("text", "prefilled", "wanted"), CASES)
def test_split(text, prefilled, wanted):
    reply = split_reply(text, prefilled=prefilled)
    assert (reply.thought, reply.answer, reply.closed) == wanted


@pytest.mark.parametrize(("thought", "answer"), [("a", "b"), (" a\nc ", "b\n\nd\n"), ("", "b")])
def test_split_undoes_join(thought, answer):
    reply = split_reply(join_reply(thought, answer))
    assert (reply.thought, reply.answer, reply.closed) == (thought.strip(), answer.strip(), True)
