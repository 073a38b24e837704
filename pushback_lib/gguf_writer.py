"""Writes a merged Qwen2 folder as one GGUF file in F32, F16, BF16 or Q8_0; knows nothing about running it.

Matrices take the chosen type; norms and biases stay F32, as in llama.cpp's own converter, whose tensors these equal.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import PushbackError
from .gguf_source import Source, expected_shapes, open_source
from .gguf_tokenizer import CHAT_TEMPLATE, tokenizer_fields
from .jsonl import replacing

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType, GGUFWriter

KINDS = ("F32", "F16", "BF16", "Q8_0")
HEADER_ROOM = 64 << 20  # bytes; the real vocabulary's header takes about 6 MB

_LAYER = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip
_OUTER = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
          "lm_head.weight": "output.weight"}  # fmt: skip


@dataclass(frozen=True)
class About:
    """Model-card facts for the header (`general.*`); empty ones are left out."""

    description: str = ""
    licence: str = "apache-2.0"
    base_name: str = ""
    base_url: str = ""
    tags: tuple[str, ...] = ("ai-friction", "reasoning")
    languages: tuple[str, ...] = ("en",)


def write_gguf(
    model: str | Path,
    out: str | Path,
    kind: str = "Q8_0",
    *,
    name: str = "",
    template: str = CHAT_TEMPLATE,
    about: About | None = None,
) -> Path:
    """Writes the folder `model` to the file `out`, under its final name only when whole; returns `out`.

    Raises PushbackError, before writing, for a folder or tokenizer that is not Qwen2's, weights that are no safetensors,
    an unknown kind, or too little room on the disk.
    """
    out = Path(out)
    if kind not in KINDS:
        raise PushbackError(f"No kind {kind!r}. Choose one of {', '.join(KINDS)}; for Q4_K_M and Q5_K_M, `quantise` an F32.")
    source = open_source(model)
    fields = tokenizer_fields(source.tokenizer, source.config)
    names = list(expected_shapes(source.config))
    plan = {at: _type(source.shapes[at], kind) for at in names}
    check_room(out, sum(_bytes(source.shapes[at], plan[at]) for at in names) + HEADER_ROOM)
    fields = _header(source, kind, name or source.folder.name, about or About()) | fields
    fields["tokenizer.chat_template"] = template
    guarded(out, lambda part: _write(part, source, plan, fields))
    return out


def guarded(out: Path, write: Callable[[Path], None]) -> None:
    """Writes aside, then renames; a disk that fills up meanwhile is a PushbackError, and the part is gone."""
    try:
        with replacing(out) as part:
            write(part)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise PushbackError(f"The disk filled up while writing {out}. Free some room, or choose another folder.") from error


def check_room(out: Path, need: int) -> None:
    """Raises PushbackError if the disk that will hold `out` has fewer than `need` bytes free."""
    folder = next(parent for parent in out.absolute().parents if parent.exists())
    free = shutil.disk_usage(folder).free
    if free < need:
        raise PushbackError(
            f"{out} needs up to {need / 1e6:,.0f} MB, and {free / 1e6:,.0f} MB are free in {folder}. Free some room, or choose "
            "another folder or a smaller kind."
        )


def gguf_name(name: str) -> str:
    """llama.cpp's name for a Hugging Face Qwen2 tensor: `model.layers.0.mlp.up_proj.weight` is `blk.0.ffn_up.weight`."""
    if name in _OUTER:
        return _OUTER[name]
    at, _, rest = name.removeprefix("model.layers.").partition(".")
    stem, _, end = rest.rpartition(".")
    return f"blk.{at}.{_LAYER[stem]}.{end}"


def _type(shape: tuple[int, ...], kind: str) -> GGMLQuantizationType:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    if len(shape) == 1:
        return GGMLQuantizationType.F32
    if shape[-1] % GGML_QUANT_SIZES[GGMLQuantizationType[kind]][0]:
        raise PushbackError(f"Rows of {shape[-1]} numbers do not divide into the blocks of {kind}. Choose F16.")
    return GGMLQuantizationType[kind]


def _bytes(shape: tuple[int, ...], kind: GGMLQuantizationType) -> int:
    from math import prod

    from gguf import GGML_QUANT_SIZES

    block, size = GGML_QUANT_SIZES[kind]
    return prod(shape) // block * size


def _header(source: Source, kind: str, name: str, about: About) -> dict[str, Any]:
    """Header fields by key: what the model is, and the numbers llama.cpp builds it from."""
    from math import prod

    from gguf import GGML_QUANT_VERSION, LlamaFileType, size_label

    config, count = source.config, sum(prod(shape) for shape in source.shapes.values())
    theta = config.get("rope_theta") or (config.get("rope_parameters") or {}).get("rope_theta")
    if not theta:
        raise PushbackError(f"{source.folder / 'config.json'} gives no rope_theta. Take config.json from the base model.")
    fields = {
        "general.type": "model", "general.name": name, "general.size_label": size_label(count, 0, 0, 0),
        "general.description": about.description,
        "general.license": about.licence, "general.tags": list(about.tags), "general.languages": list(about.languages),
        "general.file_type": int(LlamaFileType["ALL_F32" if kind == "F32" else f"MOSTLY_{kind}"]),
        "general.quantization_version": GGML_QUANT_VERSION,
        "qwen2.block_count": config["num_hidden_layers"], "qwen2.context_length": config["max_position_embeddings"],
        "qwen2.embedding_length": config["hidden_size"], "qwen2.feed_forward_length": config["intermediate_size"],
        "qwen2.attention.head_count": config["num_attention_heads"],
        "qwen2.attention.head_count_kv": config["num_key_value_heads"],
        "qwen2.attention.layer_norm_rms_epsilon": float(config["rms_norm_eps"]), "qwen2.rope.freq_base": float(theta),
    }  # fmt: skip
    if about.base_name:
        fields |= {"general.base_model.count": 1, "general.base_model.0.name": about.base_name}
        fields["general.base_model.0.repo_url"] = about.base_url
    return fields


def _write(part: Path, source: Source, plan: dict[str, GGMLQuantizationType], fields: dict[str, Any]) -> None:
    from gguf import GGUFWriter, quantize
    from numpy import dtype
    from tqdm.auto import tqdm

    writer = GGUFWriter(None, "qwen2")
    for key, value in fields.items():
        _add(writer, key, value)
    for name, kind in plan.items():
        shape = source.shapes[name]
        writer.add_tensor_info(gguf_name(name), shape, dtype("float32"), _bytes(shape, kind), raw_dtype=kind)
    try:
        writer.write_header_to_file(part)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for name, values in tqdm(source.tensors(list(plan)), "gguf", len(plan), unit="tensor", mininterval=1, delay=1):
            writer.write_tensor_data(quantize(values, plan[name]))
    finally:
        writer.close()


def _add(writer: GGUFWriter, key: str, value: Any) -> None:
    """One field; llama.cpp wants whole numbers unsigned. Empty texts and lists are left out by the writer."""
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, list):
        writer.add_array(key, value)
    else:
        writer.add_string(key, value)
