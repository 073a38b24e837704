"""Write a model folder as a GGUF file, and quantise it."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.common import PushbackError
from ..core.files import replacing
from ..train.base import ASSISTANT, BOS, EOS, QWEN2_SPLIT, USER

if TYPE_CHECKING:
    import numpy as np
    from gguf import GGMLQuantizationType, GGUFWriter

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


PRE_TOKENIZER = "deepseek-r1-qwen"  # llama.cpp's name for Qwen2's split with DeepSeek's special tokens
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # llama.cpp's token types (gguf.TokenType)

# What the family's published template does for system, user and assistant messages, without its tool branches: a template
# that mentions tool calls makes Ollama ignore the Modelfile's TEMPLATE. llama.cpp looks for the very words
# `content.split('</think>')` to know that replies begin inside a thought, and then gives it apart as reasoning_content.
CHAT_TEMPLATE = (
    "{%- set ns = namespace(system='') -%}"
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'system' -%}{%- set ns.system = message['content'] -%}{%- endif -%}"
    "{%- endfor -%}"
    "{{- bos_token -}}{{- ns.system -}}"
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'user' -%}{{- '" + USER + "' + message['content'] -}}{%- endif -%}"
    "{%- if message['role'] == 'assistant' -%}{%- set content = message['content'] -%}"
    "{{- '" + ASSISTANT + "' + content.split('</think>')[-1] + '" + EOS + "' -}}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '" + ASSISTANT + "<think>\\n' -}}{%- endif -%}"
)


def tokenizer_fields(tokenizer: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """GGUF header fields, by key, from the contents of tokenizer.json and config.json (for `vocab_size`).

    BOS is left to the runtime (`add_bos_token`): llama.cpp and Ollama put it in front of a rendered prompt and take it out
    of the template's text, so that there is one. Raises PushbackError for any tokenizer but the family's, since llama.cpp
    would load it silently and split text in other places.
    """
    _check_family(tokenizer)
    tokens, types = _tokens(tokenizer, config["vocab_size"])
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in tokenizer["model"]["merges"]]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": PRE_TOKENIZER,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": tokens.index(BOS),
        "tokenizer.ggml.eos_token_id": tokens.index(EOS),
        "tokenizer.ggml.padding_token_id": tokens.index(EOS),
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": False,
    }


def _check_family(tokenizer: dict[str, Any]) -> None:
    model, before = tokenizer.get("model") or {}, tokenizer.get("pre_tokenizer") or {}
    steps = before.get("pretokenizers", [before])
    splits = [step.get("pattern", {}).get("Regex") for step in steps if step.get("type") == "Split"]
    named = {token["content"] for token in tokenizer.get("added_tokens", [])}
    if model.get("type") != "BPE" or splits != [QWEN2_SPLIT] or not {BOS, EOS, USER, ASSISTANT} <= named:
        raise PushbackError(
            f"This tokenizer.json is {model.get('type')!r}, splits text by {splits} and has {len(named)} added tokens; "
            "that is not DeepSeek-R1-Distill-Qwen's. Take tokenizer.json from the base model's folder, unchanged."
        )
    if (tokenizer.get("normalizer") or {}).get("type") not in (None, "NFC"):
        raise PushbackError(
            f"This tokenizer.json normalises text by {tokenizer['normalizer']['type']!r}; llama.cpp cannot, and the "
            "family's is 'NFC'. Take tokenizer.json from the base model's folder, unchanged."
        )


def _tokens(tokenizer: dict[str, Any], size: int) -> tuple[list[str], list[int]]:
    """Every id's text and type; ids that the embedding has and the tokenizer does not are named [PADn]."""
    words = dict.fromkeys(range(size), ("", UNUSED))
    words |= {at: (text, NORMAL) for text, at in tokenizer["model"]["vocab"].items()}
    words |= {token["id"]: (token["content"], _token_type(token)) for token in tokenizer["added_tokens"]}
    if len(words) > size:
        raise PushbackError(
            f"tokenizer.json numbers {max(words) + 1} tokens, and config.json says vocab_size {size}: they are of different "
            "models. Take both from one folder."
        )
    return [words[at][0] or f"[PAD{at}]" for at in range(size)], [words[at][1] for at in range(size)]


def _token_type(token: dict[str, Any]) -> int:
    """CONTROL for special tokens and for those that look it, as llama.cpp's converter decides."""
    looks_special = token["content"].startswith(("<|", "<｜")) and token["content"].endswith(("|>", "｜>"))
    return CONTROL if token["special"] or looks_special else USER_DEFINED


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


K_QUANTS = ("Q4_K_M", "Q5_K_M")
BLOCK = 256  # numbers in a row that a K-quant packs together


def quantise(f32: str | Path, out: str | Path, kind: str = "Q4_K_M", *, threads: int = 2) -> Path:
    """Writes `out` from an F32 (or 16-bit) GGUF, under its final name only when whole; returns `out`.

    Raises PushbackError for an unknown kind, a missing file or package, or rows that do not divide by 256: llama.cpp would
    store those in another format and keep the file's name.
    """
    f32, out = Path(f32), Path(out)
    if kind not in K_QUANTS:
        raise PushbackError(f"No K-quant {kind!r}. Choose one of {', '.join(K_QUANTS)}; for the others use `write_gguf`.")
    if not f32.is_file():
        raise PushbackError(f"No GGUF file at {f32}. Make one with `pushback ship gguf --kind F32`.")
    _check_rows(f32, kind)
    check_room(out, f32.stat().st_size)
    try:
        from cyllama.llama import llama_cpp
    except ImportError as error:
        raise PushbackError(
            f"{kind} needs llama.cpp's quantiser, which is not there ({error}). Install it with "
            "`pip install 'pushback-ai[ship]'`, or take Q8_0."
        ) from error
    from gguf import LlamaFileType

    params = llama_cpp.LlamaModelQuantizeParams()
    params.ftype, params.nthread = int(LlamaFileType[f"MOSTLY_{kind}"]), threads
    llama_cpp.disable_logging()
    guarded(out, lambda part: _quantise(llama_cpp, f32, part, params))
    return out


def _quantise(llama_cpp: object, f32: Path, part: Path, params: object) -> None:
    try:
        llama_cpp.model_quantize(str(f32), str(part), params)  # type: ignore[attr-defined]
    except RuntimeError as error:
        raise PushbackError(
            f"llama.cpp could not quantise {f32} ({error}). Make that file anew with `pushback ship gguf --kind F32`, and see "
            "that the disk has room."
        ) from error


def _check_rows(f32: Path, kind: str) -> None:
    from gguf import GGUFReader

    try:
        tensors = GGUFReader(f32).tensors
    except (ValueError, IndexError, OSError) as error:
        raise PushbackError(f"{f32} is no whole GGUF file ({error}). Make it anew with `pushback ship gguf`.") from error
    odd = [tensor.name for tensor in tensors if len(tensor.shape) > 1 and tensor.shape[0] % BLOCK]
    if odd:
        raise PushbackError(
            f"{len(odd)} matrices of {f32} have rows that {BLOCK} does not divide ({odd[0]}): they would be stored in another "
            f"format than {kind}. Take Q8_0."
        )
