"""Kills `data make`, `train`, `eval` and `ship` with SIGKILL at random moments, resumes them, and looks at what is left.

`python tests/support/kills.py --kills 200`. Each life is a process forked from one that has loaded the libraries, so that
the kills fall into the work. A chain is killed and resumed until a life ends by itself; its result must then be that of a run
which nothing happened to. After every kill nothing that was finished may be lost or there twice, and what bears a final name
must be complete.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from loopback_server import KEY, MODEL, Loopback  # noqa: E402

HALF = b'{"id": "engine-0-0'  # what a kill within a write leaves; such kills are rare, so it is also put there
LIBRARIES = {"make": "openai", "eval": "peft transformers", "train": "datasets peft transformers trl",
             "ship": "gguf peft transformers xllamacpp"}  # fmt: skip
PARTS = (".part", ".old", ".lock", ".work")


@dataclass
class Job:
    """A command; what of it must only grow, complete (`kept`); and what must be the same in the end (`same`)."""

    name: str
    words: list[str]
    kept: Callable[[], set[Any]]
    same: Callable[[], Any]
    lines: Path | None = None  # a file to which whole lines are appended
    kills: int = 0
    chains: int = 0
    resumed: int = 0  # lives that began with something of an earlier one
    seconds: float = 0.0
    reference: Any = field(default=None, repr=False)


def whole_lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of JSON Lines, but for a half-written last one. Raises AssertionError where one is there twice."""
    raw = path.read_bytes() if path.exists() else b""
    rows = [json.loads(line) for line in raw[: raw.rfind(b"\n") + 1].splitlines()]
    ids = [row["id"] for row in rows]
    assert len(ids) == len(set(ids)), "a line is there twice"
    return rows


def make_job(top: Path, url: str) -> Job:
    """Forty examples from a server, four debates at a time."""
    from examples import BEHAVIOURS, row

    out, asked = top / "made.jsonl", top / "asked.jsonl"
    asked.write_text("".join(json.dumps(row(number, BEHAVIOURS[number % 5])) + "\n" for number in range(200)))
    words = ["data", "make", "--backend", "openai", "--base-url", url, "--model", MODEL, "-n", "40", "--out", str(out),
             "--prompts", str(asked), "--concurrency", "4"]  # fmt: skip
    return Job("data make", words, lambda: {json.dumps(row) for row in whole_lines(out)}, lambda: len(whole_lines(out)), out)


def train_job(top: Path) -> Job:
    """Two epochs on 60 records, with a checkpoint every second step."""
    from pushback_lib.core.files import sha256_of
    from pushback_lib.core.records import save_records
    from pushback_lib.language.corpus import friction_records
    from pushback_lib.model.checks import check_adapter
    from pushback_lib.model.recipe import RECIPES
    from pushback_lib.train.guard import checkpoints, work_folder

    RECIPES["tiny"] = dataclasses.replace(RECIPES["tiny"], checkpoint_every=2, max_new_tokens=40)
    out = top / "trained"
    save_records(top / "records.jsonl", friction_records(60, seed=1))

    def kept() -> set[int]:
        if out.exists():
            check_adapter(out, RECIPES["tiny"])
            return set(range(100))
        newest = checkpoints(work_folder(out))[-1:]
        return set(range(int(newest[0].name.split("-")[1]))) if newest else set()

    words = ["train", "--data", str(top / "records.jsonl"), "--out", str(out), "--epochs", "2", "--resume"]
    return Job("train", words, kept, lambda: sha256_of(*sorted(path for path in out.iterdir() if path.name != "README.md")))


def eval_job(top: Path) -> Job:
    """Both voices on two prompts of each kind, in batches of four."""
    out = top / "measured"
    rows = out / "responses.jsonl"

    def kept() -> set[str]:
        if (out / "figures.json").exists():
            json.loads((out / "figures.json").read_text(encoding="utf-8"))
        assert not (out / "report.html").exists() or (out / "report.html").read_text(encoding="utf-8").rstrip().endswith(
            "</html>"
        )
        return {json.dumps(row) for row in whole_lines(rows)}

    def same() -> list[tuple[str, str, str]]:
        assert {"figures.json", "report.html", "table.md"} <= {path.name for path in out.iterdir()}
        return sorted((row["id"], row["thought"], row["answer"]) for row in whole_lines(rows))

    return Job("eval", ["eval", "-n", "2", "--batch", "4", "--max-tokens", "40", "--out", str(out)], kept, same, rows)


def ship_job(top: Path) -> Job:
    """Everything that `ship all` makes, in two kinds."""
    from pushback_lib.core.files import sha256_of
    from pushback_lib.model.gguf_file import read_gguf
    from pushback_lib.ship.gguf import open_source

    out = top / "shipped"

    def complete() -> dict[str, str]:
        """What bears a final name, and its digest. Raises for what is not complete."""
        files = [
            path
            for path in out.rglob("*")
            if path.is_file() and not any(part.startswith(".") for part in path.relative_to(out).parts)
        ]
        for path in files:
            if path.suffix == ".gguf":
                read_gguf(path)
        for folder in (out / "merged", out / "baseline" / "model"):
            if folder.exists():
                open_source(folder)
        if (out / "Modelfile").exists():
            assert (out / "README.md").exists(), "a Modelfile, and not all that belongs to it"
        return {
            str(path.relative_to(out)): sha256_of(path)
            for path in files
            if path.name not in ("README.md", "gguf.json", "gguf.png")
        }

    words = ["ship", "all", "--kind", "Q8_0", "-n", "1", "--out", str(out)]
    return Job("ship all", words, lambda: {name for name in complete() if name != "Modelfile"}, complete)


def fork(words: list[str], log: Path) -> int:
    """Starts a command in a forked process; returns its number."""
    child = os.fork()
    if child:
        return child
    code = 99
    try:
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        from pushback_lib.cli import main

        code = main(words)
    finally:
        os._exit(code)


def live(words: list[str], log: Path, seconds: float | None) -> int | None:
    """The exit code of a life, or None if it was killed after so many seconds."""
    child, start = fork(words, log), time.monotonic()
    while seconds is None or time.monotonic() - start < seconds:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def clean(top: Path, inputs: set[str]) -> None:
    """Removes all that a chain has made."""
    for path in top.iterdir():
        if path.name not in inputs:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def chain(top: Path, job: Job, draw: random.Random, kills: int) -> None:
    """Kills and resumes until a life ends by itself, or there were so many kills. Raises AssertionError for what is wrong."""
    had: set[Any] = set()
    while True:
        last = job.kills >= kills
        code = live(job.words, top / "log", None if last else draw.uniform(0.02, 1.05) * job.seconds)
        now = job.kept()
        assert had <= now, f"lost: {list(had - now)[:3]}"
        job.resumed += bool(had)
        had = now
        if code is not None:
            break
        job.kills += 1
        if job.lines and job.lines.exists() and draw.random() < 0.1 and job.lines.read_bytes().endswith(b"\n"):
            job.lines.write_bytes(job.lines.read_bytes() + HALF)
    assert code == 0, (top / "log").read_text(errors="replace")[-3000:]
    assert job.same() == job.reference, "another result than that of a run which nothing happened to"
    left = [str(path) for path in top.rglob(".*") if path.name.endswith(PARTS)]
    assert not left, f"left behind: {left}"
    job.chains += 1


def run(top: Path, job: Job, draw: random.Random, kills: int) -> str:
    """All chains of a job; returns what happened, in a line."""
    inputs, start = {path.name for path in top.iterdir()}, time.monotonic()
    assert live(job.words, top / "log", None) == 0, (top / "log").read_text(errors="replace")[-3000:]
    job.seconds, job.reference = time.monotonic() - start, job.same()
    while job.kills < kills:
        clean(top, inputs)
        chain(top, job, draw, kills)
    return (f"{job.name}: {job.kills} kills in {job.chains} chains, {job.resumed} lives resumed something; "
            f"a run takes {job.seconds:.1f} s; {time.monotonic() - start:.0f} s in all")  # fmt: skip


@contextmanager
def server() -> Iterator[str]:
    """The address of an OpenAI-compatible server in a process of its own: forks must not copy its threads."""
    ours, theirs = os.pipe()
    child = os.fork()
    if not child:
        with Loopback(faults=("empty", "server_error", "rate_limited"), fault_rate=0.1, delay=0.02) as found:
            os.write(theirs, found.base_url.encode())
            signal.pause()
    try:
        yield os.read(ours, 200).decode()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def main() -> int:
    """Kills as often as it is told; 0 if nothing was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="in all, an equal share for each command")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", help="one of make, train, eval, ship")
    args = parser.parse_args()
    os.environ |= {"OPENAI_API_KEY": KEY, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    draw = random.Random(args.seed)
    with tempfile.TemporaryDirectory(prefix="pushback-kills-") as folder, server() as url:
        jobs = {"make": lambda top: make_job(top, url), "train": train_job, "eval": eval_job, "ship": ship_job}
        chosen = [args.only] if args.only else list(jobs)
        for name in chosen:
            top = Path(folder).resolve() / name
            top.mkdir()
            for library in LIBRARIES[name].split():
                importlib.import_module(library)
            print(run(top, jobs[name](top), draw, args.kills // len(chosen)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
