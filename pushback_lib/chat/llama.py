"""Streams both voices from llama.cpp: a base's GGUF file, and an adapter's on top; needs neither torch nor a GPU."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path

from ..core.common import FRICTION
from ..core.records import Message
from ..model.llama_cpp import Pair, share
from .backend import Backend, Event, Put, Settings, fit, in_thread, plain
from .local import SMALL_NOTE, presets_for, strange_words

SAMPLERS = ["temperature", "top_p"]  # in the order of the kit's own voices; llama.cpp's cuts first, which leaves less to draw


class LlamaVoices(Backend):
    """Baseline and friction from one base in memory; the weights are there once, see `Pair`.

    `dial` is the adapter's scale in the next request: 0 is the baseline, 1 as trained. With a temperature, both voices draw
    with the same random numbers, so that equal models say equal things, and what one says does not depend on the other.
    """

    dial_from = "the next prompt"

    def __init__(self, gguf: str | Path, lora: str | Path, *, threads: int | None = None) -> None:
        """`threads` of each voice, by default half of the cores.

        Raises PushbackError, before anything is loaded, if the adapter is for another base, or a file is damaged.
        """
        self.pair = Pair(gguf, lora, threads=threads)
        header = self.pair.header
        self.name, self.system, self.max_tokens = f"{header.base} in llama.cpp", header.system, header.max_tokens
        self.dial, self.presets = 1.0, presets_for(header)
        self.note = SMALL_NOTE if header.language == "bundled" else ""
        self._lock = threading.Lock()

    def stream(self, conversations: Mapping[str, list[Message]], settings: Settings, stop: threading.Event) -> Iterator[Event]:
        """Both voices' events as they come; a voice that fails ends with its error, the other continues."""
        start = time.perf_counter()
        return in_thread(partial(self._produce, dict(conversations), settings, stop, start), stop, tuple(conversations))

    def hint(self, user: str) -> str:
        """For the bundled model: which words it cannot know."""
        strange = strange_words(user) if self.note else ()
        return f"Not in its small language: {', '.join(strange)}. What it says to that means nothing." if strange else ""

    def close(self) -> None:
        """Gives the model's memory back."""
        self.pair.close()

    def _produce(
        self, asked: dict[str, list[Message]], settings: Settings, stop: threading.Event, start: float, put: Put
    ) -> None:
        with self._lock:  # another chat or a cell may be asking
            both = [threading.Thread(target=self._speak, args=(voice, messages, settings, stop, start, put), daemon=True)
                    for voice, messages in asked.items()]  # fmt: skip
            for one in both:
                one.start()
            for one in both:
                one.join()

    def _speak(
        self, voice: str, messages: list[Message], settings: Settings, stop: threading.Event, start: float, put: Put
    ) -> None:
        """One voice's events, to its end."""
        opened, end = False, ""

        def news(text: str = "", tokens: int = 0, end: str = "", error: str = "") -> None:
            seconds = time.perf_counter() - start
            put(Event(voice, seconds, text=text, tokens=tokens, prefilled=opened, end=end, error=error))

        try:
            opened = self.pair.servers[voice].opens_thought
            with closing(self._pieces(voice, messages, settings)) as pieces:
                for text, tokens, end in pieces:
                    news(text, tokens, end)
                    if end or stop.is_set():
                        break
            if not end:
                news(end="stopped")
        except Exception as failure:  # in a thread of its own it would be invisible: it belongs into the voice's pane
            news(end="error", error=plain(failure))

    def _pieces(self, voice: str, messages: list[Message], settings: Settings) -> Generator[tuple[str, int, str], None, None]:
        server = self.pair.servers[voice]

        def ids(some: list[Message]) -> list[int]:
            return server.tokenise(server.render(some))

        return server.stream(
            fit(messages, ids, server.context, settings.max_tokens, self.name), settings.max_tokens,
            temperature=settings.temperature, seed=settings.seed, samplers=SAMPLERS, cache_prompt=True,
            ignore_eos=bool(settings.min_tokens), **(share(self.dial) if voice == FRICTION else {}),
        )  # fmt: skip
