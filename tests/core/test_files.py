"""JSON Lines: what is read, what is refused with its line number, and what an interrupted write or run leaves."""

import hashlib
import json
import os

import pytest
from examples import record
from pydantic import BaseModel

from pushback_lib.core.common import PushbackError
from pushback_lib.core.files import RunFile, fill_template, read_jsonl, read_models, replacing, sha256_of, to_row, write_jsonl
from pushback_lib.core.records import Record, load_records

GOOD = [
    (b'{"a": 1}\n{"a": 2}\n', [(1, {"a": 1}), (2, {"a": 2})]),
    (b'\n{"a": 1}\n\n  \n{"a": 2}', [(2, {"a": 1}), (5, {"a": 2})]),
    ('{"a": "é ☂ \\u2028"}\n'.encode(), [(1, {"a": "é ☂ \u2028"})]),
    ('{"a": "one\u2028line"}\n'.encode(), [(1, {"a": "one\u2028line"})]),
    (b"", []),
    (b'\xef\xbb\xbf{"a": 1}\r\n{"a": 2}\r\n', [(1, {"a": 1}), (2, {"a": 2})]),
    (b'{"a": 1}\n\xef\xbb\xbf{"a": 2}\n', [(1, {"a": 1}), (2, {"a": 2})]),  # two such files, put together
    (b"\xef\xbb\xbf\n", []),
    (b'{"a": "NaN", "b": 1e300}', [(1, {"a": "NaN", "b": 1e300})]),
]

BAD = [
    (b'{"a": 1}\n{"a": \n', "line 2: not valid JSON"),
    (b'{"a": 1}\n[1]\n', "line 2: a JSON list"),
    (b"null\n", "line 1: a JSON NoneType"),
    (b'{"a": "\xff"}\n', "line 1: not valid JSON"),
    (b'{"a": 1}\n{"a": NaN}\n', "line 2: not valid JSON .NaN is not a number of JSON"),
    (b'{"a": [-Infinity]}\n', "line 1: not valid JSON .-Infinity is"),
    (b'{"a": 1e999}\n', "line 1: not valid JSON .1e999 is"),
    ('{"a": 1}\n'.encode("utf-16"), r"is in UTF-16, not in UTF-8\. Save it as UTF-8\..*`pushback data import .*f\.jsonl`"),
    ('{"a": 1}\n'.encode("utf-16-be"), "is in UTF-16-BE"),
    ('{"a": 1}\n'.encode("utf-32"), "is in UTF-32"),
    (b'\n[{"a": 1},\n {"a": 2}]\n', r"line 2: a JSON list\. Each line holds one .*`pushback data import .*f\.jsonl`"),
    (b'{\n  "a": 1\n}\n', "line 1: not valid JSON .the object goes on in the next line.*`pushback data import"),
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


class Said(BaseModel):
    text: str


FOREIGN = [
    ({"conversations": []}, r"text: Field required\. This is a row of sharegpt data: .*`pushback data import .*f\.jsonl`"),
    ({"instruction": "a", "input": "", "output": "b"}, "a row of alpaca data"),
    ({"messages": []}, "a row of messages data"),
    ({"prompt": "a", "completion": "b"}, "a row of messages data"),
    ({"text": "\ud800"}, r"holds half of a character, '\\ud800'\. Fix or delete that line"),
    ({"texts": "a"}, "text: Field required. Fix or delete that line"),
]


@pytest.mark.parametrize(("row", "says"), FOREIGN)
def test_a_row_of_others_is_recognised_and_the_error_says_how_to_convert_it(tmp_path, row, says):
    (tmp_path / "f.jsonl").write_text(f'{{"text": "a"}}\n{json.dumps(row)}\n')
    with pytest.raises(PushbackError, match=rf"f\.jsonl, line 2: .*{says}"):
        list(read_models(tmp_path / "f.jsonl", Said))


def test_a_folder_names_its_files(tmp_path):
    (tmp_path / "a.jsonl").touch()
    with pytest.raises(PushbackError, match=r"is a folder\. Give one of its files \(a\.jsonl\)"):
        list(read_jsonl(tmp_path))


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
    (b"\xef\xbb\xbf" + line(2), 3, "put together from files with a byte order mark"),
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
