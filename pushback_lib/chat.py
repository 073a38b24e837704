"""The small protocol through which the kit talks to any chat model, and its local backend; knows nothing of debates."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from .errors import PushbackError
from .replies import OPEN

Message = dict[str, str]


@dataclass(frozen=True)
class ChatReply:
    """One reply. `finish_reason` is "stop" where the model ended by itself, "length" where it was cut off."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


class CallFailed(Exception):
    """One call gave no reply. `reason` is a short word to count by; `retry_after` is in seconds, if the server said."""

    def __init__(self, reason: str, detail: str = "", *, retry: bool = True, retry_after: float | None = None) -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.retry = retry
        self.retry_after = retry_after


class Chat(Protocol):
    """A chat model. `failures` counts failed calls by reason, those that a retry mended included."""

    model: str
    base_url: str
    failures: Counter[str]

    async def check(self) -> None:
        """Raises PushbackError where no call could succeed (no server, wrong key, unknown model)."""

    async def complete(self, messages: Sequence[Message], *, seed: int, temperature: float, max_tokens: int) -> ChatReply:
        """One reply. Raises CallFailed where this call failed, PushbackError where every later one would too."""

    async def close(self) -> None:
        """Lets go of connections."""


Generate = Callable[[list[Message], int, float, int], ChatReply]


class LocalChat:
    """A model in this process, behind `generate(messages, seed, temperature, max_tokens)`; one call at a time."""

    base_url = ""

    def __init__(self, model: str, generate: Generate) -> None:
        self.model = model
        self.failures: Counter[str] = Counter()
        self._generate = generate
        self._turn = asyncio.Lock()

    async def check(self) -> None:
        """Nothing to check: the model is loaded."""

    async def complete(self, messages: Sequence[Message], *, seed: int, temperature: float, max_tokens: int) -> ChatReply:
        """Generates in a thread, so that the progress bar keeps moving."""
        async with self._turn:
            return await asyncio.to_thread(self._generate, list(messages), seed, temperature, max_tokens)

    async def close(self) -> None:
        """Nothing to let go of."""


def load_local(name: str) -> LocalChat:
    """A transformers model by folder or Hub name. Raises PushbackError if it cannot be loaded or has no template."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        model = AutoModelForCausalLM.from_pretrained(name, dtype="auto", device_map=_device())
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise PushbackError(
            f"No model could be loaded from {name!r} ({reason}). Pass a folder or a Hub name as --model."
        ) from error
    if not tokenizer.chat_template:
        raise PushbackError(f"The tokenizer of {name!r} has no chat template. Pass an instruction-tuned model.")
    return LocalChat(name, lambda *call: _generate(model.eval(), tokenizer, *call))


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _generate(model: Any, tokenizer: Any, messages: list[Message], seed: int, temperature: float, limit: int):
    """One generation. A template that ends in `<think>` gets that tag put back in front of the text."""
    import torch

    prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    tokens = tokenizer(prompt, add_special_tokens=False, return_tensors="pt").to(model.device)
    torch.manual_seed(seed)
    sampling = {"do_sample": True, "temperature": temperature} if temperature > 0 else {"do_sample": False}
    with torch.inference_mode():
        output = model.generate(**tokens, max_new_tokens=limit, pad_token_id=tokenizer.eos_token_id, **sampling)
    start = tokens["input_ids"].shape[1]
    new = output[0, start:]
    text = tokenizer.decode(new, skip_special_tokens=True)
    opened = f"{OPEN}\n" if prompt.rstrip().endswith(OPEN) else ""
    ended = model.generation_config.eos_token_id
    ends = ended if isinstance(ended, list) else [ended, tokenizer.eos_token_id]
    return ChatReply(opened + text, "stop" if new[-1].item() in ends else "length", start, len(new))
