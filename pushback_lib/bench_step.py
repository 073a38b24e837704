"""A few real training steps of any shape through the kit's own TRL arguments, watched; knows nothing about plans or quality."""

from __future__ import annotations

import dataclasses
import random
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .bench_memory import Peak, StepPeak
from .bench_model import random_base
from .finetune import sft_config
from .models import load_tokenizer, quiet
from .recipe import Recipe, recipe_for

if TYPE_CHECKING:
    import torch
    from transformers import Qwen2Config, TrainerCallback
    from trl import SFTTrainer


@dataclasses.dataclass(frozen=True)
class StepRun:
    """What the steps of a run took: the watched step's peak, seconds of the steps after the first, tokens in one step."""

    peak: Peak
    seconds_a_step: float
    tokens_a_step: int


def plain_trainer() -> type[SFTTrainer]:
    """TRL's trainer as it comes, but that it tells the Hub nothing."""
    from trl import SFTTrainer

    class PlainTrainer(SFTTrainer):
        """See above."""

        def _send_telemetry(self) -> None:
            """TRL would tell the Hub about every run."""

    return PlainTrainer


def silence(trainer: SFTTrainer) -> None:
    """Takes away what shows progress or prints figures: a benchmark prints its own."""
    from transformers import PrinterCallback
    from transformers.trainer_callback import ProgressCallback

    for callback in list(trainer.callback_handler.callbacks):
        if isinstance(callback, ProgressCallback | PrinterCallback):
            trainer.remove_callback(callback)


def hush() -> None:
    """For the rest of this process: no progress bars of data sets, no hints of transformers."""
    import datasets
    from transformers.utils import logging

    datasets.disable_progress_bars()
    logging.set_verbosity_error()


def clock(ends: list[float]) -> TrainerCallback:
    """A callback that notes when each step ended."""
    import torch
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            ends.append(time.perf_counter())

    return Clock()


def random_rows(config: Qwen2Config, length: int, rows: int, ragged: bool, prompt_share: float = 0.3) -> list[dict[str, Any]]:
    """Tokenised examples of random ids; `ragged`: every second is a little shorter, so that batches need padding."""
    rng, made = random.Random(0), []
    for at in range(rows):
        n = length - (1 + length // 50 if ragged and at % 2 else 0)
        ids = [rng.randrange(config.vocab_size) for _ in range(n)]
        made.append({"input_ids": ids, "labels": [-100] * int(n * prompt_share) + ids[int(n * prompt_share) :]})
    return made


def run_steps(
    config: Qwen2Config,
    recipe: Recipe,
    dtype: torch.dtype,
    *,
    length: int,
    steps: int = 2,
    ragged: bool = True,
    adapter_fp32: bool = False,
    **changes: Any,
) -> StepRun:
    """Trains a random NF4 base of this shape for `steps` steps of `length` tokens; the last one is watched."""
    quiet()
    import torch
    from datasets import Dataset
    from peft import LoraConfig

    device = "cuda" if torch.cuda.is_available() else "cpu"
    recipe = dataclasses.replace(recipe, max_length=length, seed=0)
    rows = random_rows(config, length, steps * recipe.effective_batch, ragged and recipe.batch > 1)
    with tempfile.TemporaryDirectory() as work:
        args = dataclasses.replace(sft_config(recipe, Path(work)), max_steps=steps, disable_tqdm=True, logging_strategy="no",
                                   assistant_only_loss=False, **changes)  # fmt: skip
        watch, ends = StepPeak(steps), []
        trainer = plain_trainer()(
            model=random_base(config, dtype, device), args=args, train_dataset=Dataset.from_list(rows),
            processing_class=load_tokenizer(recipe_for("tiny")), callbacks=[watch.callback(), clock(ends)],
            peft_config=LoraConfig(r=recipe.rank, lora_alpha=recipe.alpha, target_modules="all-linear", task_type="CAUSAL_LM"),
        )  # fmt: skip
        silence(trainer)
        if adapter_fp32:  # what the recipe does where the card computes in fp16
            for parameter in trainer.model.parameters():
                if parameter.requires_grad:
                    parameter.data = parameter.data.float()
        trainer.train()
    return StepRun(watch.peak, (ends[-1] - ends[0]) / max(1, len(ends) - 1), length * recipe.effective_batch)
