"""Bad input is named, with what to do next, before anything slow starts; weights are hashed in little memory."""

import dataclasses
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
from hub_server import COMMIT, config_server

from pushback_lib.core.common import PushbackError
from pushback_lib.core.folders import TRAINING_FILE
from pushback_lib.model.checks import check_adapter, check_base, fingerprint
from pushback_lib.model.load import check_memory, weights_gib
from pushback_lib.model.recipe import RECIPES, config_for, recipe_for
from pushback_lib.train.plan import CARDS, setting_for, weights

TINY = recipe_for("tiny")


@pytest.fixture
def base(tmp_path) -> Path:
    return Path(shutil.copytree(TINY.base, tmp_path / "tiny" / "base"))


@pytest.fixture
def adapter(tmp_path) -> Path:
    return Path(shutil.copytree(TINY.shipped_adapter, tmp_path / "adapter"))


def test_the_shipped_base_and_adapter_are_in_order():
    assert check_base(TINY.base)["hidden_size"] == 256
    check_adapter(TINY.shipped_adapter, TINY)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def garble(path: Path) -> None:
    path.write_bytes(b"not a model at all" * 40)


@pytest.mark.parametrize("damage", [cut, garble, Path.unlink])
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_damaged_base_is_named(tmp_path, monkeypatch, base, name, damage):
    damage(base / name)
    with pytest.raises(PushbackError, match=rf"{name}.*Give a folder with a complete model"):
        check_base(base)
    monkeypatch.setattr("pushback_lib.model.checks.DATA", tmp_path)  # as if it were the bundled one
    with pytest.raises(PushbackError, match=rf"{name}.*git checkout data/tiny/base.*pushback base"):
        check_base(base)


def test_a_missing_adapter_is_named_and_not_to_be_trained_inside_the_shipped_data(tmp_path):
    with pytest.raises(PushbackError, match=r"No adapter in .*nowhere"):
        check_adapter(tmp_path / "nowhere", TINY)
    with pytest.raises(PushbackError, match=r"--model 7b --out runs/7b`"):
        check_adapter(recipe_for("7b").shipped_adapter, recipe_for("7b"))


@pytest.mark.parametrize("damage", [cut, garble, Path.unlink])
@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
def test_a_damaged_adapter_is_named(adapter, name, damage):
    damage(adapter / name)
    with pytest.raises(PushbackError, match=rf"{name}.*pushback train --model tiny"):
        check_adapter(adapter, TINY)


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
    data = weights.read_bytes()
    weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    other = dataclasses.replace(TINY, base=str(base))
    assert fingerprint(other) != fingerprint(TINY)
    with pytest.raises(PushbackError, match="made for another base"):
        check_adapter(adapter, other)


def test_an_adapter_of_another_width_is_refused_even_without_its_card(base, adapter):
    (adapter / TRAINING_FILE).unlink()
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "hidden_size": 512}))
    with pytest.raises(PushbackError, match=r"width 256, but 'tiny' has 512"):
        check_adapter(adapter, dataclasses.replace(TINY, base=str(base)))


@pytest.mark.parametrize(
    ("name", "four_bit", "free", "enough"),
    [
        ("tiny", True, 0.2, False),
        ("tiny", True, 4, True),
        ("7b", True, 4, False),
        ("7b", True, 12, True),
        ("7b", False, 12, False),
    ],
)
def test_too_little_memory_is_said_beforehand(monkeypatch, name, four_bit, free, enough):
    monkeypatch.setattr("pushback_lib.model.load.memory_gib", lambda: (free, 64.0))
    says = rf"'{name}' needs about .* GiB to load.*{free:.1f} GiB are free.*smaller model"
    with nullcontext() if enough else pytest.raises(PushbackError, match=says):
        check_memory(recipe_for(name), four_bit)


@pytest.mark.parametrize("card", [None, (7, 5), (8, 0)], ids=["no card", "T4", "A100"])
@pytest.mark.parametrize("recipe", RECIPES.values(), ids=lambda recipe: recipe.name)
def test_the_memory_to_load_is_what_the_precise_plan_says_of_the_base(monkeypatch, recipe, card):
    monkeypatch.setattr("torch.cuda.is_available", lambda: card is not None)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda: card)
    setting = setting_for(recipe, dataclasses.replace(CARDS["t4"], cuda=card is not None))
    base = sum(part.gib for part in weights(config_for(recipe), setting))
    assert weights_gib(recipe) == pytest.approx(base + (0.45 if card else 0.7), rel=0.01)
    whole = recipe.parameters * (2 if card else 4) / 2**30
    assert weights_gib(recipe, four_bit=False) == pytest.approx(whole + (0.45 if card else 0.7))


HASH = """
import resource, sys
from pushback_lib.model.checks import fingerprint
from pushback_lib.model.recipe import Recipe
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
fingerprint(Recipe("mine", sys.argv[1], 0))
print(peak() - before)
"""


def test_hashing_a_gigabyte_takes_less_than_fifty_megabytes(tmp_path):
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.truncate(10**9)
    run = subprocess.run([sys.executable, "-c", HASH, str(tmp_path)], capture_output=True, text=True, check=True)
    assert int(run.stdout) < 50_000, "kilobytes"


def test_the_fingerprint_is_that_of_all_files_in_order_and_follows_their_changes(tmp_path):
    recipe = dataclasses.replace(TINY, base=str(tmp_path))
    for at, (first, second) in enumerate([(b"weights", b"more"), (b"WEIGHTS", b"more")]):
        for name, data in (("b.safetensors", second), ("a.safetensors", first)):
            (tmp_path / name).write_bytes(data)
            os.utime(tmp_path / name, (at, at))
        assert fingerprint(recipe) == f"sha256:{hashlib.sha256(first + second).hexdigest()}"


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
}


def probe(tmp_path, endpoint: str, *names: str, **env: str) -> dict[str, str]:
    env = {**os.environ, "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "hf"), **env}
    run = subprocess.run([sys.executable, "-c", PROBE, *names], capture_output=True, text=True, env=env, check=False)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    with config_server() as hub:
        answers = probe(tmp_path_factory.mktemp("hub"), hub.url, *CASES)
        assert all(path.endswith("config.json") for path in hub.calls if "/resolve/" in path), hub.calls
    return answers


@pytest.mark.parametrize("name", CASES)
def test_each_refusal_is_named_with_what_to_do_next(said, name):
    assert re.search(CASES[name], said[name]), said[name]


@pytest.mark.parametrize("env", [{}, {"HF_HUB_OFFLINE": "1"}])
def test_no_connection_is_named_with_what_to_do_next(tmp_path, env):
    [message] = probe(tmp_path, "http://127.0.0.1:9", "some/qwen", **env).values()
    assert re.search(r"some/qwen could not be loaded: the Hub does not answer.*HF_HUB_OFFLINE.*tiny", message), message
