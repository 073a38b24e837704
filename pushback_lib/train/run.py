"""Fine-tune a friction adapter with QLoRA, using TRL and PEFT."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from math import gcd
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.common import DATA, PushbackError
from ..core.files import replacing
from ..core.folders import TRAINING_FILE, alone, check_folder, remove_folder, replacing_folder
from ..core.records import Record, load_records, to_messages
from ..model.checks import fingerprint
from ..model.doctor import check_training
from ..model.load import bars, check_model, compute_dtype, family_for, load_base, load_tokenizer, quiet, under_fsdp
from ..model.recipe import Recipe
from . import guard
from .mixture import mixed_records, sample
from .progress import hide_the_table, show_loss_in_the_bar
from .window import fitting

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast
    from trl import SFTConfig, SFTTrainer

    from .fast import FastModel


def trained_weights(model: Any) -> dict[str, Any]:
    """The adapter's parameters by name, whether or not they are being trained now."""
    return {name: parameter for name, parameter in model.named_parameters() if "lora_" in name}


def save_adapter(model: Any, recipe: Recipe, out: Path, state: dict[str, Any] | None = None, dropped: int = 0) -> None:
    """Writes the adapter beside `out`, then puts it in place; the trainable weights become bf16.

    `state` is the complete model's state where the model itself holds only a part of it (FSDP); `dropped` records, if there are
    any, are noted with the window that they were too long for.
    """
    import torch

    if state is None:
        for parameter in trained_weights(model).values():
            parameter.data = parameter.data.to(torch.bfloat16)
    else:
        state = {name: tensor.to(torch.bfloat16) for name, tensor in state.items() if "lora_" in name}
    model.peft_config["default"].base_model_name_or_path = Path(recipe.base).resolve().name if recipe.is_local else recipe.base
    model.peft_config["default"].revision = recipe.revision
    about = {"base": fingerprint(recipe), "model": recipe.label, "rank": recipe.rank, "alpha": recipe.alpha,
             "learning_rate": recipe.learning_rate, "epochs": recipe.epochs, "effective_batch": recipe.effective_batch,
             "system": recipe.system, "seed": recipe.seed,
             **({"max_length": recipe.max_length, "dropped": dropped} if dropped else {})}  # fmt: skip
    with replacing_folder(out) as part:
        model.save_pretrained(part, state_dict=state, save_embedding_layers=False)
        (part / "README.md").unlink(missing_ok=True)  # PEFT's empty card template
        (part / TRAINING_FILE).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


class EpochOrder:
    """A sampler whose order depends on seed and epoch alone, so that a resumed epoch skips exactly what was trained.

    The first epoch of a single process draws from torch's global generator, as transformers does; a checkpoint
    therefore holds that order (`save`, `load`). Several processes must all draw alike, so they use the seed from the start.
    """

    def __init__(self, lengths: Sequence[int], batch: int, seed: int, alone: bool) -> None:
        self.lengths, self.batch, self.seed, self.alone = list(lengths), batch, seed, alone
        self.epoch = 0
        self.order: list[int] = []  # of this epoch, once it is drawn

    def __len__(self) -> int:
        return len(self.lengths)

    def set_epoch(self, epoch: int) -> None:
        """Called by accelerate's data loader when an epoch begins."""
        if epoch != self.epoch:
            self.epoch, self.order = epoch, []

    def __iter__(self) -> Iterator[int]:
        import torch
        from transformers.trainer_pt_utils import get_length_grouped_indices

        if not self.order:
            as_transformers = self.alone and self.epoch == 0
            seeded = None if as_transformers else torch.Generator().manual_seed(1_000 * self.seed + self.epoch)
            self.order = get_length_grouped_indices(self.lengths, self.batch, generator=seeded)
        return iter(self.order)

    def save(self, path: Path) -> None:
        """Writes the current epoch and its order."""
        with replacing(path) as part:
            part.write_text(json.dumps({"epoch": self.epoch, "order": self.order}), encoding="utf-8")

    def load(self, path: Path) -> None:
        """Takes over the epoch and order that `save` wrote."""
        stored = json.loads(path.read_text(encoding="utf-8"))
        self.epoch, self.order = stored["epoch"], stored["order"]


VALIDATION = 108  # records drawn in the bundled language: six of each kind


def training_records(recipe: Recipe, path: str | Path | None = None, n: int | None = None) -> list[Record]:
    """The records of `path`, a file or a folder of splits; or those the dial calls for: the bundled language for `tiny`, the
    recipe's mixture where it has one, else data/friction. With `n` so many of them, by the recipe's seed, pairs whole.
    """
    if recipe.examples and not path:
        from ..language.corpus import friction_records

        return friction_records(n or recipe.examples, recipe.seed)
    if recipe.mixture and not path:
        records = mixed_records(recipe.mixture, recipe.seed)
    else:
        records = load_records(path or DATA / "friction" / "train.jsonl")
    return sample(records, n, recipe.seed) if n else records


def validation_records(recipe: Recipe, train: Sequence[Record], path: str | Path | None = None) -> list[Record]:
    """Records to look at while training, none where the recipe has no patience: `path`, or what the dial calls for.

    In the bundled language they are drawn by another seed, hold no held-out word, and none is asked in training too.
    """
    if not recipe.patience:
        return []
    if path:
        return load_records(path, "validation")
    if not recipe.examples:
        return load_records(DATA / "friction" / "validation.jsonl")
    from ..language.corpus import friction_records

    asked = {(record.history, record.user_input) for record in train}
    drawn = friction_records(8 * VALIDATION, recipe.seed + 1)
    return [record for record in drawn if (record.history, record.user_input) not in asked][:VALIDATION]


def trainer_class() -> type[SFTTrainer]:
    """TRL's trainer with checks, checkpoints and an order of examples that resume exactly; made here to import TRL late."""
    from trl import SFTTrainer

    class FrictionTrainer(SFTTrainer):
        recipe: Recipe  # set right after building
        checkpoint: Path | None = None  # to resume from
        fast: FastModel | None = None  # computes the loss in place of the model, where `computes_fast` says so

        def _send_telemetry(self) -> None:
            """TRL would tell the Hub about every run; HF_HUB_DISABLE_TELEMETRY is read too early to be set here."""

        def _get_train_sampler(self, train_dataset: Any = None) -> EpochOrder:
            lengths = [len(ids) for ids in self.train_dataset["input_ids"]]
            batch = self.args.train_batch_size * self.args.gradient_accumulation_steps
            self.order = EpochOrder(lengths, batch, self.args.seed, self.args.world_size == 1)
            if self.checkpoint:
                self.order.load(self.checkpoint / guard.ORDER)
            return self.order

        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
            if self.fast is None:
                return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            return self.fast.loss(inputs["input_ids"], inputs["attention_mask"], inputs["labels"], num_items_in_batch)

        def training_step(self, model: Any, *args: Any, **kwargs: Any) -> Any:
            loss = super().training_step(model, *args, **kwargs)
            guard.check_loss(loss, model, self.recipe, self.state.global_step + 1)
            return loss

        def _save_checkpoint(self, model: Any, trial: Any) -> None:
            guard.check_adapter_finite(self.model, self.recipe, self.state.global_step)
            super()._save_checkpoint(model, trial)
            folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            if self.is_world_process_zero():
                self.order.save(folder / guard.ORDER)
                (folder / guard.MARK).touch()

        def _save_rng_state(self, output_dir: str) -> None:
            """By the first process alone: no dropout draws anything, and only one process writes."""
            if self.is_world_process_zero():
                super()._save_rng_state(output_dir)

        def _load_from_checkpoint(self, path: str, model: Any = None) -> None:
            """PEFT loads adapters in fp32; training continues in the dtype that it had."""
            dtypes = {name: parameter.dtype for name, parameter in self.model.named_parameters()}
            super()._load_from_checkpoint(path, model)
            for name, parameter in self.model.named_parameters():
                if name in dtypes:
                    parameter.data = parameter.data.to(dtypes[name])

    return FrictionTrainer


TOKENISED_AT_ONCE = 10_000  # records, in a few seconds and without a progress bar
LOG_PROJECT = "pushback"  # what trackio calls the runs of this kit


@dataclass(frozen=True)
class Training:
    """What a training run left behind: the adapter's folder, (step, loss) pairs, seconds, and parameter counts.

    `seconds` are those of this process: after a resume, only what was trained since. `best` is the lowest validation
    loss, whose weights the adapter has; None where there was no validation split. `dropped` records were too long to train on.
    """

    adapter: Path
    losses: tuple[tuple[int, float], ...]
    seconds: float
    trainable: int
    total: int
    validation: tuple[tuple[int, float], ...] = ()
    best: float | None = None
    dropped: int = 0


def training_dataset(records: Iterable[Record], system: str) -> Dataset:
    """Conversational prompt–completion rows; earlier turns are part of the prompt, so only the last reply is learned."""
    from datasets import Dataset

    conversations = (to_messages(record, system) for record in records)
    return Dataset.from_list([{"prompt": messages[:-1], "completion": messages[-1:]} for messages in conversations])


def split_batch(recipe: Recipe, processes: int) -> Recipe:
    """The recipe for one of several processes, so that all together take the recipe's effective batch.

    Raises PushbackError if that batch cannot be split evenly.
    """
    if recipe.effective_batch % processes:
        fitting = -(-recipe.effective_batch // processes) * processes
        raise PushbackError(
            f"{recipe.effective_batch} examples a step cannot be split evenly over {processes} processes. Start a number of "
            f"them that divides {recipe.effective_batch}, or pass --batch {fitting}."
        )
    return _accumulating(recipe, recipe.batch, recipe.effective_batch // processes)


def _accumulating(recipe: Recipe, at_once: int, total: int) -> Recipe:
    """The recipe with `total` examples a step, in the largest equal batches of at most `at_once`."""
    batch = max(size for size in range(1, min(at_once, total) + 1) if total % size == 0)
    return dataclasses.replace(recipe, batch=batch, accumulation=total // batch)


def with_choices(
    recipe: Recipe, *, batch: int | None = None, micro_batch: int | None = None, validates: bool = False, **changes: Any
) -> Recipe:
    """The recipe with a user's choices; None stands for the recipe's own value.

    `batch` is that of a step, `micro_batch` that in memory at a time. A recipe without patience gets three looks where
    `validates` says that there are records to look at.
    """
    if changes.get("patience") is None and validates and not recipe.patience:
        changes["patience"] = 3
    recipe = dataclasses.replace(recipe, **{name: value for name, value in changes.items() if value is not None})
    return _accumulating(recipe, micro_batch or recipe.batch, batch or recipe.effective_batch)


def set_up_log(log: str, out: Path) -> str:
    """Points `tensorboard` or `trackio` at a folder beside the adapter, on this machine; returns the command that shows it.

    Raises PushbackError if that package is not installed.
    """
    if find_spec(log) is None:
        raise PushbackError(f"--log {log} needs the package {log}. Install it: `pip install {log}`.")
    variable = {"tensorboard": "TENSORBOARD_LOGGING_DIR", "trackio": "TRACKIO_DIR"}[log]
    folder = os.environ.setdefault(variable, str(out.with_name(f"{out.name}.{log}").resolve()))
    if log == "tensorboard":
        return f"tensorboard --logdir {folder}"
    return f"TRACKIO_DIR={folder} trackio show --project {LOG_PROJECT}"


def sft_config(recipe: Recipe, work: Path, validate: bool = False, log: str | None = None) -> SFTConfig:
    """TRL's arguments for a recipe. Loss covers what follows the generation prompt: reasoning, answer, end token.

    `assistant_only_loss` takes what the family's training template (`training_tokenizer`) marks as a reply, where the one for
    inference may drop the reasoning; the prompt–completion form takes the generation prompt itself out of the loss. Batches
    hold examples of like length, and none is cut, since `fitting` has seen to the window; packing would need flash attention to
    pay. Nothing is reported to anyone unless `log` names where.
    Several processes drop the last uneven batch of an epoch, where they would otherwise train examples twice.
    """
    import torch
    from trl import SFTConfig

    cuda, dtype, save = torch.cuda.is_available(), compute_dtype(), recipe.checkpoint_every
    optimizer = recipe.optimizer if cuda and not under_fsdp() else "adamw_torch"  # FSDP shards its state anyway
    best = {"eval_strategy": "steps", "eval_steps": save, "load_best_model_at_end": True, "metric_for_best_model": "eval_loss",
            "greater_is_better": False} if validate else {}  # fmt: skip
    many = {"dataloader_drop_last": True, "ddp_find_unused_parameters": False} if guard.processes() > 1 else {}
    return SFTConfig(
        output_dir=str(work), use_cpu=not cuda, bf16=dtype is torch.bfloat16,
        fp16=dtype is torch.float16, assistant_only_loss=True, completion_only_loss=True, max_length=None,
        num_train_epochs=recipe.epochs, per_device_train_batch_size=recipe.batch, per_device_eval_batch_size=recipe.batch,
        gradient_accumulation_steps=recipe.accumulation, activation_checkpointing=recipe.checkpointing,
        learning_rate=recipe.learning_rate, lr_scheduler_type="cosine", warmup_steps=recipe.warmup_share,
        optim=optimizer, max_grad_norm=1.0, train_sampling_strategy="group_by_length", packing=False,
        logging_steps=gcd(10, save), logging_nan_inf_filter=False, save_strategy="steps" if save else "no",
        save_steps=save or 500, save_total_limit=2, report_to=[log] if log else [], seed=recipe.seed, data_seed=recipe.seed,
        project=LOG_PROJECT, dataloader_pin_memory=False, **best, **many,
    )  # fmt: skip


def training_tokenizer(recipe: Recipe) -> PreTrainedTokenizerFast:
    """The base's tokenizer with the family's training template in place of the one for inference."""
    tokenizer = load_tokenizer(recipe)
    tokenizer.chat_template = family_for(recipe).training_template()
    return tokenizer


def _check_fsdp() -> None:
    import torch

    if compute_dtype() is not torch.bfloat16:
        raise PushbackError(
            "FSDP shards parameters of one dtype, and only cards with bf16 (Ampere and later) train in one. Use "
            "notebooks/guide/accelerate/ddp.yaml with a model that fits on one card, or other cards."
        )


def make_trainer(
    recipe: Recipe, records: Sequence[Record], work: Path, callbacks: Sequence[Any] = (), validation: Sequence[Record] = (),
    log: str | None = None, drop_long: bool = False,
) -> SFTTrainer:  # fmt: skip
    """TRL's trainer around the NF4 base and a fresh LoRA adapter on all linear layers.

    Raises PushbackError, before the base is loaded, if a record is longer than the recipe's window and not to be left out.
    """
    quiet()  # before the imports, which is when bitsandbytes speaks
    from datasets.utils import logging
    from peft import LoraConfig
    from transformers import EarlyStoppingCallback, set_seed

    mine = split_batch(recipe, guard.processes())
    records, validation = fitting(records, recipe, drop_long), fitting(validation, recipe, drop_long, "validation records")
    set_seed(recipe.seed)
    base = load_base(recipe, one_card=True)
    with bars(logging, len(records) > TOKENISED_AT_ONCE):
        trainer = trainer_class()(
            model=base,
            args=guard.on_one_card(sft_config(mine, work, bool(validation), log)),
            train_dataset=training_dataset(records, recipe.system),
            eval_dataset=training_dataset(validation, recipe.system) if validation else None,
            processing_class=training_tokenizer(recipe),
            peft_config=LoraConfig(r=recipe.rank, lora_alpha=recipe.alpha, target_modules="all-linear", task_type="CAUSAL_LM"),
            callbacks=[*callbacks, *([EarlyStoppingCallback(recipe.patience)] if validation else [])],
        )
    guard.check_ends(trainer, recipe)
    trainer.recipe = recipe
    cast_trainable(trainer.model)
    if computes_fast(mine):
        from .fast import FastModel

        trainer.fast = FastModel(trainer.model)
    show_loss_in_the_bar(trainer)
    return trainer


def computes_fast(recipe: Recipe) -> bool:
    """Whether `FastModel` computes the loss: for a base in 16 bit, on a CPU, in one process that keeps its activations.

    The family must be one whose blocks it knows.
    """
    import torch

    large = recipe.four_bit or recipe.checkpointing or torch.cuda.is_available() or guard.processes() > 1
    return not large and family_for(recipe).fast


def cast_trainable(model: Any) -> None:
    """Brings the adapter to fp32 where training computes in fp16 (on a T4), whose gradient scaler needs it; else it is bf16."""
    import torch

    if compute_dtype() is torch.float16:
        for parameter in trained_weights(model).values():
            parameter.data = parameter.data.to(torch.float32)


def train_adapter(
    recipe: Recipe, records: Sequence[Record], out: str | Path, callbacks: Sequence[Any] = (), *,
    validation: Sequence[Record] = (), resume: bool = False, log: str | None = None, drop_long: bool = False,
) -> Training:  # fmt: skip
    """Trains the friction adapter and writes it to `out` (16-bit safetensors, with a note on its base and recipe).

    With `validation` records it looks at them at every checkpoint, stops after `recipe.patience` looks without gain, and
    keeps the best weights. With `resume` it starts from the last complete checkpoint of the same run, if there is one.
    `log` is `tensorboard` or `trackio`. With `drop_long`, records that are longer than the recipe's window are named in a
    warning, left out, and counted in the adapter's note. Raises PushbackError before training if there are no records, some are
    too long, `out` may not be written, or base or memory are not in order; and in training when the loss is not finite, memory
    or disk run out, or it is interrupted.
    """
    if not records:
        raise PushbackError("There are no records to train on. Make some with `pushback data make`, or check the path.")
    check_folder(out, [recipe.base_folder])
    out = Path(out)
    check_model(recipe)
    check_training(recipe)
    if under_fsdp():
        _check_fsdp()
    else:
        guard.check_fits(split_batch(recipe, guard.processes()))
    given, records = len(records), fitting(records, recipe, drop_long)
    validation = fitting(validation, recipe, drop_long, "validation records")
    work = guard.work_folder(out)
    with alone(out), guard.explained(recipe, work):
        checkpoint = guard.prepare(work, guard.identity(recipe, records, validation), resume)
        trainer = make_trainer(recipe, records, work, callbacks, validation, log)
        trainer.checkpoint = checkpoint
        if callbacks:
            hide_the_table(trainer)
        trained = sum(parameter.numel() for parameter in trained_weights(trainer.model).values())
        guard.check_room(work, trained)
        start = time.monotonic()
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        seconds = time.monotonic() - start
        _finish(trainer, recipe, out, work, given - len(records))
    rows = trainer.state.log_history
    losses, looks = (tuple((row["step"], row[key]) for row in rows if key in row) for key in ("loss", "eval_loss"))
    return Training(out, losses, seconds, trained, recipe.parameters + trained, looks, trainer.state.best_metric,
                    given - len(records))  # fmt: skip


def _finish(trainer: SFTTrainer, recipe: Recipe, out: Path, work: Path, dropped: int) -> None:
    """The first process writes the adapter and removes the checkpoints; the others wait for it."""
    state = trainer.accelerator.get_state_dict(trainer.model) if trainer.is_fsdp_enabled else None
    if guard.is_first_process():
        save_adapter(trainer.accelerator.unwrap_model(trainer.model), recipe, out, state, dropped)
        remove_folder(work)
    trainer.accelerator.wait_for_everyone()
