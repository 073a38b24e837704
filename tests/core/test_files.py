"""JSON Lines: what is read, what is refused with its line number, and what an interrupted write or run leaves."""

import hashlib
import json
import os

import pytest
from examples import record

from pushback_lib.core.common import PushbackError
from pushback_lib.core.files import RunFile, fill_template, read_jsonl, replacing, sha256_of, to_row, write_jsonl
from pushback_lib.core.records import Record, load_records

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


def test_a_template_escapes_html_and_misses_nothing(tmp_path):
    from jinja2 import UndefinedError

    for name, text in (("a.html", "<b>&lt;i&gt;</b>\n"), ("a.md", "<b><i></b>\n")):
        (tmp_path / name).write_text("<b>{{ text }}</b>\n")
        assert fill_template(tmp_path / name, text="<i>") == text
        with pytest.raises(UndefinedError):
            fill_template(tmp_path / name)


def test_the_sha256_of_a_file(tmp_path):
    (tmp_path / "f").write_bytes(bytes(3_000_000))
    assert sha256_of(tmp_path / "f") == hashlib.sha256(bytes(3_000_000)).hexdigest()


# The file of a run


def line(number: int) -> bytes:
    return (json.dumps(to_row(record(number))) + "\n").encode()


def opened(path, seen=lambda found: None) -> RunFile[Record]:
    return RunFile(path, Record, seen, "a record")


TAILS = [
    (line(2)[:-1], 3, "its line feed is missing"),
    (line(2)[:40], 2, "cut off in the middle"),
    (b'{"i', 2, "cut off at the start"),
    (b"", 2, "complete"),
]


@pytest.mark.parametrize(("tail", "count", "why"), TAILS)
def test_a_half_written_last_line_is_fixed(tmp_path, tail, count, why):
    path = tmp_path / "f.jsonl"
    path.write_bytes(line(0) + line(1) + tail)
    seen = []
    with opened(path, seen.append) as file:
        assert len(seen) == count, why
        file.append(record(9))
    assert [found.id for found in load_records(path)] == [*(found.id for found in seen), "t-0009"]


@pytest.mark.parametrize("raw", [b"Dear diary", b'{"id": "x"}\n' + line(1), b"Dear diary\n", b'{"a": 1}'])
def test_a_file_of_something_else_is_refused_and_left_alone(tmp_path, raw):
    path = tmp_path / "diary.txt"
    path.write_bytes(raw)
    with pytest.raises(PushbackError, match="line 1: not a record"):
        opened(path)
    assert path.read_bytes() == raw


def test_a_second_writer_is_refused(tmp_path):
    path = tmp_path / "f.jsonl"
    with opened(path), pytest.raises(PushbackError, match="Another run is writing"):
        opened(path)
    opened(path).__exit__(None, None, None)
    assert not path.exists()  # nothing was written


def test_a_folder_as_out_is_refused(tmp_path):
    with pytest.raises(PushbackError, match="cannot be written"):
        opened(tmp_path)


def test_a_link_is_followed_a_mode_kept_and_a_device_written_into(tmp_path):
    target, link, pipe = (tmp_path / name for name in ("real.txt", "link.txt", "pipe"))
    target.write_text("old")
    target.chmod(0o600)
    link.symlink_to(target)
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    for path in (link, pipe):
        with replacing(path) as part:
            part.write_text("new")
    assert (target.read_text(), target.stat().st_mode & 0o777, link.is_symlink()) == ("new", 0o600, True)
    assert os.read(reader, 10) == b"new"
    assert pipe.is_fifo()
    with pytest.raises(PushbackError, match="is a folder"), replacing(tmp_path):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.txt", "pipe", "real.txt"]
