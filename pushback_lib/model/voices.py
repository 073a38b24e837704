"""Two voices from one model: baseline (adapter off) and friction (adapter on), generated in one mixed batch.

It knows nothing about what a good answer is.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..core.common import BASELINE, FRICTION, VOICES
from ..core.records import Message, Reply, prompt_messages, split_reply
from .recipe import Recipe

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerFast

ADAPTER_OF = {BASELINE: "__base__", FRICTION: FRICTION}  # PEFT's name for "no adapter" in a mixed batch


@dataclass(frozen=True)
class Speaker:
    """A model with its adapter, the tokenizer and the recipe whose system prompt both voices share.

    `lock` is held while it generates: PEFT names the rows' adapters in hooks on the model's own layers, so that two
    generations at once (a chat, and a cell beside it) would speak with each other's adapters.
    """

    model: PeftModel
    tokenizer: PreTrainedTokenizerFast
    recipe: Recipe
    lock: threading.RLock = field(default_factory=threading.RLock, repr=False, compare=False)

    def ask(self, user_input: str, **options: Any) -> dict[str, Reply]:
        """Both voices' replies to one request."""
        return self.speak([prompt_messages(user_input, self.recipe.system)], **options)[0]

    def speak(
        self,
        conversations: Sequence[list[Message]],
        voices: Sequence[str] = VOICES,
        *,
        max_new_tokens: int | None = None,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> list[dict[str, Reply]]:
        """Every voice's reply to every conversation, all in one batch; greedy at temperature 0."""
        import torch

        prompts = [self.tokenizer.apply_chat_template(c, add_generation_prompt=True, tokenize=False) for c in conversations]
        rows = [(prompt, voice) for prompt in prompts for voice in voices]
        inputs = self.tokenizer([p for p, _ in rows], return_tensors="pt", padding=True, add_special_tokens=False)
        inputs = inputs.to(self.model.device)
        sampling = {"do_sample": True, "temperature": temperature, "top_p": 0.95} if temperature else {"do_sample": False}
        with self.lock, torch.inference_mode():
            torch.manual_seed(seed)
            out = self.model.generate(
                **inputs, adapter_names=[ADAPTER_OF[voice] for _, voice in rows], **sampling,
                max_new_tokens=max_new_tokens or self.recipe.max_new_tokens, pad_token_id=self.tokenizer.pad_token_id,
            )  # fmt: skip
        new = out[:, inputs["input_ids"].shape[1] :].tolist()
        replies = [self._reply(ids, voice) for ids, (_, voice) in zip(new, rows, strict=True)]
        return [dict(zip(voices, replies[at : at + len(voices)], strict=True)) for at in range(0, len(rows), len(voices))]

    def _reply(self, ids: list[int], voice: str) -> Reply:
        finished = self.tokenizer.eos_token_id in ids
        ids = ids[: ids.index(self.tokenizer.eos_token_id)] if finished else ids
        text, end = self.tokenizer.decode(ids), "stop" if finished else "length"
        return split_reply(text, voice=voice, tokens=len(ids), ids=tuple(ids), end=end)

    def speak_all(self, conversations: Sequence[list[Message]], batch: int = 48,
                  progress: Callable[[int], Any] | None = None) -> list[dict[str, Reply]]:  # fmt: skip
        """Like `speak` for any number of conversations, in batches of like length; `progress` hears each batch's size."""
        order = sorted(range(len(conversations)), key=lambda at: sum(len(m["content"]) for m in conversations[at]))
        results: list[dict[str, Reply]] = [{} for _ in conversations]
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            for at, spoken in zip(chosen, self.speak([conversations[at] for at in chosen]), strict=True):
                results[at] = spoken
            if progress:
                progress(len(chosen))
        return results


def load_speaker(recipe: Recipe, adapter: Any = None, four_bit: bool = True) -> Speaker:
    """Loads base, tokenizer and adapter (by default the one shipped with the kit)."""
    from .load import load_tokenizer, load_with_adapter

    model = load_with_adapter(recipe, adapter or recipe.shipped_adapter, four_bit)
    return Speaker(model, load_tokenizer(recipe), recipe)


def load_chat_speaker(recipe: Recipe, adapter: Any = None) -> Speaker:
    """`load_speaker` for a chat on this machine: on a CPU with unquantised weights, if they fit into free memory.

    NF4 saves memory and costs time: a CPU unpacks every weight again for each token.
    """
    import torch

    from .checks import free_memory_gib
    from .load import compute_dtype

    unpacked = 1.5 + recipe.parameters * compute_dtype().itemsize / 2**30  # libraries, weights
    return load_speaker(recipe, adapter, four_bit=torch.cuda.is_available() or free_memory_gib() < unpacked)
