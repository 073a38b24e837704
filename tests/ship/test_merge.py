import json

import pytest
from gguf_files import TINY, held_out_talks
from punishing_base import punishing_base

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
