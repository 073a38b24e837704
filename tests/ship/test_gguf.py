import json
import os
import shutil
import sys
from collections import Counter
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from gguf import GGUFReader, GGUFWriter
from gguf_files import TALKS, TINY, friction, merged
from gguf_official import official
from safetensors.torch import load_file, save_file

from pushback_lib.core.common import PushbackError
from pushback_lib.model.family import R1_DISTILL
from pushback_lib.model.load import load_tokenizer
from pushback_lib.model.recipe import recipe_for
from pushback_lib.ship.gguf import KINDS, open_source, quantise, tokens_of, write_gguf

BASE = Path(TINY.base)


def read(path):
    reader = GGUFReader(path)
    tensors = {t.name: (t.tensor_type.name, tuple(t.shape), np.asarray(t.data).tobytes()) for t in reader.tensors}
    return {key: field.contents() for key, field in reader.fields.items()}, tensors


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "main", "share"), [("Q4_K_M", "Q4_K", 0.35), ("Q5_K_M", "Q5_K", 0.42)])
def test_every_matrix_becomes_a_k_quant(kind, main, share):
    """_M mixes in Q6_K for the embeddings and some layers, by llama.cpp's own rule; nothing else may appear."""
    types = Counter(t.tensor_type.name for t in GGUFReader(friction(kind)).tensors if len(t.shape) == 2)
    assert set(types) == {main, "Q6_K"}
    assert types[main] > types["Q6_K"]
    assert friction(kind).stat().st_size < share * friction("F32").stat().st_size / 2


@pytest.mark.slow
def test_a_folder_becomes_a_k_quant_and_the_f32_file_between_does_not_stay(tmp_path):
    out = write_gguf(merged(), tmp_path / "new", "Q4_K_M", TINY)
    assert list(tmp_path.rglob("*")) == [tmp_path / "new", out]
    assert read(out)[1] == read(friction("Q4_K_M"))[1]


@pytest.mark.slow
def test_a_cut_file_is_refused_and_leaves_nothing(tmp_path):
    cut = tmp_path / "F32.gguf"
    cut.write_bytes(friction("F32").read_bytes()[:5_000_000])
    with pytest.raises(PushbackError, match=r"F32\.gguf.*Write (it|that file) again"):
        quantise(cut, tmp_path / "out.gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["F32.gguf"]


def test_an_unknown_kind_or_a_missing_file_is_refused(tmp_path):
    with pytest.raises(PushbackError, match=r"No K-quant 'Q8_0'\. Choose one of Q4_K_M, Q5_K_M; .*write_gguf"):
        quantise(tmp_path / "F32.gguf", tmp_path / "out.gguf", "Q8_0")
    with pytest.raises(PushbackError, match=r"No GGUF file at .*F32\.gguf"):
        quantise(tmp_path / "F32.gguf", tmp_path / "out.gguf")
    with pytest.raises(PushbackError, match=r"No GGUF kind 'Q3'\. Choose from F32, F16, BF16, Q8_0, Q4_K_M"):
        write_gguf(BASE, tmp_path / "x.gguf", "Q3")


def test_rows_that_would_fall_back_to_another_format_are_refused(tmp_path):
    path = tmp_path / "F32.gguf"
    writer = GGUFWriter(path, "qwen2")
    writer.add_tensor("blk.0.ffn_up.weight", np.zeros((4, 896), dtype="float32"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    message = r"1 matrices .* rows that 256 does not divide \(blk\.0\.ffn_up\.weight\).*Take Q8_0"
    with pytest.raises(PushbackError, match=message):
        quantise(path, tmp_path / "out.gguf")


@pytest.mark.slow
def test_without_the_extra_the_error_names_it(tmp_path, monkeypatch):
    path = friction("F32")
    monkeypatch.setitem(sys.modules, "cyllama.llama", None)
    with pytest.raises(PushbackError, match=r"pip install 'pushback-ai\[ship\]'.*or take Q8_0"):
        quantise(path, tmp_path / "out.gguf")


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(BASE, tmp_path / "model")


def config_with(**changes):
    def change(folder):
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def tensor_with(name, change):
    def save(folder):
        tensors = load_file(folder / "model.safetensors")
        save_file(tensors | {name: change(tensors["model.norm.weight"])}, folder / "model.safetensors")

    return save


def without(name):
    return lambda folder: (folder / name).unlink()


BAD = {
    "no folder": (shutil.rmtree, r"No model folder at .*Merge the adapter"),
    "no config": (without("config.json"), r"No config\.json in"),
    "broken config": (lambda folder: (folder / "config.json").write_text("{"), r"config\.json is damaged"),
    "no tokenizer": (without("tokenizer.json"), r"No tokenizer\.json in .*a complete model"),
    "llama": (config_with(architectures=["LlamaForCausalLM"]), r"architecture 'LlamaForCausalLM'.*DeepSeek-R1-Distill-Qwen"),
    "gpt2, no architectures": (config_with(architectures=None, model_type="gpt2"), r"architecture 'gpt2'"),
    "no width": (config_with(hidden_size=None), r"does not say hidden_size"),
    "yarn": (config_with(rope_parameters={"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}), r"uses rope 'yarn'"),
    "yarn, as it was written before": (config_with(rope_parameters=None, rope_scaling={"type": "yarn", "factor": 4.0}),
                                       r"uses rope 'yarn'"),
    "another activation": (config_with(hidden_act="gelu"), r"activation 'gelu'"),
    "no theta": (config_with(rope_theta=None, rope_parameters=None), r"gives no rope_theta"),
    "4-bit": (config_with(quantization_config={"load_in_4bit": True}), r"quantised already\. Merge"),
    "pickle": (lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
               r"holds pytorch_model\.bin, a pickle, which can run any code.*save_pretrained"),
    "no weights": (without("model.safetensors"), r"No weights at .*a complete model"),
    "cut weights": (lambda folder: os.truncate(folder / "model.safetensors", 8_000_000), r"weights at .* are damaged"),
    "8-bit tensor": (tensor_with("model.norm.weight", lambda norm: norm.byte()), r"norm\.weight in .* is U8, not 16- or"),
    "a tensor of another model": (tensor_with("score.weight", lambda norm: norm.clone()), r"1 tensors .*score.*no such tensor"),
    "a layer more in the config": (config_with(num_hidden_layers=6, layer_types=None), r"12 tensors .*layers\.5.*is missing"),
    "a layer less": (config_with(num_hidden_layers=4, layer_types=None), r"12 tensors .*expected no such tensor"),
    "a contradiction in the config": (config_with(num_hidden_layers=6), r"config\.json .*num_hidden_layers.*from the base"),
    "other width": (config_with(intermediate_size=512), r"is \(768, 256\), expected \(512, 256\)"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_folder_that_is_not_a_complete_plain_qwen2_is_refused(folder, case):
    change, said = BAD[case]
    change(folder)
    with pytest.raises(PushbackError, match=f"(?s){said}"):
        open_source(folder)


def test_weights_in_several_files_are_one_model(tmp_path, folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()  # tied: not written a second time
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    files = {f"model-0000{number}-of-00002.safetensors": part for number, part in enumerate((names[:20], names[20:]), 1)}
    for file, part in files.items():
        save_file({name: tensors[name] for name in part}, folder / file)
    index = {"metadata": {}, "weight_map": {name: file for file, part in files.items() for name in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    yesterdays = {name: values + 1 for name, values in tensors.items()}
    save_file(yesterdays, folder / "model-00003-of-00003.safetensors")  # which the index does not name
    parts, whole = write_gguf(folder, tmp_path / "parts.gguf", "F32"), write_gguf(BASE, tmp_path / "whole.gguf", "F32")
    assert read(parts)[1] == read(whole)[1]


def test_a_head_that_is_not_tied_is_written_last(tmp_path, folder):
    config_with(tie_word_embeddings=False)(folder)
    tensor_with("lm_head.weight", lambda norm: norm.repeat(640, 1))(folder)
    names = {name: shape for name, (_, shape, _) in read(write_gguf(folder, tmp_path / "x.gguf"))[1].items()}
    assert [*names][-2:] == ["output_norm.weight", "output.weight"]
    assert names["output.weight"] == (256, 640)


@pytest.mark.parametrize("case", TALKS)
@pytest.mark.parametrize("prompt", [True, False])
def test_the_embedded_template_renders_what_the_family_s_does(case, prompt):
    tokenizer = load_tokenizer(TINY)
    expected = tokenizer.apply_chat_template(TALKS[case], add_generation_prompt=prompt, tokenize=False)
    options = {"add_generation_prompt": prompt, "tokenize": False}
    got = tokenizer.apply_chat_template(TALKS[case], chat_template=R1_DISTILL.gguf_template, **options)
    assert got == expected


def test_the_embedded_template_knows_no_tools():
    assert "tool" not in R1_DISTILL.gguf_template


BAD_TOKENIZER = {
    "another split": (lambda t: t["pre_tokenizer"]["pretokenizers"][0]["pattern"].update(Regex=r"\p{N}{1,3}|\s+"), 640,
                      r"splits text by .*not that of a DeepSeek-R1-Distill-Qwen model"),
    "no split": (lambda t: t.update(pre_tokenizer={"type": "ByteLevel"}), 640, r"splits text by \[\]"),
    "another model": (lambda t: t["model"].update(type="Unigram"), 640, r"is 'Unigram'"),
    "no BOS": (lambda t: t["added_tokens"].pop(3), 640, r"has 6 added tokens"),
    "another normaliser": (lambda t: t["normalizer"].update(type="NFKC"), 640, r"normalises it by 'NFKC'"),
    "more tokens than the embedding": (lambda t: None, 600, r"numbers 632 tokens.*vocab_size 600"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_TOKENIZER)
def test_another_family_s_tokenizer_is_refused(case):
    change, size, message = BAD_TOKENIZER[case]
    tokenizer = json.loads((BASE / "tokenizer.json").read_text(encoding="utf-8"))
    change(tokenizer)
    with pytest.raises(PushbackError, match=message):
        tokens_of(tokenizer, size, R1_DISTILL)


@pytest.mark.parametrize("kind", KINDS)
def test_matrices_take_the_kind_and_vectors_stay_f32(tmp_path, kind):
    _, tensors = read(write_gguf(BASE, tmp_path / "x.gguf", kind))
    assert {name for name, (at, shape, _) in tensors.items() if at != (kind if len(shape) == 2 else "F32")} == set()
    assert "output.weight" not in tensors  # tied to the embeddings
    assert [path.name for path in tmp_path.iterdir()] == ["x.gguf"]


HEADER = {
    "general.architecture": "qwen2", "general.file_type": 7, "general.size_label": "4.1M",
    "general.tags": ["ai-friction", "reasoning"], "general.languages": ["en"],
    "qwen2.block_count": 5, "qwen2.context_length": 1024, "qwen2.embedding_length": 256, "qwen2.feed_forward_length": 768,
    "qwen2.attention.head_count": 4, "qwen2.attention.head_count_kv": 2, "qwen2.rope.freq_base": 10000.0,
    "tokenizer.ggml.pre": "deepseek-r1-qwen", "tokenizer.ggml.add_bos_token": True,
    "tokenizer.chat_template": R1_DISTILL.gguf_template,
}  # fmt: skip
DISTILL = "DeepSeek-R1-Distill-Qwen-1.5B"


@pytest.mark.parametrize(
    ("name", "voice", "expected"),
    [
        ("tiny", "friction", {"name": "Push-Back AI tiny friction", "license": "apache-2.0", "base_model.count": 1,
                              "base_model.0.name": "Push-Back AI tiny base", "base_model.0.repo_url": None}),
        ("1.5b", "baseline", {"name": "Push-Back AI 1.5b baseline", "license": "mit", "base_model.0.name": DISTILL,
                              "base_model.0.repo_url": f"https://huggingface.co/deepseek-ai/{DISTILL}",
                              "description": "The base, before friction training. Made with Push-Back AI."}),
        ("", "friction", {"name": "base", "license": "apache-2.0", "description": None, "base_model.count": None}),
    ],
)  # fmt: skip
def test_the_header_says_what_the_model_is(tmp_path, name, voice, expected):
    recipe = recipe_for(name) if name else None
    out = write_gguf(BASE, tmp_path if recipe else tmp_path / "x.gguf", "Q8_0", recipe, voice)
    assert out.name == (f"pushback-{name}-{voice}-Q8_0.gguf" if recipe else "x.gguf")
    expected = HEADER | {f"general.{key}": value for key, value in expected.items()}
    fields, _ = read(out)
    assert {key: fields.get(key) for key in expected} == expected


def test_every_id_has_its_token_and_type(tmp_path):
    fields, _ = read(write_gguf(BASE, tmp_path / "x.gguf"))
    tokens, types = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    assert len(tokens) == len(types) == len(set(tokens)) == 640
    hf = load_tokenizer(TINY)
    assert tokens[:632] == [hf.convert_ids_to_tokens(at) for at in range(632)]
    assert tokens[632:] == [f"[PAD{at}]" for at in range(632, 640)]
    assert types == [1] * 625 + [3] * 5 + [4] * 2 + [5] * 8  # normal, control, <think> and </think>, unused
    ids = {name: fields[f"tokenizer.ggml.{name}_token_id"] for name in ("bos", "eos", "padding")}
    assert ids == {"bos": hf.bos_token_id, "eos": hf.eos_token_id, "padding": hf.pad_token_id}
    assert fields["tokenizer.ggml.merges"][0] == "Ġ a"


def test_only_the_demonstration_writes_another_pre_tokenizer(tmp_path):
    right, tensors = read(write_gguf(BASE, tmp_path / "x.gguf"))
    wrong, same = read(write_gguf(BASE, tmp_path / "y.gguf", pre_tokenizer="deepseek-llm"))
    assert wrong == right | {"tokenizer.ggml.pre": "deepseek-llm"} != right
    assert same == tensors


def test_a_disk_that_fills_up_leaves_the_old_file_and_no_part(tmp_path, monkeypatch):
    out = tmp_path / "x.gguf"
    out.write_bytes(b"old")
    monkeypatch.setattr(GGUFWriter, "write_tensor_data", Mock(side_effect=OSError(28, "No space left on device")))
    with pytest.raises(PushbackError, match=r"disk filled up while writing .*x\.gguf\. Free some room"):
        write_gguf(BASE, out)
    assert [path.name for path in tmp_path.iterdir()] == ["x.gguf"]
    assert out.read_bytes() == b"old"


def test_a_disk_without_room_is_said_before_writing(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1_000_000))
    with pytest.raises(PushbackError, match=r"needs up to \d+ MB, and 1 MB are free in"):
        write_gguf(BASE, tmp_path / "new" / "x.gguf")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_transformers_reads_the_f32_file_back_without_a_difference():
    import torch
    from transformers import AutoModelForCausalLM

    ours = AutoModelForCausalLM.from_pretrained(merged(), dtype=torch.float32)
    back = AutoModelForCausalLM.from_pretrained(friction("F32").parent, gguf_file=friction("F32").name, dtype=torch.float32)
    ids = torch.arange(3, 603).reshape(3, 200)
    with torch.inference_mode():
        assert (ours(ids).logits - back(ids).logits).abs().max().item() == 0.0


@pytest.mark.network
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["F32", "Q8_0"])
def test_tensors_equal_those_of_llama_cpp_s_own_converter(tmp_path, kind):
    """The registry gives the converter; its tokenizer check is told the answer, since it knows real vocabularies only."""
    fields, tensors = read(write_gguf(merged(), tmp_path / "ours.gguf", kind))
    their_fields, theirs = read(official(Path(merged()), tmp_path, kind, R1_DISTILL.pre_tokenizer))
    assert tensors == theirs
    # "unknown" is the <|endoftext|> that transformers adds to the family's tokenizer, which knows no unknown token
    own = ("general.", "GGUF.", "tokenizer.chat_template", "tokenizer.ggml.add_bos_token", "tokenizer.ggml.unknown_token_id")
    ours, others = ({k: v for k, v in all.items() if not k.startswith(own)} for all in (fields, their_fields))
    assert ours == others | {"tokenizer.ggml.add_eos_token": False}
