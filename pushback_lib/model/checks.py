"""Check a model's folder and an adapter, and say which base an adapter was made for."""

from __future__ import annotations

import re
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.common import DATA, PushbackError, quiet
from ..core.files import sha256_of
from ..core.folders import TRAINING_FILE
from .family import check_architecture
from .package import FOLDER, unpack_if_needed
from .recipe import Recipe, config_for, read_json

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PreTrainedConfig

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
DTYPES = ("BF16", "F16", "F32")  # as safetensors' headers name them

# Fields of adapter_config.json that PEFT applies exactly, chatting and merging, or that only training reads. Every other one
# must be as PEFT has it by default: so is refused whatever a later PEFT invents.
EXACT = {"peft_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "target_modules", "exclude_modules",
         "layers_to_transform", "layers_pattern", "lora_dropout", "base_model_name_or_path", "revision", "auto_mapping",
         "inference_mode", "peft_version"}  # fmt: skip
ALSO_EXACT = (("task_type", "CAUSAL_LM"), ("init_lora_weights", "gaussian"), ("init_lora_weights", "orthogonal"))
MERGED = ("Train it again as plain LoRA; or merge it where it was trained (`merge_and_unload`), and ship that folder with "
          "`pushback ship gguf --merged FOLDER`.")  # fmt: skip

# What the names of tensors that fit nothing in the base tell, and what to do about it
TELLING = (
    (r"\.lora_[AB]\.\w+\.weight$", "Its names hold the name of the adapter, as in a plain state_dict(). Save it with PEFT's "
                                   "`save_pretrained`."),
    (r"^(?!.*\.lora_[AB]\.)", f"It holds trained weights beside LoRA, which no adapter can hold apart from its base. {MERGED}"),
    (r"^(?!base_model\.model\.model\.layers\.)", "Its names are of a wrapper around the model, such as one for pictures or "
                                                 "for speed. Train it on the plain language model, or rename its tensors."),
)  # fmt: skip

Shapes = dict[str, tuple[int, ...]]  # of tensors, by name


def weight_files(folder: str | Path) -> list[Path]:
    """The safetensors files of a model's folder that transformers reads: model.safetensors, else what the index names.

    That order is `_get_resolved_checkpoint_files`'s, in transformers/modeling_utils.py; other files beside them are not the
    model's. Raises PushbackError for one that is missing, and for a damaged index.
    """
    folder, fix = Path(folder), _fix(Path(folder))
    whole, index = folder / WEIGHTS, folder / INDEX
    files = [whole]
    if not whole.is_file() and index.is_file():
        parts = read_json(index, fix)
        named = parts.get("weight_map")
        if not named or not isinstance(named, dict) or "metadata" not in parts:
            raise PushbackError(f"{index} names no files: it needs `metadata` and `weight_map`. {fix}")
        files = [folder / name for name in sorted(set(named.values()))]
    for path in files:
        if not path.is_file():
            raise PushbackError(f"No weights at {path}{'' if path is whole else f', which {INDEX} names'}. {fix}")
    return files


def _fix(folder: Path) -> str:
    if folder.resolve() == (DATA / "tiny" / "base").resolve():
        return "Get it back with `git checkout data/tiny/base`, or train it again with `pushback base`."
    if folder == FOLDER:
        return f"Delete {folder}: it is made again."
    return f"Give a folder with a complete model: config.json, tokenizer.json, and {WEIGHTS} or {INDEX} with all it names."


def tensors_of(path: Path, fix: str) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Every tensor's dtype and shape, by name, from the header of a safetensors file, which is checked for its full length."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise PushbackError(f"No weights at {path}. {fix}")
    try:
        with safe_open(path, framework="numpy") as file:
            parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            return {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in parts.items()}
    except SafetensorError as error:
        raise PushbackError(f"The weights at {path} are damaged ({error}). {fix}") from error


def check_base(folder: str | Path) -> dict[str, Any]:
    """Config of a local base model whose files are complete. Raises PushbackError saying how to fix it otherwise."""
    unpack_if_needed(folder)
    folder, fix = Path(folder), _fix(Path(folder))
    config = check_architecture(read_json(folder / "config.json", fix), f"The model in {folder}")
    read_json(folder / "tokenizer.json", fix)
    for path in weight_files(folder):
        tensors_of(path, fix)
    named = config.get("transformers_weights")
    if named or (folder / "adapter_config.json").is_file():
        what = f"config.json names {named} as its weights" if named else "adapter_config.json lies beside it"
        raise PushbackError(f"The model in {folder} would not be read alone: {what}, and transformers would load that. {fix}")
    return config


def fingerprint(recipe: Recipe) -> str:
    """What an adapter remembers its base by: the SHA-256 of local weights, or the hub id and its revision."""
    if not recipe.is_local:
        return f"{recipe.base}@{recipe.revision}" if recipe.revision else recipe.base
    unpack_if_needed(recipe.base)
    return f"sha256:{sha256_of(*weight_files(recipe.base))}"


def adapter_fingerprint(folder: str | Path) -> str:
    """The SHA-256 of an adapter's weights, by which results say what they were measured on."""
    return f"sha256:{sha256_of(Path(folder) / ADAPTER_WEIGHTS)}"


def check_adapter(folder: str | Path, recipe: Recipe) -> LoraConfig:
    """The config by which PEFT applies the adapter to the recipe's base exactly as it was trained; the base is not loaded.

    Raises PushbackError if base or adapter are missing or damaged, the adapter was made for another base, or is of a kind,
    or holds tensors, that the kit would leave out.
    """
    if recipe.is_local:
        check_base(recipe.base)
    folder = Path(folder)
    out = Path("runs") / Path(recipe.name).name if folder == recipe.shipped_adapter else folder
    fix = f"Train one with `pushback train --model {recipe.name} --out {out}` (notebook 03), and give that folder."
    if not folder.is_dir():
        raise PushbackError(f"No adapter in {folder}. {fix}")
    values, weights = read_json(folder / "adapter_config.json", fix), folder / ADAPTER_WEIGHTS
    tensors = tensors_of(weights, fix)
    _check_made_for(folder, recipe, fix)
    quiet()  # before the first import of PEFT, which is when bitsandbytes speaks
    config = _lora_config(values, folder)
    _check_shapes(folder, {name: shape for name, (_, shape) in tensors.items()}, config, config_for(recipe))
    _check_values(weights, {dtype for dtype, _ in tensors.values()}, fix)
    return config


def _check_made_for(folder: Path, recipe: Recipe, fix: str) -> None:
    card = folder / TRAINING_FILE
    made_for = read_json(card, fix).get("base") if card.is_file() else None
    if made_for is not None and made_for != fingerprint(recipe):
        raise PushbackError(
            f"The adapter in {folder} was made for another base ({made_for[:23]}…) than {recipe.name!r} "
            f"({fingerprint(recipe)[:23]}…). {fix}"
        )


def _lora_config(values: dict[str, Any], folder: Path) -> LoraConfig:
    from peft import LoraConfig

    plain = LoraConfig().to_dict()
    strange = [f"{key} = {value!r:.60}" for key, value in values.items() if key not in EXACT and value
               and value != plain.get(key) and (key, value) not in ALSO_EXACT]  # fmt: skip
    if values.get("peft_type") != "LORA":
        strange = [f"peft_type = {values.get('peft_type')!r}"]
    if strange:
        raise PushbackError(f"The adapter in {folder} has {', '.join(strange)}, which this kit cannot apply exactly. {MERGED}")
    known = {key: value for key, value in values.items() if key in plain}
    try:
        config = LoraConfig(**{**known, "task_type": "CAUSAL_LM", "inference_mode": True})
        alphas = [config.lora_alpha, *config.alpha_pattern.values()]
        if not all(isfinite(alpha) and alpha for alpha in alphas):
            raise ValueError(f"lora_alpha {alphas} makes nothing of it")
    except (ValueError, TypeError, AttributeError) as error:
        place = folder / "adapter_config.json"
        raise PushbackError(f"{place} is wrong ({error}). Take it from where the adapter was made.") from error
    return config


def _check_shapes(folder: Path, found: Shapes, lora: LoraConfig, base: PreTrainedConfig) -> None:
    """Raises PushbackError unless the file holds exactly the tensors that PEFT makes for this config on this base."""
    wanted = _wanted(folder, lora, base)
    outside = [name for name in wanted if ".layers." not in name]
    if outside:
        tied = ", which are one matrix in this base" if base.tie_word_embeddings else ""
        raise PushbackError(f"The adapter in {folder} changes embeddings or head{tied} ({outside[0]}), which this kit cannot "
                            f"apply exactly. {MERGED}")  # fmt: skip
    wrong = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    if not wrong:
        return
    others = [name for name in wrong if name not in wanted]
    cures = [cure for pattern, cure in TELLING if any(re.search(pattern, name) for name in others)]
    cure = [*cures, "It is of another base, or its two files are of two adapters: take both from where it was trained."][0]
    name = (others or wrong)[0]
    raise PushbackError(
        f"{len(wrong)} tensors of {folder / ADAPTER_WEIGHTS} are not what its adapter_config.json makes on a base of "
        f"{base.num_hidden_layers} layers and width {base.hidden_size}; first: {name} is {found.get(name, 'missing')}, "
        f"expected {wanted.get(name, 'no such tensor')}. {cure}"
    )


def _wanted(folder: Path, lora: LoraConfig, base: PreTrainedConfig) -> Shapes:
    """What PEFT makes of the config on this base, by the names that it saves; nothing is loaded or computed."""
    import torch
    from peft import LoraModel, get_peft_model_state_dict
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            model = LoraModel(AutoModelForCausalLM.from_config(base), lora, "default", low_cpu_mem_usage=True)
    except (ValueError, TypeError, AttributeError, re.error) as error:
        raise PushbackError(
            f"The adapter in {folder} cannot be applied to this base ({str(error).splitlines()[0]}). Take adapter_config.json "
            f"from where the adapter was made, or train again."
        ) from error
    made = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {f"base_model.{name}": tuple(values.shape) for name, values in made.items()}


def _check_values(path: Path, dtypes: set[str], fix: str) -> None:
    from safetensors import safe_open

    if strange := sorted(dtypes - set(DTYPES)):
        raise PushbackError(f"{path} holds {', '.join(strange)}, not 16- or 32-bit numbers. {fix}")
    with safe_open(path, framework="pt") as file:
        bad = [name for name in file.keys() if not file.get_tensor(name).isfinite().all()]  # noqa: SIM118
    if bad:
        raise PushbackError(f"{len(bad)} tensors of {path} hold numbers that are not finite; first: {bad[0]}. {fix}")
