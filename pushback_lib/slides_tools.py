"""Runs npm, Marp and Chromium for the slides; knows nothing about what is on them."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from .errors import PushbackError
from .recipe import DATA

SLIDES = DATA.parent / "slides"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge")


def find_tools() -> dict[str, str]:
    """Paths of node, npm and a Chromium. Raises PushbackError for what is missing."""
    found = {name: shutil.which(name) for name in ("node", "npm")}
    found["chromium"] = os.environ.get("CHROME_PATH") or next(filter(None, map(shutil.which, BROWSERS)), None) or _mac_chrome()
    missing = [name for name, path in found.items() if not path or not Path(path).is_file()]
    if missing:
        raise PushbackError(
            f"The slides need {' and '.join(missing)}, which this machine lacks. On Debian: `apt-get install nodejs npm "
            "chromium`; elsewhere install Node.js 18 or later and Chrome, and name the browser in CHROME_PATH."
        )
    return {name: str(path) for name, path in found.items()}


def _mac_chrome() -> str | None:
    path = Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")
    return str(path) if path.is_file() else None


def install(tools: Mapping[str, str], folder: Path = SLIDES) -> None:
    """Installs what package-lock.json pins into slides/node_modules, unless it is there."""
    wanted = hashlib.sha256((folder / "package-lock.json").read_bytes()).hexdigest()
    stamp = folder / "node_modules" / ".installed"
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    command = [tools["npm"], "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if run.returncode:
        raise PushbackError(f"`npm ci` in {folder} failed: {run.stderr.strip()[-600:]}. Check the network, then build again.")
    stamp.write_text(wanted)


def _environment(tools: Mapping[str, str]) -> dict[str, str]:
    root = {"CHROME_NO_SANDBOX": "1"} if hasattr(os, "geteuid") and os.geteuid() == 0 else {}  # it does not start otherwise
    return {**os.environ, "CHROME_PATH": tools["chromium"], **root}


def fonts() -> str:
    """The deck's fonts as CSS with everything inside: metric twins of Arial and Courier New, so no machine changes a line."""
    faces = []
    for family, weight in itertools.product(("Arimo", "Cousine"), (400, 700)):
        name = family.lower()
        file = SLIDES / "node_modules" / "@fontsource" / name / "files" / f"{name}-latin-{weight}-normal.woff2"
        data = base64.b64encode(file.read_bytes()).decode()
        faces.append(f"@font-face{{font-family:{family};font-weight:{weight};"
                     f"src:url(data:font/woff2;base64,{data}) format('woff2')}}")  # fmt: skip
    return "\n".join(faces)


def marp(deck: str, kind: str, work: Path, tools: Mapping[str, str]) -> Path:
    """The deck as slides.html or slides.pdf. Raises PushbackError with Marp's words if it fails or warns."""
    page, made = work / f"{kind}.md", work / f"slides.{kind}"
    page.write_text(deck, encoding="utf-8")
    theme = work / "theme.css"
    theme.write_text((SLIDES / "theme.css").read_text(encoding="utf-8") + fonts(), encoding="utf-8")
    options = ["--pdf", "--pdf-notes", "--pdf-outlines"] if kind == "pdf" else []
    command = [tools["node"], str(SLIDES / "node_modules" / "@marp-team" / "marp-cli" / "marp-cli.js"), *options,
               "--config-file", str(SLIDES / "marp.config.mjs"), "--theme-set", str(theme),
               "-o", str(made), str(page)]  # fmt: skip
    run = subprocess.run(command, capture_output=True, text=True, env=_environment(tools), stdin=subprocess.DEVNULL)
    warnings = [line for line in run.stderr.splitlines() if re.search(r"\bWARN\b|\bERROR\b", line)]
    if run.returncode or warnings or not made.is_file():
        raise PushbackError(f"Marp was not happy with slides/deck.md ({kind}): {' '.join(warnings) or run.stderr[-600:]}")
    return made


def browser(tools: Mapping[str, str], *arguments: str) -> str:
    """What slides/browser.mjs says to these arguments. Raises PushbackError with Chromium's words if it fails."""
    command = [tools["node"], str(SLIDES / "browser.mjs"), *arguments]
    run = subprocess.run(command, capture_output=True, text=True, env=_environment(tools))
    if run.returncode:
        raise PushbackError(f"Chromium could not {arguments[0]} {arguments[1]}: {run.stderr.strip()[-600:]}")
    return run.stdout


def check_fit(deck: Path, tools: Mapping[str, str], pictures: Path | None = None) -> None:
    """Opens the deck in Chromium and looks at every slide. Raises PushbackError for what does not fit or cannot be read."""
    if pictures:
        pictures.mkdir(parents=True, exist_ok=True)
    problems = json.loads(browser(tools, "check", str(deck), *([str(pictures)] if pictures else [])))
    if problems:
        lines = "\n".join(f"  slide {one['slide']}: {one['problem']}" for one in problems[:20])
        raise PushbackError(
            f"{len(problems)} things on the slides do not fit or cannot be read:\n{lines}\nMend slides/deck.md."
        )
