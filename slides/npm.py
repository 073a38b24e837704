"""Find Node.js, npm and a Chromium, and install the packages that package-lock.json pins."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pushback_lib.core.common import PushbackError

SLIDES = Path(__file__).resolve().parent
MODULES = SLIDES / "node_modules"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge",
            "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")  # fmt: skip


def find_tools(*names: str) -> dict[str, str]:
    """Paths of the tools called `names`: node, npm, chromium. Raises PushbackError for those that are missing."""
    browser = os.environ.get("CHROME_PATH") or next(filter(None, map(shutil.which, BROWSERS)), None)
    found = {name: browser if name == "chromium" else shutil.which(name) for name in names}
    missing = [name for name, path in found.items() if not path or not Path(path).is_file()]
    if missing:
        raise PushbackError(
            f"The slides need {' and '.join(missing)}, which this machine lacks. On Debian: `apt-get install nodejs npm "
            "chromium`; elsewhere install Node.js 18 or later and Chrome, and name the browser in CHROME_PATH."
        )
    return {name: str(path) for name, path in found.items()}


def install(tools: Mapping[str, str], folder: Path = SLIDES) -> None:
    """Installs what the folder's package-lock.json pins into its node_modules, without install scripts, unless it is there."""
    wanted = hashlib.sha256((folder / "package-lock.json").read_bytes()).hexdigest()
    stamp = folder / "node_modules" / ".installed"
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    command = [tools["npm"], "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]
    run(command, f"`npm ci` in {folder} failed", "Check the network, then build again.", cwd=folder)
    stamp.write_text(wanted)


def run(command: Sequence[str], failed: str, advice: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs a program to its end. Raises PushbackError with what failed, the program's own words and advice."""
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False, **options)
    if done.returncode:
        raise PushbackError(f"{failed}: {done.stderr.strip()[-600:]}. {advice}")
    return done


def environment(tools: Mapping[str, str]) -> dict[str, str]:
    """The environment in which Marp and puppeteer find and start the browser."""
    root = {"CHROME_NO_SANDBOX": "1"} if hasattr(os, "geteuid") and os.geteuid() == 0 else {}  # it does not start otherwise
    return {**os.environ, "CHROME_PATH": tools["chromium"], **root}
