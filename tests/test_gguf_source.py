import json
import shutil
from pathlib import Path

import pytest

from pushback_lib.errors import PushbackError
from pushback_lib.gguf_source import expected_shapes, open_source
from pushback_lib.recipe import recipe_for

BASE = Path(recipe_for("tiny").base)


def config_with(**changes):
    def change(folder):
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def as_pickle(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def in_eight_bits(folder):
    import torch
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"].to(torch.uint8)
    save_file(tensors, folder / "model.safetensors")


def cut(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


BAD = {
    "no folder": (lambda folder: shutil.rmtree(folder), r"No model folder at .*Merge the adapter"),
    "no config": (lambda folder: (folder / "config.json").unlink(), r"No config\.json in"),
    "broken config": (lambda folder: (folder / "config.json").write_text("{"), r"config\.json is damaged"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), r"No tokenizer\.json in .*Copy it from the base"),
    "llama": (config_with(architectures=["LlamaForCausalLM"]), r"is a LlamaForCausalLM.*8B, 70B.*convert_hf_to_gguf"),
    "gpt2, no architectures": (config_with(architectures=None, model_type="gpt2"), r"is a gpt2"),
    "yarn": (config_with(rope_parameters={"rope_type": "yarn"}), r"uses rope 'yarn'"),
    "4-bit": (config_with(quantization_config={"load_in_4bit": True}), r"quantised already\. Merge"),
    "pickle": (as_pickle, r"holds pytorch_model\.bin, a pickle, which can run any code.*save_pretrained"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), r"No \*\.safetensors"),
    "cut weights": (cut, r"weights at .* are damaged"),
    "8-bit tensor": (in_eight_bits, r"model\.norm\.weight in .* is U8, not 16- or 32-bit"),
    "a layer more in the config": (config_with(num_hidden_layers=6), r"12 tensors .*layers\.5.*is missing"),
    "a layer less": (config_with(num_hidden_layers=4), r"12 tensors .*expected no such tensor"),
    "other width": (config_with(intermediate_size=512), r"is \(768, 256\), expected \(512, 256\)"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_qwen2_folder_is_refused_with_its_cure(tmp_path, case):
    folder = tmp_path / "model"
    shutil.copytree(BASE, folder)
    change, said = BAD[case]
    change(folder)
    with pytest.raises(PushbackError, match=f"(?s){said}"):
        open_source(folder)


def test_a_whole_folder_gives_its_tensors_as_float32():
    source = open_source(BASE)
    tensors = dict(source.tensors(list(expected_shapes(source.config))))
    assert {name: values.shape for name, values in tensors.items()} == expected_shapes(source.config)
    assert {str(values.dtype) for values in tensors.values()} == {"float32"}


def test_weights_in_several_files_are_one_model(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "model"
    shutil.copytree(BASE, folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    for number, part in enumerate((names[:20], names[20:]), 1):
        save_file({name: tensors[name] for name in part}, folder / f"model-0000{number}-of-00002.safetensors")
    assert open_source(folder).shapes == open_source(BASE).shapes
