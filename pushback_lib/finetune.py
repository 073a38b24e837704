"""QLoRA through TRL: the one place that knows TRL's arguments; knows nothing about evaluation or display."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .checks import ADAPTER_CARD, fingerprint
from .errors import PushbackError
from .models import compute_dtype, load_base, load_tokenizer, quiet
from .recipe import Recipe
from .records import Record, to_messages

if TYPE_CHECKING:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer


@dataclass(frozen=True)
class Training:
    """What a training run left behind: the adapter's folder, (step, loss) pairs, seconds, and parameter counts."""

    adapter: Path
    losses: tuple[tuple[int, float], ...]
    seconds: float
    trainable: int
    total: int


def training_dataset(records: Iterable[Record], system: str) -> Dataset:
    """Conversational prompt–completion rows; earlier turns are part of the prompt, so only the last reply is learned."""
    from datasets import Dataset

    conversations = (to_messages(record, system) for record in records)
    return Dataset.from_list([{"prompt": messages[:-1], "completion": messages[-1:]} for messages in conversations])


def sft_config(recipe: Recipe, work: Path) -> SFTConfig:
    """TRL's arguments for a recipe. Loss covers what follows the generation prompt: reasoning, answer, end token.

    `assistant_only_loss` makes TRL swap in its training variant of the chat template, without which the reasoning is
    dropped; the prompt–completion form takes the generation prompt itself out of the loss.
    """
    import torch
    from trl import SFTConfig

    dtype = compute_dtype()
    return SFTConfig(
        output_dir=str(work), use_cpu=not torch.cuda.is_available(), bf16=dtype is torch.bfloat16,
        fp16=dtype is torch.float16, assistant_only_loss=True, completion_only_loss=True, max_length=recipe.max_length,
        num_train_epochs=recipe.epochs, per_device_train_batch_size=recipe.batch,
        gradient_accumulation_steps=recipe.accumulation, gradient_checkpointing=recipe.checkpointing,
        learning_rate=recipe.learning_rate, lr_scheduler_type="cosine", warmup_steps=recipe.warmup_share,
        optim=recipe.optimizer if torch.cuda.is_available() else "adamw_torch", max_grad_norm=1.0,
        train_sampling_strategy="group_by_length", packing=False, logging_steps=10, save_strategy="no", report_to=[],
        seed=recipe.seed, data_seed=recipe.seed, dataloader_pin_memory=False,
    )  # fmt: skip


def make_trainer(recipe: Recipe, records: Sequence[Record], work: Path, callbacks: Sequence[Any] = ()) -> SFTTrainer:
    """TRL's trainer around the NF4 base and a fresh LoRA adapter on all linear layers."""
    quiet()  # before the imports, which is when bitsandbytes speaks
    from peft import LoraConfig
    from transformers import set_seed
    from trl import SFTTrainer

    set_seed(recipe.seed)
    trainer = SFTTrainer(
        model=load_base(recipe),
        args=sft_config(recipe, work),
        train_dataset=training_dataset(records, recipe.system),
        processing_class=load_tokenizer(recipe),
        peft_config=LoraConfig(r=recipe.rank, lora_alpha=recipe.alpha, target_modules="all-linear", task_type="CAUSAL_LM"),
        callbacks=list(callbacks),
    )
    _show_loss_in_the_bar(trainer)
    return trainer


def _show_loss_in_the_bar(trainer: SFTTrainer) -> None:
    """In a terminal, puts the loss behind the progress bar instead of a line of figures every few steps."""
    from transformers.trainer_callback import ProgressCallback

    class LossBar(ProgressCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
            if self.training_bar is not None and logs and "loss" in logs:
                self.training_bar.set_postfix(loss=logs["loss"])

    if trainer.pop_callback(ProgressCallback):
        trainer.add_callback(LossBar)


def train_adapter(recipe: Recipe, records: Sequence[Record], out: str | Path, callbacks: Sequence[Any] = ()) -> Training:
    """Trains the friction adapter and writes it to `out` (16-bit safetensors, with a note on its base and recipe).

    Raises PushbackError before training if there is nothing to train on, or the base or memory are not in order.
    """
    if not records:
        raise PushbackError("There are no records to train on. Make some with `pushback data make`, or check the path.")
    out = Path(out)
    trainer = make_trainer(recipe, records, out.with_name(f".{out.name}.work"), callbacks)
    start = time.monotonic()
    trainer.train()
    seconds = time.monotonic() - start
    sizes = [(p.numel(), p.requires_grad) for p in trainer.model.parameters()]
    trainable = sum(n for n, trains in sizes if trains)
    save_adapter(trainer.model, recipe, out)
    shutil.rmtree(trainer.args.output_dir, ignore_errors=True)
    losses = tuple((row["step"], row["loss"]) for row in trainer.state.log_history if "loss" in row)
    return Training(out, losses, seconds, trainable, recipe.parameters + trainable)


def save_adapter(model: Any, recipe: Recipe, out: Path) -> None:
    """Writes the adapter beside `out`, then puts it in place; the trainable weights become bf16."""
    import torch

    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.bfloat16)
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    model.peft_config["default"].base_model_name_or_path = Path(recipe.base).name if recipe.is_local else recipe.base
    model.save_pretrained(part, save_embedding_layers=False)
    (part / "README.md").unlink(missing_ok=True)  # PEFT's empty card template
    card = {"base": fingerprint(recipe), "model": recipe.name, "rank": recipe.rank, "alpha": recipe.alpha,
            "learning_rate": recipe.learning_rate, "epochs": recipe.epochs, "effective_batch": recipe.effective_batch,
            "system": recipe.system, "seed": recipe.seed}  # fmt: skip
    (part / ADAPTER_CARD).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    if out.exists():
        shutil.rmtree(out)
    part.replace(out)
