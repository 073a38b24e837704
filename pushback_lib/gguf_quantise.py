"""Turns an F32 GGUF into Q4_K_M or Q5_K_M by llama.cpp's own quantiser (package `cyllama`, an optional extra).

It knows nothing about models; the `gguf` package cannot write K-quants.
"""

from __future__ import annotations

from pathlib import Path

from .errors import PushbackError
from .gguf_writer import check_room, guarded

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
