"""Who sits in which pane, and how much of it may be seen: shuffling, hiding and revealing; keeps no conversation."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from . import panel_html as html
from .blind import shuffled
from .panel_view import View
from .transcript import ChatTurn, Hearing
from .voices import VOICES


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

    def show(self, hearings: Mapping[str, Hearing]) -> None:
        """Shows both replies as they stand; in blind mode the answers, together, once both have ended."""
        both_ended = all(hearing.end for hearing in hearings.values())
        for pane, voice in zip(self.view.panes, self.order, strict=True):
            said = hearings[voice].said()
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
