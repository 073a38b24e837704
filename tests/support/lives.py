"""Lives of the `pushback` command that begin at once, forked from a process that has it imported, and end by SIGKILL."""

import json
import os
import select
import signal
import subprocess
import sys
from typing import Any, Self

NURSERY = """
import json, os, sys, openai
from pushback_lib.cli import main
for line in sys.stdin:
    if not (child := os.fork()):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os._exit(main(json.loads(line)))
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Nursery:
    """Starts one life after the other, each with arguments of `pushback`."""

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            [sys.executable, "-c", NURSERY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        return self

    def __exit__(self, *error: Any) -> None:
        self.process.communicate()

    def start(self, arguments: list[str]) -> None:
        self.process.stdin.write(json.dumps(arguments).encode() + b"\n")
        self.pid = int(self.process.stdout.readline())

    def ended(self) -> bool:
        return bool(select.select([self.process.stdout], [], [], 0)[0])

    def kill(self) -> int:
        """Kills the life, unless it ended before; returns its exit code."""
        if not self.ended():
            os.kill(self.pid, signal.SIGKILL)
        return int(self.process.stdout.readline())
