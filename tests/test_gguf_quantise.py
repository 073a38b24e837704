import builtins
from collections import Counter

import pytest
from gguf import GGUFReader, GGUFWriter
from gguf_files import friction

from pushback_lib.errors import PushbackError
from pushback_lib.gguf_quantise import quantise


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
