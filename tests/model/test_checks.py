"""Bad input is named, with its cure, before anything slow starts."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from loopback_hub import COMMIT, LoopbackHub

from pushback_lib.core.common import PushbackError
from pushback_lib.model.checks import ADAPTER_CARD, check_adapter, check_base, check_memory, fingerprint
from pushback_lib.model.recipe import RECIPES, recipe_for

TINY = recipe_for("tiny")


@pytest.fixture
def base(tmp_path) -> Path:
    return Path(shutil.copytree(TINY.base, tmp_path / "base"))


@pytest.fixture
def adapter(tmp_path) -> Path:
    return Path(shutil.copytree(TINY.shipped_adapter, tmp_path / "adapter"))


def test_the_shipped_base_and_adapter_are_in_order():
    assert check_base(TINY.base)["hidden_size"] == 256
    check_adapter(TINY.shipped_adapter, TINY)


def test_an_unknown_size_names_the_ones_there_are():
    with pytest.raises(PushbackError, match=r"No model called 'huge'\. Choose one of: tiny, 1\.5b"):
        recipe_for("huge")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def garble(path: Path) -> None:
    path.write_bytes(b"not a model at all" * 40)


@pytest.mark.parametrize("damage", [cut, garble, Path.unlink])
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_damaged_base_is_named(tmp_path, monkeypatch, name, damage):
    base = Path(shutil.copytree(TINY.base, tmp_path / "tiny" / "base"))
    damage(base / name)
    with pytest.raises(PushbackError, match=rf"{name}.*Give a folder with a whole model"):
        check_base(base)
    monkeypatch.setattr("pushback_lib.model.checks.DATA", tmp_path)  # as if it were the bundled one
    with pytest.raises(PushbackError, match=rf"{name}.*git checkout data/tiny/base.*pushback base"):
        check_base(base)


def test_where_to_train_a_missing_adapter_is_not_inside_the_shipped_data():
    with pytest.raises(PushbackError, match=r"--model 7b --out runs/7b`"):
        check_adapter(recipe_for("7b").shipped_adapter, recipe_for("7b"))


@pytest.mark.parametrize("damage", [cut, garble, Path.unlink])
@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
def test_a_damaged_adapter_is_named(adapter, name, damage):
    damage(adapter / name)
    with pytest.raises(PushbackError, match=rf"{name}.*pushback train --model tiny"):
        check_adapter(adapter, TINY)


def test_a_missing_adapter_names_the_folder(tmp_path):
    with pytest.raises(PushbackError, match=r"No adapter in .*nowhere"):
        check_adapter(tmp_path / "nowhere", TINY)


def test_a_damaged_base_is_told_before_its_adapter_is_blamed(base, adapter):
    cut(base / "model.safetensors")
    with pytest.raises(PushbackError, match=r"weights at .* are damaged"):
        check_adapter(adapter, dataclasses.replace(TINY, base=str(base)))


def test_another_architecture_is_refused(base):
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "model_type": "llama"}))
    with pytest.raises(PushbackError, match=r"'llama'; this kit needs 'qwen2'"):
        check_base(base)


def test_an_adapter_for_another_base_is_refused(base, adapter):
    weights = base / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    other = dataclasses.replace(TINY, base=str(base))
    assert fingerprint(other) != fingerprint(TINY)
    with pytest.raises(PushbackError, match="made for another base"):
        check_adapter(adapter, other)


def test_an_adapter_of_another_width_is_refused_even_without_its_card(base, adapter):
    (adapter / ADAPTER_CARD).unlink()
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "hidden_size": 512}))
    with pytest.raises(PushbackError, match=r"width 256, but 'tiny' has 512"):
        check_adapter(adapter, dataclasses.replace(TINY, base=str(base)))


@pytest.mark.parametrize(
    ("name", "free", "enough"), [("tiny", 0.2, False), ("tiny", 4, True), ("7b", 4, False), ("7b", 12, True)]
)
def test_too_little_memory_is_said_beforehand(name, free, enough):
    if enough:
        check_memory(recipe_for(name), free_gib=free)
    else:
        with pytest.raises(
            PushbackError, match=rf"'{name}' needs about .* GiB to load.*{free:.1f} GiB are free.*smaller model"
        ):
            check_memory(recipe_for(name), free_gib=free)


PROBE = """
import json, sys
from pushback_lib.core.common import PushbackError
from pushback_lib.model.recipe import recipe_for
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
