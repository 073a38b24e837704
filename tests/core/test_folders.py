"""Which folders the kit may write, and how: nothing of somebody else is lost, nor anything complete."""

import os
import shutil
import subprocess
import sys

import pytest

from pushback_lib import cli
from pushback_lib.core.common import DATA, PushbackError
from pushback_lib.core.folders import MARKER, alone, check_folder, claim_folder, replacing_folder


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with somebody's thesis, an empty folder, one of the kit's, and links to the first and the last."""
    monkeypatch.chdir(tmp_path)
    for name in ("thesis", "empty", "own"):
        (tmp_path / name).mkdir()
    (tmp_path / "thesis" / "text.md").write_text("x")
    (tmp_path / "own" / "pushback.json").write_text("{}")
    for name in ("thesis", "own"):
        (tmp_path / f"to-{name}").symlink_to(name)
    (tmp_path / "loop").symlink_to("loop")
    return tmp_path


@pytest.mark.parametrize("out", ["new", "new/deep", "empty", "own", "to-own", "own/sub"])
def test_a_new_an_empty_and_an_own_folder_may_be_written(out, here):
    assert check_folder(out) == (here / out).resolve()


REFUSED = [
    ("thesis", (), "thesis holds files that this kit did not make (text.md). Choose a new"),
    ("to-thesis", (), "did not make"),
    ("thesis/text.md", (), "is a file"),
    ("thesis/text.md/deep", (), "is a file"),
    (".", (), "is the working folder or one above"),
    ("..", (), "is the working folder or one above"),
    ("/", (), "is the working folder or one above"),
    ("own", ("own/base",), "own/base is needed, and own would replace it"),
    ("own", (None, "to-own"), "to-own is needed"),
    ("to-own", ("own",), "own is needed"),
    ("loop/deep", (), "loop/deep cannot be followed"),
]


@pytest.mark.parametrize(("out", "inputs", "says"), REFUSED, ids=str)
def test_any_other_is_refused_and_stays(out, inputs, says, here):
    writes = (check_folder, *(lambda *args, way=way: way(*args).__enter__() for way in (claim_folder, replacing_folder)))
    for write in writes:
        with pytest.raises(PushbackError) as caught:
            write(out, inputs)
        assert says in str(caught.value)
    assert (here / "thesis" / "text.md").read_text() == "x"
    assert (here / "own" / "pushback.json").exists()


@pytest.mark.parametrize("out", ["new/deep", "own", "to-own"])
def test_a_complete_folder_takes_the_place_and_is_marked(out, here):
    (here / "new").mkdir()
    fill(out)
    assert sorted(path.name for path in (here / out).iterdir()) == [MARKER, "weights"]
    assert (here / "to-own").is_symlink()
    assert not [path for path in here.rglob("*") if path.name.endswith((".part", ".old"))]


def fill(out, *, end=None, meanwhile=None):
    """Writes one file into the temporary folder for `out`; returns that folder's path."""
    with replacing_folder(out) as part:
        part.mkdir()
        (part / "weights").write_text("new")
        if meanwhile:
            meanwhile.write_text("written meanwhile")
        if end:
            raise end
    return part


def test_what_fails_leaves_the_old_folder_and_what_is_complete_is_never_lost(here):
    with pytest.raises(KeyboardInterrupt):
        fill("own", end=KeyboardInterrupt())
    assert sorted(path.name for path in here.iterdir()) == ["empty", "loop", "own", "thesis", "to-own", "to-thesis"]
    with pytest.raises(PushbackError, match=r"The complete folder is .*\.part: move it"):
        fill("empty", meanwhile=here / "empty" / "letter.txt")
    assert [path.read_text() for path in here.glob(".empty.*.part/weights")] == ["new"]
    assert (here / "empty" / "letter.txt").exists()


ADAPTER, BASE = DATA / "tiny" / "adapter", DATA / "tiny" / "base"
COMMANDS = [
    "train --data small.jsonl --out thesis",
    "train --data own/small.jsonl --out own",
    "train --data small.jsonl --out thesis/text.md",
    "train --data small.jsonl --out .",
    "base --out thesis",
    "ship all --out thesis",
    "ship gguf --out to-thesis",
    "ship all --model out/merged --out out",
    "ship all --adapter out/adapter/mine --out out",
    "demo --out thesis",
    "eval --out thesis",
    "experiments --out thesis",
    "data check --report thesis",
    "ship all --out loop",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_begins_to_work_on_a_folder_it_may_not_write(command, here, capsys, monkeypatch):
    for source, place in ((BASE, "out/merged"), (ADAPTER, "out/adapter/mine")):
        shutil.copytree(source, here / place)
    for name in ("small.jsonl", "own/small.jsonl"):
        shutil.copy(DATA / "micro.jsonl", here / name)
    before = {path: path.lstat().st_mtime_ns for path in here.rglob("*")}
    for slow in ("train.run.check_model", "train.base.encode_corpus", "ship.run.check_room", "ship.run.merge_adapter"):
        monkeypatch.setattr(f"pushback_lib.{slow}", lambda *args, **options: pytest.fail("began to work"))
    assert cli.main(command.split()) == 2
    assert "Choose" in capsys.readouterr().err
    assert {path: path.lstat().st_mtime_ns for path in here.rglob("*")} == before


def test_a_folder_without_permission_is_refused(here, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: path != here / "empty")
    with pytest.raises(PushbackError, match=r"no permission in .*empty"):
        check_folder("empty/new")


ALONE = [
    "train --data small.jsonl --out new",
    "train --data small.jsonl --out new --resume",
    "ship all --out new",
    "ship gguf --out new",
    "demo --out new",
    "eval --out new",
    "base --out new --work here",
    "base --out newer --work other",
]


@pytest.mark.parametrize("command", ALONE)
def test_no_command_writes_where_another_run_writes(command, here, capsys):
    shutil.copy(DATA / "micro.jsonl", here / "small.jsonl")
    with alone("new"), alone("other/base-seed1.pt"):
        assert cli.main(command.split()) == 2
    assert "Another run is writing to " in capsys.readouterr().err
    assert not [path for path in here.rglob(".*") if path.name != MARKER]


def test_the_lock_ends_with_its_process_and_what_that_left_aside_goes(here):
    code = """if True:
        import os, pathlib, time
        from pushback_lib.core.folders import alone
        with alone("own"):
            for name in (f".own.{os.getpid()}.part", f"own/.model.{os.getpid()}.part"):
                pathlib.Path(name).mkdir()
            os.rename("empty", f".gone.{os.getpid()}.old")
            print("locked", flush=True)
            time.sleep(60)"""
    (here / "own" / f".mine.{os.getpid()}.part").touch()
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "locked\n"
    with pytest.raises(PushbackError, match="Another run is writing to own"), alone("own"):
        pass
    child.kill()
    child.communicate()
    for name in ("own", "gone"):
        with alone(name):
            pass
    assert (here / "gone").is_dir(), "what a run had moved away when it died is back"
    left = [path.name for path in here.rglob(".*") if path.name != MARKER]
    assert left == [f".mine.{os.getpid()}.part"], "only of a run that goes on"


def test_of_processes_that_train_together_only_the_first_locks(here, monkeypatch):
    with alone("own"):
        monkeypatch.setenv("RANK", "1")
        with alone("own"):
            pass


def test_a_claimed_folder_in_which_nothing_was_made_goes(here):
    for name in ("new", "empty"):
        with pytest.raises(KeyboardInterrupt), claim_folder(name):
            raise KeyboardInterrupt
    assert not (here / "new").exists()
    assert (here / "empty").exists()
    with claim_folder("new") as folder:
        (folder / "weights").touch()
    assert sorted(path.name for path in (here / "new").iterdir()) == [MARKER, "weights"]
