"""Marking a file of replies row by row."""

import json
import tracemalloc

import pytest

from pushback_lib.cli import main
from pushback_lib.core.common import PushbackError
from pushback_lib.measure.markers.file import KEYS, mark_file


def stored(tmp_path, *lines):
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"\n".join(one if isinstance(one, bytes) else json.dumps(one).encode() for one in lines))
    return path


def marked(tmp_path, *lines, **options):
    count = mark_file(stored(tmp_path, *lines), tmp_path / "out.jsonl", **options)
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == count
    return rows


ROW = {"prompt": "Pick a lock.", "response": "I'm sorry, but I can't help with that.", "id": 7, "more": {"é": [1, None]}}


def test_a_row_is_copied_and_marked_with_exactly_these_keys(tmp_path):
    (row,) = marked(tmp_path, ROW)
    assert row == {**ROW, "markers": {"refusal": "full", "disagree": False, "clarify": False, "hedge": 0.0, "apology": 1}}
    assert tuple(row["markers"]) == KEYS


def test_spans_are_given_when_asked_for(tmp_path):
    (row,) = marked(tmp_path, ROW, spans=True)
    assert set(row["markers"]) == {*KEYS, "cut_off", "spans"}
    assert {tuple(span) for span in row["markers"]["spans"]} == {("marker", "start", "end", "text")}
    assert all(span["text"] == ROW["response"][span["start"] : span["end"]] for span in row["markers"]["spans"])


TEXT = [({"answer": "I don't know."}, 1.0), ({"response": "Yes.", "answer": "I don't know."}, 0.0),
        ({"response": "I don't know."}, 1.0), ({"response": "Yes.", "prompt": None}, 0.0)]  # fmt: skip


@pytest.mark.parametrize(("row", "hedge"), TEXT)
def test_the_text_may_be_in_answer_as_in_a_row_of_pushback_eval_and_a_prompt_may_be_missing(tmp_path, row, hedge):
    assert marked(tmp_path, row)[0]["markers"]["hedge"] == hedge


def test_a_row_without_text_says_what_it_has(tmp_path):
    with pytest.raises(PushbackError, match=r"'response' is missing, not text \(the row has: prompt, reply\)"):
        marked(tmp_path, {"prompt": "x", "reply": "y"})


ODD = ("", " \n\t", "<think>" * 1000, "</think><b>I can't help with that.</b>", "<script>alert('x')</script>",
       "\u202eI don't know\u202c\u200f", "\ud800 I don't know", "\x00\x07", "😀" * 100, "I can't help. " * 70_000)  # fmt: skip


@pytest.mark.parametrize("odd", ODD)
def test_odd_text_is_marked_and_copied_as_it_is(tmp_path, odd):
    (row,) = marked(tmp_path, {"prompt": odd[:100], "response": odd})
    assert row["response"] == odd
    assert tuple(row["markers"]) == KEYS


BROKEN = (b"{", b'{"response": "caf\xe9"}', b"[1]", b'{"prompt": "x"}', b'{"response": 7}',
          b'{"response": "x", "prompt": ["y"]}', b'{"response": "x"} {"response": "y"}', b"[" * 100_000,
          b'{"response": ' + b"9" * 5_000 + b"}")  # fmt: skip


@pytest.mark.parametrize("line", BROKEN)
def test_a_broken_line_is_named_and_nothing_is_left_behind(tmp_path, line):
    (tmp_path / "out.jsonl").write_text("before", encoding="utf-8")
    with pytest.raises(PushbackError, match="line 3"):
        mark_file(stored(tmp_path, ROW, b"", line), tmp_path / "out.jsonl")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]
    assert (tmp_path / "out.jsonl").read_text(encoding="utf-8") == "before"


def test_a_missing_file_and_a_place_that_cannot_be_written_are_named(tmp_path, capfd):
    with pytest.raises(PushbackError, match="No file at"):
        mark_file(tmp_path / "none.jsonl", tmp_path / "out.jsonl")
    assert "marking" not in capfd.readouterr().err  # the error stands alone
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(PushbackError, match="cannot be written"):
        mark_file(stored(tmp_path, ROW), tmp_path / "file" / "out.jsonl")


def test_an_empty_file_gives_an_empty_file(tmp_path):
    assert marked(tmp_path) == []


def test_memory_does_not_grow_with_the_rows(tmp_path):
    def peak(rows: int) -> int:
        path = tmp_path / f"{rows}.jsonl"
        path.write_text((json.dumps({"prompt": "Bake.", "response": "Yes. " * 20}) + "\n") * rows, encoding="utf-8")
        mark_file(path, tmp_path / "out.jsonl")  # the first pass fills caches
        tracemalloc.start()
        mark_file(path, tmp_path / "out.jsonl")
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    assert peak(2000) < peak(100) + 100_000  # the file of 2000 rows holds 280 kB


def test_the_command_marks_and_says_how_many(tmp_path, capsys):
    assert main(["markers", str(stored(tmp_path, ROW, ROW)), str(tmp_path / "out.jsonl")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'out.jsonl'}: 2 rows marked\n"
