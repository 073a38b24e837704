"""Load a base model, its tokenizer and a friction adapter."""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.common import FRICTION, PushbackError, quiet
from .checks import check_adapter, check_base
from .family import Family, family_of, splits_of
from .package import FOLDER, unpack_if_needed
from .recipe import Recipe, config_for, hub_config, read_json

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast


LOADS_AT_ONCE = 50e6  # parameters that load in less than a second, without a progress bar
DRIVER_GIB = 0.45  # driver context and library workspaces: what nvidia-smi shows before the first tensor; an estimate
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)  # of a weight, with its share of the scales and of the scales' scales
LIBRARIES_GIB = 0.7  # what Python, torch and transformers take of a machine's memory; an estimate
PLAIN_LORA = (
    "This system has no bitsandbytes (macOS): the base is loaded in 16 bit, and training is plain LoRA, not QLoRA. It takes "
    "about three times the memory for the weights; `pushback fit --gpu laptop` plans it."
)


@contextmanager
def bars(logging: Any, shown: bool) -> Iterator[None]:
    """Within it a library shows its bars, or not; `logging` is its module of that name, of transformers or datasets."""
    hide = not shown and logging.is_progress_bar_enabled()
    if hide:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if hide:
            logging.enable_progress_bar()


def dtype_for(capability: tuple[int, int] | None) -> torch.dtype:
    """The compute dtype of a CUDA capability: bf16 from 8.0 (Ampere) on, fp16 before (T4: 7.5), fp32 without a card."""
    import torch

    if capability is None:
        return torch.float32
    return torch.bfloat16 if capability >= (8, 0) else torch.float16


def compute_dtype() -> torch.dtype:
    """The dtype to compute in on this machine, see `dtype_for`."""
    import torch

    return dtype_for(torch.cuda.get_device_capability() if torch.cuda.is_available() else None)


def half_dtype() -> torch.dtype:
    """The dtype of 16-bit weights on this machine: what its card computes in, or bf16."""
    import torch

    return compute_dtype() if torch.cuda.is_available() else torch.bfloat16


def under_fsdp() -> bool:
    """Whether several processes hold a part of the model each, as their launcher tells them."""
    return os.environ.get("ACCELERATE_USE_FSDP", "").lower() in ("1", "true")  # set by `accelerate launch`


def bitsandbytes_runs() -> bool:
    """Whether this system can hold weights in NF4; macOS cannot."""
    return sys.platform != "darwin"


def quantisation() -> Any:
    """NF4 with double quantisation, as QLoRA trains on; None where bitsandbytes does not run.

    Under FSDP the packed weights are stored in the compute dtype, since FSDP shards parameters of one dtype only.
    """
    from transformers import BitsAndBytesConfig

    if not bitsandbytes_runs():
        return None
    storage = {"bnb_4bit_quant_storage": compute_dtype()} if under_fsdp() else {}
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
                              bnb_4bit_compute_dtype=compute_dtype(), **storage)  # fmt: skip


def nf4(values: torch.Tensor) -> torch.Tensor:
    """The values after rounding to NF4, in blocks of 64, and back; raises ImportError without bitsandbytes."""
    quiet()  # before the import, which is when bitsandbytes speaks
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    return dequantize_4bit(*quantize_4bit(values, quant_type="nf4"))


def _device_map(one_card: bool) -> str | dict[str, int] | None:
    """Where the weights go: one card for each process of several; FSDP and the CPU place them by themselves."""
    import torch

    if not torch.cuda.is_available() or under_fsdp():
        return None
    return {"": int(os.environ.get("LOCAL_RANK", "0"))} if one_card or "LOCAL_RANK" in os.environ else "auto"


def own_generation(tokenizer: PreTrainedTokenizerFast) -> GenerationConfig:
    """What the kit puts in place of a base's generation_config.json: the tokens that begin, end and fill a text, no more.

    It has to stand in the model itself: whatever a call to `generate` leaves open, transformers takes from the model's own
    (many published ones punish repetition), even where a whole configuration is passed.
    """
    from transformers import GenerationConfig

    return GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )


def family_for(recipe: Recipe) -> Family:
    """The family of a recipe's base; raises as `config_for` does."""
    return family_of(config_for(recipe))


def load_tokenizer(recipe: Recipe) -> PreTrainedTokenizerFast:
    """The base's tokenizer, padding on the left for generation, with the family's published chat template.

    Raises PushbackError if the Hub does not give it, or it lacks the tokens that the template is made of.
    """
    tokenizer, family = _tokenizer(recipe), family_for(recipe)
    missing = [token for token in family.tokens if token not in tokenizer.get_vocab()]
    if missing:
        raise PushbackError(
            f"The tokenizer of {recipe.base} has no token {', '.join(missing)}, of which the chat template is made. "
            f"Choose {family.choose}, or one that was fine-tuned from it."
        )
    tokenizer.chat_template = family.chat_template()
    return tokenizer


def own_template(recipe: Recipe) -> str:
    """The chat template that came with the base's tokenizer; the package of `english` has its family's.

    Raises PushbackError where none did.
    """
    family = family_for(recipe).chat_template() if recipe.base == str(FOLDER) else ""
    found = _tokenizer(recipe).chat_template or family
    if not found:
        raise PushbackError(f"The tokenizer of {recipe.base} has no chat template. Choose a model that was made to chat.")
    return found


def own_cuts(recipe: Recipe) -> list[str]:
    """How the tokenizer.json of a base whose tokenizer could be loaded cuts text (`splits_of`).

    It is read from the file, since transformers may put a rule of its own in place.
    """
    from transformers.utils import cached_file

    path = cached_file(recipe.base, "tokenizer.json", revision=recipe.revision or "main")
    return splits_of(read_json(Path(path), "Get the base's tokenizer again."))


def _tokenizer(recipe: Recipe) -> PreTrainedTokenizerFast:
    from transformers import AutoTokenizer

    unpack_if_needed(recipe.base)
    try:
        return AutoTokenizer.from_pretrained(
            recipe.base, revision=recipe.revision or "main", padding_side="left", trust_remote_code=False
        )
    except OSError as error:
        raise _not_loaded(recipe, error) from error


def _not_loaded(recipe: Recipe, error: OSError) -> PushbackError:
    """For what transformers raises where there is no network, no such model, no access, or no safetensors file."""
    return PushbackError(
        f"{recipe.base} could not be loaded: {str(error).splitlines()[0]} Check the connection (and that "
        "HF_HUB_OFFLINE is not set), or turn the dial to tiny, which comes with the kit."
    )


def memory_gib() -> tuple[float, float]:
    """(free, all) memory in GiB: of the CUDA card if there is one, else of the machine."""
    import psutil
    import torch

    machine = psutil.virtual_memory()
    free, every = torch.cuda.mem_get_info() if torch.cuda.is_available() else (machine.available, machine.total)
    return free / 2**30, every / 2**30


def weights_gib(recipe: Recipe, four_bit: bool = True) -> float:
    """What the base alone takes on this machine, libraries or driver included; `pushback fit` says it part by part."""
    import torch

    packed = four_bit and recipe.four_bit and bitsandbytes_runs()
    config, size = config_for(recipe), compute_dtype().itemsize
    if four_bit and not packed:
        size = 2  # bytes of a weight in 16 bit
    unpacked = config.vocab_size * config.hidden_size * (1 if config.tie_word_embeddings else 2)  # embeddings and head
    linear = (recipe.parameters - unpacked) * (NF4_BYTES if packed else size)
    return (unpacked * size + linear) / 2**30 + (DRIVER_GIB if torch.cuda.is_available() else LIBRARIES_GIB)


def check_memory(recipe: Recipe, four_bit: bool = True) -> None:
    """Raises PushbackError if the base alone does not fit into free memory."""
    free, need = memory_gib()[0], weights_gib(recipe, four_bit)
    if free < need:
        raise PushbackError(
            f"{recipe.name!r} needs about {need:.1f} GiB to load{'' if four_bit else ' unquantised'}, and {free:.1f} GiB are "
            "free. Close other programs and notebooks, or choose a smaller model on the dial."
        )


def check_model(recipe: Recipe, four_bit: bool = True) -> None:
    """Raises PushbackError, before any weights are fetched, if base, memory or the Hub are not in order for this recipe."""
    if recipe.is_local:
        check_base(recipe.base)
    check_memory(recipe, four_bit)
    if not recipe.is_local:
        hub_config(recipe.base, recipe.revision)


def load_base(recipe: Recipe, four_bit: bool = True, *, one_card: bool = False) -> PreTrainedModel:
    """The base model: in NF4, or (`four_bit=False`) as it was published, for merging; it generates by `own_generation`.

    `one_card` keeps it on the first of several, for training. Instead of NF4 it is in 16 bit where the recipe says so, and
    without bitsandbytes, of which a warning tells: training is then LoRA without the Q. Raises PushbackError before loading if
    a local folder is incomplete, memory is short, or the Hub does not give the model.
    """
    quiet()
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    check_model(recipe, four_bit)
    packed = quantisation() if four_bit and recipe.four_bit else None
    if four_bit and recipe.four_bit and packed is None:
        warnings.warn(PLAIN_LORA, stacklevel=2)
    try:
        with bars(logging, recipe.parameters > LOADS_AT_ONCE):
            model, info = AutoModelForCausalLM.from_pretrained(
                recipe.base, revision=recipe.revision or "main", quantization_config=packed, device_map=_device_map(one_card),
                dtype=half_dtype() if four_bit and packed is None else compute_dtype(),
                generation_config=own_generation(load_tokenizer(recipe)), use_safetensors=True, trust_remote_code=False,
                output_loading_info=True, ignore_mismatched_sizes=True,
            )  # fmt: skip
    except OSError as error:
        raise _not_loaded(recipe, error) from error
    if made_up := sorted([*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])]):
        raise PushbackError(
            f"The weights of {recipe.base} lack {len(made_up)} tensors that its config.json promises, or have them in another "
            f"shape (first: {made_up[0]}); they would be random. Get the complete model again."
        )
    return model


def load_with_adapter(recipe: Recipe, adapter: str | Path, four_bit: bool = True) -> PeftModel:
    """The base with the friction adapter on top, under the name `friction`.

    Raises PushbackError, before the base is loaded, if PEFT would not apply the adapter exactly as it was trained.
    """
    config = check_adapter(adapter, recipe)
    from peft import PeftModel

    model = PeftModel.from_pretrained(load_base(recipe, four_bit), str(adapter), adapter_name=FRICTION, config=config)
    return model.eval()


def save_base(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Writes the model as 16-bit safetensors with `rope_theta` at the top level of its config, as Ollama reads it."""
    import torch
    from transformers.utils import logging

    model.config.bos_token_id = tokenizer.bos_token_id
    model.config.eos_token_id = model.config.pad_token_id = tokenizer.eos_token_id
    model.generation_config = own_generation(tokenizer)
    with bars(logging, model.num_parameters() > LOADS_AT_ONCE):
        model.to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)
    config_path = out / "config.json"
    config = json.loads(config_path.read_text(encoding="utf-8"))
    config["rope_theta"] = config["rope_parameters"]["rope_theta"]
    config_path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def machine_name() -> str:
    """The processor or CUDA card, in words."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if "model name" in line]
    return f"{os.cpu_count()} CPU cores ({names[0] if names else 'unknown processor'})"
