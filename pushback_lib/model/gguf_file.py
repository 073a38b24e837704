"""Read a GGUF file, and see that an adapter's file belongs to a base's before llama.cpp opens either."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.common import FRICTION, PushbackError

if TYPE_CHECKING:
    import numpy as np
    from gguf import GGUFReader

PREFIX = "pushback."  # of the header's keys that this kit alone writes
A, B = ".lora_a", ".lora_b"  # how llama.cpp names an adapter's two matrices, after the name of the base's
NORMS = "norm.weight"  # how the names of the vectors end that every kind of GGUF file keeps in full


@dataclass(frozen=True)
class LoraHeader:
    """What the header of a LoRA GGUF says of its base, and of how its voice was trained and is to be asked.

    `norms` is the fingerprint by which the base is known in a file of any kind, see `fingerprint_of`; `parameters` are the
    base's. `language`, `system`, `template` (a Jinja chat template) and `max_tokens` are those of the training.
    """

    base: str
    parameters: int
    norms: str
    language: str
    system: str
    template: str
    max_tokens: int


@dataclass(frozen=True)
class Lora:
    """An adapter's file that `check_pair` has found to belong to its base's, which it has read."""

    path: Path
    header: LoraHeader
    base: GGUFReader


def read_gguf(path: str | Path, cure: str = "pushback ship gguf") -> GGUFReader:
    """Header and tensors of a GGUF file. Raises PushbackError if it is missing or not complete; `cure` makes such a file."""
    from gguf import GGUFReader

    if not Path(path).is_file():
        raise PushbackError(f"No GGUF file at {path}. Make one with `{cure}`.")
    try:
        return GGUFReader(path)
    except (ValueError, KeyError, IndexError, OSError) as error:
        raise PushbackError(f"{path} is not a complete GGUF file ({error}). Write it again: `{cure}`.") from error


def fingerprint_of(norms: Iterable[tuple[str, np.ndarray]]) -> str:
    """SHA-256 over a model's norms, by llama.cpp's names, in F32.

    They are vectors, which no kind of file quantises and no LoRA adapter changes; two models that were trained apart do not
    share them. A model and what was merged into it do.
    """
    digest = hashlib.sha256()
    for name, values in sorted(norms, key=lambda pair: pair[0]):
        digest.update(name.encode() + b"\0" + values.astype("<f4").tobytes())
    return digest.hexdigest()


def check_pair(gguf: str | Path, lora: str | Path) -> Lora:
    """The adapter's file with its header, if `gguf` is a file of the base that it was made for; neither is loaded.

    Raises PushbackError, saying what to do, for a file that is missing, damaged or of another sort, for an adapter that does
    not say what its base is, and for another base.
    """
    base, adapter = read_gguf(gguf, "pushback ship lora --base"), read_gguf(lora, "pushback ship lora")
    if _text(base, "general.type") == "adapter":
        raise PushbackError(f"{gguf} is an adapter, no model. Give its base's file as --gguf, and the adapter as --lora.")
    if (_text(adapter, "general.type"), _text(adapter, "adapter.type")) != ("adapter", "lora"):
        raise PushbackError(f"{lora} is no LoRA adapter. Write one with `pushback ship lora`, and give that as --lora.")
    header = _header(lora, adapter)
    if why := _difference(base, adapter, header):
        raise PushbackError(
            f"{lora} was made for {header.base} ({header.parameters:,} parameters), and {gguf} is another model: {why}. Give "
            "that base's file as --gguf, or train an adapter for this one and write it with `pushback ship lora`."
        )
    if _text(base, "general.name").startswith("Push-Back AI ") and _text(base, "general.name").endswith(f" {FRICTION}"):
        raise PushbackError(
            f"{gguf} has the friction adapter in its weights already. Give its base's file as --gguf; `pushback ship lora "
            "--base Q8_0` writes one."
        )
    return Lora(Path(lora), header, base)


def _text(file: GGUFReader, key: str) -> str:
    field = file.get_field(key)
    return str(field.contents()) if field else ""


def _header(path: str | Path, adapter: GGUFReader) -> LoraHeader:
    found: dict[str, Any] = {}
    for field in fields(LoraHeader):
        entry = adapter.get_field(PREFIX + field.name)
        found[field.name] = entry.contents() if entry else 0 if field.type == "int" else ""
    if not found["norms"]:
        raise PushbackError(f"{path} does not say for which base it was made. Write it with `pushback ship lora`.")
    return LoraHeader(**found)


def _difference(base: GGUFReader, adapter: GGUFReader, header: LoraHeader) -> str:
    """In what the base's file is not the one that the adapter was made for; "" if it is."""
    kinds = [_text(file, "general.architecture") for file in (base, adapter)]
    if kinds[0] != kinds[1]:
        return f"its architecture is {kinds[0]!r}, not {kinds[1]!r}"
    held = {tensor.name: [int(size) for size in tensor.shape] for tensor in base.tensors}
    parts = {tensor.name: [int(size) for size in tensor.shape] for tensor in adapter.tensors}
    for name in sorted({part.removesuffix(A).removesuffix(B) for part in parts}):
        wide, high = parts.get(name + A, [0])[0], parts.get(name + B, [0])[-1]
        if held.get(name) != [wide, high]:
            return f"its {name} is {held.get(name, 'missing')}, and the adapter's {[wide, high]}"
    from gguf import dequantize

    norms = (
        (tensor.name, dequantize(tensor.data, tensor.tensor_type)) for tensor in base.tensors if tensor.name.endswith(NORMS)
    )
    return "" if fingerprint_of(norms) == header.norms else "it has the same shape, and other norms"
