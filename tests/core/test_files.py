"""JSON Lines: what is read, what is refused with its line number, and what an interrupted write leaves."""

from __future__ import annotations

import pytest

from pushback_lib.core.common import PushbackError
from pushback_lib.core.files import read_jsonl, replacing, write_jsonl

GOOD = [
    (b'{"a": 1}\n{"a": 2}\n', [(1, {"a": 1}), (2, {"a": 2})]),
    (b'\n{"a": 1}\n\n  \n{"a": 2}', [(2, {"a": 1}), (5, {"a": 2})]),
    ('{"a": "é ☂ \\u2028"}\n'.encode(), [(1, {"a": "é ☂ \u2028"})]),
    ('{"a": "one\u2028line"}\n'.encode(), [(1, {"a": "one\u2028line"})]),
    (b"", []),
]

BAD = [
    (b'{"a": 1}\n{"a": \n', "line 2: not valid JSON"),
    (b'{"a": 1}\n[1]\n', "line 2: a JSON list"),
    (b"null\n", "line 1: a JSON NoneType"),
    (b'{"a": "\xff"}\n', "line 1: not valid JSON"),
]


@pytest.mark.parametrize(("raw", "wanted"), GOOD)
def test_reads_objects_with_their_line_numbers(tmp_path, raw, wanted):
    (tmp_path / "f.jsonl").write_bytes(raw)
    assert list(read_jsonl(tmp_path / "f.jsonl")) == wanted


@pytest.mark.parametrize(("raw", "says"), BAD)
def test_names_the_broken_line(tmp_path, raw, says):
    (tmp_path / "f.jsonl").write_bytes(raw)
    with pytest.raises(PushbackError, match=says):
        list(read_jsonl(tmp_path / "f.jsonl"))


def test_missing_file_names_the_path(tmp_path):
    with pytest.raises(PushbackError, match=r"none\.jsonl"):
        list(read_jsonl(tmp_path / "none.jsonl"))


def test_what_is_written_is_read_again(tmp_path):
    rows = [{"a": "line\nfeed"}, {"a": "ü", "b": [1, None]}]
    path = tmp_path / "new" / "f.jsonl"
    assert write_jsonl(path, rows) == 2
    assert [row for _, row in read_jsonl(path)] == rows


def test_interrupted_write_keeps_the_old_file_and_leaves_nothing_beside(tmp_path):
    path = tmp_path / "f.jsonl"
    write_jsonl(path, [{"old": True}])

    def rows():
        yield {"new": True}
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        write_jsonl(path, rows())
    assert [row for _, row in read_jsonl(path)] == [{"old": True}]
    assert list(tmp_path.iterdir()) == [path]


def test_replacing_gives_a_path_beside_the_target(tmp_path):
    with replacing(tmp_path / "f.txt") as part:
        assert part.parent == tmp_path
        part.write_text("x")
        assert not (tmp_path / "f.txt").exists()
    assert (tmp_path / "f.txt").read_text() == "x"
