"""A few kills in each run of the tests; `python tests/support/kills.py --kills 200` is the whole."""

import random
import subprocess
import sys

import kills
import pytest

LONG = [("make", 10), ("train", 2), ("ship", 2)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "count"),
    [("make", 4), ("eval", 2), *(pytest.param(name, n, marks=pytest.mark.time) for name, n in LONG)],
)
def test_killed_and_resumed_a_run_loses_nothing_and_ends_as_if_nothing_had_happened(command, count):
    words = [sys.executable, kills.__file__, "--only", command, "--kills", str(count), "--seed", "3"]
    run = subprocess.run(words, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr[-3000:]
    assert f": {count} kills in " in run.stdout


ONE, TWO = b'{"id": "1"}\n', b'{"id": "2"}\n'


@pytest.mark.parametrize(
    ("lives", "says"),
    [
        ([(ONE + TWO, None), (TWO, None)], "lost"),
        ([(ONE + ONE, None)], "twice"),
        ([(ONE, None), (ONE + TWO, 2)], "odd end"),
        ([(ONE, 0)], "another result"),
        ([(ONE + TWO, 0)], "left behind"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_fault_is_seen(tmp_path, monkeypatch, lives, says):
    path, lives = tmp_path / "rows.jsonl", iter(lives)

    def live(*_):
        text, code = next(lives)
        path.write_bytes(text)
        return code

    (tmp_path / "log").write_text("odd end")
    (tmp_path / ".rows.1.part").touch()
    monkeypatch.setattr(kills, "live", live)
    job = kills.Job("x", [], lambda: {row["id"] for row in kills.whole_lines(path)}, path.read_bytes, seconds=1.0)
    job.reference = ONE + TWO
    with pytest.raises(AssertionError, match=says):
        kills.chain(tmp_path, job, random.Random(1), 5)
