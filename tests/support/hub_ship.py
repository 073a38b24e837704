"""A small folder as `pushback ship all` leaves it, figures for it, and the hub command in a process of its own; for tests."""

import contextlib
import io
import json
import multiprocessing
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from pushback_lib.core.common import DATA, VOICES
from pushback_lib.core.stats import wilson
from pushback_lib.measure.judge import generation
from pushback_lib.model.checks import adapter_fingerprint
from pushback_lib.model.recipe import recipe_for

TINY = recipe_for("tiny")
SHIPPED = DATA / "tiny" / "ship"  # the friction voice's GGUF, with its Modelfile
GGUF = next(SHIPPED.glob("*.gguf")).name
RATES = {"friction": (391, 400), "over_friction": (3, 500), "baseline": (2, 400), "baseline_over_friction": (0, 500)}

# Each call of `hub` is a process of its own, forked from one that has loaded what takes long and knows nothing of the Hub:
# huggingface_hub reads its environment when it is imported, so that every fork imports it anew.
LOADED = ["bitsandbytes", "numpy", "pushback_lib.cli", "scipy.optimize", "torch", "torch._dynamo.repro.after_dynamo",
          "torch._inductor.compile_fx", "torch.distributed.tensor"]  # fmt: skip
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(LOADED)


def make_ship(folder: Path) -> Path:
    """The GGUF and Modelfile that come with the kit; the bundled base stands in for the merged model, to wait for no merge."""
    shutil.copytree(SHIPPED, folder)
    shutil.copytree(TINY.base, folder / "merged", ignore=shutil.ignore_patterns("README.md"))
    (folder / "figures.json").write_text(json.dumps(figures()), encoding="utf-8")
    return folder


def figures(adapter: str = "") -> dict:
    """Made-up counts in the shape of `pushback demo`'s demo.json, of the adapter that comes with the kit or one given."""
    rates = {name: asdict(wilson(*counts)) for name, counts in RATES.items()}
    kinds = [{"kind": "a", "wants": "comply", "voice": voice, "n": 50, "right": 49, "right_content": 47} for voice in VOICES]
    made = {"model": "sha256:0", "adapter": adapter or adapter_fingerprint(TINY.shipped_adapter),
            "generation": generation(0.0, 220)}  # fmt: skip
    return {"rates": rates, "kinds": kinds, "training_seconds": 100, "machine": "a test", "provenance": made}


def environment(url: str, home: Path, **more: str) -> dict[str, str]:
    """What a process needs to take the server at `url` for the Hub."""
    kept = {name: value for name, value in os.environ.items() if name not in ("HF_HUB_OFFLINE", "HF_TOKEN")}
    return kept | {"HF_ENDPOINT": url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "OMP_NUM_THREADS": "1", **more}


def python(code: str, *words: str, **more: Any) -> subprocess.CompletedProcess[str]:
    """Runs code in a process of its own."""
    return subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False, **more)


def hub(url: str, home: Path, ship: Path, *calls: Sequence[str], ends: Sequence[int] = (0,), env: dict[str, str] | None = None,
        file_limit: int = 0) -> list[dict]:  # fmt: skip
    """Runs `pushback ship hub --folder ship WORDS` for each call (token or "", *words); returns "code", "out", "err" of each.

    Their codes must be `ends`. What the process says past them, such as a library's log, is added to the last one's `err`.
    With `file_limit`, no file may grow beyond so many bytes.
    """
    words = [(token, "--folder", str(ship), *more) for token, *more in calls]
    with tempfile.TemporaryDirectory() as folder:
        log, (ours, theirs) = Path(folder) / "log", FORKS.Pipe(duplex=False)
        given = (environment(url, home, **(env or {})), words, log, theirs, file_limit)
        child = FORKS.Process(target=_run, args=given)
        child.start()
        theirs.close()
        found = []
        with contextlib.suppress(EOFError):
            while True:
                found.append(ours.recv())
        child.join()
        said = log.read_text()
    assert [one["code"] for one in found] == list(ends), f"{found}\n{said}"
    found[-1]["err"] += said
    return found


def _run(env: dict[str, str], calls: list[Sequence[str]], log: Path, answers: Connection, file_limit: int) -> None:
    """The commands, each with its own token; the client's waits between its attempts are cut short."""
    assert "huggingface_hub" not in sys.modules, "it would not see the environment"
    out = os.open(log, os.O_WRONLY | os.O_CREAT)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.environ.clear()
    os.environ.update(env)
    if file_limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
    sleep = time.sleep
    time.sleep = lambda seconds: sleep(min(seconds, 0.1))
    from pushback_lib.cli import main

    for token, *words in calls:
        os.environ.pop("HF_TOKEN", None)
        os.environ.update({"HF_TOKEN": token} if token else {})
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(["ship", "hub", *words])
        answers.send({"code": code, "out": out.getvalue(), "err": err.getvalue()})
