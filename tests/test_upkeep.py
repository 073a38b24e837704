"""What the repository says of itself: the versions that were tried, its address, its citation and its workflows."""

import os
import re
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path

import pytest
import upkeep
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from upkeep import pinned

from pushback_lib.core.common import __version__, repository

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PINS, COLAB = (upkeep.read_pins(ROOT / name) for name in ("constraints.txt", "constraints-colab.txt"))
WORKFLOWS = sorted((ROOT / ".github" / "workflows").iterdir())
NEW = "https://github.com/some-body/their.kit"
LINKS = {  # what has to lead to the repository, and how often it stands in the files
    r"colab\.research\.google\.com/github/([\w-]+/[\w.-]+)/blob/main/notebooks/": 5,
    r"git clone [^\n]*?github\.com/([\w-]+/[\w.-]+)": 7,  # README, deck, five notebooks
    r"repository-code: \"https://github\.com/([\w-]+/[\w.-]+)\"": 1,
    r"\[Push-Back AI kit\]\(https://github\.com/([\w-]+/[\w.-]+)\)": 1,  # the data set's card
}


# The versions that were tried


def test_everything_that_pyproject_asks_for_is_pinned_within_its_bounds():
    asked = map(Requirement, chain(PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()))
    pins = {one: PINS.get(canonicalize_name(one.name)) for one in asked}
    assert [str(one) for one, pin in pins.items() if not pin or not one.specifier.contains(pinned(pin))] == []


def test_a_pin_holds_on_other_machines():
    assert len(PINS) > 150
    assert [str(pin) for pin in PINS.values() if "+" in pinned(pin) or pin.url or pin.extras] == []
    assert str(PINS["soupsieve"].marker) == 'python_full_version >= "3.11.5"'  # a pin for all would stop pip on 3.11.2
    assert PINS.keys().isdisjoint({"pushback-ai", "pip"})


def test_on_colab_nothing_is_replaced_that_does_not_have_to_be():
    """The 12 are what pip took where all else was as Colab has it (Python 3.13, googlecolab/backend-info of August 2026)."""
    never = "torch numpy pandas ipywidgets ipykernel ipython scipy matplotlib peft accelerate pydantic openai httpx psutil tqdm"
    assert COLAB.keys() == upkeep.ON_COLAB | upkeep.OLD_ON_COLAB
    assert COLAB.keys().isdisjoint(never.split())
    assert {name: str(pin) for name, pin in COLAB.items()} == {name: str(PINS[name]) for name in COLAB}


def test_make_and_conda_install_what_was_tried():
    command = ["make", "--dry-run", "--always-make", ".venv/ready"]
    said = subprocess.check_output(command, cwd=ROOT, text=True)
    installs = [line for line in said.splitlines() if " pip install " in line and "--upgrade pip" not in line]
    assert len(installs) == 2
    assert all("-c constraints.txt" in line for line in installs)
    assert yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"][-1]["pip"] == ["-c constraints.txt", "-e ."]


@pytest.mark.parametrize(("python", "says"), [("3.11.2", ""), ("3.13.1", "This is Python 3.13.1; what is installed for it")])
def test_pins_are_made_on_the_oldest_python_alone(python, says, tmp_path, monkeypatch):
    monkeypatch.setattr(upkeep, "ROOT", tmp_path)
    monkeypatch.setattr(upkeep, "python_version", lambda: python)
    assert (upkeep.constraints() or "").startswith(says)
    written = {path.name: upkeep.read_pins(path).keys() for path in tmp_path.iterdir()}
    here = {"constraints.txt": upkeep.installed().keys(), "constraints-colab.txt": COLAB.keys()}
    assert written == ({} if says else here)


def test_the_canary_names_what_failed_and_which_versions_are_new(tmp_path, monkeypatch, capfd):
    (tmp_path / "test_one.py").write_text("def test_one():\n    assert 0, 'a bird fell'\n")
    monkeypatch.setattr(upkeep, "installed", lambda: {"torch": "99.0", "trl": pinned(PINS["trl"]), "new": "1"})
    assert upkeep.canary(str(tmp_path), "-p", "no:cacheprovider").startswith("The kit does not pass")
    said = capfd.readouterr().out
    assert "a bird fell" in said
    lines = f"  torch 99.0 (tried: {pinned(PINS['torch'])})\n  new 1 (tried: none)\n"
    assert said.endswith(f"2 of 3 versions are not those of constraints.txt:\n{lines}")


# The address


def texts(root: Path) -> dict[str, str]:
    tracked = subprocess.check_output(["git", "ls-files"], cwd=root, text=True).splitlines()
    kinds = (".md", ".ipynb", ".cff", ".html", ".yml", ".toml", ".py", ".js", ".css", "Makefile")
    return {name: (root / name).read_text(encoding="utf-8") for name in tracked if name.endswith(kinds)}


def assert_all_links_lead_to(address: str, root: Path) -> None:
    whole = "\n".join(text for name, text in texts(root).items() if not name.endswith(".py"))
    slug, folder = address.removeprefix("https://github.com/"), address.rpartition("/")[2]
    found = {pattern: re.findall(pattern, whole) for pattern in LINKS}
    assert found == {pattern: [slug] * times for pattern, times in LINKS.items()}
    assert re.findall(r"git clone .+/[\w.-]+(?: && |\n|\\n\",\s+\"\s+%)cd (?:-q )?([\w.-]+?)(?:\\n|\s)", whole) == [folder] * 7


def make_address(url: str, root: Path) -> tuple[int, str]:
    env = os.environ | {"PYTHONPATH": str(root)}
    command = [sys.executable, ".ci/upkeep.py", "address", url]
    done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True)
    return done.returncode, done.stderr


def test_every_link_and_clone_line_is_the_address_in_pyproject(git):
    assert_all_links_lead_to(repository(), ROOT)


def test_make_address_changes_them_all(git, tmp_path):
    for name, text in texts(ROOT).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    subprocess.run("git init -q && git add .", cwd=tmp_path, shell=True, check=True)
    for wrong in ("https://gitlab.com/some-body/kit", "", "https://github.com/some-body"):
        assert make_address(wrong, tmp_path) == (1, f"{wrong!r} is no repository on GitHub, from where Colab opens notebooks. "
                                                    "Give https://github.com/OWNER/NAME.\n")  # fmt: skip
    assert make_address(f"{NEW}.git", tmp_path) == (0, "")
    assert_all_links_lead_to(NEW, tmp_path)
    old = repository().rpartition("/")[2]
    assert [name for name, text in texts(tmp_path).items() if old in text] == []


# The citation and the workflows


@pytest.mark.parametrize("schema", ["citation-file-format", "github-workflows"])
def test_the_file_is_valid(schema):
    files = WORKFLOWS if schema == "github-workflows" else [ROOT / "CITATION.cff"]
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", *files]
    checked = subprocess.run(command, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


def test_the_citation_is_of_this_version():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["version"] == __version__
    assert (cited["license"], cited["abstract"]) == (PROJECT["license"], PROJECT["description"])


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_runs_make_with_few_rights_and_hides_nothing(path):
    text = path.read_text(encoding="utf-8")
    workflow = yaml.safe_load(text)
    assert workflow["permissions"] == {"contents": "read"}
    assert [word for word in ("continue-on-error", "||", "secrets") if word in text] == []
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@v\d+", step["uses"]) for step in steps if "uses" in step)
    runs = [step["run"].split() for step in steps if "run" in step]
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
    assert all(program == "make" and target in targets for program, target, *_ in runs)


def test_the_workflows_run_the_tests_on_three_pythons_the_notebooks_and_the_slides():
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text())["jobs"]
    assert jobs["tests"]["strategy"]["matrix"]["python"] == [version.rpartition(".")[0] for version in upkeep.PYTHONS]
    assert [job["steps"][-1]["run"].split()[1] for job in jobs.values()] == ["test", "colab", "slides"]
