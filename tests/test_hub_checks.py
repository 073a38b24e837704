"""What the Hub refuses is said before anything large is fetched: the real client against a small Hub on loopback."""

import json
import os
import re
import subprocess
import sys

import pytest
from loopback_hub import COMMIT, LoopbackHub

from pushback_lib.recipe import RECIPES

PROBE = """
import json, sys
from pushback_lib.errors import PushbackError
from pushback_lib.recipe import recipe_for
said = {}
for name in sys.argv[1:]:
    try:
        recipe = recipe_for(name)
        said[name] = f"{recipe.base} {recipe.revision} {recipe.parameters} {recipe.batch} {recipe.max_length}"
    except PushbackError as error:
        said[name] = str(error)
print(json.dumps(said))
"""

CASES = {
    "some/qwen": r"^some/qwen None 115264 2 512$",
    f"some/qwen@{COMMIT}": rf"^some/qwen {COMMIT} 115264 2 512$",
    "some/qwen@v9": r"some/qwen has no revision 'v9'.*leave it out to take the newest",
    "some/llama": r"some/llama is of architecture 'llama'; this kit needs 'qwen2'.*DeepSeek-R1-Distill-Qwen",
    "some/gated": r"some/gated is gated.*hf auth login.*ungated model: tiny",
    "some/gguf": r"some/gguf holds no config\.json",
    "nobody/nothing": r"The Hub has no model 'nobody/nothing', or it is private\. Check the spelling",
    "deepseek-ai/DeepSeek-R1-Distil-Qwen-7B": r"Did you mean deepseek-ai/DeepSeek-R1-Distill-Qwen-7B\?",
    "some/qwen/extra": r"'some/qwen/extra' is not a Hub id",
    "./nowhere": r"No folder \./nowhere",
}


def probe(tmp_path, endpoint: str, *names: str, **env: str) -> dict[str, str]:
    env = {**os.environ, "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "hf"), **env}
    run = subprocess.run([sys.executable, "-c", PROBE, *names], capture_output=True, text=True, env=env, check=False)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    with LoopbackHub() as hub:
        answers = probe(tmp_path_factory.mktemp("hub"), hub.url, *CASES)
        assert all(path.endswith("config.json") for path in hub.asked if "/resolve/" in path), hub.asked
    return answers


@pytest.mark.parametrize("name", CASES)
def test_each_refusal_is_named_with_its_cure(said, name):
    assert re.search(CASES[name], said[name]), said[name]


@pytest.mark.parametrize("env", [{}, {"HF_HUB_OFFLINE": "1"}])
def test_no_connection_is_named_with_its_cure(tmp_path, env):
    [message] = probe(tmp_path, "http://127.0.0.1:9", "some/qwen", **env).values()
    assert re.search(r"some/qwen could not be loaded: the Hub does not answer.*HF_HUB_OFFLINE.*tiny", message), message


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=lambda recipe: recipe.name)
def test_every_base_on_the_hub_is_pinned_to_a_commit(recipe):
    assert recipe.name == "tiny" or re.fullmatch(r"[0-9a-f]{40}", recipe.revision)
