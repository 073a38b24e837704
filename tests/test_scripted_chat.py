"""The scripted personas, behind the same engine as any model."""

import asyncio

import pytest

from pushback_lib.cli import main
from pushback_lib.debate import Settings
from pushback_lib.debate_run import make_records
from pushback_lib.errors import PushbackError
from pushback_lib.recipe import DATA
from pushback_lib.records import load_records
from pushback_lib.scripted_chat import ScriptedChat


def test_ten_of_your_own_without_a_model_or_a_server(tmp_path):
    out = tmp_path / "mine.jsonl"
    assert main(["data", "make", "--backend", "scripted", "-n", "10", "--out", str(out)]) == 0
    records = load_records(out)
    assert len({record.user_input for record in records}) == 10
    assert {record.behaviour for record in records} == {"disagree", "clarify", "doubt", "refuse", "comply"}
    assert {record.provenance.model for record in records} == {"scripted"}
    for record in records:
        assert all(bool(thought.friction) == (record.behaviour != "comply") for thought in record.thoughts)


def test_the_same_seed_gives_the_same_records(tmp_path):
    for name in ("a", "b"):
        work = make_records(
            ScriptedChat(), DATA / "tiny" / "briefs.jsonl", tmp_path / name, 8, Settings(seed=3), progress=False
        )
        asyncio.run(work)
    assert sorted((tmp_path / "a").read_text().splitlines()) == sorted((tmp_path / "b").read_text().splitlines())


def test_a_request_in_another_language_is_named_with_the_cure(tmp_path):
    work = make_records(ScriptedChat(), DATA / "micro.jsonl", tmp_path / "out.jsonl", 2, progress=False)
    with pytest.raises(PushbackError, match=r"only know requests that they wrote.*--backend openai"):
        asyncio.run(work)
