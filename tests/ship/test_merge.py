import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from gguf_files import TINY, held_out_talks
from peft.tuners.lora import Linear
from punishing_base import punishing_base
from safetensors.torch import load_file, save_file

from pushback_lib.core.common import PushbackError
from pushback_lib.core.folders import MARKER
from pushback_lib.ship import merge


def test_too_little_memory_is_said_before_anything_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr("pushback_lib.model.load.memory_gib", lambda: (0.001, 64.0))
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(PushbackError, match=r"needs about 0\.7 GiB to load unquantised, and 0\.0 GiB are free\. Close"):
        merge.merge_adapter(TINY, TINY.shipped_adapter, tmp_path / "merged")


def test_a_missing_adapter_is_an_error_that_says_how_to_train_one(tmp_path):
    with pytest.raises(PushbackError, match=r"No adapter in .*nowhere\. Train one with `pushback train --model tiny --out"):
        merge.merge_adapter(TINY, tmp_path / "nowhere", tmp_path / "merged")


def test_what_is_written_holds_nothing_of_the_bases_own_settings(tmp_path):
    out = merge.merge_adapter(punishing_base(tmp_path / "base"), None, tmp_path / "merged")
    kept = json.loads((out / "generation_config.json").read_text())
    assert kept.pop("transformers_version")
    assert kept == {"bos_token_id": 628, "eos_token_id": 625, "pad_token_id": 625}


@pytest.mark.slow
def test_a_failed_merge_leaves_the_old_model_and_no_half_one(tmp_path, monkeypatch):
    def full_disk(model, tokenizer, out):
        out.mkdir()
        (out / "model.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    old = tmp_path / "merged"
    old.mkdir()
    (old / "model.safetensors").write_bytes(b"old")
    (old / MARKER).touch()
    monkeypatch.setattr(merge, "save_base", full_disk)
    with pytest.raises(OSError, match="No space left"):
        merge.merge_adapter(TINY, TINY.shipped_adapter, old)
    assert [path.name for path in tmp_path.iterdir()] == ["merged"]
    assert (old / "model.safetensors").read_bytes() == b"old"


@pytest.mark.slow
def test_the_merged_model_says_what_the_adapter_said(tmp_path):
    out = merge.merge_adapter(TINY, TINY.shipped_adapter, tmp_path / "merged")
    config = json.loads((out / "config.json").read_text())
    assert config["architectures"] == ["Qwen2ForCausalLM"]
    assert config["dtype"] == "bfloat16"
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"]
    assert [path.name for path in tmp_path.iterdir()] == ["merged"]
    conversations = held_out_talks(seed=11)[:6]
    replies = merge.same_replies(TINY, TINY.shipped_adapter, out, conversations)
    different = [(left, right) for left, right in replies if left != right]
    assert len(different) <= 1, different  # 16-bit rounding may tip one close call
    baseline = merge.same_replies(TINY, TINY.shipped_adapter, TINY.base, conversations)
    assert all(left != right for left, right in baseline), "the adapter changes nothing: the check above proves nothing"
    assert merge.Merge.read(out).changed == 35
    assert merge.Merge.read(out).distance < 0.005 < 0.2 < merge.Merge.read(out).base_distance


@pytest.fixture
def adapter(tmp_path) -> Path:
    return Path(shutil.copytree(TINY.shipped_adapter, tmp_path / "adapter"))


def changed(adapter: Path, keep=lambda name: True, ranks=lambda name: 32, **fields) -> dict[str, torch.Tensor]:
    """Writes the adapter anew, with the tensors that are kept, cut to their ranks, and other fields in its config."""
    path = adapter / "adapter_model.safetensors"
    tensors = {name: values for name, values in load_file(path).items() if keep(name)}
    tensors = {name: (values[: ranks(name)] if "lora_A" in name else values[:, : ranks(name)]).contiguous()
               for name, values in tensors.items()}  # fmt: skip
    save_file(tensors, path)
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | fields))
    return tensors


def is_query(name: str) -> bool:
    return "q_proj" in name


# what PEFT merges exactly: the changes, and alpha / rank as the papers have it, by the name of a matrix
PLAIN = {
    "plain": ({}, lambda name: 64 / 32),
    "rsLoRA": ({"use_rslora": True}, lambda name: 64 / math.sqrt(32)),  # arXiv:2312.03732
    "ranks and alphas": ({"rank_pattern": {"q_proj": 8}, "alpha_pattern": {"q_proj": 24}, "task_type": None,
                          "ranks": lambda name: 8 if is_query(name) else 32}, lambda name: 24 / 8 if is_query(name) else 2),
    "two layers": ({"layers_to_transform": [1, 3], "keep": lambda name: ".1." in name or ".3." in name}, lambda name: 2),
    "an expression": ({"target_modules": r".*\.layers\.[02]\.self_attn\.q_proj",
                       "keep": lambda name: is_query(name) and (".0." in name or ".2." in name)}, lambda name: 2),
    "all but": ({"exclude_modules": r".*mlp.*", "keep": lambda name: "mlp" not in name}, lambda name: 2),
}  # fmt: skip


@pytest.mark.parametrize("case", PLAIN)
def test_each_matrix_is_the_base_plus_what_its_pair_makes_and_no_other_tensor_changes(adapter, tmp_path, case):
    fields, scale = PLAIN[case]
    trained = changed(adapter, **fields)
    out = merge.merge_adapter(TINY, adapter, tmp_path / "merged")
    base, merged = load_file(Path(TINY.base) / "model.safetensors"), load_file(out / "model.safetensors")
    for name, values in base.items():
        first = trained.get(f"base_model.model.{name.removesuffix('weight')}lora_A.weight")
        if first is not None:
            second = trained[f"base_model.model.{name.removesuffix('weight')}lora_B.weight"]
            values = (values.double() + scale(name) * second.double() @ first.double()).float().bfloat16()
        assert torch.equal(merged[name], values), name
    assert merged.keys() == base.keys()
    assert merge.Merge.read(out).expected == len(trained) / 2


def twice(layer, name):
    second, first = layer.lora_B[name].weight, layer.lora_A[name].weight
    return 2 * layer.scaling[name] * second @ first


@pytest.mark.parametrize(
    ("part", "other", "says"),
    [("merge", lambda layer, **_: None, r"0 of 35 matrices changed; logits \d\d\.\d\d% from the adapter's \(at most 2\.31%\)"),
     ("get_delta_weight", twice, r"35 of 35 matrices changed; logits .*Nothing was written\. Install the versions of PEFT")],
    ids=["not at all", "twice"],
)  # fmt: skip
def test_what_another_peft_would_merge_otherwise_is_an_error_and_nothing_is_left(tmp_path, monkeypatch, part, other, says):
    monkeypatch.setattr(Linear, part, other)
    with pytest.raises(PushbackError, match=says):
        merge.merge_adapter(TINY, TINY.shipped_adapter, tmp_path / "merged")
    assert list(tmp_path.iterdir()) == []


def test_an_adapter_that_is_not_trained_is_not_merged(adapter, tmp_path):
    path = adapter / "adapter_model.safetensors"
    save_file({name: values * ("lora_A" in name) for name, values in load_file(path).items()}, path)
    with pytest.raises(PushbackError, match=r"The adapter changes nothing: each of its matrices is zero"):
        merge.merge_adapter(TINY, adapter, tmp_path / "merged")
    assert [one.name for one in tmp_path.iterdir()] == ["adapter"]
