"""The shape of the repository itself: what a stranger finds, and what must never be in it."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TOP = {"notebooks", "pushback.py", "pushback_lib", "data", "slides", "tests", "environment.yml", "README.md",
       "pyproject.toml", "Makefile", "LICENSE", "CONTRIBUTING.md", "CHANGELOG.md", "TROUBLESHOOTING.md", "CITATION.cff",
       "constraints.txt", "constraints-colab.txt"}  # fmt: skip


@pytest.fixture
def tracked(git) -> list[str]:
    return subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).splitlines()


def test_the_top_level_is_what_it_should_be(tracked):
    assert {name.split("/")[0] for name in tracked if not name.startswith(".")} == TOP


def test_the_ci_script_can_run():
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


def test_pyproject_is_the_only_truth_about_dependencies():
    import yaml

    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["dependencies"][0] == "python=3.11"
    assert environment["dependencies"][-1]["pip"][-1] == "-e ."
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {re.match(r"[\w-]+", dependency)[0] for dependency in project["dependencies"]}
    assert {"jupyterlab", "ipywidgets", "transformers", "peft", "bitsandbytes", "trl", "datasets", "torch", "pandas",
            "matplotlib"} <= names  # fmt: skip


@pytest.mark.parametrize("target", re.findall(r"^make ([a-z-]+)", (ROOT / "README.md").read_text(encoding="utf-8"), re.M))
def test_every_target_the_readme_names_exists(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.M)


@pytest.mark.parametrize("page", ["README.md", "tests/README.md", "CONTRIBUTING.md", "TROUBLESHOOTING.md"])
def test_local_links_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if not link.startswith("http")]
    assert [link for link in links if not ((ROOT / page).parent / link).exists()] == []


def test_no_tracked_file_is_large_but_the_models(tracked):
    large = [name for name in tracked if (ROOT / name).stat().st_size > 4_000_000]
    assert set(large) <= {"data/tiny/base/model.safetensors", "data/tiny/ship/pushback-tiny-friction-Q8_0.gguf",
                          "data/english/adapter/adapter_model.safetensors"}  # fmt: skip


def on_a_bare_machine(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs pytest where only what `make` installs is to be found."""
    bare = {**os.environ, "PATH": str(Path(sys.executable).parent), "CHROME_PATH": "/nowhere/chrome", "OLLAMA_HOST": ""}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(command, cwd=ROOT, env=bare, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("processes", ["0", "2"])
def test_the_last_lines_name_what_did_not_run_for_want_of_what(processes):
    tests = ["tests/data/test_micro.py", "tests/ship/test_ollama_live.py", "-k", "test_gist or below_the_fold or one_bos"]
    done = on_a_bare_machine("-n", processes, *tests)
    assert done.returncode == 0, done.stdout
    *_, title, ollama, chromium, get_chromium, get_ollama, summary = done.stdout.splitlines()
    assert "2 tests did not run" in title
    assert {ollama, chromium} == {"1 for want of ollama", "1 for want of chromium"}
    assert get_chromium.startswith("chromium: `apt-get install chromium`")
    assert get_ollama.endswith("(OLLAMA_HOST is not set)")
    assert summary.startswith("3 passed")


def test_where_all_is_demanded_a_missing_part_is_an_error():
    done = on_a_bare_machine("--demand-all", "tests/data/test_micro.py")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    named = re.findall(r"^(\w+): `apt-get", done.stderr, re.M)
    assert named == ["git", "chromium", "firefox", "node"], done.stderr
