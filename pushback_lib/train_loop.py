"""TRL's trainer with exact resume, whole checkpoints and an eye on the loss; knows nothing about its arguments."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .recipe import Recipe
from .train_checkpoints import MARK, ORDER
from .train_guard import check_adapter_finite, check_loss
from .train_order import EpochOrder

if TYPE_CHECKING:
    from transformers import TrainerCallback
    from trl import SFTTrainer


def trainer_class() -> type[SFTTrainer]:
    """The class, made here so that importing this module stays light."""
    from trl import SFTTrainer

    class FrictionTrainer(SFTTrainer):
        """See the module."""

        recipe: Recipe  # set right after building
        order: EpochOrder | None = None

        def _send_telemetry(self) -> None:
            """TRL would tell the Hub about every run."""

        def _get_train_sampler(self, train_dataset: Any = None) -> EpochOrder:
            lengths = [len(ids) for ids in self.train_dataset["input_ids"]]
            batch = self.args.train_batch_size * self.args.gradient_accumulation_steps
            drawn, self.order = self.order, EpochOrder(lengths, batch, self.args.seed, self.args.world_size == 1)
            if drawn is not None:  # what a checkpoint held
                self.order._drawn = drawn._drawn
            return self.order

        def training_step(self, model: Any, *args: Any, **kwargs: Any) -> Any:
            loss = super().training_step(model, *args, **kwargs)
            check_loss(loss, model, self.recipe, self.state.global_step + 1)
            return loss

        def _save_checkpoint(self, model: Any, trial: Any) -> None:
            check_adapter_finite(self.model, self.recipe, self.state.global_step)
            super()._save_checkpoint(model, trial)
            folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            if self.is_world_process_zero():
                self.order.save(folder / ORDER)
                (folder / MARK).touch()

        def _save_rng_state(self, output_dir: str) -> None:
            """By the first process alone: no dropout draws anything, and only one process writes."""
            if self.is_world_process_zero():
                super()._save_rng_state(output_dir)

        def _load_from_checkpoint(self, path: str, model: Any = None) -> None:
            dtypes = {name: parameter.dtype for name, parameter in self.model.named_parameters()}
            super()._load_from_checkpoint(path, model)
            for name, parameter in self.model.named_parameters():  # PEFT loads adapters in fp32
                if name in dtypes:
                    parameter.data = parameter.data.to(dtypes[name])
            if (Path(path) / ORDER).is_file():
                self.order = EpochOrder([], 1, self.args.seed, True)
                self.order.load(Path(path) / ORDER)

    return FrictionTrainer


def epoch_teller(trainer: Any) -> TrainerCallback:
    """A callback that tells the trainer's order of examples which epoch begins, after a resume too."""
    from transformers import TrainerCallback

    class Tell(TrainerCallback):
        def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            trainer.order.epoch = int((state.epoch or 0) + 1e-6)

    return Tell()
