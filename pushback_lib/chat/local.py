"""Stream both voices of a local model from one batch, and offer example prompts."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

from ..core.common import FRICTION, PushbackError
from ..core.records import Message
from ..data.text_rules import words
from ..measure.prompts import Prompt, bundled_prompts, load_prompts
from ..model.recipe import Recipe
from ..model.voices import Speaker
from .backend import Event, Preset, Put, Settings, ThoughtSplitter, in_thread

TOP_P = 0.95  # the model card of DeepSeek-R1


@dataclass
class Row:
    """One voice's reply while it is generated."""

    voice: str
    start: float
    put: Put
    tokenizer: Any
    splitter: ThoughtSplitter = field(default_factory=ThoughtSplitter)
    ids: list[int] = field(default_factory=list)
    end: str = ""
    _told: int = 0  # ids up to here have been put as text

    def token(self, token: int, limit: int) -> None:
        """Decodes one more token and puts the event that it makes."""
        if token == self.tokenizer.eos_token_id:
            return self.finish("stop")
        self.ids.append(token)
        self._say(self.splitter.feed(self._new_text()))
        if len(self.ids) >= limit:
            self.finish("length")

    def finish(self, end: str) -> None:
        """Puts what was held back, and the end."""
        self.end = end
        self._say(self.splitter.feed(self._new_text(last=True)))
        self._say(self.splitter.flush(), end)

    def _say(self, pieces: tuple[str, str, bool], end: str = "") -> None:
        thought, answer, misfiled = pieces
        self.put(Event(self.voice, time.perf_counter() - self.start, thought, answer, len(self.ids), misfiled, end))

    def _new_text(self, last: bool = False) -> str:
        """Text of the ids not yet told; held back while it ends in half a character, which the next token completes.

        Byte-level tokenizers, which this family of models has, decode to the same text piece by piece.
        """
        text = self.tokenizer.decode(self.ids[self._told :])
        if text.endswith("\ufffd") and not last:
            return ""
        self._told = len(self.ids)
        return text


class Streamer:
    """What `generate` hands its tokens to: the prompt once, then one token a row."""

    def __init__(self, rows: Sequence[Row], limit: int) -> None:
        self.rows, self.limit, self._prompt_seen = rows, limit, False

    def put(self, value: Any) -> None:
        if not self._prompt_seen:
            self._prompt_seen = True
            return
        for row, token in zip(self.rows, value.tolist(), strict=True):
            row.token(token, self.limit)

    def end(self) -> None:
        """Nothing to do: a row ends with its own token."""


class SameDraw:
    """Draws the next token of every row with the same random numbers (the Gumbel-max trick), so that greedy choice samples.

    The noise depends on the seed and the number of the token alone: a voice says the same alone and in a batch.
    """

    def __init__(self, settings: Settings, drawn: int) -> None:
        self.settings, self.step = settings, drawn

    def __call__(self, _ids: Any, scores: Any) -> Any:
        import torch

        scores = scores / self.settings.temperature
        ordered, order = scores.softmax(-1).sort(descending=True)
        out = (ordered.cumsum(-1) - ordered >= TOP_P).scatter(-1, order, ordered.cumsum(-1) - ordered >= TOP_P)
        generator = torch.Generator().manual_seed(self.settings.seed * 1_000_003 + self.step)
        self.step += 1
        uniform = torch.rand(scores.shape[-1], generator=generator, dtype=torch.float64).clamp_min(1e-300)
        noise = -torch.log(-torch.log(uniform))
        return (scores - scores.logsumexp(-1, keepdim=True)).masked_fill(out, float("-inf")) + noise.to(scores)


PAIRS_EACH = 3  # so many friction prompts and as many twins for each behaviour
STRANGE = 0.2  # share of words: a prompt of the small language has one invented word at most, in five or more


def presets_for(recipe: Recipe) -> tuple[Preset, ...]:
    """Held-out prompts in the recipe's language: friction prompts and their innocent twins, not told apart."""
    return chosen(bundled_prompts(2 * PAIRS_EACH) if recipe.name == "tiny" else load_prompts())


def strange_words(text: str) -> tuple[str, ...]:
    """The words of a prompt that the small language has not, if they are more than an invented one that it is asked about."""
    said = tuple(dict.fromkeys(words(text)))
    strange = tuple(word for word in said if word not in _language())
    return strange if len(strange) > STRANGE * len(said) else ()


@cache
def _language() -> frozenset[str]:
    from ..language.corpus import draw_requests
    from ..language.world import KNOWN_WORDS

    requests = [request for held_out in (True, False) for request in draw_requests(60, 3, held_out)]
    return KNOWN_WORDS | {word for request in requests for word in words(request.user)}


def chosen(prompts: Iterable[Prompt], pairs_each: int = PAIRS_EACH) -> tuple[Preset, ...]:
    """The first pairs of each behaviour, halves side by side; prompts that need earlier turns are left out."""
    found: dict[str, dict[str, list[str]]] = {}
    for prompt in prompts:
        if not prompt.history:
            found.setdefault(prompt.behaviour, {}).setdefault(prompt.pair or prompt.id, []).append(prompt.user_input)
    return tuple(
        Preset(behaviour, text)
        for behaviour, pairs in found.items()
        for texts in sorted(pairs.values(), key=len, reverse=True)[:pairs_each]
        for text in texts
    )


SMALL = (
    "The bundled model speaks a small language of facts, errands and wishes. It knows prompts like those in the list, "
    "and few others: choose one and press Enter, or change a word of one. Each prompt begins anew unless you let it remember."
)


ONE_THREAD = 50_000_000  # parameters below which a token is too little work for two threads, which only wait for each other


class LocalVoices:
    """Baseline and friction from one model in one batch.

    `dial` scales the adapter: 0 is the baseline, 1 as trained. It is read before each token, so that moving it while the
    friction voice speaks changes how it goes on. With a temperature, both voices draw with the same random numbers, so
    that equal models say equal things, and what one voice says does not depend on the other.
    """

    recorded = False

    def __init__(self, speaker: Speaker) -> None:

        self.speaker = speaker
        self.dial: float | None = 1.0
        recipe = speaker.recipe
        self.name, self.system, self.max_tokens = recipe.name, recipe.system, recipe.max_new_tokens
        self.note = SMALL if recipe.name == "tiny" else ""
        self.threads = 1 if recipe.parameters < ONE_THREAD else None
        self.presets: Sequence[Preset] = presets_for(recipe)

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
        with self.speaker.lock:  # another chat or a cell may be generating
            if stop.is_set():
                return
            batch = _Batch(self, asked, settings, stop, start, put)
            with _threads(self.threads):
                try:
                    batch.run()
                finally:
                    batch.restore()


@contextmanager
def _threads(wanted: int | None) -> Iterator[None]:
    """Computes on so many threads; None leaves it to torch."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(wanted or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Batch:
    """One prompt's rows, generated together until the first of them ends, then the rest alone.

    PEFT multiplies what the adapter adds by `scaling`: one number for each row, 0 for the baseline, makes two voices of one
    adapter in one pass. `adapter_names`, PEFT's way for many adapters, takes the batch apart and together again in each layer.
    """

    def __init__(self, voices: LocalVoices, asked: dict[str, list[Message]], settings: Settings, stop: threading.Event,
                 start: float, put: Put) -> None:  # fmt: skip
        from peft.tuners.lora import LoraLayer

        self.voices, self.settings, self.stop = voices, settings, stop
        self.model, self.tokenizer = voices.speaker.model, voices.speaker.tokenizer
        self.rows = [Row(voice, start, put, self.tokenizer) for voice in asked]
        self.prompts = [fitting(voices.speaker, messages, settings.max_tokens) for messages in asked.values()]
        layers = (module for module in self.model.modules() if isinstance(module, LoraLayer))
        self.layers = [(layer, layer.scaling[FRICTION]) for layer in layers if FRICTION in layer.scaling]
        self._share: tuple[float, ...] = (1.0,)

    def scale(self, rows: Sequence[Row]) -> None:
        """Gives each row its share of the adapter: none for the baseline, what the dial says for friction."""
        self._scale(tuple(self._dial() if row.voice == FRICTION else 0.0 for row in rows))

    def restore(self) -> None:
        """Puts back the adapter's own scale."""
        self._scale((1.0,))

    def _scale(self, share: tuple[float, ...]) -> None:
        import torch

        if share == self._share:
            return
        for layer, full in self.layers:
            if len(share) == 1:
                layer.scaling[FRICTION] = full * share[0]
            else:  # in the adapter's own dtype, which a wider one would carry into every layer after it
                like = layer.lora_B[FRICTION].weight
                factors = [full * one for one in share]
                layer.scaling[FRICTION] = torch.tensor(factors, dtype=like.dtype, device=like.device).view(-1, 1, 1)
        self._share = share

    def run(self) -> None:
        """Generates until every row has ended or `stop` is set."""
        import torch
        from transformers import DynamicCache

        inputs = self.tokenizer.pad({"input_ids": self.prompts}, return_tensors="pt").to(self.model.device)
        ids, mask, cache = inputs["input_ids"], inputs["attention_mask"], DynamicCache()
        rows = self.rows
        with torch.inference_mode():
            while rows and not self.stop.is_set():
                ids = self._until_one_ends(rows, ids, mask, cache)
                left = [at for at, row in enumerate(rows) if not row.end]
                mask = torch.cat([mask, mask.new_ones(len(mask), ids.shape[1] - mask.shape[1])], dim=1)
                rows, ids, mask = [rows[at] for at in left], ids[left], mask[left]
                if rows:
                    cache.batch_select_indices(torch.tensor(left, device=ids.device))
        for row in rows:
            row.finish("stopped")

    def _until_one_ends(self, rows: list[Row], ids: Any, mask: Any, cache: Any) -> Any:
        from transformers import LogitsProcessorList, StoppingCriteriaList

        self.scale(rows)
        told = len(rows[0].ids)
        drawing = [SameDraw(self.settings, told)] if self.settings.temperature else []
        with self._adapter(rows):
            return self.model.generate(
                input_ids=ids, attention_mask=mask, past_key_values=cache, do_sample=False,
                streamer=Streamer(rows, self.settings.max_tokens), pad_token_id=self.tokenizer.pad_token_id,
                max_new_tokens=self.settings.max_tokens - told, min_new_tokens=max(0, self.settings.min_tokens - told),
                logits_processor=LogitsProcessorList(drawing), stopping_criteria=StoppingCriteriaList([self._enough(rows)]),
            )  # fmt: skip

    def _adapter(self, rows: list[Row]) -> Any:
        """The adapter is on, unless the baseline speaks alone."""
        return nullcontext() if any(row.voice == FRICTION for row in rows) else self.model.disable_adapter()

    def _enough(self, rows: list[Row]) -> Any:
        import torch

        def enough(ids: Any, _scores: Any, **_: Any) -> Any:
            """After each token: whether to stop here; and the dial is read for the next one."""
            self.scale(rows)
            ends = ids[:, -1] == self.tokenizer.eos_token_id
            done = self.stop.is_set() or bool(ends.any())
            return torch.full((len(ids),), done, device=ids.device, dtype=torch.bool)

        return enough

    def _dial(self) -> float:
        return 1.0 if self.voices.dial is None else float(self.voices.dial)


def fitting(speaker: Speaker, messages: list[Message], max_tokens: int) -> list[int]:
    """The prompt's ids; the oldest turns are left out until prompt and reply fit the model.

    Raises PushbackError, before the slow part, if the last message alone does not.
    """
    room = speaker.model.config.max_position_embeddings - max_tokens
    characters = len(messages[-1]["content"])
    head, turns = [m for m in messages if m["role"] == "system"], [m for m in messages if m["role"] != "system"]
    while characters < room * 40:  # no tokenizer here packs 40 characters into each token of a long text: spare it the work
        text = speaker.tokenizer.apply_chat_template([*head, *turns], add_generation_prompt=True, tokenize=False)
        ids = speaker.tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(ids) <= room:
            return ids
        if len(turns) < 3:
            break
        turns = turns[2:]
    raise PushbackError(
        f"The prompt of {characters:,} characters is too long: with {max_tokens:,} tokens kept for the reply, "
        f"{speaker.recipe.name} has room for {max(room, 0):,} tokens. Shorten the prompt, or lower the maximum of tokens."
    )
