"""Turns what ends a long training run into a sentence with its cure; knows nothing about how training runs.

Not a finite loss, no memory, no room on the disk, the user's own interrupt.
"""

from __future__ import annotations

import dataclasses
import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import PushbackError
from .recipe import Recipe
from .train_checkpoints import whole_checkpoints

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_ROOM_TEXT = ("no space left", "file too large", "file write failed", "unexpected pos", "pytorchstreamwriter", "quota")
NO_MEMORY_TEXT = ("out of memory", "can't allocate memory", "not enough memory")
OPTIONS = "(Options: --micro-batch, --max-length.)"
BYTES_A_WEIGHT = 16  # of a checkpoint: the adapter and both moments of AdamW, in fp32 at most, and some room


def is_disk_full(error: BaseException) -> bool:
    """Whether a write failed for want of room: an OSError, or what torch and safetensors make of one."""
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return True
    return any(text in str(error).lower() for text in NO_ROOM_TEXT)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the machine or its card had no memory left: torch's own error, or the CPU allocator's."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error).lower() for text in NO_MEMORY_TEXT)


@contextmanager
def explained(recipe: Recipe, work: Path) -> Iterator[None]:
    """Raises PushbackError, with the cure, in place of what a training run may end with."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise PushbackError(f"Stopped. {_go_on(work)}") from error
    except Exception as error:
        if is_out_of_memory(error):
            raise PushbackError(out_of_memory(recipe)) from error
        if is_disk_full(error):
            raise PushbackError(disk_full(work)) from error
        raise


def _go_on(work: Path) -> str:
    whole = whole_checkpoints(work)
    if not whole:
        return "There was no checkpoint yet; the same command begins anew."
    step = whole[-1].name.split("-")[1]
    return f"The checkpoint of step {step} is whole; the same command with --resume goes on from there."


def disk_full(work: Path) -> str:
    """What to say when a checkpoint or the adapter could not be written; takes away what was half-written."""
    whole = whole_checkpoints(work)
    for path in work.glob("checkpoint-*"):
        if path not in whole:
            shutil.rmtree(path, ignore_errors=True)
    return f"The disk of {work.parent} has no room left, or lets no file grow. Make room. {_go_on(work)}"


def check_room(work: Path, trainable: int) -> None:
    """Raises PushbackError before training if the disk cannot hold three checkpoints of so many trained weights."""
    need, free = 3 * trainable * BYTES_A_WEIGHT, shutil.disk_usage(work).free
    if free < need:
        raise PushbackError(
            f"Checkpoints in {work.parent} need {need / 2**20:.0f} MiB, and {free / 2**20:.0f} MiB are free. Make room, or "
            "choose another --out."
        )


def check_fits(recipe: Recipe, gib: float | None = None) -> None:
    """Raises PushbackError, with what would fit, if the planner says that this recipe does not fit on the card or machine.

    `gib`: of a CUDA card that is not there, for asking beforehand. Of a machine without a card, what is free counts.
    """
    import torch

    from .checks import free_memory_gib
    from .planner import advice, needed_gib, setting_for
    from .planner_time import card_for
    from .shapes import config_for

    cuda = gib is not None or torch.cuda.is_available()
    if gib is None:
        gib = total_memory_gib() if cuda else free_memory_gib()
    need = needed_gib(config_for(recipe), setting_for(recipe, dataclasses.replace(card_for(gib), cuda=cuda)))
    if need > gib:
        raise PushbackError(
            f"{recipe.name!r} at sequence {recipe.max_length}, batch {recipe.batch}, needs about {need:.1f} GiB, and this "
            f"{'card has' if cuda else 'machine has free'} {gib:.1f}. {advice(recipe, gib, cuda=cuda)} {OPTIONS}"
        )


def out_of_memory(recipe: Recipe) -> str:
    """What to say when memory ran out: what was tried, and what the planner says would fit."""
    import torch

    from .planner import advice

    gib = total_memory_gib()
    return (
        f"Memory ran out: {recipe.name!r} at sequence {recipe.max_length}, batch {recipe.batch}, on {gib:.1f} GiB. "
        f"{advice(recipe, gib, cuda=torch.cuda.is_available())} {OPTIONS}"
    )


def total_memory_gib() -> float:
    """Memory in GiB: of the CUDA card if there is one, else of the machine."""
    import psutil
    import torch

    if torch.cuda.is_available():
        return torch.cuda.mem_get_info()[1] / 2**30
    return psutil.virtual_memory().total / 2**30


def _bad(parameters: Any) -> bool:
    return any(not parameter.isfinite().all() for parameter in parameters if parameter.is_floating_point())


def check_adapter_finite(model: Any, recipe: Recipe, step: int) -> None:
    """Raises PushbackError if a trained weight is not a finite number, so that no such checkpoint is written."""
    if _bad(parameter for parameter in model.parameters() if parameter.requires_grad):
        raise PushbackError(
            f"Training stopped at step {step}: the adapter's weights are no longer finite numbers, so a step was too large. "
            f"Begin anew with a lower --learning-rate (it was {recipe.learning_rate:g})."
        )


def check_loss(loss: Any, model: Any, recipe: Recipe, step: int) -> None:
    """Raises PushbackError, saying why, if the loss is not a finite number."""
    if loss.isfinite().all():
        return
    check_adapter_finite(model, recipe, step)
    if _bad(parameter for parameter in model.parameters() if not parameter.requires_grad):
        why = f"because the base's weights in {recipe.base} are not all finite numbers: the file is damaged. Get it again."
    else:
        why = f"with finite weights, so an activation overflowed. {_overflow(recipe)}"
    raise PushbackError(f"Training stopped at step {step}: the loss is {loss.item()}, {why}")


def _overflow(recipe: Recipe) -> str:
    import torch

    from .models import compute_dtype

    lower = f"egin anew with a lower --learning-rate (it was {recipe.learning_rate:g})."
    if compute_dtype() is torch.float16:
        return f"In fp16 nothing above 65,504 exists: take a card with bf16 (Ampere or later), or b{lower}"
    return f"A step before was too large: b{lower}"
