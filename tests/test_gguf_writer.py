import shutil
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader, GGUFWriter
from gguf_files import friction, merged
from gguf_official import official

from pushback_lib import gguf_writer
from pushback_lib.errors import PushbackError
from pushback_lib.gguf_tokenizer import CHAT_TEMPLATE
from pushback_lib.gguf_writer import KINDS, About, write_gguf
from pushback_lib.recipe import recipe_for

BASE = recipe_for("tiny").base


def read(path):
    reader = GGUFReader(path)
    tensors = {t.name: (t.tensor_type.name, tuple(t.shape), np.asarray(t.data).tobytes()) for t in reader.tensors}
    return {key: field.contents() for key, field in reader.fields.items()}, tensors


@pytest.mark.parametrize("kind", KINDS)
def test_matrices_take_the_kind_and_vectors_stay_f32(tmp_path, kind):
    out = write_gguf(BASE, tmp_path / "x.gguf", kind)
    _, tensors = read(out)
    assert {name for name, (at, shape, _) in tensors.items() if at != (kind if len(shape) == 2 else "F32")} == set()
    assert [path.name for path in tmp_path.iterdir()] == ["x.gguf"]


def test_the_header_says_what_the_model_is(tmp_path):
    about = About("It doubts.", "apache-2.0", "tiny base", "https://example.org/base", ("ai-friction",), ("en",))
    fields, tensors = read(write_gguf(BASE, tmp_path / "x.gguf", name="A name", about=about))
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
    first, second = (write_gguf(BASE, tmp_path / name, name="n").read_bytes() for name in ("a.gguf", "b.gguf"))
    assert first == second


def full(*_):
    raise OSError(28, "No space left on device")


def test_a_disk_that_fills_up_leaves_the_old_file_and_no_part(tmp_path, monkeypatch):
    out = tmp_path / "x.gguf"
    out.write_bytes(b"old")
    monkeypatch.setattr(GGUFWriter, "write_tensor_data", full)
    with pytest.raises(PushbackError, match=r"disk filled up while writing .*x\.gguf\. Free some room"):
        write_gguf(BASE, out)
    assert [path.name for path in tmp_path.iterdir()] == ["x.gguf"]
    assert out.read_bytes() == b"old"


def test_a_disk_without_room_is_said_before_writing(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(gguf_writer.shutil, "disk_usage", lambda _: usage._replace(free=1_000_000))
    with pytest.raises(PushbackError, match=r"needs up to \d+ MB, and 1 MB are free in"):
        write_gguf(BASE, tmp_path / "new" / "x.gguf")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_kind_names_the_kinds(tmp_path):
    with pytest.raises(PushbackError, match=r"No kind 'Q4_K_M'\. Choose one of F32, F16, BF16, Q8_0"):
        write_gguf(BASE, tmp_path / "x.gguf", "Q4_K_M")


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
