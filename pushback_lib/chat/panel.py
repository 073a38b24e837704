"""The side-by-side chat: keep the conversation, ask the backend, show both voices as they speak."""

from __future__ import annotations

import random
import sys
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..core.common import VOICES, PushbackError
from ..core.show import Kept
from ..model.voices import Speaker
from . import view as html
from .backend import Backend, Settings, plain
from .local import LocalVoices
from .turns import ChatTurn, ReplyBuffer, Tally, messages_for, save_markdown, save_turns, shuffled, tally
from .view import View

CHOOSE = "Choose an example"


def connect(panel: ChatPanel) -> None:
    """Connects every control of the panel, and brings lists and labels to their first state."""
    view = panel.view
    for button, action in ((view.send, panel.send), (view.stop, panel.stop), (view.again, panel.regenerate),
                           (view.clear, panel.clear), (view.export, panel.export)):  # fmt: skip
        button.on_click(_shown(panel, action))
    for choice, button in view.votes.items():
        button.on_click(_shown(panel, lambda choice=choice: panel.vote(choice)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the one way to hear Enter and nothing else, in 7.7 and 8.1
        view.prompt.on_submit(_shown(panel, panel.send))
    for control, changed in (
        (view.blind, _blind),
        (view.dial, _dial),
        (view.memory, _memory),
        (view.behaviour, _behaviour),
        (view.preset, _preset),
    ):
        control.observe(_shown(panel, lambda changed=changed: changed(panel)), "value")
    _behaviour(panel)
    _memory(panel)
    _blind(panel)


def _shown(panel: ChatPanel, action: Callable[[], Any]) -> Callable[..., None]:
    def callback(*_: Any) -> None:
        try:
            action()
        except Exception as error:
            panel.view.say(f"Error: {plain(error)}")

    return callback


def _blind(panel: ChatPanel) -> None:
    on = panel.view.blind.value
    panel.view.blind.description = f"Blind mode: {'on' if on else 'off'}"
    panel.view.vote_row.layout.display = "flex" if on else "none"
    panel.view.tally.value = html.status_block(f"Votes: {panel.tally}")
    panel.blind_switched(on)
    panel.view.say("Blind mode: panes are shuffled, each prompt begins anew, names and thinking show after the vote."
                   if on else "")  # fmt: skip


def _memory(panel: ChatPanel) -> None:
    on = panel.view.memory.value
    panel.view.memory.description = f"Remember earlier turns: {'on' if on else 'off'}"
    small = " A model of the small language cannot change the subject then." if panel.backend.note else ""
    panel.view.say(f"The voices read what was said before.{small}" if on else "Each prompt begins anew.")


def _dial(panel: ChatPanel) -> None:
    value = panel.view.dial.value
    panel.backend.dial = value
    panel.view.say(f"Friction dial at {value:.2f}, from the next token on. Regenerate asks the last prompt again.")


def _behaviour(panel: ChatPanel) -> None:
    view = panel.view
    texts = [preset.text for preset in panel.backend.presets if preset.behaviour == view.behaviour.value]
    view.preset.options = [(CHOOSE, ""), *((" ".join(text.split())[:120], text) for text in texts)]
    view.preset.value = ""


def _preset(panel: ChatPanel) -> None:
    if panel.view.preset.value:
        panel.view.prompt.value = " ".join(panel.view.preset.value.split())


class Stage:
    """The two panes. While `hidden`, nothing is shown that would betray a voice: no name, thinking, length or speed."""

    def __init__(self, view: View, recorded: bool, draw: random.Random) -> None:
        self.view, self.recorded, self.draw = view, recorded, draw
        self.order: tuple[str, str] = VOICES
        self.clear()

    def set(self, blind: bool, earlier: Sequence[ChatTurn], user: str) -> None:
        """Makes the panes ready for a turn; shuffles them where it is blind."""
        self.order, self.hidden = (shuffled(self.draw) if blind else VOICES), blind
        self.name()
        for pane, voice in zip(self.view.panes, self.order, strict=True):
            pane.history(earlier, voice, user)

    def show(self, buffers: Mapping[str, ReplyBuffer]) -> None:
        """Shows both replies as they stand; in blind mode the answers, together, once both have ended."""
        both_ended = all(buffer.end for buffer in buffers.values())
        for pane, voice in zip(self.view.panes, self.order, strict=True):
            said = buffers[voice].reply()
            if not self.hidden or said.error:
                pane.show(said)
            elif both_ended:
                pane.hide("Thinking and figures are hidden until you vote", said.answer or "[no answer]")
            else:
                pane.hide("Both voices are writing; their answers appear together")

    def reveal(self, turn: ChatTurn | None) -> None:
        """Names the voices, and shows all that they said."""
        self.hidden = False
        self.name()
        if turn is not None:
            for pane, voice in zip(self.view.panes, self.order, strict=True):
                pane.show(turn.of(voice))

    def clear(self) -> None:
        """Empties both panes and seats the voices anew: unnamed in blind mode."""
        self.order, self.hidden = VOICES, self.view.blind.value
        for pane in self.view.panes:
            pane.clear()
        self.name()

    def name(self) -> None:
        """Writes the panes' names, as far as they may be known."""
        for pane, voice in zip(self.view.panes, self.order, strict=True):
            name = pane.letter if self.hidden else f"{pane.letter}: {voice}"
            pane.title.value = html.title_block(f"{name} (recorded)" if self.recorded else name)


TICK = 0.08  # seconds between two pictures: 12 a second
COLAB = "On Colab, a reply is stopped with Runtime > Interrupt execution."


def chat_panel(speaker_or_backend: Speaker | Backend, **options: Any) -> ChatPanel:
    """A chat with both voices side by side, as the last line of a cell; `options` are those of `ChatPanel`."""
    if isinstance(speaker_or_backend, Speaker):
        return ChatPanel(LocalVoices(speaker_or_backend), **options)
    return ChatPanel(speaker_or_backend, **options)


def on_colab() -> bool:
    """Whether this is Colab, where changes that a thread makes to a widget do not show."""
    return "google.colab" in sys.modules


class ChatPanel:
    """One chat. `turns` is all that was said, `conversation` what the voices remember."""

    def __init__(
        self, backend: Backend, *, seed: int = 0, temperature: float = 0.0, max_tokens: int | None = None,
        blind: bool = False, remember: bool | None = None, export_to: str | Path = "runs/chat",
        draw: random.Random | None = None,
    ) -> None:  # fmt: skip
        """With `remember` the voices read earlier turns; by default they do but for a model of the small language, which
        cannot change the subject of a conversation."""
        remember = not backend.note if remember is None else remember
        self.backend, self.export_to = backend, Path(export_to)
        self.turns: list[ChatTurn] = []
        self.conversation: list[ChatTurn] = []
        self.view = View(backend, seed=seed, temperature=temperature, max_tokens=max_tokens or backend.max_tokens,
                         blind=blind, remember=remember)  # fmt: skip
        self._stage = Stage(self.view, backend.recorded, draw or random.Random())
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._busy = self._votable = False
        self._worker: threading.Thread | None = None
        self._kept = Kept()
        connect(self)

    # what a person can do; each can be called from a cell as well

    def send(self, user: str | None = None, *, regenerated: bool = False) -> None:
        """Asks both voices; without `user`, what stands in the prompt field."""
        asked = (self.view.prompt.value if user is None else user).strip()
        if not asked:
            return self.view.say("The prompt is empty. Type one, or choose an example.")
        with self._lock:
            if self._busy:
                return self._still_speaking()
            self._busy, self._stop = True, threading.Event()
        try:
            turn = self._begin(asked, regenerated)
        except BaseException:
            self._busy = False
            raise
        if on_colab():
            return self._run(turn)
        self._worker = threading.Thread(target=self._run, args=(turn,), name="pushback-chat", daemon=True)
        self._worker.start()

    def stop(self) -> None:
        """Stops both voices; what they have said stays."""
        self._stop.set()
        self.view.say("Stopping …" if self._busy else "Nobody is speaking.")

    def regenerate(self) -> None:
        """Asks the last prompt again in its place; above temperature 0 with the next seed."""
        if self._busy:
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
        if self._busy:
            return self._still_speaking()
        self.conversation, self._votable = [], False
        self._stage.clear()
        self.view.busy(False)
        self.view.say("A new conversation. Export still holds what was said before.")

    def vote(self, choice: str) -> None:
        """Votes `A`, `B`, `tie` or `both bad` on the turn that is hidden, and reveals who was who."""
        if not self._votable:
            return self.view.say("There is nothing to vote on. Switch blind mode on and send a prompt.")
        self.turns[-1] = turn = self.turns[-1].voted(choice)
        self._reveal()
        self.view.tally.value = html.status_block(f"Votes: {self.tally}")
        self.view.say(f"A was {turn.panes[0]}, B was {turn.panes[1]}. Your vote: {turn.preferred}.")

    def blind_switched(self, on: bool) -> None:
        """Blind mode counts from the next prompt; switching it off gives up a vote and reveals."""
        if self._votable and not on:
            self._reveal()
        elif not self._busy and not self.conversation:
            self._stage.clear()

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
        if self._busy or not self.turns:
            raise PushbackError(f"No finished turn after {timeout:g} s. Send a prompt first, or wait longer.")
        return self.turns[-1]

    @property
    def busy(self) -> bool:
        """Whether the voices are speaking."""
        return self._busy

    @property
    def tally(self) -> Tally:
        """The blind votes so far."""
        return tally(turn.preferred for turn in self.turns if turn.vote)

    def _ipython_display_(self) -> None:
        said = f"Side-by-side chat with {self.backend.name}, turns so far: {len(self.turns)}"
        self._kept.show(self.view.root, said, self._repr_html_(), html.transcript_name(self._open_turns()))

    def _keep(self) -> None:
        self._kept.update(self._repr_html_(), html.transcript_name(self._open_turns()))

    def _reveal(self) -> None:
        """Names the voices of a turn that was hidden."""
        self._votable = False
        self._stage.reveal(self.turns[-1])
        self._keep()
        self.view.busy(False)

    def _open_turns(self) -> list[ChatTurn]:
        """The turns whose voices may be named."""
        return self.turns[:-1] if self._votable else self.turns

    def _repr_html_(self) -> str:
        """The transcript so far, as a page of its own: display it to keep it in a saved notebook."""
        return html.static_page(self._open_turns(), self.backend.name)

    # a turn, from the sending to the end

    def _begin(self, user: str, regenerated: bool) -> dict[str, Any]:
        view, blind = self.view, self.view.blind.value
        if blind or not view.memory.value:  # blind, earlier turns would tell the voices apart
            self.conversation = []
        self._votable = False
        view.prompt.value = view.preset.value = ""
        view.busy(True)
        view.say(COLAB if on_colab() else "")
        self._stage.set(blind, self.conversation, user)
        return {"at": datetime.now(UTC).isoformat(timespec="seconds"), "model": self.backend.name, "user": user,
                "seed": view.seed.value, "temperature": round(view.temperature.value, 3), "max_tokens": view.max_tokens.value,
                "dial": self.backend.dial, "number": len(self.conversation) + 1, "regenerated": regenerated,
                "recorded": self.backend.recorded, "blind": blind, "panes": self._stage.order}  # fmt: skip

    def _run(self, turn: dict[str, Any]) -> None:
        buffers = {voice: ReplyBuffer(voice) for voice in VOICES}
        try:
            self._listen(buffers, turn["user"], Settings(turn["seed"], turn["temperature"], turn["max_tokens"]))
        except KeyboardInterrupt:  # on Colab, Stop is the interruption of the cell
            self._stop.set()
        except Exception as error:  # in a thread it would be invisible: it belongs into the panes
            for buffer in buffers.values():
                buffer.end, buffer.error = "error", plain(error)
        self._finish(buffers, turn)

    def _listen(self, buffers: dict[str, ReplyBuffer], user: str, settings: Settings) -> None:
        asked = {voice: messages_for(voice, self.backend.system, self.conversation, user) for voice in VOICES}
        drawn = 0.0
        for event in self.backend.stream(asked, settings, self._stop):
            for voice, buffer in buffers.items():
                if voice == event.voice:
                    buffer.add(event)
                elif not buffer.end:
                    buffer.seconds = max(buffer.seconds, event.seconds)
            if time.perf_counter() - drawn >= TICK:
                self._stage.show(buffers)
                drawn = time.perf_counter()

    def _finish(self, buffers: dict[str, ReplyBuffer], turn: dict[str, Any]) -> None:
        for buffer in buffers.values():
            buffer.end = buffer.end or "stopped"
        said = tuple(buffers[voice].reply(timing=True) for voice in VOICES)
        moved = self.backend.dial if self.backend.dial != turn["dial"] else None
        self.turns.append(ChatTurn(**turn, said=said, dial_moved_to=moved))
        self.conversation += [] if turn["blind"] else self.turns[-1:]
        self._stage.show(buffers)
        self._votable = turn["blind"] and not any(one.error for one in said)
        self._busy = False
        self._keep()  # before Send is enabled: what is saved from then on has this turn
        self.view.busy(False, votable=self._votable)
        self.view.say("Vote, then see who was who." if self._votable else self.backend.hint(turn["user"]))

    def _still_speaking(self) -> None:
        self.view.say("Both voices are still speaking. Press Stop first, or wait.")
