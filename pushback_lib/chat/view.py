"""The widgets of a chat and the HTML in them; every text is escaped."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from functools import partial
from html import escape
from typing import Any

import ipywidgets as w

from ..core.common import VOICES
from ..core.records import Reply
from .backend import Backend
from .turns import BLOCK, BOTH_BAD, EARLIER_TURNS, LONG, PANES, TIE, ChatTurn, capped, figures, folded, shuffled, user_block

NOT_READ = "[no answer: the model does not read this turn]"
COPY_LIMIT = 200_000  # characters
CHOOSE = "Choose an example"
VOTES = {PANES[0]: "A is better", PANES[1]: "B is better", TIE: "Tie", BOTH_BAD: "Both bad"}
FRAME = "border:1px solid currentColor;border-radius:3px;padding:6px"
WIDE = {"description_width": "initial"}
KEYS = (  # JupyterLab would take plain keys on a list or a text as commands: to another cell, delete this one
    "<style onload=\"this.closest('.pushback-chat').addEventListener('keydown',function(e){"
    "if(e.ctrlKey||e.metaKey||e.altKey||e.shiftKey)return;e.stopPropagation();"
    "if(e.key==='Enter'&&e.target.closest('.pushback-preset')&&e.target.selectedIndex>0)"  # an example, not its heading
    "this.querySelector('.pushback-send').click()})\"></style>"
)
COPY = (
    "var b=this,a=b.nextElementSibling,done=function(){a.hidden=true;b.textContent='Copied';b.focus()},"
    "byhand=function(){a.hidden=false;a.focus();a.select();var ok=false;try{ok=document.execCommand('copy')}catch(e){}"
    "if(ok){done()}else{b.textContent='Press Ctrl+C to copy'}};"
    "if(navigator.clipboard&&window.isSecureContext){navigator.clipboard.writeText(a.value).then(done,byhand)}else{byhand()}"
)


def said_block(text: str, label: str, *, busy: bool = False, quiet: bool = False) -> str:
    """A text as a log region with a label, "" for none; `quiet` sets it off as thought, with a rule beside it."""
    if not text:
        return ""
    style = f"{BLOCK};border-left:3px solid currentColor;padding-left:8px" if quiet else BLOCK
    state = ' aria-busy="true"' if busy else ""
    return f'<div role="log" tabindex="0" aria-label="{escape(label)}"{state} style="{style}">{capped(text, LONG)}</div>'


def error_block(text: str) -> str:
    """An error, in words and with a frame."""
    return f'<div role="alert" style="{BLOCK};{FRAME}"><strong>Error:</strong> {capped(text)}</div>'


def status_block(text: str) -> str:
    """What just happened, for eyes and screen readers."""
    return f'<div role="status" style="line-height:1.45;overflow-wrap:anywhere">{capped(text)}</div>'


def thinking_label(said: Reply, shown: bool) -> str:
    """The toggle's label: whether the thinking is shown, and how long it took."""
    action = "hide" if shown else "show"
    if not said.thought:
        return "No thinking" if said.end else "No thinking yet"
    if said.thinking is None and not said.end:
        return f"Thinking, {said.seconds:.1f} s ({action})"
    return f"Thought for {said.seconds if said.thinking is None else said.thinking:.1f} s ({action})"


def history_block(turns: Sequence[ChatTurn], voice: str) -> str:
    """Earlier turns as one voice had them, thoughts folded: they are no longer part of what the model reads."""
    parts = []
    if len(turns) > EARLIER_TURNS:
        parts.append(f'<div style="{BLOCK}">[… {len(turns) - EARLIER_TURNS} earlier turns; Export has them …]</div>')
    for turn in turns[-EARLIER_TURNS:]:
        said = turn.of(voice)
        stopped = " [stopped]" if said.answer and said.end == "stopped" else ""
        thought = folded("Thought, no longer read by the model", said.thought)
        parts += [user_block(turn.user), f'<div style="{BLOCK}">{thought}{capped(said.answer) or NOT_READ}{stopped}</div>']
        parts += [error_block(said.error)] if said.error else []
    return "".join(parts) + ("<hr>" if parts else "")


def copy_block(said: Reply, pane: str) -> str:
    """A button that copies thought and answer; where the browser forbids it, the text appears selected."""
    text = f"{said.thought}\n\n{said.answer}".strip()
    if not text:
        return ""
    label = "Copy" if len(text) <= COPY_LIMIT else f"Copy the first {COPY_LIMIT:,} characters"
    return (
        f'<button type="button" class="jupyter-widgets jupyter-button widget-button pushback-copy-button" '
        f'style="width:auto" aria-label="{label}: reply {pane}" onclick="{COPY}">{label}</button>'
        f'<textarea hidden readonly rows="4" style="width:100%" aria-label="Reply {pane} to copy">'
        f"{escape(text[:COPY_LIMIT])}</textarea>"
    )


def _make(kind: type, *names: str, layout: dict[str, str], **options: Any) -> Any:
    """A widget with classes to find it by."""
    widget = kind(layout=w.Layout(**layout), **options)
    for name in names:
        widget.add_class(f"pushback-{name}")
    return widget


def _html(name: str, **layout: str) -> Any:
    return _make(w.HTML, name, layout={"width": "100%", "margin": "0", **layout})


def _button(label: str, name: str, tip: str, **options: Any) -> Any:
    return _make(w.Button, name, description=label, tooltip=tip, layout={"width": "auto"}, **options)


def _toggle(name: str, value: bool, *, layout: Mapping[str, str] | None = None, **options: Any) -> Any:
    return _make(w.ToggleButton, name, value=value, layout={"width": "auto", **(layout or {})}, **options)


def _row(*widgets: Any, name: str) -> Any:
    return _make(w.HBox, name, children=widgets, layout={"flex_flow": "row wrap", "align_items": "center", "width": "100%"})


def _put(widget: Any, value: str) -> None:
    """Sets the HTML if it changed: what did not is not sent to the browser again."""
    if widget.value != value:
        widget.value = value


class Pane:
    """One pane: name, earlier turns, thinking behind its toggle, answer, figures, Copy."""

    def __init__(self, letter: str) -> None:
        self.letter, at = letter, letter.lower()
        self.title, self.earlier, self.thought = _html(f"title-{at}"), _html(f"earlier-{at}"), _html(f"thought-{at}")
        self.answer = _html(f"answer-{at}")
        self.figures = _html(f"figures-{at}", min_height="22px")  # heights, so that nothing below jumps
        self.copy = _html(f"copy-{at}", min_height="38px")
        self.toggle = _toggle(f"toggle-{at}", True, layout={"align_self": "flex-start"})
        self.toggle.observe(lambda change: self._show_thought(), "value")
        inner = w.VBox([self.earlier, self.toggle, self.thought, self.answer],
                       layout=w.Layout(width="100%", flex="0 0 auto", margin="0 0 auto 0"))  # fmt: skip
        # a reversed column keeps its end in sight while text arrives, without JavaScript
        scroll = _make(w.Box, f"scroll-{at}", children=[inner], layout={"height": "300px", "overflow": "auto",
                       "flex_flow": "column-reverse", "width": "100%"})  # fmt: skip
        self.root = _make(w.VBox, f"pane-{at}", "pane", children=[self.title, scroll, self.figures, self.copy],
                          layout={"flex": "1 1 300px", "min_width": "260px", "border": "1px solid", "padding": "8px",
                                  "margin": "2px", "align_self": "stretch"})  # fmt: skip
        self.clear()

    def clear(self) -> None:
        """Empties the pane, but for its name."""
        _put(self.earlier, "")
        self._fill("", "", "", "")
        self._lock("No thinking yet")

    def begin(self, turns: Sequence[ChatTurn], voice: str, user: str) -> None:
        """Shows the turns before this one, and what is asked now."""
        self.clear()
        _put(self.earlier, history_block(turns, voice) + user_block(user))

    def show(self, said: Reply) -> None:
        """Shows a reply, complete or so far."""
        busy = not said.end
        thought = said_block(said.thought, f"Thinking, pane {self.letter}", busy=busy, quiet=True)
        error = error_block(said.error) if said.error else ""
        waiting = "Waiting for the first token …" if busy and not said.thought else ""
        answer = said.answer or waiting or ("" if busy or error else "[no answer]")
        answer = said_block(answer, f"Answer, pane {self.letter}", busy=busy)
        self._fill(thought, answer + error, figures(said), "" if busy else copy_block(said, self.letter))
        self._said, self.toggle.disabled = said, not said.thought
        self._show_thought()

    def hide(self, text: str, answer: str = "") -> None:
        """Shows an answer with nothing that would betray its voice: no thinking, no figures."""
        self._fill("", said_block(answer, f"Answer, pane {self.letter}"), text, "")
        self._lock("Thinking hidden until you vote")

    def _fill(self, thought: str, answer: str, numbers: str, copy: str) -> None:
        _put(self.thought, thought)
        _put(self.answer, answer)
        _put(self.figures, f"<small>{escape(numbers)}</small>" if numbers else "")
        _put(self.copy, copy)

    def _lock(self, label: str) -> None:
        """A toggle with nothing behind it."""
        self._said: Reply | None = None
        self.toggle.description, self.toggle.disabled = label, True

    def _show_thought(self) -> None:
        self.thought.layout.display = "block" if self.toggle.value else "none"
        if self._said is not None:
            self.toggle.description = thinking_label(self._said, self.toggle.value)


class View:
    """All widgets of one chat; `root` holds them. While `hidden`, nothing is shown that would betray a voice: no name,
    thinking, length or speed; `order` says who sits in pane A and B."""

    def __init__(self, backend: Backend, *, seed: int, temperature: float, max_tokens: int, blind: bool, remember: bool,
                 draw: random.Random) -> None:  # fmt: skip
        self._presets, self._recorded, self._draw = backend.presets, backend.recorded, draw
        self.notice, self.tally, self.status = _html("notice"), _html("tally"), _html("status", min_height="22px")
        if backend.note:
            _put(self.notice, f'<div role="note" style="{FRAME};line-height:1.45">{capped(backend.note)}</div>')
        self._asking()
        self.memory = _toggle("memory", remember, tooltip="Whether the voices read the turns before this one")
        self.blind = _toggle("blind", blind)
        self.votes = {choice: _button(label, f"vote-{choice.replace(' ', '-').lower()}", f"Vote: {label}", disabled=True)
                      for choice, label in VOTES.items()}  # fmt: skip
        self._settings(backend, seed, temperature, max_tokens)
        self.panes = [Pane(letter) for letter in PANES]
        self.vote_row = _row(*self.votes.values(), self.tally, name="votes")
        self.root = _make(w.VBox, "chat", layout={"width": "100%"}, children=[
            self.notice,
            _row(self.behaviour, self.preset, name="presets"),
            _row(self.prompt, self.send, self.stop, name="ask"),
            self.status,
            _row(*(pane.root for pane in self.panes), name="panes"),
            self.vote_row,
            _row(self.again, self.clear, self.memory, self.blind, self.export, name="actions"),
            _row(self.dial, self.temperature, self.max_tokens, self.seed, name="settings"),
            w.HTML(KEYS, layout=w.Layout(display="none")),
        ])  # fmt: skip
        self.empty()

    def _asking(self) -> None:
        line = {"flex": "1 1 280px", "width": "auto"}
        self.behaviour = _make(w.Dropdown, "behaviour", description="Behaviour", style=WIDE, layout={"width": "230px"},
                               options=list(dict.fromkeys(preset.behaviour for preset in self._presets)))  # fmt: skip
        self.preset = _make(w.Dropdown, "preset", description="Example", style=WIDE, layout=line)
        self.prompt = _make(w.Text, "prompt", description="Prompt", style=WIDE, layout=line,
                            placeholder="Type a prompt and press Enter")  # fmt: skip
        self.send = _button("Send", "send", "Ask both voices (Enter in the prompt does the same)")
        self.stop = _button("Stop", "stop", "Stop both voices", disabled=True)
        self.again = _button("Regenerate", "again", "Ask the last prompt again; above temperature 0 with the next seed")
        self.clear = _button("Clear", "clear", "Begin a new conversation")
        self.export = _button("Export", "export", "Write transcript and votes as JSONL and Markdown")

    def _settings(self, backend: Backend, seed: int, temperature: float, max_tokens: int) -> None:
        slider = partial(_make, w.FloatSlider, min=0.0, style=WIDE, layout={"width": "270px"})
        number = partial(_make, w.BoundedIntText, style=WIDE, layout={"width": "180px"}, disabled=backend.recorded)
        self.dial = slider("dial", description="Friction dial", value=1.0 if backend.dial is None else backend.dial, max=2.0,
                           step=0.05, disabled=backend.dial is None)  # fmt: skip
        self.temperature = slider("temperature", description="Temperature", value=temperature, max=1.5, step=0.1,
                                  disabled=backend.recorded)  # fmt: skip
        self.max_tokens = number("max-tokens", description="Maximum tokens", value=max_tokens, min=1, max=32768)
        self.seed = number("seed", description="Seed", value=seed, min=0, max=2**31 - 1)

    def list_examples(self) -> None:
        """Lists the examples of the behaviour that is chosen."""
        texts = [preset.text for preset in self._presets if preset.behaviour == self.behaviour.value]
        self.preset.options = [(CHOOSE, ""), *((" ".join(text.split())[:120], text) for text in texts)]
        self.preset.value = ""

    def busy(self, busy: bool, votable: bool = False) -> None:
        """Enables what can be used now."""
        for widget in (self.send, self.again, self.clear, self.export, self.memory, self.blind, self.behaviour, self.preset):
            widget.disabled = busy
        self.stop.disabled = not busy
        for button in self.votes.values():
            button.disabled = busy or not votable

    def say(self, text: str) -> None:
        """Puts a line under the prompt."""
        _put(self.status, status_block(text))

    def count(self, text: str) -> None:
        """Puts the tally beside the votes."""
        _put(self.tally, status_block(text))

    # the two panes

    def begin(self, blind: bool, earlier: Sequence[ChatTurn], user: str) -> None:
        """Makes the panes ready for a turn; shuffles them where it is blind."""
        self._seat(shuffled(self._draw) if blind else VOICES, hidden=blind)
        for pane, voice in zip(self.panes, self.order, strict=True):
            pane.begin(earlier, voice, user)

    def show(self, replies: Mapping[str, Reply]) -> None:
        """Shows both replies so far; in blind mode the answers, together, once both have ended."""
        both_ended = all(said.end for said in replies.values())
        for pane, voice in zip(self.panes, self.order, strict=True):
            said = replies[voice]
            if not self.hidden or said.error:
                pane.show(said)
            elif both_ended:
                pane.hide("Thinking and figures are hidden until you vote", said.answer or "[no answer]")
            else:
                pane.hide("Both voices are writing; their answers appear together")

    def reveal(self, turn: ChatTurn) -> None:
        """Names the voices, and shows all that they said."""
        self._seat(self.order, hidden=False)
        self.show({voice: turn.of(voice) for voice in VOICES})

    def empty(self) -> None:
        """Empties both panes and names them by their voices, in blind mode by letters only."""
        self._seat(VOICES, hidden=self.blind.value)
        for pane in self.panes:
            pane.clear()

    def _seat(self, order: tuple[str, str], *, hidden: bool) -> None:
        """Puts the voices into the panes, and writes their names as far as they may be known."""
        self.order, self.hidden = order, hidden
        for pane, voice in zip(self.panes, order, strict=True):
            name = (pane.letter if hidden else f"{pane.letter}: {voice}") + (" (recorded)" if self._recorded else "")
            _put(pane.title, f'<div role="heading" aria-level="4" style="font-weight:bold">{escape(name)}</div>')
