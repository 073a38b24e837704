"""The widgets of a chat and where they stand; holds no state of the conversation and starts nothing.

Plain ipywidgets, on what versions 7.7 and 8.1 have in common. Each control carries a class for tests and style sheets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .blind import BOTH_BAD, PANES, TIE
from .side_by_side import Backend
from .transcript import ChatTurn, Said

from . import panel_html as html  # isort: skip

WIDE = {"description_width": "initial"}
VOTES = {PANES[0]: "A is better", PANES[1]: "B is better", TIE: "Tie", BOTH_BAD: "Both bad"}


def _named(widget: Any, *names: str) -> Any:
    for name in names:
        widget.add_class(f"pushback-{name}")
    return widget


def _html(name: str) -> Any:
    import ipywidgets as w

    return _named(w.HTML(layout=w.Layout(width="100%", margin="0")), name)


def _button(label: str, name: str, tip: str, **options: Any) -> Any:
    import ipywidgets as w

    return _named(w.Button(description=label, tooltip=tip, layout=w.Layout(width="auto"), **options), name)


def _row(*widgets: Any, name: str) -> Any:
    import ipywidgets as w

    return _named(w.HBox(list(widgets), layout=w.Layout(flex_flow="row wrap", align_items="center", width="100%")), name)


class Pane:
    """One pane: name, earlier turns, thinking behind its toggle, answer, figures, Copy."""

    def __init__(self, letter: str) -> None:
        import ipywidgets as w

        self.letter, at = letter, letter.lower()
        self.title, self.earlier, self.thought = _html(f"title-{at}"), _html(f"earlier-{at}"), _html(f"thought-{at}")
        self.answer, self.figures, self.copy = _html(f"answer-{at}"), _html(f"figures-{at}"), _html(f"copy-{at}")
        self.figures.layout.min_height, self.copy.layout.min_height = "22px", "38px"  # so that nothing below jumps
        self.toggle = _named(
            w.ToggleButton(
                value=True, description="No thinking yet", disabled=True, layout=w.Layout(width="auto", align_self="flex-start")
            ),
            f"toggle-{at}",
        )
        self.toggle.observe(lambda change: self._show_thought(), "value")
        self._said: Said | None = None
        inner = w.VBox([self.earlier, self.toggle, self.thought, self.answer],
                       layout=w.Layout(width="100%", flex="0 0 auto", margin="0 0 auto 0"))  # fmt: skip
        # a reversed column keeps its end in sight while text arrives, without JavaScript
        scroll = w.Box([inner], layout=w.Layout(height="300px", overflow="auto", flex_flow="column-reverse", width="100%"))
        self.root = _named(
            w.VBox([self.title, _named(scroll, f"scroll-{at}"), self.figures, self.copy],
                   layout=w.Layout(flex="1 1 300px", min_width="260px", border="1px solid", padding="8px", margin="2px")),
            f"pane-{at}", "pane",
        )  # fmt: skip

    def clear(self) -> None:
        """Empties the pane, but for its name."""
        self._said = None
        for part in (self.earlier, self.thought, self.answer, self.figures, self.copy):
            _put(part, "")
        self.toggle.description, self.toggle.disabled = "No thinking yet", True

    def history(self, turns: Sequence[ChatTurn], voice: str, user: str) -> None:
        """Shows the turns before this one, and what is asked now."""
        self.clear()
        self.earlier.value = html.history_block(turns, voice) + html.user_block(user)

    def show(self, said: Said) -> None:
        """Shows a reply as it stands."""
        busy = not said.end
        self._said = said
        _put(self.thought, html.said_block(said.thought, f"Thinking, pane {self.letter}", busy=busy, quiet=True)
             if said.thought else "")  # fmt: skip
        error = html.error_block(said.error) if said.error else ""
        waiting = "Waiting for the first token …" if busy and not said.thought else ""
        answer = said.answer or waiting or ("" if busy or error else "[no answer]")
        _put(self.answer, (html.said_block(answer, f"Answer, pane {self.letter}", busy=busy) if answer else "") + error)
        _put(self.figures, f"<small>{html.figures(said)}</small>")
        _put(self.copy, "" if busy else html.copy_block(said, self.letter))
        self.toggle.disabled = not said.thought
        self._show_thought()

    def hide(self, text: str, answer: str = "") -> None:
        """Shows an answer with nothing that would betray its voice: no thinking, no figures."""
        self._said = None
        _put(self.thought, "")
        _put(self.answer, html.said_block(answer, f"Answer, pane {self.letter}") if answer else "")
        _put(self.figures, f"<small>{html.escape(text)}</small>")
        _put(self.copy, "")
        self.toggle.description, self.toggle.disabled = "Thinking hidden until you vote", True

    def _show_thought(self) -> None:
        self.thought.layout.display = "block" if self.toggle.value else "none"
        if self._said is not None:
            label = html.thinking_label(self._said, self.toggle.value)
            if label != self.toggle.description:
                self.toggle.description = label


def _put(widget: Any, value: str) -> None:
    """Sets the HTML if it changed: what did not is not sent to the browser again."""
    if widget.value != value:
        widget.value = value


class View:
    """All widgets of one chat; `root` holds them."""

    def __init__(self, backend: Backend, *, seed: int, temperature: float, max_tokens: int, blind: bool,
                 remember: bool) -> None:  # fmt: skip
        import ipywidgets as w

        self.notice, self.status, self.tally = _html("notice"), _html("status"), _html("tally")
        self.status.layout.min_height = "22px"
        _put(self.notice, html.note_block(backend.note) if backend.note else "")
        self.prompt = _named(w.Text(description="Prompt", placeholder="Type a prompt and press Enter", style=WIDE,
                                    layout=w.Layout(flex="1 1 280px", width="auto")), "prompt")  # fmt: skip
        self.send = _button("Send", "send", "Ask both voices (Enter in the prompt does the same)")
        self.stop = _button("Stop", "stop", "Stop both voices", disabled=True)
        self.again = _button("Regenerate", "again", "Ask the last prompt again; above temperature 0 with the next seed")
        self.clear = _button("Clear", "clear", "Begin a new conversation")
        self.export = _button("Export", "export", "Write transcript and votes as JSONL and Markdown")
        self.blind = _named(w.ToggleButton(value=blind, description="", layout=w.Layout(width="auto")), "blind")
        self.memory = _named(w.ToggleButton(value=remember, description="", layout=w.Layout(width="auto"),
                                            tooltip="Whether the voices read the turns before this one"), "memory")  # fmt: skip
        self.votes = {choice: _button(label, f"vote-{choice.replace(' ', '-').lower()}", f"Vote: {label}", disabled=True)
                      for choice, label in VOTES.items()}  # fmt: skip
        self._settings(backend, seed, temperature, max_tokens)
        self._presets(backend)
        self.panes = [Pane(letter) for letter in PANES]
        self.vote_row = _row(*self.votes.values(), self.tally, name="votes")
        self.root = _named(w.VBox([
            self.notice,
            _row(self.behaviour, self.preset, name="presets"),
            _row(self.prompt, self.send, self.stop, name="ask"),
            self.status,
            _row(*(pane.root for pane in self.panes), name="panes"),
            self.vote_row,
            _row(self.again, self.clear, self.memory, self.blind, self.export, name="actions"),
            _row(self.dial, self.temperature, self.max_tokens, self.seed, name="settings"),
            w.HTML(html.KEYS, layout=w.Layout(display="none")),
        ], layout=w.Layout(width="100%")), "chat")  # fmt: skip
        for pane in self.panes:
            pane.root.layout.align_self = "stretch"

    def _settings(self, backend: Backend, seed: int, temperature: float, max_tokens: int) -> None:
        import ipywidgets as w

        wide, narrow = w.Layout(width="270px"), w.Layout(width="180px")
        self.dial = _named(w.FloatSlider(value=1.0 if backend.dial is None else backend.dial, min=0.0, max=2.0, step=0.05,
                                         description="Friction dial", style=WIDE, layout=wide), "dial")  # fmt: skip
        self.dial.disabled = backend.dial is None
        self.temperature = _named(w.FloatSlider(value=temperature, min=0.0, max=1.5, step=0.1, description="Temperature",
                                                style=WIDE, layout=wide), "temperature")  # fmt: skip
        self.max_tokens = _named(w.BoundedIntText(value=max_tokens, min=1, max=32768, description="Maximum tokens", style=WIDE,
                                                  layout=narrow), "max-tokens")  # fmt: skip
        self.seed = _named(w.BoundedIntText(value=seed, min=0, max=2**31 - 1, description="Seed", style=WIDE,
                                            layout=narrow), "seed")  # fmt: skip
        for control in (self.temperature, self.max_tokens, self.seed):
            control.disabled = backend.recorded

    def _presets(self, backend: Backend) -> None:
        import ipywidgets as w

        behaviours = list(dict.fromkeys(preset.behaviour for preset in backend.presets))
        self.behaviour = _named(w.Dropdown(options=behaviours, description="Behaviour", style=WIDE,
                                           layout=w.Layout(width="230px")), "behaviour")  # fmt: skip
        self.preset = _named(w.Dropdown(description="Example", style=WIDE, layout=w.Layout(flex="1 1 280px", width="auto")),
                             "preset")  # fmt: skip

    def busy(self, busy: bool, votable: bool = False) -> None:
        """Enables what can be used now."""
        for widget in (self.send, self.again, self.clear, self.export, self.memory, self.blind, self.behaviour, self.preset):
            widget.disabled = busy
        self.stop.disabled = not busy
        for button in self.votes.values():
            button.disabled = busy or not votable

    def say(self, text: str) -> None:
        """Puts a line under the prompt."""
        _put(self.status, html.status_block(text))
