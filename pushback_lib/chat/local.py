"""Streams both voices of a local model from one batch."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

from ..core.common import FRICTION
from ..core.records import Message
from ..data.text_rules import words
from ..measure.prompts import Speaks, prompts_for
from ..model.recipe import TOP_P
from ..model.voices import Speaker
from .backend import PAIRS_EACH, Backend, Event, Preset, Put, Settings, fit, in_thread, presets_from

ONE_THREAD_BELOW = 50_000_000  # parameters: with fewer a token is too little work for two threads, which wait for each other
STRANGE_SHARE = 0.2  # of words: a prompt of the small language has one invented word at most, in five or more
SMALL_NOTE = (
    "The bundled model speaks a small language of facts, errands and wishes. It knows prompts like those in the list, "
    "and few others: choose one and press Enter, or change a word of one. Each prompt begins a new conversation unless "
    "you let it remember."
)


def presets_for(model: Speaks) -> tuple[Preset, ...]:
    """Held-out prompts that a model can understand: friction prompts and their innocent twins, not told apart."""
    return presets_from(prompts_for(model, 2 * PAIRS_EACH))


def strange_words(text: str) -> tuple[str, ...]:
    """The words of a prompt that the small language has not, if they are more than an invented one that it is asked about."""
    said = tuple(dict.fromkeys(words(text)))
    strange = tuple(word for word in said if word not in _language())
    return strange if len(strange) > STRANGE_SHARE * len(said) else ()


@cache
def _language() -> frozenset[str]:
    from ..language.corpus import draw_requests
    from ..language.world import KNOWN_WORDS

    requests = [request for held_out in (True, False) for request in draw_requests(60, 3, held_out)]
    return KNOWN_WORDS | {word for request in requests for word in words(request.user)}


class LocalVoices(Backend):
    """Baseline and friction from one model in one batch.

    `dial` scales the adapter: 0 is the baseline, 1 as trained. It is read before each token, so that moving it while the
    friction voice speaks changes how it continues. With a temperature, both voices draw with the same random numbers, so
    that equal models say equal things, and what one voice says does not depend on the other.
    """

    def __init__(self, speaker: Speaker) -> None:
        recipe = speaker.recipe
        self.speaker, self.dial = speaker, 1.0
        self.name, self.system, self.max_tokens = recipe.name, recipe.system, recipe.max_new_tokens
        self.note = SMALL_NOTE if recipe.name == "tiny" else ""
        self.threads = 1 if recipe.parameters < ONE_THREAD_BELOW else None
        self.presets = presets_for(recipe)

    def stream(self, conversations: Mapping[str, list[Message]], settings: Settings, stop: threading.Event) -> Iterator[Event]:
        """Events of every voice in `conversations`; the model is in use until the last of them."""
        start = time.perf_counter()
        return in_thread(partial(self._produce, dict(conversations), settings, stop, start), stop, tuple(conversations))

    def hint(self, user: str) -> str:
        """For the bundled model: which words it cannot know."""
        strange = strange_words(user) if self.note else ()
        return f"Not in its small language: {', '.join(strange)}. What it says to that means nothing." if strange else ""

    def _produce(
        self, asked: dict[str, list[Message]], settings: Settings, stop: threading.Event, start: float, put: Put
    ) -> None:
        import torch

        with self.speaker.lock:  # another chat or a cell may be generating
            if stop.is_set():
                return
            prompts = [fitting(self.speaker, messages, settings.max_tokens) for messages in asked.values()]
            opened = self.speaker.family.opens_thought
            rows = [Row(voice, self.speaker.tokenizer, opened, start, put) for voice in asked]
            threads = torch.get_num_threads()
            torch.set_num_threads(self.threads or threads)
            try:
                self._generate(prompts, rows, settings, stop)
            finally:
                torch.set_num_threads(threads)

    def _generate(self, prompts: list[list[int]], rows: list[Row], settings: Settings, stop: threading.Event) -> None:
        """One batch, until every row has ended or `stop` is set; the dial is read again before each token."""
        import torch
        from transformers import StoppingCriteriaList

        model, tokenizer = self.speaker.model, self.speaker.tokenizer
        inputs = tokenizer.pad({"input_ids": prompts}, return_tensors="pt").to(model.device)

        def after_each_token(ids: Any, _scores: Any, **_: Any) -> Any:
            for row, token in zip(rows, ids[:, -1].tolist(), strict=True):
                row.add(token)
            scale(self._shares(rows))
            return torch.full((len(ids),), stop.is_set(), device=ids.device, dtype=torch.bool)

        alone = all(row.voice != FRICTION for row in rows)
        with torch.inference_mode(), scaling(model) as scale, model.disable_adapter() if alone else nullcontext():
            scale(self._shares(rows))
            model.generate(
                **inputs, do_sample=False, max_new_tokens=settings.max_tokens, min_new_tokens=settings.min_tokens,
                logits_processor=sampling(settings.temperature, settings.seed),
                stopping_criteria=StoppingCriteriaList([after_each_token]),
            )  # fmt: skip
        for row in rows:
            row.finish("length" if len(row.ids) >= settings.max_tokens else "stopped")

    def _shares(self, rows: list[Row]) -> list[float]:
        """Each row's share of the adapter: none for the baseline, what the dial says for friction."""
        return [self.dial if row.voice == FRICTION else 0.0 for row in rows]


@dataclass
class Row:
    """One voice's reply while it is generated."""

    voice: str
    tokenizer: Any
    prefilled: bool  # the prompt opens the thought
    start: float
    put: Put
    ids: list[int] = field(default_factory=list)
    _decoded: int = 0  # ids up to here have been put as text
    _ended: bool = False

    def add(self, token: int) -> None:
        """Puts what one more token brings; after the row's end it is padding.

        Text that ends in half a character waits for the next token. Byte-level tokenizers, which this family of models has,
        decode to the same text piece by piece.
        """
        if token == self.tokenizer.eos_token_id:
            self.finish("stop")
        elif not self._ended:
            self.ids.append(token)
            self._put(self.tokenizer.decode(self.ids[self._decoded :]))

    def finish(self, end: str) -> None:
        """Puts the text that is left, and the end, if the row has not ended before."""
        if not self._ended:
            self._ended = True
            self._put(self.tokenizer.decode(self.ids[self._decoded :]), end)

    def _put(self, text: str, end: str = "") -> None:
        if text.endswith("\ufffd") and not end:
            text = ""
        else:
            self._decoded = len(self.ids)
        seconds = time.perf_counter() - self.start
        self.put(Event(self.voice, seconds, text=text, tokens=len(self.ids), prefilled=self.prefilled, end=end))


class SharedNoise:
    """Draws the next token of every row with the same random numbers (the Gumbel-max trick), so that greedy choice samples.

    The noise depends on the seed and the number of the token alone: a voice says the same alone and in a batch.
    """

    def __init__(self, seed: int) -> None:
        self.seed, self.step = seed, 0

    def __call__(self, _ids: Any, scores: Any) -> Any:
        import torch

        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.step)
        self.step += 1
        uniform = torch.rand(scores.shape[-1], generator=generator, dtype=torch.float64).clamp_min(1e-300)
        return scores.log_softmax(-1) - torch.log(-torch.log(uniform)).to(scores)


def sampling(temperature: float, seed: int) -> Any:
    """What `generate` does to the scores before its greedy choice; nothing at temperature 0."""
    from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper

    if not temperature:
        return LogitsProcessorList()
    return LogitsProcessorList([TemperatureLogitsWarper(temperature), TopPLogitsWarper(TOP_P), SharedNoise(seed)])


@contextmanager
def scaling(model: Any) -> Iterator[Callable[[Sequence[float]], None]]:
    """Gives a function that sets each row's share of the adapter; at the end the adapter has its own scale again.

    PEFT multiplies what the adapter adds by `scaling`: one number for each row, 0 for the baseline, makes two voices of one
    adapter in one pass. `adapter_names`, PEFT's way for many adapters, takes the batch apart and together again in each layer.
    """
    import torch
    from peft.tuners.lora import LoraLayer

    layers = (module for module in model.modules() if isinstance(module, LoraLayer) and FRICTION in module.scaling)
    own = {layer: layer.scaling[FRICTION] for layer in layers}
    now: list[float] = []

    def scale(shares: Sequence[float]) -> None:
        if now != list(shares):
            now[:] = shares
            for layer, full in own.items():
                like = layer.lora_B[FRICTION].weight  # its dtype: a wider one would be carried into every layer after it
                factors = [full * share for share in shares]
                layer.scaling[FRICTION] = torch.tensor(factors, dtype=like.dtype, device=like.device).view(-1, 1, 1)

    try:
        yield scale
    finally:
        for layer, full in own.items():
            layer.scaling[FRICTION] = full


def fitting(speaker: Speaker, messages: list[Message], max_tokens: int) -> list[int]:
    """The prompt's ids, see `fit`."""

    def ids(some: list[Message]) -> list[int]:
        text = speaker.tokenizer.apply_chat_template(some, add_generation_prompt=True, tokenize=False)
        return speaker.tokenizer(text, add_special_tokens=False)["input_ids"]

    return fit(messages, ids, speaker.model.config.max_position_embeddings, max_tokens, speaker.recipe.name)
