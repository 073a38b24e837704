"""The rooms of the library: imports run one way, no files in a circle, notebooks use the faces only."""

import ast
import json
import re
import shutil
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from textwrap import dedent

import pytest

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = ROOT / "pushback_lib"
FLOORS = (("core",), ("language", "model"), ("data", "train", "measure"), ("chat", "ship"), ("exercises", "cli"))
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
FACES = {"pushback_lib": LIBRARY / "__init__.py"} | {
    f"pushback_lib.{room}": LIBRARY / room / "__init__.py" for room in FLOOR if (LIBRARY / room).is_dir()
}
HEAVY = ("torch", "transformers", "trl", "peft", "bitsandbytes", "datasets")


def dotted(file: Path, top: Path) -> str:
    """The name under which a file is imported."""
    parts = file.relative_to(top.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(file: Path, top: Path) -> set[str]:
    """The package's own modules that a file imports, those in functions and for type checkers too."""
    package, found = dotted(file, top).split("."), set()
    if file.name != "__init__.py":
        package.pop()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join([*package[: len(package) + 1 - node.level], *([node.module] if node.module else [])]) \
                if node.level else str(node.module)  # fmt: skip
            path = top.parent / base.replace(".", "/")
            for alias in node.names:
                inner = (path / f"{alias.name}.py").exists() or (path / alias.name / "__init__.py").exists()
                found.add(f"{base}.{alias.name}" if inner else base)
    return {name for name in found if name.split(".")[0] == top.name}


def house(top: Path) -> dict[str, set[str]]:
    """Every module of the package with what it imports."""
    return {dotted(file, top): imported(file, top) for file in sorted(top.rglob("*.py"))}


def uphill(modules: dict[str, set[str]]) -> list[str]:
    """Imports that leave their room for one that is not on a lower floor."""
    wrong = []
    for module, others in modules.items():
        room = [*module.split("."), ""][1]
        for other in others:
            target = [*other.split("."), ""][1]
            if room and room != target and (not target or FLOOR[target] >= FLOOR[room]):
                wrong.append(f"{module} imports {other}")
    return wrong


def circle(modules: dict[str, set[str]]) -> list[str]:
    """The modules of one circle of imports; empty if there is none."""
    files = {module: {other for other in others if other != module} for module, others in modules.items()}
    try:
        TopologicalSorter(files).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def behind_the_faces(source: str) -> list[str]:
    """What a source imports from the library that no face offers."""
    wrong = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            wrong += [alias.name for alias in node.names if alias.name.startswith("pushback_lib.")]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "pushback_lib":
            offered = offers(FACES[node.module]) if node.module in FACES else ()
            wrong += [f"{node.module}.{alias.name}" for alias in node.names if alias.name not in offered]
    return wrong


def offers(face: Path) -> list[str]:
    """The names in a face's `__all__`."""
    for node in ast.parse(face.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    raise AssertionError(f"{face} has no __all__")


def code_of(page: Path) -> str:
    """The Python of a notebook's cells or of a Markdown page's fences; shell lines left out."""
    if page.suffix == ".ipynb":
        cells = json.loads(page.read_text(encoding="utf-8"))["cells"]
        parts = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    else:
        parts = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.S)
    return "\n".join(dedent(re.sub(r"^(\s*)[!%].*", r"\1pass", part, flags=re.M)) for part in parts).replace("await ", "")


def plant(top: Path, files: dict[str, str]) -> Path:
    """A small package with the library's name and these files."""
    for name, source in files.items():
        path = top / "pushback_lib" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    return top / "pushback_lib"


PAGES = [*sorted((ROOT / "notebooks").glob("*.ipynb")), *sorted(ROOT.glob("notebooks/guide/*.md")), ROOT / "README.md"]


def test_the_library_shows_at_most_twelve_names(git):
    tracked = subprocess.run(["git", "ls-files", "pushback_lib"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    names = {line.split("/")[1] for line in tracked.split()}
    assert names == {"__init__.py", "cli.py", "exercises.py", *(face.split(".")[1] for face in FACES if "." in face)}
    assert len(names) <= 12


def test_every_import_stays_in_its_room_or_goes_down():
    assert uphill(house(LIBRARY)) == []


@pytest.mark.parametrize(
    "source",
    ["from ..chat import panel", "def late():\n    from ..measure.run import x", "from .. import __version__",
     "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..cli import main", "import pushback_lib.measure"],
)  # fmt: skip
def test_a_wrong_import_is_seen(source, tmp_path):
    top = plant(tmp_path, {"__init__.py": "__version__ = ''", "train/__init__.py": "", "train/run.py": source,
                           "chat/__init__.py": "", "chat/panel.py": ""})  # fmt: skip
    assert len(uphill(house(top))) == 1


def test_no_files_import_each_other_in_a_circle():
    assert circle(house(LIBRARY)) == []


def test_a_circle_is_seen(tmp_path):
    top = plant(
        tmp_path,
        {"core/a.py": "from . import b", "core/b.py": "def late():\n    from .c import x", "core/c.py": "from .a import y"},
    )
    assert set(circle(house(top))) == {"pushback_lib.core.a", "pushback_lib.core.b", "pushback_lib.core.c"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_notebooks_and_guides_import_only_what_the_faces_offer(page):
    assert behind_the_faces(code_of(page)) == []


@pytest.mark.parametrize(
    "source",
    ["from pushback_lib.model.load import load_base", "import pushback_lib.core.stats", "from pushback_lib import load_base",
     "from pushback_lib.core import _hidden"],
)  # fmt: skip
def test_a_notebook_that_reaches_behind_a_face_is_seen(source):
    assert behind_the_faces(source)


@pytest.mark.parametrize("face", FACES, ids=str)
def test_a_face_lists_at_most_twelve_names_and_has_them_all(face):
    import importlib

    names = offers(FACES[face])
    assert len(names) == len(set(names)) <= 12
    assert [name for name in names if not hasattr(importlib.import_module(face), name)] == []


def test_the_notebooks_need_at_most_fifty_names_from_at_most_nine_places():
    names = set()
    for page in (ROOT / "notebooks").glob("*.ipynb"):
        for node in ast.walk(ast.parse(code_of(page))):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("pushback_lib"):
                names |= {(node.module, alias.name) for alias in node.names}
    assert len(names) <= 50
    assert len({place for place, _ in names}) <= 9


PROBE = f"""
import sys, time
start = time.process_time()
import {", ".join(FACES)}, pushback_lib.cli, pushback_lib.exercises
heavy = [name for name in {HEAVY} if name in sys.modules]
assert not heavy, heavy
print(time.process_time() - start)
"""


def test_importing_every_room_is_quick_and_light():
    seconds = []
    for _ in range(3):  # the best of three, and of the processor's time: another program may be busy
        run = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr
        seconds.append(float(run.stdout))
    assert min(seconds) < 1.0


def test_a_wheel_holds_every_room_and_every_template(tmp_path):
    source, site = tmp_path / "source", tmp_path / "site"
    shutil.copytree(LIBRARY, source / "pushback_lib", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pushback.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip, options = [sys.executable, "-m", "pip"], ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-index"]
    subprocess.run([*pip, "wheel", *options, "--no-build-isolation", "-w", tmp_path, source], check=True)
    subprocess.run([*pip, "install", *options, "--no-compile", "--target", site, *tmp_path.glob("*.whl")], check=True)
    code = f"import sys; sys.path.insert(0, sys.argv[1]); import pushback, {', '.join(FACES)}; print(pushback_lib.__file__)"
    run = subprocess.run([sys.executable, "-B", "-c", code, site], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == str(site / "pushback_lib" / "__init__.py")
    assert held(site / "pushback_lib") == held(source / "pushback_lib")


def held(folder: Path) -> set[str]:
    """The files in a folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
