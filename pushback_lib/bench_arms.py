"""The three recipes that the benchmark compares, as trainers on the same records; knows nothing about measuring."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .bench_step import plain_trainer
from .finetune import make_trainer, training_dataset
from .models import compute_dtype, load_base, load_tokenizer
from .recipe import Recipe
from .records import Record

if TYPE_CHECKING:
    from trl import SFTTrainer

IGNORED = -100
ARMS = ("ancestor", "trl", "kit")


def trainer_for(arm: str, recipe: Recipe, records: Sequence[Record], work: Path, callbacks: Sequence[Any] = ()) -> SFTTrainer:
    """The trainer of one of `ARMS`; the kit's is the very one that `pushback train` uses."""
    if arm == "kit":
        return make_trainer(recipe, records, work, callbacks)
    from peft import LoraConfig

    tokenizer = training_tokenizer(recipe)
    return plain_trainer()(
        model=load_base(recipe),
        args=ancestor_config(recipe, work) if arm == "ancestor" else trl_config(recipe, work),
        train_dataset=ancestor_rows(recipe, records) if arm == "ancestor" else training_dataset(records, recipe.system),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=recipe.rank, lora_alpha=recipe.alpha, target_modules="all-linear", task_type="CAUSAL_LM"),
        callbacks=list(callbacks),
    )


def training_tokenizer(recipe: Recipe) -> Any:
    """The tokenizer with TRL's training template: with the model's own, neither rival would see any reasoning at all."""
    from trl.chat_template_utils import get_training_chat_template

    tokenizer = load_tokenizer(recipe)
    tokenizer.chat_template = get_training_chat_template(tokenizer)
    return tokenizer


def _equal(recipe: Recipe, work: Path) -> dict[str, Any]:
    """What all three share, so that they learn the same: examples, steps, rate, schedule, clipping, optimizer."""
    import torch

    on_gpu = torch.cuda.is_available()
    return dict(  # noqa: C408
        output_dir=str(work), use_cpu=not on_gpu, num_train_epochs=recipe.epochs, learning_rate=recipe.learning_rate,
        lr_scheduler_type="cosine", warmup_steps=recipe.warmup_share, optim=recipe.optimizer if on_gpu else "adamw_torch",
        max_grad_norm=1.0, seed=recipe.seed, data_seed=recipe.seed, save_strategy="no", report_to=[],
        dataloader_pin_memory=False,
    )  # fmt: skip


def trl_config(recipe: Recipe, work: Path) -> Any:
    """TRL's own defaults: bf16 autocast, gradient checkpointing, no length grouping; loss on the completion."""
    from trl import SFTConfig

    return SFTConfig(per_device_train_batch_size=recipe.batch, gradient_accumulation_steps=recipe.accumulation,
                     **_equal(recipe, work))  # fmt: skip


def ancestor_config(recipe: Recipe, work: Path) -> Any:
    """The ancestor's: batches of 2 (accumulated to the same effective batch), in the kit's precision."""
    import torch
    from trl import SFTConfig

    dtype = compute_dtype()
    return SFTConfig(per_device_train_batch_size=2, gradient_accumulation_steps=max(1, recipe.effective_batch // 2),
                     max_length=padded_length(recipe), gradient_checkpointing=recipe.checkpointing,
                     bf16=dtype is torch.bfloat16, fp16=dtype is torch.float16, **_equal(recipe, work))  # fmt: skip


def padded_length(recipe: Recipe) -> int:
    """The ancestor pads to 4,096 tokens; where the model takes fewer, to as many as it takes."""
    from .shapes import config_for

    return min(4096, config_for(recipe).max_position_embeddings)


def tokenise(recipe: Recipe, records: Sequence[Record]) -> list[dict[str, list[int]]]:
    """Token ids and labels of each record; labels outside reasoning, answer and end token are ignored."""
    tokenizer, made = training_tokenizer(recipe), []
    for row in training_dataset(records, recipe.system):
        head = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, tokenize=False)
        whole = tokenizer.apply_chat_template([*row["prompt"], *row["completion"]], tokenize=False)
        ids = tokenizer(whole, add_special_tokens=False)["input_ids"]
        skip = len(tokenizer(head, add_special_tokens=False)["input_ids"])
        made.append({"input_ids": ids, "labels": [IGNORED] * skip + ids[skip:]})
    return made


def useful_tokens(recipe: Recipe, records: Sequence[Record]) -> int:
    """Reasoning and answer tokens of all records."""
    return sum(label != IGNORED for row in tokenise(recipe, records) for label in row["labels"])


def ancestor_rows(recipe: Recipe, records: Sequence[Record]) -> Any:
    """Every example padded to the same length, with loss on every token that is not padding."""
    from datasets import Dataset

    length, pad = padded_length(recipe), load_tokenizer(recipe).pad_token_id
    rows = []
    for row in tokenise(recipe, records):
        ids = row["input_ids"][:length]
        rows.append({"input_ids": ids + [pad] * (length - len(ids)), "labels": ids + [IGNORED] * (length - len(ids))})
    return Dataset.from_list(rows)
