"""Opens a merged 16-bit Qwen2 folder, refuses what is not one, and gives its tensors; knows nothing about GGUF."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import PushbackError

if TYPE_CHECKING:
    import numpy as np

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
MERGE = "Merge the adapter into 16-bit weights first, with `pushback ship all` or notebook 05."


@dataclass(frozen=True)
class Source:
    """A model folder whose files are whole: its config, its tokenizer.json, and the file that holds each tensor."""

    folder: Path
    config: dict[str, Any]
    tokenizer: dict[str, Any]
    files: dict[str, Path]
    shapes: dict[str, tuple[int, ...]]

    def tensors(self, names: Iterator[str] | list[str]) -> Iterator[tuple[str, np.ndarray]]:
        """(name, float32 values) one after the other, so that only one tensor is in memory at a time."""
        from safetensors import safe_open

        for name in names:
            with safe_open(self.files[name], framework="pt") as file:
                yield name, file.get_tensor(name).float().numpy()


def open_source(folder: str | Path) -> Source:
    """Raises PushbackError for a missing file, a pickle, another architecture, 4-bit or damaged weights."""
    folder = Path(folder)
    if not folder.is_dir():
        raise PushbackError(f"No model folder at {folder}. {MERGE}")
    config = _json(folder / "config.json", MERGE)
    _check_architecture(folder, config)
    tokenizer = _json(folder / "tokenizer.json", f"Copy it from the base model's folder, or start anew: {MERGE}")
    files, shapes = _weights(folder)
    _check_complete(folder, config, shapes)
    return Source(folder, config, tokenizer, files, shapes)


def _json(path: Path, cure: str) -> dict[str, Any]:
    if not path.is_file():
        raise PushbackError(f"No {path.name} in {path.parent}. {cure}")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise PushbackError(f"{path} is damaged ({error}). {cure}") from error


def _check_architecture(folder: Path, config: dict[str, Any]) -> None:
    found = (config.get("architectures") or [config.get("model_type")])[0]
    if found != "Qwen2ForCausalLM":
        raise PushbackError(
            f"The model in {folder} is a {found}, and this writer knows Qwen2ForCausalLM only. Take a "
            "DeepSeek-R1-Distill-Qwen size (1.5b, 7b, 14b); for the Llama distills (8B, 70B) use llama.cpp's own "
            "convert_hf_to_gguf.py."
        )
    rope = (config.get("rope_parameters") or config.get("rope_scaling") or {}).get("rope_type", "default")
    if rope != "default" or config.get("use_sliding_window") or config.get("hidden_act", "silu") != "silu":
        raise PushbackError(
            f"The Qwen2 model in {folder} uses rope {rope!r}, sliding window {bool(config.get('use_sliding_window'))}, "
            f"activation {config.get('hidden_act')!r}; this writer knows plain Qwen2 only. Use llama.cpp's own converter."
        )
    if config.get("quantization_config"):
        raise PushbackError(f"The weights in {folder} are quantised already. {MERGE}")


def _weights(folder: Path) -> tuple[dict[str, Path], dict[str, tuple[int, ...]]]:
    """The file and the shape of every tensor."""
    from safetensors import SafetensorError, safe_open

    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
        if pickles:
            raise PushbackError(
                f"{folder} holds {pickles[0]}, a pickle, which can run any code when it is opened, and no safetensors. "
                "Save the model anew with `save_pretrained`, which writes safetensors."
            )
        raise PushbackError(f"No *.safetensors in {folder}. {MERGE}")
    files: dict[str, Path] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for path in paths:
        try:
            with safe_open(path, framework="numpy") as file:
                for name in file.keys():  # noqa: SIM118
                    part = file.get_slice(name)
                    if part.get_dtype() not in ("BF16", "F16", "F32"):
                        raise PushbackError(f"{name} in {path} is {part.get_dtype()}, not 16- or 32-bit. {MERGE}")
                    files[name], shapes[name] = path, tuple(part.get_shape())
        except SafetensorError as error:
            raise PushbackError(f"The weights at {path} are damaged ({error}). {MERGE}") from error
    return files, shapes


def expected_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """The tensors of a plain Qwen2 by their Hugging Face names; `lm_head` only where it is not tied to the embeddings."""
    width, inner, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    heads = config["num_attention_heads"]
    size = config.get("head_dim") or width // heads
    out, kv = heads * size, config["num_key_value_heads"] * size
    layer = {
        "input_layernorm.weight": (width,), "post_attention_layernorm.weight": (width,),
        "self_attn.q_proj.weight": (out, width), "self_attn.q_proj.bias": (out,),
        "self_attn.k_proj.weight": (kv, width), "self_attn.k_proj.bias": (kv,),
        "self_attn.v_proj.weight": (kv, width), "self_attn.v_proj.bias": (kv,),
        "self_attn.o_proj.weight": (width, out),
        "mlp.gate_proj.weight": (inner, width), "mlp.up_proj.weight": (inner, width), "mlp.down_proj.weight": (width, inner),
    }  # fmt: skip
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocab, width)}
    for at in range(config["num_hidden_layers"]):
        shapes |= {f"model.layers.{at}.{name}": shape for name, shape in layer.items()}
    shapes["model.norm.weight"] = (width,)
    if not config.get("tie_word_embeddings", False):
        shapes["lm_head.weight"] = (vocab, width)
    return shapes


def _check_complete(folder: Path, config: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> None:
    expected = expected_shapes(config)
    tied = {"lm_head.weight"} if config.get("tie_word_embeddings", False) else set()
    wrong = [name for name, shape in expected.items() if shapes.get(name) != shape] + sorted(set(shapes) - set(expected) - tied)
    if wrong:
        name = wrong[0]
        raise PushbackError(
            f"{len(wrong)} tensors in {folder} are not what its config.json promises; first: {name} is "
            f"{shapes.get(name, 'missing')}, expected {expected.get(name, 'no such tensor')}. {MERGE}"
        )
