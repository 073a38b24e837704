"""Checkpoints, and what stops a training: not a number, a full disk, a lack of memory."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..core.common import PushbackError
from ..core.files import empty_fields, replacing
from ..core.folders import remove_folder
from ..core.records import Record
from ..model.checks import fingerprint
from ..model.load import compute_dtype, memory_gib
from ..model.recipe import Recipe, config_for
from .plan import advice, card_for, needed_gib, setting_for

IGNORED = -100  # label of a token that is not trained on, as in torch.nn.CrossEntropyLoss
MARK = "whole"  # a file in a checkpoint, made last
ORDER = "order.json"  # in a checkpoint: the epoch, and the order of the examples in it
RUN = "run.json"  # in the folder: what the run is made of
NOT_COMPARED = ("checkpoint_every",)  # of the recipe: has no effect on the numbers


def processes() -> int:
    """How many processes train together, as their launcher tells each of them; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first_process() -> bool:
    """Whether this process is the one that writes files and prints."""
    return os.environ.get("RANK", "0") == "0"


def on_one_card(arguments: Any) -> Any:
    """The same TrainingArguments, which keep a process without a launcher to its first card, where `load_base` puts the base.

    With several in sight TRL's trainer refuses to start. CUDA_VISIBLE_DEVICES would hide them only from a process that has
    not used a card yet, and a notebook has.
    """
    cards = arguments.n_gpu
    if cards > 1:
        warnings.warn(
            f"{cards} GPUs are visible. One process trains on one, the first; to train on all, start it with `accelerate "
            f"launch --num_processes {cards}` as notebooks/guide/scaling.md shows.",
            stacklevel=2,
        )
        arguments._n_gpu = 1  # as transformers' own trainer does for a model that is spread over cards
    return arguments


def check_ends(trainer: Any, recipe: Recipe) -> None:
    """Raises PushbackError before training unless the last token that each example teaches is the one that ends a reply.

    A voice that is never taught it does not stop; the loss looks as healthy as ever.
    """
    tokenizer = trainer.processing_class
    for rows in filter(None, (trainer.train_dataset, trainer.eval_dataset)):
        for number, labels in enumerate(rows["labels"], 1):
            taught = [label for label in labels if label != IGNORED]
            if taught[-1:] != [tokenizer.eos_token_id]:
                raise PushbackError(
                    f"The chat template of {recipe.base} leaves {tokenizer.eos_token!r}, which ends a reply, out of what is "
                    f"trained: example {number} ends in {tokenizer.decode(taught[-8:])!r}. The voice would never stop. Put "
                    "the token inside the template's `{% generation %}` block, or choose another base; where the example is "
                    "only cut off, raise --max-length."
                )


def work_folder(out: Path) -> Path:
    """The folder of the checkpoints of the adapter `out` while it is trained."""
    return out.with_name(f".{out.name}.work")


def checkpoints(work: Path) -> list[Path]:
    """The complete checkpoints in the folder, the newest last."""
    return sorted((mark.parent for mark in work.glob(f"checkpoint-*/{MARK}")), key=lambda path: int(path.name.split("-")[1]))


def identity(recipe: Recipe, records: Sequence[Record], validation: Sequence[Record]) -> dict[str, Any]:
    """What must be the same for a run to resume from a checkpoint: recipe, base, data, number of processes."""
    fields = {key: value for key, value in dataclasses.asdict(recipe).items() if key not in NOT_COMPARED}
    data = {"data": _digest(records), "validation": _digest(validation)}
    return {**fields, "base": fingerprint(recipe), **data, "processes": processes()}


def _digest(records: Sequence[Record]) -> str:
    digest = hashlib.sha256()
    for record in records:
        digest.update(record.model_dump_json(exclude=empty_fields(record)).encode())
    return digest.hexdigest()


def prepare(work: Path, run: dict[str, Any], resume: bool) -> Path | None:
    """The checkpoint to resume from, or None for a new start, for which the folder is emptied.

    With `resume` and no checkpoint there, the run starts from the beginning. Raises PushbackError if the checkpoints are of
    another run.
    """
    found = checkpoints(work) if resume else []
    if found:
        _check_same(work, run)
    if is_first_process():
        if not found:
            remove_folder(work)
        remove_incomplete(work)
        with replacing(work / RUN) as part:
            part.write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")
    return found[-1] if found else None


def remove_incomplete(work: Path) -> None:
    """Removes the checkpoints that were not written to their end."""
    for path in work.glob("checkpoint-*"):
        if not (path / MARK).exists():
            shutil.rmtree(path, ignore_errors=True)


def _check_same(work: Path, run: dict[str, Any]) -> None:
    try:
        old = json.loads((work / RUN).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PushbackError(
            f"{work / RUN} cannot be read ({error}). Run again without --resume to start from the beginning."
        ) from error
    for key, value in run.items():
        if old.get(key) != value:
            raise PushbackError(
                f"The checkpoints in {work} are of a run with another {key} ({_short(old.get(key))}, now {_short(value)}). "
                "Pass what that run had, or run again without --resume to start from the beginning."
            )


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:37] + "…"


def unfinished(out: Path) -> Path | None:
    """The newest complete checkpoint that an unfinished run towards `out` left, if there is one."""
    return next(reversed(checkpoints(work_folder(out))), None)


NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_ROOM_TEXT = ("no space left", "file too large", "file write failed", "unexpected pos", "pytorchstreamwriter", "quota")
NO_MEMORY_TEXT = ("out of memory", "can't allocate memory", "not enough memory")
OPTIONS = "(Options: --micro-batch, --max-length.)"
BYTES_A_WEIGHT = 16  # of a checkpoint: the adapter and both moments of AdamW, in fp32 at most, and some room


def is_disk_full(error: BaseException) -> bool:
    """Whether a write failed because the disk is full: an OSError, or what torch and safetensors make of one."""
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
    """Raises PushbackError, saying what to do next, in place of what a training run may end with."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise PushbackError(f"Stopped. {_how_to_resume(work)}") from error
    except Exception as error:
        if is_out_of_memory(error):
            raise PushbackError(_out_of_memory(recipe)) from error
        if is_disk_full(error):
            remove_incomplete(work)
            raise PushbackError(f"The disk of {work.parent} has no room left, or lets no file grow. Make room. "
                                f"{_how_to_resume(work)}") from error  # fmt: skip
        raise


def _how_to_resume(work: Path) -> str:
    found = checkpoints(work)
    if not found:
        return "There was no checkpoint yet; the same command starts from the beginning."
    step = found[-1].name.split("-")[1]
    return f"The checkpoint of step {step} is complete; the same command with --resume continues from there."


def check_room(work: Path, trainable: int) -> None:
    """Raises PushbackError before training if the disk cannot hold three checkpoints of so many trained weights."""
    need, free = 3 * trainable * BYTES_A_WEIGHT, shutil.disk_usage(work).free
    if free < need:
        raise PushbackError(
            f"Checkpoints in {work.parent} need {need / 2**20:.0f} MiB, and {free / 2**20:.0f} MiB are free. Make room, or "
            "choose another --out."
        )


def check_fits(recipe: Recipe, gib: float | None = None) -> None:
    """Raises PushbackError, with what would fit, if this recipe does not fit on the card or machine.

    `gib`: of a CUDA card that is not there, to ask before renting one. Without a card, the machine's free memory counts.
    """
    import torch

    cuda = gib is not None or torch.cuda.is_available()
    if gib is None:
        free, every = memory_gib()
        gib = every if cuda else free
    need = needed_gib(config_for(recipe), setting_for(recipe, dataclasses.replace(card_for(gib), cuda=cuda)))
    if need > gib:
        raise PushbackError(
            f"{recipe.name!r} at sequence {recipe.max_length}, batch {recipe.batch}, needs about {need:.1f} GiB, and this "
            f"{'card has' if cuda else 'machine has free'} {gib:.1f}. {advice(recipe, gib, cuda=cuda)} {OPTIONS}"
        )


def _out_of_memory(recipe: Recipe) -> str:
    """What to say when memory ran out: what was tried, and what the planner says would fit."""
    import torch

    gib = memory_gib()[1]
    return (
        f"Memory ran out: {recipe.name!r} at sequence {recipe.max_length}, batch {recipe.batch}, on {gib:.1f} GiB. "
        f"{advice(recipe, gib, cuda=torch.cuda.is_available())} {OPTIONS}"
    )


def _bad(parameters: Any) -> bool:
    return any(not parameter.isfinite().all() for parameter in parameters if parameter.is_floating_point())


def check_adapter_finite(model: Any, recipe: Recipe, step: int) -> None:
    """Raises PushbackError if a trained weight is not a finite number, so that no such checkpoint is written."""
    if _bad(parameter for parameter in model.parameters() if parameter.requires_grad):
        raise PushbackError(
            f"Training stopped at step {step}: the adapter's weights are no longer finite numbers, so a step was too large. "
            f"Start again with a lower --learning-rate (it was {recipe.learning_rate:g})."
        )


def check_loss(loss: Any, model: Any, recipe: Recipe, step: int) -> None:
    """Raises PushbackError, saying why, if the loss is not a finite number."""
    import torch

    if loss.isfinite().all():
        return
    check_adapter_finite(model, recipe, step)
    lower = f"start again with a lower --learning-rate (it was {recipe.learning_rate:g})."
    if _bad(parameter for parameter in model.parameters() if not parameter.requires_grad):
        why = f"because the base's weights in {recipe.base} are not all finite numbers: the file is damaged. Get it again."
    elif compute_dtype() is torch.float16:
        why = ("with finite weights, so an activation overflowed. In fp16 nothing above 65,504 exists: take a card with bf16 "
               f"(Ampere or later), or {lower}")  # fmt: skip
    else:
        why = f"with finite weights, so an activation overflowed. A step before was too large: {lower}"
    raise PushbackError(f"Training stopped at step {step}: the loss is {loss.item()}, {why}")
