"""Write a model folder as a GGUF file, and quantise it."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.common import BASELINE, FRICTION, PushbackError
from ..core.files import replacing
from ..model.checks import DTYPES, INDEX, WEIGHTS, check_base, tensors_of, weight_files
from ..model.family import Family, family_of, splits_of
from ..model.gguf_file import read_gguf
from ..model.package import unpack_if_needed
from ..model.recipe import Recipe, as_config, config_for, read_json

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType, GGUFWriter
    from transformers import PreTrainedConfig

KINDS = ("F32", "F16", "BF16", "Q8_0")
K_QUANTS = ("Q4_K_M", "Q5_K_M")
ALL_KINDS = (*KINDS, *K_QUANTS)
HEADER_BYTES = 64 << 20  # at most; the real vocabulary's header takes about 6 MB
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
MERGE = "Merge the adapter into 16-bit weights first, with `pushback ship all` or notebook 05."
WHAT = {FRICTION: "Doubts, asks first, disagrees or refuses where that helps",
        BASELINE: "The base, before friction training"}  # fmt: skip

Shapes = dict[str, tuple[int, ...]]  # of tensors, by their Hugging Face names


@dataclass(frozen=True)
class Source:
    """A complete model folder: config, contents of tokenizer.json, and each tensor's file and shape in the GGUF's order."""

    folder: Path
    config: PreTrainedConfig
    tokenizer: dict[str, Any]
    files: dict[str, Path]
    shapes: Shapes

    @property
    def family(self) -> Family:
        return family_of(self.config)


def open_source(folder: str | Path) -> Source:
    """Raises PushbackError for a missing file, a pickle, another architecture, 4-bit or damaged weights."""
    from huggingface_hub.errors import StrictDataclassError

    folder = Path(folder)
    unpack_if_needed(folder)
    if not folder.is_dir():
        raise PushbackError(f"No model folder at {folder}. {MERGE}")
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
    if pickles and not any((folder / name).is_file() for name in (WEIGHTS, INDEX)):
        raise PushbackError(
            f"{folder} holds {pickles[0]}, a pickle, which can run any code when it is opened, and no safetensors. "
            "Save the model again with `save_pretrained`, which writes safetensors."
        )
    values = check_base(folder)
    try:
        config = as_config(values, str(folder / "config.json"))
    except StrictDataclassError as error:
        reason = str(error).splitlines()[-1].strip()
        raise PushbackError(f"{folder / 'config.json'} is wrong ({reason}). Take it from the base model.") from error
    _check_plain(folder, values, config)
    shapes = _expected_shapes(config)
    files = _files(folder, shapes, tied=config.tie_word_embeddings)
    return Source(folder, config, read_json(folder / "tokenizer.json", MERGE), files, shapes)


def _check_plain(folder: Path, values: dict[str, Any], config: PreTrainedConfig) -> None:
    """Raises PushbackError for what this writer would leave out of the header, and the runtime would then compute wrongly."""
    rope, plain = config.rope_parameters["rope_type"], family_of(config).plain
    if rope != "default" or any(getattr(config, field) != value for field, _, value in plain):
        more = ", ".join(f"{words} {getattr(config, field)!r}" for field, words, _ in plain)
        raise PushbackError(
            f"The {config.model_type} model in {folder} uses rope {rope!r}, {more}; this writer knows the plain architecture "
            "only. Use llama.cpp's own convert_hf_to_gguf.py."
        )
    if not (values.get("rope_theta") or (values.get("rope_parameters") or {}).get("rope_theta")):
        raise PushbackError(f"{folder / 'config.json'} gives no rope_theta. Take config.json from the base model.")
    if values.get("quantization_config"):
        raise PushbackError(f"The weights in {folder} are quantised already. {MERGE}")


def _expected_shapes(config: PreTrainedConfig) -> Shapes:
    """The tensors of this model by their Hugging Face names, each layer's norms first; a tied `lm_head` is none of its own."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    layers = groupby(model.named_parameters(), key=lambda pair: pair[0].split(".")[:3])
    ordered = (pair for _, layer in layers for pair in sorted(layer, key=lambda pair: "layernorm" not in pair[0]))
    return {name: tuple(values.shape) for name, values in ordered}


def _files(folder: Path, expected: Shapes, *, tied: bool) -> dict[str, Path]:
    """The file of every tensor. Raises PushbackError unless the folder holds exactly the expected ones, in 16 or 32 bit."""
    files: dict[str, Path] = {}
    found: Shapes = {}
    for path in weight_files(folder):
        for name, (dtype, shape) in tensors_of(path, MERGE).items():
            if dtype not in DTYPES:
                raise PushbackError(f"{name} in {path} is {dtype}, not 16- or 32-bit. {MERGE}")
            files[name], found[name] = path, shape
    others = set(found) - set(expected) - ({"lm_head.weight"} if tied else set())
    wrong = [name for name, shape in expected.items() if found.get(name) != shape] + sorted(others)
    if wrong:
        name = wrong[0]
        raise PushbackError(
            f"{len(wrong)} tensors in {folder} are not what its config.json promises; first: {name} is "
            f"{found.get(name, 'missing')}, expected {expected.get(name, 'no such tensor')}. {MERGE}"
        )
    return files


def tokens_of(tokenizer: dict[str, Any], size: int, family: Family) -> tuple[list[str], list[int]]:
    """Text and llama.cpp's type of each of `size` ids; those that the tokenizer does not have are named [PADn].

    Raises PushbackError for any tokenizer but the family's, since llama.cpp would load it without an error and split text
    in other places, and for one with more ids than the model.
    """
    from gguf import TokenType

    _check_family(tokenizer, family)
    words = dict.fromkeys(range(size), ("", TokenType.UNUSED))
    words |= {at: (text, TokenType.NORMAL) for text, at in tokenizer["model"]["vocab"].items()}
    for token in tokenizer["added_tokens"]:
        text = token["content"]  # llama.cpp's converter takes what looks special for special
        special = token["special"] or (text.startswith(("<|", "<｜")) and text.endswith(("|>", "｜>")))
        words[token["id"]] = text, TokenType.CONTROL if special else TokenType.USER_DEFINED
    if len(words) > size:
        raise PushbackError(
            f"tokenizer.json numbers {max(words) + 1} tokens, and config.json says vocab_size {size}: they are of different "
            "models. Take both from one folder."
        )
    return [words[at][0] or f"[PAD{at}]" for at in range(size)], [int(words[at][1]) for at in range(size)]


def _check_family(tokenizer: dict[str, Any], family: Family) -> None:
    if not family.has(tokenizer):
        form = (tokenizer.get("normalizer") or {}).get("type")
        named = {token["content"] for token in tokenizer.get("added_tokens", [])}
        raise PushbackError(
            f"This tokenizer.json is {(tokenizer.get('model') or {}).get('type')!r}, splits text by {splits_of(tokenizer)}, "
            f"normalises it by {form!r} and has {len(named)} added tokens; that is not that of {family.choose}. Take "
            "tokenizer.json from the base model's folder, unchanged."
        )


def file_name(recipe: Recipe, voice: str, kind: str) -> str:
    """The name of a GGUF file, as people look for it: `pushback-tiny-friction-Q8_0.gguf`.

    Of the base's name it takes what a Modelfile allows, letters without accents, digits, `.`, `_` and `-`, and not too much.
    """
    plain = unicodedata.normalize("NFKD", recipe.label.rpartition("/")[2]).encode("ascii", "ignore").decode()
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", plain).strip("-")[:80]
    return f"pushback-{plain or 'model'}-{voice}-{kind}.gguf"


def base_name(recipe: Recipe) -> str:
    """What a file's header calls the base."""
    return "Push-Back AI tiny base" if recipe.name == "tiny" else Path(recipe.base).resolve().name


def odd_rows(recipe: Recipe) -> tuple[int, ...]:
    """The widths of this model's matrices that a K-quant's blocks do not divide."""
    from gguf import QK_K

    widths = {shape[-1] for shape in _expected_shapes(config_for(recipe)).values() if len(shape) > 1}
    return tuple(sorted(width for width in widths if width % QK_K))


def check_kinds(kinds: Sequence[str], recipe: Recipe | None = None) -> None:
    """Raises PushbackError for a kind of GGUF that the kit does not write, or not of this model, and for none at all."""
    unknown = [kind for kind in kinds if kind not in ALL_KINDS]
    if unknown or not kinds:
        raise PushbackError(f"No GGUF kind {repr(unknown[0]) if unknown else 'given'}. Choose from {', '.join(ALL_KINDS)}.")
    k_quant = next((kind for kind in kinds if kind in K_QUANTS), None)
    if k_quant and recipe and (odd := odd_rows(recipe)):
        raise PushbackError(
            f"{recipe.name} has matrices with rows of {odd[0]} numbers, which do not divide into the blocks of {k_quant}: they "
            "would be stored in another format under its name. Take Q8_0."
        )


def write_gguf(
    model: str | Path,
    out: str | Path,
    kind: str = "Q8_0",
    recipe: Recipe | None = None,
    voice: str = FRICTION,
    *,
    pre_tokenizer: str | None = None,
) -> Path:
    """Writes the folder `model` as a GGUF file, under its final name only when complete; returns its path.

    With a `recipe` the header says what the model is, and `out` may be a folder, in which the file gets its usual name. A
    K-quant is made from an F32 file that is deleted afterwards. Another `pre_tokenizer` than the family's is for
    demonstration only: llama.cpp loads the file without an error and splits text in other places.

    Raises PushbackError, before writing, for a folder or tokenizer of no known family, weights that are no safetensors,
    an unknown kind, or too little room on the disk.
    """
    from gguf import GGUFWriter

    check_kinds([kind])
    out = Path(out)
    if recipe and out.suffix != ".gguf":
        out /= file_name(recipe, voice, kind)
    if kind in K_QUANTS:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".f32-", suffix=f".{os.getpid()}.part", dir=out.parent) as folder:
            f32 = write_gguf(model, Path(folder) / "F32.gguf", "F32", recipe, voice, pre_tokenizer=pre_tokenizer)
            return quantise(f32, out, kind)
    source = open_source(model)
    writer = GGUFWriter(None, source.config.model_type)
    _add_model(writer, source, kind, recipe, voice)
    _add_tokenizer(writer, source, pre_tokenizer or source.family.pre_tokenizer)
    types = _add_tensors(writer, source, kind)
    check_room(out, sum(tensor.nbytes for tensor in writer.tensors[0].values()) + HEADER_BYTES)
    with writing(out) as part:
        _write(writer, part, source, types)
    return out


def _add_model(writer: GGUFWriter, source: Source, kind: str, recipe: Recipe | None, voice: str) -> None:
    """What the model is, and the numbers llama.cpp builds it from. The writer leaves out empty texts."""
    from gguf import GGML_QUANT_VERSION, LlamaFileType, size_label

    config, local = source.config, recipe is None or recipe.is_local
    writer.add_type("model")
    writer.add_name(f"Push-Back AI {Path(recipe.label).name} {voice}" if recipe else source.folder.name)
    writer.add_size_label(size_label(sum(map(prod, source.shapes.values())), 0, 0, 0))
    writer.add_description(f"{WHAT[voice]}. Made with Push-Back AI." if recipe else "")
    writer.add_license("apache-2.0" if local else source.family.licence)
    writer.add_tags(["ai-friction", "reasoning"])
    writer.add_languages(["en"])
    writer.add_file_type(LlamaFileType["ALL_F32" if kind == "F32" else f"MOSTLY_{kind}"])
    writer.add_quantization_version(GGML_QUANT_VERSION)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    for key, number in source.family.header(config).items():
        writer.add_uint32(f"{config.model_type}.{key}", number)
    if recipe:
        writer.add_base_model_count(1)
        writer.add_base_model_name(0, base_name(recipe))
        writer.add_base_model_repo_url(0, "" if local else f"https://huggingface.co/{recipe.base}")


def _add_tokenizer(writer: GGUFWriter, source: Source, pre_tokenizer: str) -> None:
    """Tokens, merges and chat template.

    Where the family says so, BOS is left to the runtime (`add_bos_token`): llama.cpp and Ollama put it in front of a rendered
    prompt and take it out of the template's text, so that there is one.
    """
    family = source.family
    tokens, types = tokens_of(source.tokenizer, source.config.vocab_size, family)
    merges = source.tokenizer["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre_tokenizer)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    writer.add_bos_token_id(tokens.index(family.bos))
    writer.add_eos_token_id(tokens.index(family.eos))
    writer.add_pad_token_id(tokens.index(family.eos))
    writer.add_add_bos_token(family.add_bos)
    writer.add_add_eos_token(False)
    writer.add_chat_template(family.gguf_template)


def _add_tensors(writer: GGUFWriter, source: Source, kind: str) -> dict[str, GGMLQuantizationType]:
    """Announces every tensor by llama.cpp's name; returns its type: matrices take the kind, vectors stay F32."""
    from gguf import MODEL_ARCH, GGMLQuantizationType, get_tensor_name_map, quant_shape_to_byte_shape
    from numpy import dtype

    names = get_tensor_name_map(MODEL_ARCH[source.config.model_type.upper()], source.config.num_hidden_layers)
    types = {}
    for name, shape in source.shapes.items():
        types[name] = GGMLQuantizationType["F32" if len(shape) == 1 else kind]
        try:
            size = prod(quant_shape_to_byte_shape(shape, types[name]))
        except ValueError as error:
            raise PushbackError(f"{name} does not divide into the blocks of {kind} ({error}). Choose F16.") from error
        found = names.get_name(name, (".weight", ".bias"))
        writer.add_tensor_info(found, shape, dtype("float32"), size, raw_dtype=types[name])
    return types


def _write(writer: GGUFWriter, part: Path, source: Source, types: dict[str, GGMLQuantizationType]) -> None:
    from gguf import quantize
    from safetensors import safe_open
    from tqdm.auto import tqdm

    try:
        writer.write_header_to_file(part)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for name, kind in tqdm(types.items(), "gguf", unit="tensor", mininterval=1, delay=1):
            with safe_open(source.files[name], framework="pt") as file:  # one tensor in memory at a time
                values = source.family.gguf_rows(name, file.get_tensor(name), source.config)
            writer.write_tensor_data(quantize(values.float().numpy(), kind))
    finally:
        writer.close()


@contextmanager
def writing(out: Path) -> Iterator[Path]:
    """`replacing`, with a PushbackError for a disk that fills up meanwhile."""
    try:
        with replacing(out) as part:
            yield part
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


def quantise(f32: str | Path, out: str | Path, kind: str = "Q4_K_M", *, threads: int = 2) -> Path:
    """Writes the K-quant `out` from an F32 (or 16-bit) GGUF, under its final name only when complete; returns `out`.

    Raises PushbackError for an unknown kind, a missing file or package, or rows that do not divide by 256: llama.cpp would
    store those in another format and keep the file's name.
    """
    from gguf import QK_K, LlamaFileType

    f32, out = Path(f32), Path(out)
    if kind not in K_QUANTS:
        raise PushbackError(f"No K-quant {kind!r}. Choose one of {', '.join(K_QUANTS)}; for the others use `write_gguf`.")
    odd = [tensor.name for tensor in read_gguf(f32).tensors if len(tensor.shape) > 1 and tensor.shape[0] % QK_K]
    if odd:
        raise PushbackError(
            f"{len(odd)} matrices of {f32} have rows that {QK_K} does not divide ({odd[0]}): they would be stored in another "
            f"format than {kind}. Take Q8_0."
        )
    check_room(out, f32.stat().st_size)
    try:
        from cyllama.llama import llama_cpp
    except ImportError as error:
        raise PushbackError(
            f"{kind} needs llama.cpp's quantiser ({error}). Install it with `pip install 'pushback-ai[ship]'`, or take Q8_0."
        ) from error
    params = llama_cpp.LlamaModelQuantizeParams()
    params.ftype, params.nthread = int(LlamaFileType[f"MOSTLY_{kind}"]), threads
    llama_cpp.disable_logging()
    with writing(out) as part:
        try:
            llama_cpp.model_quantize(str(f32), str(part), params)
        except RuntimeError as error:
            raise PushbackError(
                f"llama.cpp could not quantise {f32} ({error}). Write that file again, and check that the disk has room."
            ) from error
    return out
