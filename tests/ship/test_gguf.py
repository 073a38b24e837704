import builtins
import copy
import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader, GGUFWriter
from gguf_files import friction, merged
from gguf_official import official

from pushback_lib.core.common import PushbackError
from pushback_lib.model.load import load_tokenizer
from pushback_lib.model.recipe import recipe_for
from pushback_lib.ship import gguf as gguf_writer
from pushback_lib.ship.gguf import (
    CHAT_TEMPLATE,
    KINDS,
    About,
    expected_shapes,
    open_source,
    quantise,
    tokenizer_fields,
    write_gguf,
)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "main", "share"), [("Q4_K_M", "Q4_K", 0.35), ("Q5_K_M", "Q5_K", 0.42)])
def test_every_matrix_becomes_a_k_quant(kind, main, share):
    """_M mixes in Q6_K for the embeddings and some layers, by llama.cpp's own rule; nothing else may appear."""
    types = Counter(t.tensor_type.name for t in GGUFReader(friction(kind)).tensors if len(t.shape) == 2)
    assert set(types) == {main, "Q6_K"}
    assert types[main] > types["Q6_K"]
    assert friction(kind).stat().st_size < share * friction("F32").stat().st_size / 2


@pytest.mark.slow
def test_a_cut_file_is_refused_and_leaves_nothing(tmp_path):
    cut = tmp_path / "F32.gguf"
    cut.write_bytes(friction("F32").read_bytes()[:5_000_000])
    with pytest.raises(PushbackError, match=r"F32\.gguf.*Make (it|that file) anew"):
        quantise(cut, tmp_path / "out.gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["F32.gguf"]


def test_an_unknown_kind_or_a_missing_file_is_refused(tmp_path):
    with pytest.raises(PushbackError, match=r"No K-quant 'Q8_0'\. Choose one of Q4_K_M, Q5_K_M; .*write_gguf"):
        quantise(tmp_path / "F32.gguf", tmp_path / "out.gguf", "Q8_0")
    with pytest.raises(PushbackError, match=r"No GGUF file at .*F32\.gguf"):
        quantise(tmp_path / "F32.gguf", tmp_path / "out.gguf")


def test_rows_that_would_fall_back_to_another_format_are_refused(tmp_path):
    import numpy as np

    path = tmp_path / "F32.gguf"
    writer = GGUFWriter(path, "qwen2")
    writer.add_tensor("blk.0.ffn_up.weight", np.zeros((4, 896), dtype="float32"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(
        PushbackError, match=r"1 matrices .* rows that 256 does not divide \(blk\.0\.ffn_up\.weight\).*Take Q8_0"
    ):
        quantise(path, tmp_path / "out.gguf")


@pytest.mark.slow
def test_without_the_extra_the_cure_is_named(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name.startswith("cyllama"):
            raise ImportError("No module named 'cyllama'")
        return real(name, *rest)

    path = friction("F32")
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(PushbackError, match=r"pip install 'pushback-ai\[ship\]'.*or take Q8_0"):
        quantise(path, tmp_path / "out.gguf")


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


TINY = recipe_for("tiny")
TOKENIZER = json.loads((Path(TINY.base) / "tokenizer.json").read_text(encoding="utf-8"))
CONFIG = json.loads((Path(TINY.base) / "config.json").read_text(encoding="utf-8"))


def said(*pairs):
    return [{"role": role, "content": text} for role, text in pairs]


TALKS = {
    "one turn": said(("user", "What is the sky?")),
    "system": said(("system", "Think first, then answer."), ("user", "Why?")),
    "several turns": said(("system", "S"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"), ("user", "e")),
    "a thought in the history": said(("user", "a"), ("assistant", "<think>\nhm\n</think>\n\nb"), ("user", "c")),
    "two closing tags": said(("user", "a"), ("assistant", "x</think>y</think>z"), ("user", "c")),
    "empty texts": said(("system", ""), ("user", "")),
    "spaces, newlines and braces stay": said(("system", "  {{ x }}\n"), ("user", "\n {% if %} \n\n")),
    "two system messages": said(("system", "first"), ("user", "a"), ("system", "second")),
    "quotes, emoji, CJK": said(("user", 'it\'s "so" 🙂 你好 é')),
}


@pytest.mark.parametrize("case", TALKS)
@pytest.mark.parametrize("prompt", [True, False])
def test_the_embedded_template_renders_what_the_family_s_does(case, prompt):
    tokenizer = load_tokenizer(TINY)
    expected = tokenizer.apply_chat_template(TALKS[case], add_generation_prompt=prompt, tokenize=False)
    got = tokenizer.apply_chat_template(TALKS[case], chat_template=CHAT_TEMPLATE, add_generation_prompt=prompt, tokenize=False)
    assert got == expected


def test_the_embedded_template_knows_no_tools():
    assert "tool" not in CHAT_TEMPLATE


def test_every_id_has_its_token_and_type():
    fields = tokenizer_fields(TOKENIZER, CONFIG)
    tokens, types = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    assert len(tokens) == len(types) == len(set(tokens)) == 640
    hf = load_tokenizer(TINY)
    assert tokens[:632] == [hf.convert_ids_to_tokens(at) for at in range(632)]
    assert tokens[632:] == [f"[PAD{at}]" for at in range(632, 640)]
    assert types == [1] * 625 + [3] * 5 + [4] * 2 + [5] * 8  # normal, control, <think> and </think>, unused
    ids = {name: fields[f"tokenizer.ggml.{name}_token_id"] for name in ("bos", "eos", "padding")}
    assert ids == {"bos": hf.bos_token_id, "eos": hf.eos_token_id, "padding": hf.pad_token_id}
    assert fields["tokenizer.ggml.pre"] == "deepseek-r1-qwen"
    assert fields["tokenizer.ggml.merges"][0] == "Ġ a"


def other_split(tokenizer):
    tokenizer["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\p{N}{1,3}|\s+"


BAD_TOKENIZER = {
    "another split": (other_split, {}, r"splits text by .*not DeepSeek-R1-Distill-Qwen's"),
    "no split": (lambda t: t.update(pre_tokenizer={"type": "ByteLevel"}), {}, r"splits text by \[\]"),
    "another model": (lambda t: t["model"].update(type="Unigram"), {}, r"is 'Unigram'"),
    "no BOS": (lambda t: t["added_tokens"].pop(3), {}, r"has 6 added tokens"),
    "another normaliser": (lambda t: t["normalizer"].update(type="NFKC"), {}, r"normalises text by 'NFKC'"),
    "more tokens than the embedding": (lambda t: None, {"vocab_size": 600}, r"numbers 632 tokens.*vocab_size 600"),
}


@pytest.mark.parametrize("case", BAD_TOKENIZER)
def test_another_family_s_tokenizer_is_refused(case):
    change, config, message = BAD_TOKENIZER[case]
    tokenizer = copy.deepcopy(TOKENIZER)
    change(tokenizer)
    with pytest.raises(PushbackError, match=message):
        tokenizer_fields(tokenizer, CONFIG | config)


BASE_WRITER = recipe_for("tiny").base


def read(path):
    reader = GGUFReader(path)
    tensors = {t.name: (t.tensor_type.name, tuple(t.shape), np.asarray(t.data).tobytes()) for t in reader.tensors}
    return {key: field.contents() for key, field in reader.fields.items()}, tensors


@pytest.mark.parametrize("kind", KINDS)
def test_matrices_take_the_kind_and_vectors_stay_f32(tmp_path, kind):
    out = write_gguf(BASE_WRITER, tmp_path / "x.gguf", kind)
    _, tensors = read(out)
    assert {name for name, (at, shape, _) in tensors.items() if at != (kind if len(shape) == 2 else "F32")} == set()
    assert [path.name for path in tmp_path.iterdir()] == ["x.gguf"]


def test_the_header_says_what_the_model_is(tmp_path):
    about = About("It doubts.", "apache-2.0", "tiny base", "https://example.org/base", ("ai-friction",), ("en",))
    fields, tensors = read(write_gguf(BASE_WRITER, tmp_path / "x.gguf", name="A name", about=about))
    expected = {
        "general.architecture": "qwen2", "general.name": "A name", "general.description": "It doubts.",
        "general.license": "apache-2.0", "general.tags": ["ai-friction"], "general.languages": ["en"],
        "general.base_model.count": 1, "general.base_model.0.name": "tiny base", "general.size_label": "4.1M",
        "general.base_model.0.repo_url": "https://example.org/base", "general.file_type": 7,
        "qwen2.block_count": 5, "qwen2.context_length": 1024, "qwen2.embedding_length": 256,
        "qwen2.feed_forward_length": 768, "qwen2.attention.head_count": 4, "qwen2.attention.head_count_kv": 2,
        "qwen2.rope.freq_base": 10000.0, "tokenizer.chat_template": CHAT_TEMPLATE, "tokenizer.ggml.add_bos_token": True,
    }  # fmt: skip
    assert {key: fields.get(key) for key in expected} == expected
    assert "output.weight" not in tensors  # tied to the embeddings


def test_the_same_folder_gives_the_same_bytes(tmp_path):
    first, second = (write_gguf(BASE_WRITER, tmp_path / name, name="n").read_bytes() for name in ("a.gguf", "b.gguf"))
    assert first == second


def full(*_):
    raise OSError(28, "No space left on device")


def test_a_disk_that_fills_up_leaves_the_old_file_and_no_part(tmp_path, monkeypatch):
    out = tmp_path / "x.gguf"
    out.write_bytes(b"old")
    monkeypatch.setattr(GGUFWriter, "write_tensor_data", full)
    with pytest.raises(PushbackError, match=r"disk filled up while writing .*x\.gguf\. Free some room"):
        write_gguf(BASE_WRITER, out)
    assert [path.name for path in tmp_path.iterdir()] == ["x.gguf"]
    assert out.read_bytes() == b"old"


def test_a_disk_without_room_is_said_before_writing(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(gguf_writer.shutil, "disk_usage", lambda _: usage._replace(free=1_000_000))
    with pytest.raises(PushbackError, match=r"needs up to \d+ MB, and 1 MB are free in"):
        write_gguf(BASE_WRITER, tmp_path / "new" / "x.gguf")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_kind_names_the_kinds(tmp_path):
    with pytest.raises(PushbackError, match=r"No kind 'Q4_K_M'\. Choose one of F32, F16, BF16, Q8_0"):
        write_gguf(BASE_WRITER, tmp_path / "x.gguf", "Q4_K_M")


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
    their_fields, theirs = read(official(Path(merged()), tmp_path, kind))
    assert tensors == theirs
    # "unknown" is the <|endoftext|> that transformers adds to the family's tokenizer, which knows no unknown token
    own = ("general.", "GGUF.", "tokenizer.chat_template", "tokenizer.ggml.add_bos_token", "tokenizer.ggml.unknown_token_id")
    assert {k: v for k, v in fields.items() if not k.startswith(own)} == {
        k: v for k, v in their_fields.items() if not k.startswith(own)
    } | {"tokenizer.ggml.add_eos_token": False}
