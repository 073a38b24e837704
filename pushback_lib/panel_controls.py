"""Ties the controls of a chat to what it can do; an error in a callback is shown, where it would be invisible."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from . import panel_html as html
from .side_by_side import plain

if TYPE_CHECKING:
    from .panel import ChatPanel

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
