"""The side-by-side chat: keeps the conversation, asks the backend, shows both voices as they speak; knows no model.

Callbacks are quick and hand the work to a thread, except on Colab, where widgets change only from within the callback.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from . import panel_html as html
from .blind import Tally, tally
from .errors import PushbackError
from .kept import Kept
from .panel_controls import connect
from .panel_stage import Stage
from .panel_view import View
from .side_by_side import Backend, Settings, plain
from .stream_local import LocalVoices
from .transcript import ChatTurn, Hearing, messages_for, save_markdown, save_turns
from .voices import VOICES, Speaker

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
        hearings = {voice: Hearing(voice) for voice in VOICES}
        try:
            self._listen(hearings, turn["user"], Settings(turn["seed"], turn["temperature"], turn["max_tokens"]))
        except KeyboardInterrupt:  # on Colab, Stop is the interruption of the cell
            self._stop.set()
        except Exception as error:  # in a thread it would be invisible: it belongs into the panes
            for hearing in hearings.values():
                hearing.end, hearing.error = "error", plain(error)
        self._finish(hearings, turn)

    def _listen(self, hearings: dict[str, Hearing], user: str, settings: Settings) -> None:
        asked = {voice: messages_for(voice, self.backend.system, self.conversation, user) for voice in VOICES}
        drawn = 0.0
        for event in self.backend.stream(asked, settings, self._stop):
            for voice, hearing in hearings.items():
                if voice == event.voice:
                    hearing.hear(event)
                elif not hearing.end:
                    hearing.seconds = max(hearing.seconds, event.seconds)
            if time.perf_counter() - drawn >= TICK:
                self._stage.show(hearings)
                drawn = time.perf_counter()

    def _finish(self, hearings: dict[str, Hearing], turn: dict[str, Any]) -> None:
        for hearing in hearings.values():
            hearing.end = hearing.end or "stopped"
        said = tuple(hearings[voice].said(timing=True) for voice in VOICES)
        moved = self.backend.dial if self.backend.dial != turn["dial"] else None
        self.turns.append(ChatTurn(**turn, said=said, dial_moved_to=moved))
        self.conversation += [] if turn["blind"] else self.turns[-1:]
        self._stage.show(hearings)
        self._votable = turn["blind"] and not any(one.error for one in said)
        self._busy = False
        self._keep()  # before Send is enabled: what is saved from then on has this turn
        self.view.busy(False, votable=self._votable)
        self.view.say("Vote, then see who was who." if self._votable else self.backend.hint(turn["user"]))

    def _still_speaking(self) -> None:
        self.view.say("Both voices are still speaking. Press Stop first, or wait.")
