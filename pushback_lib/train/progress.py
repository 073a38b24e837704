"""Show a training while it runs: progress, a plot of the loss, and what the model says on the way."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..core.records import Reply, prompt_messages, split_reply
from ..core.show import Picture, picture
from ..model.family import family_of
from ..model.voices import greedy

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from transformers import TrainerCallback

    from ..model.recipe import Recipe

Points = list[tuple[int, float]]


def spell(seconds: float) -> str:
    """A duration in the words of someone who waits: `40 s`, `3 min`, `2 h 5 min`."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


class LossPlot:
    """The loss so far, drawn at most every `every` seconds in the notebook's cell, in place of transformers' table.

    With a trainer it adds itself; `train_adapter` takes its `callback()`. `points` and `validation` hold (step, loss).
    """

    def __init__(self, trainer: Any = None, every: float = 1.0) -> None:
        self.every = every
        self.points: Points = []
        self.validation: Points = []
        self.step, self.steps, self._first = 0, 0, 0
        self._begun = self._drawn = 0.0
        self._screen: Any = None
        if trainer:
            hide_the_table(trainer)
            trainer.add_callback(self.callback())

    def caption(self) -> str:
        """`step 40 of 225, loss 0.41, 2 min left`."""
        parts = [f"step {self.step} of {self.steps}"]
        if self.points:
            parts.append(f"loss {self.points[-1][1]:.3f}")
        done = self.step - self._first
        if done > 0 and self.step < self.steps:
            parts.append(f"{spell((time.monotonic() - self._begun) / done * (self.steps - self.step))} left")
        return ", ".join(parts)

    def figure(self) -> Figure:
        """The curve of the training loss and, where there is one, of the validation loss."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7, 3.2), layout="constrained")
        axes = figure.add_subplot()
        for points, name, color in ((self.points, "training", "#b3400e"), (self.validation, "validation", "#1f5a94")):
            if points:
                axes.plot(*zip(*points, strict=True), marker=".", color=color, label=name)
        top = max((loss for _, loss in (*self.points, *self.validation)), default=1.0)
        axes.set(xlim=(0, max(self.steps, 1)), ylim=(0, 1.1 * top), xlabel="step", ylabel="loss", title=self.caption())
        if self.points and self.validation:
            axes.legend()
        return figure

    def picture(self) -> Picture:
        """The figure with its caption as alternative text, which a notebook shows whatever its matplotlib backend."""
        return picture(self.figure(), f"Loss by step: {self.caption()}")

    def begin(self, step: int, steps: int) -> None:
        """A run begins, at step 0 or where a checkpoint left it."""
        self.step = self._first = step
        self.steps, self._begun = steps, time.monotonic()
        self._draw(now=True)

    def log(self, step: int, logs: dict[str, Any]) -> None:
        """Takes what the trainer logs."""
        self.step = step
        if "loss" in logs:
            self.points.append((step, logs["loss"]))
        if "eval_loss" in logs:
            self.validation.append((step, logs["eval_loss"]))
        self._draw()

    def _draw(self, now: bool = False) -> None:
        from IPython import get_ipython
        from IPython.display import display

        if get_ipython() is None or not (now or time.monotonic() - self._drawn >= self.every):
            return
        self._drawn = time.monotonic()
        if self._screen is None:
            self._screen = display(self.picture(), display_id=True)
        else:
            self._screen.update(self.picture())

    def callback(self) -> TrainerCallback:
        """What `train_adapter` or a trainer takes as a callback; of several processes the first draws."""
        from transformers import TrainerCallback

        plot = self

        class Draw(TrainerCallback):
            def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                if state.is_world_process_zero:
                    plot.begin(state.global_step, state.max_steps)

            def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                plot.step = state.global_step

            def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
                if state.is_world_process_zero:
                    plot.log(state.global_step, logs or {})

            def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                if state.is_world_process_zero:
                    plot._draw(now=True)

        return Draw()


def show_loss_in_the_bar(trainer: Any) -> None:
    """In a terminal, puts the loss behind the progress bar, which tells the time left, instead of a line every few steps."""
    from transformers.trainer_callback import ProgressCallback

    class LossBar(ProgressCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
            if self.training_bar is not None and logs and "loss" in logs:
                self.training_bar.set_postfix(loss=logs["loss"])

    if trainer.pop_callback(ProgressCallback):
        trainer.add_callback(LossBar)


def hide_the_table(trainer: Any) -> None:
    """In a notebook, removes the table of losses that transformers shows."""
    from importlib.util import find_spec

    if find_spec("IPython"):
        from transformers.utils.notebook import NotebookProgressCallback

        trainer.pop_callback(NotebookProgressCallback)


def snapshots(tokenizer: Any, recipe: Recipe, prompts: Sequence[str], times: int = 4) -> TrainerCallback:
    """A callback for the trainer that keeps greedy replies at `times` moments, the first before step 1, the last at the end.

    Its `replies` maps a step to the replies to all `prompts`. Costs one batch of generation at each moment.
    """
    from transformers import TrainerCallback

    class Snapshots(TrainerCallback):
        def __init__(self) -> None:
            self.replies: dict[int, list[Reply]] = {}

        def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            self.steps = {round(state.max_steps * at / (times - 1)) for at in range(times)}
            self.on_step_end(args, state, control, model)

        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            if state.global_step in self.steps:
                self.replies[state.global_step] = _asked(model, tokenizer, recipe, prompts)

    return Snapshots()


def _asked(model: Any, tokenizer: Any, recipe: Recipe, prompts: Sequence[str]) -> list[Reply]:
    """Replies of a model in training, which then continues as if nothing had been asked: no gradients, no random numbers.

    In training mode, which changes nothing without dropout: in `eval()` mode bitsandbytes would repack the 4-bit weights
    for a CPU, and then they could not be trained on any more.
    """
    model.train()
    texts = greedy(model, tokenizer, recipe, [prompt_messages(prompt, recipe.system) for prompt in prompts])
    return [split_reply(text, prefilled=family_of(model.config).opens_thought) for text in texts]
