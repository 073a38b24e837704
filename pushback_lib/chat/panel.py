"""The side-by-side chat: keeps the conversation, asks the backend, shows both voices as they speak."""

from __future__ import annotations

import random
import sys
import threading
import time
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from ..core.common import VOICES, PushbackError
from ..core.records import Reply
from ..core.show import SavedCopy
from ..model.voices import Speaker
from .backend import Backend, ReplyBuffer, Settings, plain
from .llama import LlamaVoices
from .local import LocalVoices
from .turns import ChatTurn, Tally, messages_for, save_markdown, save_turns, static_page, tally

REDRAW_SECONDS = 0.08  # between two pictures: 12 a second
COLAB_NOTE = "On Colab, a reply is stopped with Runtime > Interrupt execution."


def chat_panel(
    speaker_or_backend: Speaker | Backend | None = None, *, gguf: str | Path | None = None, lora: str | Path | None = None,
    **options: Any,
) -> ChatPanel:  # fmt: skip
    """A chat with both voices side by side, as the last line of a cell; `options` are those of `ChatPanel`.

    Instead of a speaker or a backend it takes a base's GGUF file and an adapter's, see `LlamaVoices`.
    """
    if gguf and lora and speaker_or_backend is None:
        return ChatPanel(LlamaVoices(gguf, lora), **options)
    if gguf or lora or speaker_or_backend is None:
        raise PushbackError("A chat needs either a speaker or a backend, or both of gguf=BASE and lora=ADAPTER.")
    local = isinstance(speaker_or_backend, Speaker)
    return ChatPanel(LocalVoices(speaker_or_backend) if local else speaker_or_backend, **options)


def on_colab() -> bool:
    """Whether this is Colab, where changes that a thread makes to a widget do not show."""
    return "google.colab" in sys.modules


class ChatPanel:
    """One chat. `turns` is all that was said, `conversation` what the voices remember; `busy` while they speak."""

    def __init__(
        self, backend: Backend, *, seed: int = 0, temperature: float = 0.0, max_tokens: int | None = None,
        blind: bool = False, remember: bool | None = None, export_to: str | Path = "runs/chat",
        draw: random.Random | None = None,
    ) -> None:  # fmt: skip
        """With `remember` the voices read earlier turns; by default they do but for a model of the small language, which
        cannot change the subject of a conversation."""
        from .view import View  # loads ipywidgets

        remember = not backend.note if remember is None else remember
        self.backend, self.export_to = backend, Path(export_to)
        self.turns: list[ChatTurn] = []
        self.conversation: list[ChatTurn] = []
        self.view = View(backend, seed=seed, temperature=temperature, max_tokens=max_tokens or backend.max_tokens,
                         blind=blind, remember=remember, draw=draw or random.Random())  # fmt: skip
        self._lock, self._stop = threading.Lock(), threading.Event()
        self.busy = self._votable = False
        self._worker: threading.Thread | None = None
        self._saved = SavedCopy()
        self._connect()

    # what a person can do; each can be called from a cell as well

    def send(self, user: str | None = None, *, regenerated: bool = False) -> None:
        """Asks both voices; without `user`, what is in the prompt field."""
        asked = (self.view.prompt.value if user is None else user).strip()
        if not asked:
            return self.view.say("The prompt is empty. Type one, or choose an example.")
        with self._lock:
            if self.busy:
                return self._still_speaking()
            self.busy, self._stop = True, threading.Event()
        try:
            turn = self._begin(asked, regenerated)
        except BaseException:
            self.busy = False
            raise
        if on_colab():
            return self._run(turn)
        self._worker = threading.Thread(target=self._run, args=(turn,), name="pushback-chat", daemon=True)
        self._worker.start()

    def stop(self) -> None:
        """Stops both voices; what they have said stays."""
        self._stop.set()
        self.view.say("Stopping …" if self.busy else "Nobody is speaking.")

    def regenerate(self) -> None:
        """Asks the last prompt again in its place; above temperature 0 with the next seed."""
        if self.busy:
            return self._still_speaking()
        if not self.turns:
            return self.view.say("There is nothing to regenerate yet. Send a prompt first.")
        last = self.turns[-1]
        self.conversation = [turn for turn in self.conversation if turn is not last]
        if self.view.temperature.value > 0:
            self.view.seed.value += 1
        self.send(last.user, regenerated=True)

    def clear(self) -> None:
        """Begins a new conversation; the transcript keeps the old one."""
        if self.busy:
            return self._still_speaking()
        self.conversation, self._votable = [], False
        self.view.empty()
        self.view.busy(False)
        self.view.say("A new conversation. Export still holds what was said before.")

    def vote(self, choice: str) -> None:
        """Votes `A`, `B`, `tie` or `both bad` on the turn that is hidden, and reveals who was who."""
        if not self._votable:
            return self.view.say("There is nothing to vote on. Switch blind mode on and send a prompt.")
        self.turns[-1] = turn = self.turns[-1].voted(choice)
        self._reveal()
        self.view.count(f"Votes: {self.tally}")
        self.view.say(f"A was {turn.panes[0]}, B was {turn.panes[1]}. Your vote: {turn.preferred}.")

    def export(self) -> tuple[Path, Path]:
        """Writes all turns and votes as JSONL and as Markdown; returns both paths. Raises PushbackError before any turn."""
        if not self.turns:
            raise PushbackError("There is nothing to export yet. Send a prompt first.")
        stem = f"chat-{datetime.now(UTC):%Y%m%d-%H%M%S-%f}"
        paths = self.export_to / f"{stem}.jsonl", self.export_to / f"{stem}.md"
        save_turns(paths[0], self.turns)
        save_markdown(paths[1], self.turns)
        self.view.say(f"Exported to {paths[0]} and {paths[1]} (turns: {len(self.turns)}).")
        return paths

    def join(self, timeout: float = 600.0) -> ChatTurn:
        """Waits until both voices have ended; returns the last turn. Raises PushbackError if there is none, or too late."""
        if self._worker is not None:
            self._worker.join(timeout)
        if self.busy or not self.turns:
            raise PushbackError(f"No finished turn after {timeout:g} s. Send a prompt first, or wait longer.")
        return self.turns[-1]

    @property
    def tally(self) -> Tally:
        """The blind votes so far."""
        return tally(turn.preferred for turn in self.turns if turn.vote)

    # what the controls do

    def _connect(self) -> None:
        """Connects every control, and brings lists and labels to their first state."""
        view = self.view
        for button, action in ((view.send, self.send), (view.stop, self.stop), (view.again, self.regenerate),
                               (view.clear, self.clear), (view.export, self.export)):  # fmt: skip
            button.on_click(self._callback(action))
        for choice, button in view.votes.items():
            button.on_click(self._callback(partial(self.vote, choice)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # the one way to get Enter and nothing else, in 7.7 and 8.1
            view.prompt.on_submit(self._callback(self.send))
        for control, changed in ((view.blind, self._blind_changed), (view.dial, self._dial_changed),
                                 (view.memory, self._memory_changed), (view.behaviour, view.list_examples),
                                 (view.preset, self._preset_changed)):  # fmt: skip
            control.observe(self._callback(changed), "value")
        view.list_examples()
        self._memory_changed()
        self._blind_changed()

    def _callback(self, action: Callable[[], Any]) -> Callable[..., None]:
        """Calls the action; an error is said on screen."""

        def call(*_: Any) -> None:
            try:
                action()
            except Exception as error:
                self.view.say(f"Error: {plain(error)}")

        return call

    def _blind_changed(self) -> None:
        """Blind mode counts from the next prompt; switching it off gives up a vote and reveals."""
        on = self.view.blind.value
        self.view.blind.description = f"Blind mode: {'on' if on else 'off'}"
        self.view.vote_row.layout.display = "flex" if on else "none"
        self.view.count(f"Votes: {self.tally}")
        if self._votable and not on:
            self._reveal()
        elif not self.busy and not self.conversation:
            self.view.empty()
        self.view.say("Blind mode: panes are shuffled, each prompt begins a new conversation, names and thinking show after "
                      "the vote." if on else "")  # fmt: skip

    def _memory_changed(self) -> None:
        on = self.view.memory.value
        self.view.memory.description = f"Remember earlier turns: {'on' if on else 'off'}"
        small = " A model of the small language cannot change the subject then." if self.backend.note else ""
        self.view.say(f"The voices read what was said before.{small}" if on else "Each prompt begins a new conversation.")

    def _dial_changed(self) -> None:
        self.backend.dial = value = self.view.dial.value
        self.view.say(f"Friction dial at {value:.2f}, from {self.backend.dial_from} on. Regenerate asks the last prompt again.")

    def _preset_changed(self) -> None:
        if self.view.preset.value:
            self.view.prompt.value = " ".join(self.view.preset.value.split())

    # what a notebook shows and keeps

    def _ipython_display_(self) -> None:
        said = f"Side-by-side chat with {self.backend.name}, turns so far: {len(self.turns)}"
        self._saved.show(self.view.root, said, self._repr_html_(), self._title())

    def _repr_html_(self) -> str:
        """The transcript so far, as a page of its own: display it to keep it in a saved notebook."""
        return static_page(self._open_turns(), self.backend.name)

    def _title(self) -> str:
        turns = len(self._open_turns())
        return f"Transcript: {turns} turn{'s' if turns > 1 else ''}" if turns else ""

    def _open_turns(self) -> list[ChatTurn]:
        """The turns whose voices may be named."""
        return self.turns[:-1] if self._votable else self.turns

    def _reveal(self) -> None:
        """Names the voices of a turn that was hidden."""
        self._votable = False
        self.view.reveal(self.turns[-1])
        self._saved.update(self._repr_html_(), self._title())
        self.view.busy(False)

    # a turn, from the sending to the end

    def _begin(self, user: str, regenerated: bool) -> ChatTurn:
        """The turn with its settings; nothing is said yet."""
        view, blind = self.view, self.view.blind.value
        if blind or not view.memory.value:  # blind, earlier turns would tell the voices apart
            self.conversation = []
        self._votable = False
        view.prompt.value = view.preset.value = ""
        view.busy(True)
        view.say(COLAB_NOTE if on_colab() else "")
        view.begin(blind, self.conversation, user)
        return ChatTurn(
            at=datetime.now(UTC).isoformat(timespec="seconds"), model=self.backend.name, user=user,
            said=(Reply(voice=VOICES[0]), Reply(voice=VOICES[1])), seed=view.seed.value,
            temperature=round(view.temperature.value, 3), max_tokens=view.max_tokens.value, dial=self.backend.dial,
            number=len(self.conversation) + 1, regenerated=regenerated, recorded=self.backend.recorded, blind=blind,
            panes=view.order,
        )  # fmt: skip

    def _run(self, turn: ChatTurn) -> None:
        buffers = {voice: ReplyBuffer(voice) for voice in VOICES}
        try:
            self._listen(turn, buffers)
        except KeyboardInterrupt:  # on Colab, Stop is the interruption of the cell
            self._stop.set()
        except Exception as error:  # in a thread it would be invisible: it belongs into the panes
            for buffer in buffers.values():
                buffer.end, buffer.error = "error", plain(error)
        self._finish(turn, buffers)

    def _listen(self, turn: ChatTurn, buffers: dict[str, ReplyBuffer]) -> None:
        asked = {voice: messages_for(voice, self.backend.system, self.conversation, turn.user) for voice in VOICES}
        drawn = 0.0
        for event in self.backend.stream(asked, Settings(turn.seed, turn.temperature, turn.max_tokens), self._stop):
            for voice, buffer in buffers.items():
                if voice == event.voice:
                    buffer.add(event)
                elif not buffer.end:
                    buffer.seconds = max(buffer.seconds, event.seconds)
            if time.perf_counter() - drawn >= REDRAW_SECONDS:
                self.view.show({voice: buffer.reply() for voice, buffer in buffers.items()})
                drawn = time.perf_counter()

    def _finish(self, turn: ChatTurn, buffers: dict[str, ReplyBuffer]) -> None:
        for buffer in buffers.values():
            buffer.end = buffer.end or "stopped"
        replies = {voice: buffer.reply(timing=True) for voice, buffer in buffers.items()}
        moved = self.backend.dial if self.backend.dial != turn.dial else None
        turn = turn.model_copy(update={"said": tuple(replies.values()), "dial_moved_to": moved})
        self.turns.append(turn)
        self.conversation += [] if turn.blind else [turn]
        self.view.show(replies)
        self._votable = turn.blind and not any(said.error for said in replies.values())
        self.busy = False
        self._saved.update(self._repr_html_(), self._title())  # before Send is enabled: what is saved then has this turn
        self.view.busy(False, votable=self._votable)
        self.view.say("Vote, then see who was who." if self._votable else self.backend.hint(turn.user))

    def _still_speaking(self) -> None:
        self.view.say("Both voices are still speaking. Press Stop first, or wait.")
