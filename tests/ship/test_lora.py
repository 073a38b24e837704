"""The adapter as a LoRA GGUF: its logits in llama.cpp are PEFT's, its tensors those of llama.cpp's own converter."""

import dataclasses
import json
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from gguf_files import TINY, adapter, baseline, held_out_talks
from gguf_official import official_lora
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file

from pushback_lib.core.common import PushbackError
from pushback_lib.model.gguf_file import check_pair
from pushback_lib.model.llama_cpp import LlamaCpp, share
from pushback_lib.model.load import load_base, load_tokenizer
from pushback_lib.model.voices import load_voices
from pushback_lib.ship.lora import MODELFILE, ship_lora, write_lora
from pushback_lib.ship.ollama import UNTRIED, Modelfile

LIKELY = -12  # log-probability below which llama.cpp rounds what it sends


def tensors(path):
    return {tensor.name: (tuple(tensor.shape), np.asarray(tensor.data).astype("f4")) for tensor in GGUFReader(path).tensors}


def differences(speaker, gguf, lora, dials=(1.0, 0.5, 0.0)):
    """For each dial how far llama.cpp's log-probabilities are from PEFT's, and how far the dial moves them at least."""
    own = {layer: layer.scaling["friction"] for layer in speaker.model.modules() if hasattr(layer, "lora_A")}
    with LlamaCpp(gguf, lora=check_pair(gguf, lora), exact=True) as server:
        prompt = server.render(held_out_talks(3)[0])
        ids = server.tokenise(prompt)
        assert ids == speaker.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        found = []
        for dial in dials:
            for layer, full in own.items():
                layer.scaling["friction"] = full * dial
            with torch.inference_mode():
                true = torch.log_softmax(speaker.model(torch.tensor([ids])).logits[0, -1].double(), -1).numpy()
            ours = server.log_probabilities(ids, **share(dial))
            found.append((np.abs(ours - true)[true > LIKELY].max(), true))
    for layer, full in own.items():
        layer.scaling["friction"] = full
    moved = min(np.abs(one[1] - two[1]).max() for one, two in pairwise(found))
    return [far for far, _ in found], moved


@pytest.fixture(scope="module")
def tiny():
    return load_voices(TINY, four_bit=False)


def test_the_logits_are_peft_s_at_every_place_of_the_dial(tiny):
    far, moved = differences(tiny, baseline("F32"), adapter("F32"))
    assert max(far) < 1e-3, far
    assert moved > 0.1, "else the dial would not show"


def test_16_bit_numbers_move_them_little(tiny):
    far, _ = differences(tiny, baseline("F32"), adapter("F16"), dials=(1.0, 0.0))
    assert max(far) < 0.02, far


VARIANTS = {
    "rank-stabilised": {"use_rslora": True},
    "patterns": {"rank_pattern": {"q_proj": 2, "down_proj": 16}, "alpha_pattern": {"o_proj": 1, "down_proj": 5}},
    "some layers": {"layers_to_transform": [1, 3], "target_modules": ["v_proj", "gate_proj"]},
}


def random_adapter(folder: Path, **options) -> Path:
    """An adapter of random numbers for the bundled base."""
    torch.manual_seed(1)
    config = LoraConfig(**{"r": 8, "lora_alpha": 12, "target_modules": "all-linear", "task_type": "CAUSAL_LM"} | options)
    model = get_peft_model(load_base(TINY, four_bit=False), config)
    for name, values in model.named_parameters():
        if "lora_B" in name:
            values.data.normal_(std=0.05)
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_scales_otherwise_than_by_one_alpha_and_rank_is_written_so_that_it_counts(tmp_path, variant):
    folder = random_adapter(tmp_path / "adapter", **VARIANTS[variant])
    speaker = load_voices(TINY, folder, four_bit=False)
    far, moved = differences(speaker, baseline("F32"), write_lora(TINY, folder, tmp_path / "a.gguf", "F32"))
    assert max(far) < 1e-3, far
    assert moved > 0.01


def test_every_matrix_is_there_as_it_was_trained():
    found, trained = tensors(adapter("F32")), load_file(TINY.shipped_adapter / "adapter_model.safetensors")
    assert len(found) == len(trained) == 2 * 7 * 5
    one = trained["base_model.model.model.layers.2.mlp.up_proj.lora_B.weight"]
    shape, values = found["blk.2.ffn_up.weight.lora_b"]
    assert shape == (32, 768)
    assert np.array_equal(values, one.float().numpy())


@pytest.mark.network
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["F32", "F16"])
def test_tensors_equal_those_of_llama_cpp_s_own_converter(tmp_path, kind):
    theirs, ours = tensors(official_lora(Path(TINY.base), TINY.shipped_adapter, tmp_path, kind)), tensors(adapter(kind))
    assert theirs.keys() == ours.keys()
    assert all(np.array_equal(ours[name][1], values) and ours[name][0] == shape for name, (shape, values) in theirs.items())


def test_the_command_s_folder_holds_adapter_base_and_modelfile(tmp_path):
    files = ship_lora(TINY, TINY.shipped_adapter, tmp_path / "out", "F16", "Q8_0")
    names = ["pushback-tiny-friction-lora-F16.gguf", "pushback-tiny-baseline-Q8_0.gguf", MODELFILE]
    assert [path.name for path in files] == names
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*names, ".pushback"}
    check_pair(files[1], files[0])
    model = Modelfile.read(files[2].read_text(encoding="utf-8"))
    assert (model.gguf, model.adapter) == (files[1].name, files[0].name)
    merged = Modelfile.for_recipe(TINY, load_tokenizer(TINY), files[1].name)
    assert dataclasses.replace(model, adapter="") == merged, "all else is as for the merged file"
    assert files[0].stat().st_size < 1_700_000


@pytest.mark.parametrize(
    ("base", "line"),
    [
        ("deepseek-r1:7b", "FROM deepseek-r1:7b"),
        ("me/base:q8", "FROM me/base:q8"),
        ("pushback-tiny-baseline-Q8_0.gguf", "FROM ./pushback-tiny-baseline-Q8_0.gguf"),
    ],
)
def test_a_base_is_a_file_beside_the_modelfile_or_one_that_ollama_pulls(base, line):
    model = Modelfile(base, "{{ .Prompt }}", {}, "", (), adapter="a.gguf")
    assert model.text.startswith(f"{UNTRIED}\n\n{line}\nADAPTER ./a.gguf\n\nTEMPLATE")
    assert Modelfile.read(model.text) == model
    with pytest.raises(PushbackError, match="is no name for a GGUF"):
        _ = dataclasses.replace(model, adapter="../a.gguf").text
    if not base.endswith(".gguf"):
        with pytest.raises(PushbackError, match=f"{base!r} is no name for a GGUF"):
            _ = dataclasses.replace(model, adapter="").text


def test_bad_input_is_refused_and_leaves_nothing(tmp_path):
    other = Path(shutil.copytree(TINY.shipped_adapter, tmp_path / "other"))
    note = other / "pushback.json"
    note.write_text(json.dumps(json.loads(note.read_text(encoding="utf-8")) | {"base": "sha256:0"}), encoding="utf-8")
    for arguments, message in [
        ((TINY.shipped_adapter, tmp_path / "out", "Q8_0"), r"No kind 'Q8_0' of an adapter's file\. Choose from F16, F32"),
        ((TINY.shipped_adapter, tmp_path / "out", "F16", "Q3"), r"No GGUF kind 'Q3'"),
        ((other, tmp_path / "out"), r"was made for another base"),
        ((tmp_path / "none", tmp_path / "out"), r"No adapter in .*none"),
    ]:
        with pytest.raises(PushbackError, match=message):
            ship_lora(TINY, *arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    out = tmp_path / "a.gguf"
    out.write_bytes(b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gguf.GGUFWriter.write_tensors_to_file", full)
    with pytest.raises(PushbackError, match=r"The disk filled up while writing .*a\.gguf"):
        write_lora(TINY, TINY.shipped_adapter, out)
    assert out.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.gguf"]
