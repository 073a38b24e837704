"""The adapter as a LoRA GGUF: its logits in llama.cpp are PEFT's, its tensors those of llama.cpp's own converter."""

import dataclasses
import json
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from chatml_twin import twin
from gguf import GGUFReader
from gguf_files import TINY, adapter, baseline
from gguf_official import official_lora
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file

from pushback_lib.core.common import BASELINE, PushbackError
from pushback_lib.core.records import prompt_messages
from pushback_lib.model.gguf_file import check_pair
from pushback_lib.model.llama_cpp import LlamaCpp, share
from pushback_lib.model.load import load_base, load_tokenizer
from pushback_lib.model.package import package_file
from pushback_lib.model.recipe import Recipe
from pushback_lib.model.voices import load_voices
from pushback_lib.ship.gguf import write_gguf
from pushback_lib.ship.lora import MODELFILE, ship_lora, write_lora
from pushback_lib.ship.ollama import UNTRIED, Modelfile

LIKELY = -12  # log-probability below which llama.cpp rounds what it sends


def tensors(path):
    return {tensor.name: (tuple(tensor.shape), np.asarray(tensor.data).astype("f4")) for tensor in GGUFReader(path).tensors}


def differences(speaker, gguf, lora, dials=(1.0, 0.5, 0.0)):
    """For each dial how far llama.cpp's log-probabilities are from PEFT's, and how far the dial moves them at least."""
    own = {layer: layer.scaling["friction"] for layer in speaker.model.modules() if hasattr(layer, "lora_A")}
    with LlamaCpp(gguf, lora=check_pair(gguf, lora), exact=True) as server:
        prompt = server.render(prompt_messages("The capital of France is Rome, right?", speaker.recipe.system))
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


def random_adapter(recipe: Recipe, folder: Path, **options) -> Path:
    """An adapter of random numbers for a base."""
    torch.manual_seed(1)
    config = LoraConfig(**{"r": 8, "lora_alpha": 12, "target_modules": "all-linear", "task_type": "CAUSAL_LM"} | options)
    model = get_peft_model(load_base(recipe, four_bit=False), config)
    for name, values in model.named_parameters():
        if "lora_B" in name:
            values.data.normal_(std=0.05)
    model.save_pretrained(folder)
    return folder


def on_its_base(recipe: Recipe, folder: Path, **options):
    """`differences` of a random adapter for a base, both written in F32."""
    made = random_adapter(recipe, folder / "adapter", **options)
    base = write_gguf(recipe.base, folder / "base.gguf", "F32", recipe, BASELINE)
    return differences(load_voices(recipe, made, four_bit=False), base, write_lora(recipe, made, folder / "lora.gguf", "F32"))


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_scales_otherwise_than_by_one_alpha_and_rank_is_written_so_that_it_counts(tmp_path, variant):
    far, moved = on_its_base(TINY, tmp_path, **VARIANTS[variant])
    assert max(far) < 1e-3, far
    assert moved > 0.01


def test_a_llama_whose_rows_llama_cpp_wants_in_another_order_has_peft_s_logits_too(tmp_path):
    far, moved = on_its_base(twin(tmp_path / "twin"), tmp_path)
    assert max(far) < 1e-3, far
    assert moved > 0.1


def test_with_rows_in_the_order_of_transformers_it_would_not(tmp_path, monkeypatch):
    small = twin(tmp_path / "twin")
    made = random_adapter(small, tmp_path / "adapter")
    base = write_gguf(small.base, tmp_path / "base.gguf", "F32", small, BASELINE)
    monkeypatch.setattr("pushback_lib.model.family.Family.gguf_rows", lambda self, name, values, config: values)
    lora = write_lora(small, made, tmp_path / "lora.gguf", "F32")
    far, _ = differences(load_voices(small, made, four_bit=False), base, lora, dials=(1.0, 0.0))
    assert far[0] > 0.05
    assert far[1] < 1e-3, "without the adapter nothing is amiss"


@pytest.mark.slow
def test_the_english_adapter_belongs_to_the_file_in_the_package_and_has_peft_s_logits(english, tmp_path):
    far, moved = on_its_base(english, tmp_path)
    assert max(far) < 1e-2, far
    assert moved > 0.1
    assert check_pair(package_file(), tmp_path / "lora.gguf").header.base == "SmolLM2-135M-Instruct"
    *_, modelfile = ship_lora(english, tmp_path / "adapter", tmp_path / "out")
    assert Modelfile.read(modelfile.read_text(encoding="utf-8")).gguf == package_file().name


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
