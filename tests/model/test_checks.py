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
import torch
from hub_server import COMMIT, config_server
from safetensors.torch import load_file, save_file

from pushback_lib.cli import main
from pushback_lib.core.common import PushbackError
from pushback_lib.core.folders import TRAINING_FILE
from pushback_lib.model.checks import check_adapter, check_base, fingerprint, weight_files
from pushback_lib.model.load import check_memory, load_base, weights_gib
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
    (base / "config.json").write_text(json.dumps({**config, "model_type": "mistral"}))
    with pytest.raises(PushbackError, match=r"'mistral'; this kit knows 'qwen2'"):
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
    with pytest.raises(PushbackError, match=r"width 512; first: .* is \(256, 32\), expected \(512, 32\)"):
        check_adapter(adapter, dataclasses.replace(TINY, base=str(base)))


PREFIX, NORM = "base_model.model.model.layers", torch.ones(256)
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]


def renamed(old: str, new: str):
    return lambda tensors, config: {name.replace(old, new): values for name, values in tensors.items()}


def only(*parts: str):
    return lambda tensors, config: {name: values for name, values in tensors.items() if any(part in name for part in parts)}


def also(more: dict, **fields):
    def change(tensors, config):
        config.update(fields)
        return tensors | more

    return change


def later_layer(tensors, config):
    return tensors | {name.replace("layers.4", "layers.5"): values.clone() for name, values in tensors.items()}


def value(number: float):
    def change(tensors, config):
        tensors[f"{PREFIX}.2.mlp.up_proj.lora_B.weight"][3, 3] = number

    return change


def pair(inputs: int, outputs: int, name: str, end: str = ".weight") -> dict[str, torch.Tensor]:
    return {f"{name}A{end}": torch.ones(32, inputs), f"{name}B{end}": torch.ones(outputs, 32)}


HEAD, EMBEDDING = (pair(256, 640, "base_model.model.lm_head.lora_"),
                   pair(640, 256, "base_model.model.model.embed_tokens.lora_embedding_", ""))  # fmt: skip
BIASES = {f"{PREFIX}.{at}.self_attn.q_proj.lora_B.bias": torch.ones(256) for at in range(5)}
MAGNITUDES = {f"{PREFIX}.{at}.self_attn.q_proj.lora_magnitude_vector": torch.ones(256) for at in range(5)}
FIELD = r"which this kit cannot apply exactly\. Train it again as plain LoRA; or merge"

# what is done to tensors and config of the adapter that comes with the kit, and what must be said
BROKEN = {
    "a wrapper for pictures": (renamed(".model.layers", ".model.language_model.layers"),
                               r"140 tensors .*language_model.* expected no such tensor\. Its names are of a wrapper"),
    "a compiled model": (renamed("model.model.", "model._orig_mod.model."), r"_orig_mod.*Its names are of a wrapper"),
    "no prefix at all": (renamed("base_model.model.", ""), r"Its names are of a wrapper"),
    "the adapter's own name in every name": (renamed(".weight", ".default.weight"), r"lora_A\.default.*name of the adapter"),
    "a layer less": (only(*(f"layers.{at}." for at in range(4))), r"14 tensors .* 5 layers .*layers\.4\..* is missing"),
    "a layer more": (later_layer, r"14 tensors .* of 5 layers .*layers\.5\..*expected no such tensor.*another base"),
    "narrower target_modules": (also({}, target_modules=ATTENTION), r"30 tensors .*mlp.*no such tensor.*two adapters"),
    "wider target_modules": (only("self_attn"), r"30 tensors .*mlp.* is missing"),
    "target_modules that are not there": (also({}, target_modules=["query"]), r"cannot be applied .*query.* not found"),
    "another rank": (also({}, r=16), r"70 tensors .* is \(32, 768\), expected \(16, 768\)"),
    "a rank of its own for one matrix": (also({}, rank_pattern={"q_proj": 8}), r"10 tensors .*expected \(8, 256\)"),
    "IA3": (also({}, peft_type="IA3"), rf"peft_type = 'IA3', {FIELD}"),
    "no type": (also({}, peft_type=None), rf"peft_type = None, {FIELD}"),
    "modules_to_save": (also({"base_model.model.lm_head.weight": torch.ones(640, 256)}, modules_to_save=["lm_head"]),
                        rf"modules_to_save = \['lm_head'\], {FIELD}"),
    "a head that the config does not name": (also({"base_model.model.lm_head.weight": torch.ones(640, 256)}),
                                             r"1 tensors .*lm_head.*holds trained weights beside LoRA"),
    "trained norms": (also({"base_model.model.model.norm.weight": NORM}), r"1 tensors .*norm.*holds trained weights beside"),
    "LoRA on a norm": (also({}, target_modules=["input_layernorm"]), r"cannot be applied .*Qwen2RMSNorm"),
    "LoRA on a tied head": (also(HEAD, target_modules=[*ATTENTION, "lm_head"]), r"embeddings or head, which are one matrix"),
    "LoRA on the embeddings": (also(EMBEDDING, target_modules=[*ATTENTION, "embed_tokens"]), r"embeddings or head, which"),
    "lora_bias": (also(BIASES, lora_bias=True), rf"lora_bias = True, {FIELD}"),
    "biases that the config does not name": (also(BIASES), r"5 tensors .*lora_B\.bias is \(256,\), expected no such tensor"),
    "trained biases": (also({f"{PREFIX}.0.self_attn.q_proj.bias": NORM}, bias="all"), rf"bias = 'all', {FIELD}"),
    "DoRA": (also(MAGNITUDES, use_dora=True), rf"use_dora = True, {FIELD}"),
    "PiSSA": (also({}, init_lora_weights="pissa"), rf"init_lora_weights = 'pissa', {FIELD}"),
    "layers given twice": (also({}, layer_replication=[[0, 3], [2, 5]]), rf"layer_replication = .*, {FIELD}"),
    "single tokens": (also({}, trainable_token_indices=[1, 2]), rf"trainable_token_indices = \[1, 2\], {FIELD}"),
    "parameters": (also({}, target_parameters=["mlp.up_proj.weight"]), rf"target_parameters = .*, {FIELD}"),
    "what a later PEFT invents": (also({}, use_magic=True), rf"use_magic = True, {FIELD}"),
    "a classifier": (also({}, task_type="SEQ_CLS"), rf"task_type = 'SEQ_CLS', {FIELD}"),
    "no alpha": (also({}, lora_alpha=0), r"adapter_config\.json is wrong \(lora_alpha \[0\]"),
    "an alpha that is no number": (also({}, lora_alpha="64"), r"adapter_config\.json is wrong"),
    "an alpha that is not finite": (also({}, alpha_pattern={"q_proj": float("nan")}), r"lora_alpha \[64, nan\]"),
    "no rank": (also({}, r=0), r"cannot be applied to this base .*`r` should be a positive integer"),
    "not a number": (value(float("nan")), r"1 tensors of .*hold numbers that are not finite; first: .*2\.mlp\.up_proj\.lora_B"),
    "infinite": (value(float("inf")), r"1 tensors of .*hold numbers that are not finite"),
    "8-bit": (lambda tensors, config: {name: values.to(torch.int8) for name, values in tensors.items()}, r"holds I8, not 16-"),
}  # fmt: skip


def broken(folder: Path, case: str) -> Path:
    change, _ = BROKEN[case]
    weights, config = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    values, tensors = json.loads(config.read_text()), load_file(weights)
    tensors = change(tensors, values) or tensors
    save_file(tensors, weights)
    config.write_text(json.dumps(values))
    return folder


@pytest.mark.parametrize("case", BROKEN)
def test_an_adapter_that_would_not_apply_exactly_is_refused_by_name(adapter, case):
    with pytest.raises(PushbackError, match=f"(?s){BROKEN[case][1]}"):
        check_adapter(broken(adapter, case), TINY)


@pytest.mark.parametrize(
    "command",
    [
        "ship gguf --out {out}",
        "ship all --out {out}",
        "ship hub ada/tiny --dry-run --folder {out}",
        "eval --out {out}/rows.jsonl",
    ],
)
def test_every_command_refuses_such_an_adapter_before_a_base_is_loaded(adapter, tmp_path, monkeypatch, capsys, command):
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", lambda *_, **__: pytest.fail("loaded"))
    (tmp_path / "out").mkdir()
    words = command.format(out=tmp_path / "out").split()
    assert main([*words, "--adapter", str(broken(adapter, "a wrapper for pictures"))]) == 2
    assert "Its names are of a wrapper" in capsys.readouterr().err


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


def write_index(folder: Path, *files: str, **more) -> None:
    index = {"metadata": {}, "weight_map": {f"tensor {at}": name for at, name in enumerate(files)}, **more}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_the_fingerprint_is_that_of_all_files_in_order_and_follows_their_changes(tmp_path):
    recipe = dataclasses.replace(TINY, base=str(tmp_path))
    write_index(tmp_path, "b.safetensors", "a.safetensors", "b.safetensors")
    (tmp_path / "c.safetensors").write_bytes(b"left over")
    for at, (first, second) in enumerate([(b"weights", b"more"), (b"WEIGHTS", b"more")]):
        for name, data in (("b.safetensors", second), ("a.safetensors", first)):
            (tmp_path / name).write_bytes(data)
            os.utime(tmp_path / name, (at, at))
        assert fingerprint(recipe) == f"sha256:{hashlib.sha256(first + second).hexdigest()}"


def in_parts(base: Path) -> None:
    """The base's weights in two files that an index names."""
    tensors = load_file(base / "model.safetensors")
    (base / "model.safetensors").unlink()
    names = sorted(tensors)
    for at, part in enumerate((names[:20], names[20:]), 1):
        save_file({name: tensors[name] for name in part}, base / f"model-0000{at}-of-00002.safetensors", {"format": "pt"})
    write_index(base, "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def left_over(base: Path, name: str) -> None:
    """Weights of another day: the last norm is zero."""
    save_file({"model.norm.weight": torch.zeros(256, dtype=torch.bfloat16)}, base / name, {"format": "pt"})


def whole_beside_an_index(base: Path) -> None:
    left_over(base, "old.safetensors")
    write_index(base, "old.safetensors")


def parts_beside_others(base: Path) -> None:
    in_parts(base)
    left_over(base, "model-00003-of-00003.safetensors")


MEANT = {
    "one file": (lambda base: left_over(base, "model-00001-of-00002.safetensors"), 1),
    "one file beside an index": (whole_beside_an_index, 1),
    "parts beside others": (parts_beside_others, 2),
    "macOS's notes": (lambda base: (base / "._model.safetensors").write_bytes(b"Mac OS X"), 1),
}


@pytest.mark.parametrize("case", MEANT)
def test_the_weights_are_those_that_transformers_reads(base, case):
    change, count = MEANT[case]
    change(base)
    check_base(base)
    files = weight_files(base)
    assert len(files) == count
    [norm] = [found["model.norm.weight"] for found in map(load_file, files) if "model.norm.weight" in found]
    loaded = load_base(dataclasses.replace(TINY, base=str(base)), four_bit=False)
    assert torch.equal(loaded.model.norm.weight, norm.float())
    assert norm.any()


INDEX, PART = "model.safetensors.index.json", "model-00001-of-00002.safetensors"
NOT_MEANT = {
    "a part that is missing": (lambda base: (base / PART).unlink(),
                               rf"No weights at .*{PART}, which model\.safetensors\.index\.json names\. Give a folder"),
    "a part that is cut": (lambda base: cut(base / PART), rf"{PART} are damaged"),
    "parts without an index": (lambda base: (base / INDEX).unlink(), r"No weights at .*/model\.safetensors\."),
    "half an index": (lambda base: cut(base / INDEX), r"index\.json is damaged"),
    "another index": (lambda base: (base / INDEX).write_text("[]"), r"index\.json is damaged .*a list"),
    "an empty index": (lambda base: write_index(base), r"index\.json names no files"),
    "an adapter beside it": (lambda base: (base / "adapter_config.json").write_text("{}"), r"adapter_config\.json lies beside"),
    "other weights in its config": (lambda base: (base / "config.json").write_text('{"model_type": "qwen2", '
                                    '"transformers_weights": "x"}'), r"config\.json names x as its weights"),
}  # fmt: skip


@pytest.mark.parametrize("case", NOT_MEANT)
def test_weights_that_are_not_all_there_or_not_alone_are_named(base, case):
    change, says = NOT_MEANT[case]
    in_parts(base)
    change(base)
    with pytest.raises(PushbackError, match=says):
        check_base(base)


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
    "some/mistral": r"some/mistral is of architecture 'mistral'; this kit knows 'qwen2'.*DeepSeek-R1-Distill-Qwen",
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
