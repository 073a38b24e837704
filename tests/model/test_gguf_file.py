"""Which adapter's file belongs to which base's: decided from the headers, before llama.cpp opens either."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader, GGUFWriter, Keys
from gguf_files import TINY, adapter, baseline, merged

from pushback_lib.core.common import FRICTION, PushbackError
from pushback_lib.model.gguf_file import check_pair, fingerprint_of
from pushback_lib.model.llama_cpp import Pair
from pushback_lib.ship.gguf import write_gguf


@pytest.mark.parametrize("kind", ["F32", "F16", "Q8_0", pytest.param("Q4_K_M", marks=pytest.mark.slow)])
@pytest.mark.parametrize("lora", ["F16", "F32"])
def test_every_kind_of_file_of_the_base_is_known_by_its_norms(kind, lora):
    found = check_pair(baseline(kind), adapter(lora))
    assert (found.path, found.header.parameters) == (adapter(lora), TINY.parameters)
    assert (found.header.base, found.header.language) == ("Push-Back AI tiny base", "bundled")
    assert (found.header.system, found.header.max_tokens) == (TINY.system, TINY.max_new_tokens)


def test_a_fingerprint_depends_on_names_and_numbers_and_not_on_their_order():
    one, two = np.ones(4, "f4"), np.arange(4, dtype="f4")
    assert fingerprint_of([("a", one), ("b", two)]) == fingerprint_of([("b", two), ("a", one)])
    others = [[("a", two), ("b", one)], [("a", one)], [("a", one), ("c", two)], [("a", one), ("b", two + 1e-6)]]
    assert fingerprint_of([("a", one), ("b", two)]) not in map(fingerprint_of, others)


def made(
    path: Path, architecture: str, tensors: dict[str, tuple[int, int]], general: str = "model", lora: bool = False
) -> Path:
    """A small GGUF file of zeros."""
    writer = GGUFWriter(path, architecture)
    writer.add_type(general)
    if lora:
        writer.add_string(Keys.Adapter.TYPE, "lora")
    for name, shape in tensors.items():
        writer.add_tensor(name, np.zeros(shape, "f4"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def other_norms(folder: Path) -> Path:
    """The base with one number of one norm changed, as another training would change all."""
    path = shutil.copy(baseline("F32"), folder / "other.gguf")
    [norm] = [tensor for tensor in GGUFReader(path, "r+").tensors if tensor.name == "output_norm.weight"]
    norm.data[3] *= 1.001
    norm.data.base.flush()
    return path


def cut(path: Path, folder: Path) -> Path:
    (folder / "cut.gguf").write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return folder / "cut.gguf"


def garbage(folder: Path) -> Path:
    (folder / "x.gguf").write_bytes(b"hello" * 999)
    return folder / "x.gguf"


def named_friction(folder: Path) -> Path:
    return write_gguf(merged(), folder / "f.gguf", "F16", TINY, FRICTION)


SMALL = {"blk.0.attn_q.weight": (64, 64)}
CASES = {
    "other norms": (other_norms, None, r"made for Push-Back AI tiny base \(4,101,376 parameters\), and .*other\.gguf is "
                                       r"another model: it has the same shape, and other norms\. Give that base's file as"),
    "other architecture": (lambda to: made(to / "l.gguf", "llama", SMALL), None, "its architecture is 'llama', not 'qwen2'"),
    "other shapes": (lambda to: made(to / "q.gguf", "qwen2", SMALL), None, r"its blk\.0\.attn_k\.weight is missing, and the "
                                                                           r"adapter's \[256, 128\]"),
    "already in it": (named_friction, None, r"f\.gguf has the friction adapter in its weights already.*ship lora --base"),
    "swapped": (lambda to: adapter("F16"), lambda to: baseline("F16"), "adapter-F16.gguf is an adapter, no model"),
    "two models": (None, lambda to: baseline("F16"), r"baseline-F16\.gguf is no LoRA adapter\. Write one"),
    "of others": (None, lambda to: made(to / "a.gguf", "qwen2", {}, "adapter", lora=True), r"a\.gguf does not say for"),
    "cut adapter": (None, lambda to: cut(adapter("F32"), to), r"cut\.gguf is not a complete GGUF file.*`pushback ship lora`"),
    "cut base": (lambda to: cut(baseline("F32"), to), None, r"cut\.gguf is not a complete GGUF file.*ship lora --base"),
    "no adapter": (None, lambda to: to / "none.gguf", r"No GGUF file at .*none\.gguf\. Make one with `pushback ship lora`"),
    "no base": (lambda to: to / "none.gguf", None, r"No GGUF file at .*none\.gguf"),
    "garbage": (None, garbage, r"x\.gguf is not a complete GGUF file"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_does_not_belong_together_is_refused_before_anything_loads(tmp_path, case, monkeypatch):
    gguf, lora, message = CASES[case]
    monkeypatch.setattr("pushback_lib.model.llama_cpp._start", lambda _: pytest.fail("llama.cpp was started"))
    with pytest.raises(PushbackError, match=message):
        Pair(gguf(tmp_path) if gguf else baseline("F16"), lora(tmp_path) if lora else adapter("F16"))


def test_the_merged_base_of_one_s_own_name_is_taken_for_a_base_by_its_norms_alone(tmp_path):
    """A limit: what was merged elsewhere, under another name, has the norms of its base."""
    check_pair(write_gguf(merged(), tmp_path / "m.gguf", "F16"), adapter("F16"))
