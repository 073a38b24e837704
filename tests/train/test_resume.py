"""A killed run and a full disk lose nothing: what is gone on with ends in the same adapter, byte for byte."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from train_small import digest, last_loss, records, small

from pushback_lib.core.common import PushbackError
from pushback_lib.train.guard import MARK, unfinished, whole_checkpoints, work_folder
from pushback_lib.train.run import train_adapter

SCRIPT = Path(__file__).parents[1] / "support" / "train_small.py"


def start(job: str, out: Path) -> subprocess.Popen:
    env = {**os.environ, "OMP_NUM_THREADS": "1"}  # like the run that it is compared with
    return subprocess.Popen([sys.executable, str(SCRIPT), job, str(out)], stdout=subprocess.PIPE, env=env, text=True)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """(digest, last loss) of the run that nothing happens to."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("run") / "adapter"
    training = train_adapter(small(), records(), out)
    assert unfinished(out) is None
    yield digest(out), last_loss(training)
    torch.set_num_threads(threads)


@pytest.mark.slow
def test_a_run_killed_in_its_second_epoch_goes_on_exactly(tmp_path, uninterrupted):
    out = tmp_path / "adapter"
    run = start("plain", out)
    mark = work_folder(out) / "checkpoint-9" / MARK
    while not mark.exists():
        assert run.poll() is None, "the run ended before it could be killed"
        time.sleep(0.01)
    os.kill(run.pid, signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL
    assert not out.exists()
    (work_folder(out) / "checkpoint-11").mkdir()  # as if it had been killed while writing
    training = train_adapter(small(), records(), out, resume=True)
    assert (digest(out), last_loss(training)) == uninterrupted
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


@pytest.mark.slow
def test_a_full_disk_loses_nothing(tmp_path, uninterrupted):
    run = start("disk", tmp_path / "adapter")
    told = json.loads(run.communicate()[0].splitlines()[-1])
    assert "has no room left" in told["says"]
    assert "The checkpoint of step 3 is whole; the same command with --resume goes on from there" in told["says"]
    assert told["left"] == ["checkpoint-3"]
    assert (told["digest"], told["loss"]) == uninterrupted


@pytest.mark.parametrize(
    ("change", "says"),
    [({"learning_rate": 1e-4}, "another learning_rate"), ({"epochs": 3}, "another epochs"), ({"max_length": 99}, "max_length")],
)
def test_a_checkpoint_of_another_run_is_refused(tmp_path, change, says):
    from pushback_lib.train.guard import identity, prepare

    work = work_folder(tmp_path / "adapter")
    prepare(work, identity(small(), records(), []), resume=False)
    (work / "checkpoint-3").mkdir()
    (work / "checkpoint-3" / MARK).touch()
    with pytest.raises(PushbackError, match=rf"of a run with .*{says}.*without --resume"):
        prepare(work, identity(small(**change), records(), []), resume=True)
    with pytest.raises(PushbackError, match="another data"):
        prepare(work, identity(small(), records()[:-1], []), resume=True)
    assert prepare(work, identity(small(checkpoint_every=7), records(), []), resume=True).name == "checkpoint-3"
    assert prepare(work, identity(small(), records(), []), resume=False) is None
    assert whole_checkpoints(work) == []
