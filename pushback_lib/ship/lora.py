"""Write the adapter alone as a LoRA GGUF, which llama.cpp and Ollama put on top of a base's own file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.common import BASELINE, FRICTION, PushbackError
from ..core.folders import claim_folder
from ..model import package
from ..model.checks import ADAPTER_WEIGHTS, check_adapter
from ..model.gguf_file import NORMS, PREFIX, A, B, LoraHeader, fingerprint_of
from ..model.load import load_tokenizer
from ..model.recipe import RECIPES, Recipe
from .gguf import (
    HEADER_BYTES,
    Source,
    base_name,
    check_kinds,
    check_room,
    file_name,
    open_source,
    write_gguf,
    writing,
)
from .ollama import Modelfile

if TYPE_CHECKING:
    import numpy as np
    from gguf import GGUFWriter
    from peft import LoraConfig

KINDS = ("F16", "F32")
MODELFILE = "Modelfile.lora"  # beside that of a merged file
WANTED = ("*.json", "*.jinja", "*.safetensors")  # of a repository of the Hub; no pickles, no GGUF files


def ship_lora(recipe: Recipe, adapter: str | Path, out: str | Path, kind: str = "F16", base: str | None = None) -> list[Path]:
    """Writes the adapter's file and a Modelfile for it into `out`, and with `base`, a kind of GGUF, the base's file too.

    Returns their paths, the adapter's first. Raises PushbackError, before anything is written, for what is missing, does not
    fit together or is of no such kind.
    """
    _check_kind(kind)
    if base:
        check_kinds([base], recipe)
    config = check_adapter(adapter, recipe)
    source = open_source(base_folder(recipe))
    name = file_name(recipe, f"{FRICTION}-lora", kind)
    modelfile = _modelfile(recipe, name, base)
    with claim_folder(out, [adapter, recipe.base_folder]):
        files = [_write(source, config, recipe, Path(adapter), Path(out) / name, kind)]
        files += [write_gguf(source.folder, out, base, recipe, BASELINE)] if base else []
        return [*files, modelfile.write(Path(out) / MODELFILE)]


def write_lora(recipe: Recipe, adapter: str | Path, out: str | Path, kind: str = "F16") -> Path:
    """Writes the adapter's file alone, under its final name only when complete; returns `out`. Raises as `ship_lora` does."""
    _check_kind(kind)
    config = check_adapter(adapter, recipe)
    return _write(open_source(base_folder(recipe)), config, recipe, Path(adapter), Path(out), kind)


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise PushbackError(f"No kind {kind!r} of an adapter's file. Choose from {', '.join(KINDS)}.")


def base_folder(recipe: Recipe) -> Path:
    """The folder of the base's files: its own, or that of the Hub's cache, into which they are fetched if need be."""
    if recipe.is_local:
        return Path(recipe.base)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(recipe.base, revision=recipe.revision, allow_patterns=list(WANTED)))
    except OSError as error:
        raise PushbackError(
            f"The weights of {recipe.base} are not in this machine's cache, and the Hub does not give them "
            f"({str(error).splitlines()[0]}). Check the connection (and that HF_HUB_OFFLINE is not set), then run again."
        ) from error


def published_file(recipe: Recipe) -> Path | None:
    """The base's own GGUF file, where it was unpacked from one."""
    return package.package_file() if recipe.base == str(package.FOLDER) else None


def _modelfile(recipe: Recipe, name: str, base: str | None) -> Modelfile:
    """The Modelfile of base and adapter. Raises PushbackError for a name that Ollama does not take."""
    made_from = file_name(recipe, BASELINE, base or "Q8_0")
    if not base and (own := published_file(recipe)):
        made_from = own.name
    elif not base and recipe.name in RECIPES and not recipe.is_local:
        made_from = f"deepseek-r1:{recipe.name}"  # in Ollama's library
    made = replace(Modelfile.for_recipe(recipe, load_tokenizer(recipe), made_from), adapter=name)
    return Modelfile.read(made.text)


def _write(source: Source, config: LoraConfig, recipe: Recipe, adapter: Path, out: Path, kind: str) -> Path:
    from gguf import GGUFWriter

    writer = GGUFWriter(None, source.config.model_type)
    _add_header(writer, source, recipe, float(config.lora_alpha), kind)
    for name, values in _tensors(source, config, adapter / ADAPTER_WEIGHTS):
        writer.add_tensor(name, values.astype("float16" if kind == "F16" else "float32"))
    check_room(out, sum(tensor.nbytes for tensor in writer.tensors[0].values()) + HEADER_BYTES)
    with writing(out) as part:
        try:
            writer.write_header_to_file(part)
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
        finally:
            writer.close()
    return out


def _add_header(writer: GGUFWriter, source: Source, recipe: Recipe, alpha: float, kind: str) -> None:
    """What llama.cpp reads, and what the kit's own voices do: whose adapter it is, and how it was trained to be asked."""
    from gguf import Keys, LlamaFileType

    base = base_name(recipe)
    writer.add_type("adapter")
    writer.add_string(Keys.Adapter.TYPE, "lora")
    writer.add_float32(Keys.Adapter.LORA_ALPHA, alpha)
    writer.add_file_type(LlamaFileType["ALL_F32" if kind == "F32" else "MOSTLY_F16"])
    writer.add_name(f"Push-Back AI {Path(recipe.label).name} {FRICTION} adapter")
    writer.add_license("apache-2.0")
    writer.add_base_model_count(1)
    writer.add_base_model_name(0, base)
    writer.add_base_model_repo_url(0, "" if recipe.is_local else f"https://huggingface.co/{recipe.base}")
    header = LoraHeader(base, recipe.parameters, fingerprint_of(_norms(source)), recipe.language, recipe.system,
                        source.family.gguf_template, recipe.max_new_tokens)  # fmt: skip
    for key, value in asdict(header).items():
        (writer.add_uint64 if isinstance(value, int) else writer.add_string)(PREFIX + key, value)


def _norms(source: Source) -> Iterator[tuple[str, np.ndarray]]:
    """The base's norms, by llama.cpp's names."""
    from safetensors import safe_open

    for name in source.shapes:
        if name.endswith(NORMS):
            with safe_open(source.files[name], framework="pt") as file:
                yield _name(source, name), file.get_tensor(name).float().numpy()


def _name(source: Source, name: str) -> str:
    """llama.cpp's name of a base's tensor."""
    from gguf import MODEL_ARCH, get_tensor_name_map

    names = get_tensor_name_map(MODEL_ARCH[source.config.model_type.upper()], source.config.num_hidden_layers)
    return names.get_name(name, (".weight", ".bias"))


def _tensors(source: Source, config: LoraConfig, weights: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Both matrices of each adapted one, by llama.cpp's names, in F32: A of shape (rank, in), B of shape (out, rank).

    llama.cpp scales each by alpha / rank with one alpha for all. Where PEFT scales otherwise (patterns, rank-stabilised
    LoRA), B takes the difference.
    """
    from safetensors import safe_open

    with safe_open(weights, framework="pt") as file:
        for module, scaling in _scalings(source, config).items():
            a, b = (file.get_tensor(f"base_model.{module}.lora_{part}.weight").float() for part in "AB")
            name = f"{module.removeprefix('model.')}.weight"
            b = source.family.gguf_rows(name, b, source.config) * (scaling * len(a) / config.lora_alpha)
            yield _name(source, name) + A, a.numpy()
            yield _name(source, name) + B, b.numpy()


def _scalings(source: Source, config: LoraConfig) -> dict[str, float]:
    """What PEFT multiplies each adapted layer's B A by, by the layer's name; nothing is loaded."""
    import torch
    from peft import LoraModel
    from peft.tuners.lora import LoraLayer
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model: Any = LoraModel(AutoModelForCausalLM.from_config(source.config), config, "default", low_cpu_mem_usage=True)
    return {name: one.scaling["default"] for name, one in model.named_modules() if isinstance(one, LoraLayer)}
