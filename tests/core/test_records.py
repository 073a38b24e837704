"""The schema: what holds together, what is refused and how it is named, and the messages a record becomes."""

import json

import pytest
from examples import BEHAVIOURS, record, row, thought

from pushback_lib.core import records
from pushback_lib.core.common import PushbackError
from pushback_lib.core.files import to_row
from pushback_lib.core.records import PERSONA_NAMES, join_reply, load_records, save_records, split_reply

SIX = row()["thoughts"]
TURNS = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Hello."}]

BROKEN = [
    ({"thoughts": [{**SIX[0], "persona": "Devil's Advocate"}, *SIX[1:]]}, "thoughts.0.persona"),
    ({"thoughts": SIX[:5]}, "5 thoughts; disagreement needs 6 or more"),
    ({"thoughts": SIX[:5], "level": "hard"}, "5 thoughts; hard disagreement needs 6 or more"),
    ({"thoughts": SIX[:1], "level": "easy"}, "1 thoughts; easy disagreement needs 2 or more"),
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
    ({"scenario": None}, "scenario: Field required"),  # None: left out
    ({"provenance": {"source": "found on the street"}}, "provenance.source"),
    ({"thoughts": [{**SIX[0], "persona": ""}, *SIX[1:]]}, "personas are missing"),
    ({"behaviour": "unlabelled"}, "'unlabelled' does not belong to subset 'disagreement'"),
    ({"subset": "unlabelled"}, "'disagree' does not belong to subset 'unlabelled'"),
]


@pytest.mark.parametrize(("change", "says"), BROKEN)
def test_a_record_that_breaks_the_schema_is_named_with_its_line(tmp_path, change, says):
    path = tmp_path / "f.jsonl"
    broken = {name: value for name, value in (row(2) | change).items() if value is not None}
    path.write_text(f"{json.dumps(row(1))}\n{json.dumps(broken)}\n")
    with pytest.raises(PushbackError, match=says) as caught:
        load_records(path)
    assert f"{path}, line 2: " in str(caught.value)


def test_an_empty_file_names_the_cure(tmp_path):
    (tmp_path / "f.jsonl").write_text("\n")
    with pytest.raises(PushbackError, match="pushback data make"):
        load_records(tmp_path / "f.jsonl")


@pytest.mark.parametrize("behaviour", BEHAVIOURS)
def test_saved_records_are_loaded_again(tmp_path, behaviour):
    made = [record(number, behaviour) for number in range(3)]
    assert save_records(tmp_path / "f.jsonl", made) == 3
    assert load_records(tmp_path / "f.jsonl") == made


@pytest.mark.parametrize("count", [1, 2, 6])
def test_plain_records_take_one_to_six_thoughts(count):
    thoughts = [thought(name, "kettle", False) for name in PERSONA_NAMES[:count]]
    assert len(record(0, "comply", thoughts=thoughts).thoughts) == count


def test_history_is_left_out_of_the_row_where_it_is_empty():
    assert "history" not in to_row(record())
    assert to_row(record(history=TURNS))["history"] == TURNS


def test_pair_and_level_are_left_out_where_they_are_empty():
    of_pair = record(pair="p1", level="easy")
    assert [set(to_row(one)) >= {"pair", "level"} for one in (record(), of_pair)] == [False, True]
    assert "pair" not in to_row(record()), "checksums of data name no field that came later"
    assert records.Record.model_validate(to_row(of_pair)) == of_pair


def test_no_code_of_ours_runs_within_pydantic_while_a_record_is_written():
    """A Ctrl-C within it would become an error of pydantic's, and a traceback."""
    assert "function" not in str(records.Record.__pydantic_serializer__)


def test_messages_hold_system_history_request_and_reply():
    found = record(history=TURNS)
    messages = records.to_messages(found, "Be kind.")
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user", "assistant"]
    assert messages[3]["content"] == found.user_input
    reply = split_reply(messages[-1]["content"])
    assert reply.answer == found.answer
    assert [line.split(": ")[0] for line in reply.thought.splitlines()] == list(PERSONA_NAMES)


def test_an_empty_system_prompt_is_left_out():
    assert records.prompt_messages("Hello.", "") == [{"role": "user", "content": "Hello."}]


def test_personas_are_six_with_a_task_each():
    assert len({persona.name for persona in records.PERSONAS}) == len({persona.task for persona in records.PERSONAS}) == 6


NO_LABELS = {"subset": "unlabelled", "behaviour": "unlabelled"}


def test_a_record_without_labels_may_lack_thoughts_and_the_names_of_personas():
    found = records.Record.model_validate({**row(), **NO_LABELS, "thoughts": [{"persona": "", "thought": "It is old."}]})
    assert records.to_messages(found, "")[-1]["content"] == f"<think>\nIt is old.\n</think>\n\n{found.answer}"
    found = records.Record.model_validate({**row(), **NO_LABELS, "thoughts": []})
    assert records.to_messages(found, "")[-1]["content"] == f"<think>\n</think>\n\n{found.answer}"


def test_of_a_folder_the_file_of_the_split_is_loaded(tmp_path):
    for number, split in enumerate(("train", "validation")):
        save_records(tmp_path / f"{split}.jsonl", [record(number)])
    assert load_records(tmp_path) == [record(0)]
    assert load_records(tmp_path, "validation") == [record(1)]
    with pytest.raises(PushbackError, match=r"No file at .*test\.jsonl"):
        load_records(tmp_path, "test")


def test_datasets_loads_the_file_in_one_line(tmp_path):
    from datasets import load_dataset

    save_records(tmp_path / "f.jsonl", [record(number, "comply" if number % 2 else "doubt") for number in range(8)])
    data = load_dataset("json", data_files=str(tmp_path / "f.jsonl"), split="train", cache_dir=str(tmp_path / "cache"))
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
