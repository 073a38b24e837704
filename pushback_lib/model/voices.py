"""Two voices from one model: baseline (adapter off) and friction (adapter on), generated in one mixed batch."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.common import BASELINE, FRICTION, VOICES
from ..core.records import CLOSE, Message, Reply, prompt_messages, split_reply
from .family import Family, family_of
from .load import load_tokenizer, load_with_adapter, memory_gib, weights_gib
from .recipe import TOP_P, Recipe

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerFast

ADAPTER_OF = {BASELINE: "__base__", FRICTION: FRICTION}  # PEFT's name for "no adapter" in a mixed batch
CONVERSATION_GIB = 0.8  # beside the weights, for what is said; an estimate


@dataclass(frozen=True)
class Speaker:
    """A model with its adapter, the tokenizer, the recipe whose system prompt both voices share, and the adapter's folder.

    `lock` is held while it generates: PEFT names the rows' adapters in hooks on the model's own layers, so that two
    generations at once (a chat, and a cell beside it) would speak with each other's adapters.
    """

    model: PeftModel
    tokenizer: PreTrainedTokenizerFast
    recipe: Recipe
    adapter: Path
    lock: threading.RLock = field(default_factory=threading.RLock, repr=False, compare=False)

    @property
    def family(self) -> Family:
        """The family of the model."""
        return family_of(self.model.config)

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
        thoughts: Sequence[str] | None = None,
    ) -> list[dict[str, Reply]]:
        """Every voice's reply to every conversation, all in one batch; greedy at temperature 0.

        With `thoughts`, one for each conversation, every answer continues from that reasoning ("" for none), which is closed.
        """
        import torch

        prompts = [self.tokenizer.apply_chat_template(c, add_generation_prompt=True, tokenize=False) for c in conversations]
        heads = [""] * len(prompts) if thoughts is None else [self._given(thought) for thought in thoughts]
        rows = [(prompt, head, voice) for prompt, head in zip(prompts, heads, strict=True) for voice in voices]
        texts = [prompt + head for prompt, head, _ in rows]
        inputs = self.tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
        inputs = inputs.to(self.model.device)
        sampling = (
            {"do_sample": True, "temperature": temperature, "top_p": TOP_P, "top_k": 0} if temperature else {"do_sample": False}
        )
        with self.lock, torch.inference_mode():
            torch.manual_seed(seed)
            out = self.model.generate(
                **inputs, adapter_names=[ADAPTER_OF[voice] for _, _, voice in rows], **sampling,
                max_new_tokens=max_new_tokens or self.recipe.max_new_tokens,
            )  # fmt: skip
        new = out[:, inputs["input_ids"].shape[1] :].tolist()
        replies = [self._reply(head, ids, voice) for ids, (_, head, voice) in zip(new, rows, strict=True)]
        return [dict(zip(voices, replies[at : at + len(voices)], strict=True)) for at in range(0, len(rows), len(voices))]

    def _given(self, thought: str) -> str:
        return f"{self.family.before_thought}{thought}\n{CLOSE}\n\n"

    def _reply(self, head: str, ids: list[int], voice: str) -> Reply:
        finished = self.tokenizer.eos_token_id in ids
        ids = ids[: ids.index(self.tokenizer.eos_token_id)] if finished else ids
        text, end = head + self.tokenizer.decode(ids), "stop" if finished else "length"
        return split_reply(text, prefilled=self.family.opens_thought, voice=voice, tokens=len(ids), ids=tuple(ids), end=end)

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


def greedy(model: Any, tokenizer: Any, recipe: Recipe, conversations: Sequence[list[Message]]) -> list[str]:
    """One model's greedy replies, thought and answer, to all conversations in one batch."""
    import torch

    prompts = [tokenizer.apply_chat_template(c, add_generation_prompt=True, tokenize=False) for c in conversations]
    inputs = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False)
    with torch.no_grad():
        out = model.generate(**inputs.to(model.device), do_sample=False, max_new_tokens=recipe.max_new_tokens, use_cache=True)
    return tokenizer.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def load_voices(recipe: Recipe, adapter: str | Path | None = None, four_bit: bool | None = True) -> Speaker:
    """Loads base, tokenizer and adapter (by default the one shipped with the kit), as the recipe trains it or unquantised.

    With `four_bit=None`, for a chat: unquantised on a CPU, if that fits into free memory. NF4 saves memory and costs time: a
    CPU unpacks every weight again for each token.
    """
    import torch

    folder = Path(adapter or recipe.shipped_adapter)
    if four_bit is None:
        unpacked = weights_gib(recipe, four_bit=False) + CONVERSATION_GIB
        four_bit = not recipe.four_bit or torch.cuda.is_available() or memory_gib()[0] < unpacked
    return Speaker(load_with_adapter(recipe, folder, four_bit), load_tokenizer(recipe), recipe, folder)
