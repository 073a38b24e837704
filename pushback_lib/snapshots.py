"""Asks the model the same requests before, during and after its training; knows nothing about how training runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .records import prompt_messages
from .replies import Reply, split_reply

if TYPE_CHECKING:
    from transformers import TrainerCallback

    from .recipe import Recipe


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
                self.replies[state.global_step] = _greedy(model, tokenizer, recipe, prompts)

    return Snapshots()


def _greedy(model: Any, tokenizer: Any, recipe: Recipe, prompts: Sequence[str]) -> list[Reply]:
    """Replies of a model in training, which goes on as if nothing had been asked: no gradients, no random numbers.

    In training mode, which changes nothing without dropout: in `eval()` mode bitsandbytes would repack the 4-bit weights
    for a CPU, and then they could not be trained on any more.
    """
    import torch

    asked = [prompt_messages(prompt, recipe.system) for prompt in prompts]
    texts = [tokenizer.apply_chat_template(one, add_generation_prompt=True, tokenize=False) for one in asked]
    inputs = tokenizer(texts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False)
    model.train()
    with torch.no_grad():
        out = model.generate(**inputs.to(model.device), do_sample=False, max_new_tokens=recipe.max_new_tokens, use_cache=True,
                             pad_token_id=tokenizer.pad_token_id)  # fmt: skip
    new = out[:, inputs["input_ids"].shape[1] :]
    return [split_reply(text) for text in tokenizer.batch_decode(new, skip_special_tokens=True)]
