"""The widgets of a chat, and the HTML they show, every text escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from .backend import Backend
from .turns import BOTH_BAD, PANES, TIE, ChatTurn, Reply

SHOWN = 12_000  # characters of one text that are shown; more would make the browser slow
NOT_READ = "[no answer: the model does not read this turn]"
KEYS = (  # JupyterLab would take plain keys on a list or a text as commands: to another cell, delete this one
    "<style onload=\"this.closest('.pushback-chat').addEventListener('keydown',function(e){"
    "if(e.ctrlKey||e.metaKey||e.altKey||e.shiftKey)return;e.stopPropagation();"
    "if(e.key==='Enter'&&e.target.closest('.pushback-preset')&&e.target.selectedIndex>0)"  # an example, not its heading
    "this.querySelector('.pushback-send').click()})\"></style>"
)
HISTORY = 8  # earlier turns shown in a pane
COPIED = 200_000  # characters that Copy offers
BLOCK = "white-space:pre-wrap;overflow-wrap:anywhere;line-height:1.45;margin:0 0 6px 0"
FRAME = "border:1px solid currentColor;border-radius:3px;padding:6px"

_COPY = (
    "var b=this,a=b.nextElementSibling,done=function(){a.hidden=true;b.textContent='Copied';b.focus()},"
    "byhand=function(){a.hidden=false;a.focus();a.select();var ok=false;try{ok=document.execCommand('copy')}catch(e){}"
    "if(ok){done()}else{b.textContent='Press Ctrl+C to copy'}};"
    "if(navigator.clipboard&&window.isSecureContext){navigator.clipboard.writeText(a.value).then(done,byhand)}else{byhand()}"
)


def capped(text: str, limit: int = SHOWN) -> str:
    """The text, escaped; of a longer one its beginning and end, and how much is left out."""
    if len(text) <= limit:
        return escape(text)
    left_out = f"{len(text) - limit:,} characters are not shown here; Export has them all"
    return f"{escape(text[: limit // 2])}\n[… {left_out} …]\n{escape(text[-limit // 2 :])}"


def said_block(text: str, label: str, *, busy: bool = False, quiet: bool = False) -> str:
    """A text of the conversation as a log region with a label; `quiet` sets it off as thought, with a rule beside it."""
    style = f"{BLOCK};border-left:3px solid currentColor;padding-left:8px" if quiet else BLOCK
    state = ' aria-busy="true"' if busy else ""
    return f'<div role="log" tabindex="0" aria-label="{escape(label)}"{state} style="{style}">{capped(text)}</div>'


def user_block(text: str) -> str:
    """What the person asked."""
    return f'<div style="{BLOCK}"><strong>You:</strong> {capped(text, SHOWN // 4)}</div>'


def error_block(text: str) -> str:
    """An error, in words and with a frame."""
    return f'<div role="alert" style="{BLOCK};{FRAME}"><strong>Error:</strong> {capped(text, SHOWN // 4)}</div>'


def note_block(text: str) -> str:
    """A notice in a frame."""
    return f'<div role="note" style="{FRAME};line-height:1.45">{capped(text, SHOWN // 4)}</div>'


def status_block(text: str) -> str:
    """What just happened, for eyes and screen readers."""
    return f'<div role="status" style="line-height:1.45;overflow-wrap:anywhere">{capped(text, SHOWN // 4)}</div>'


def title_block(text: str) -> str:
    """A pane's name."""
    return f'<div role="heading" aria-level="4" style="font-weight:bold">{escape(text)}</div>'


def figures(said: Reply) -> str:
    """Tokens, seconds to the first token, tokens per second, and how the reply ended if not by itself."""
    if said.first_token is None:
        return f"no token in {said.seconds:.1f} s"
    speed = f" · {said.tokens_per_second:.0f} tokens/s" if said.tokens_per_second else ""
    ended = {"length": " · cut off at the maximum of tokens", "stopped": " · stopped", "error": " · failed"}.get(said.end, "")
    return f"{said.tokens} tokens · first after {said.first_token:.2f} s{speed}{ended}"


def thinking_label(said: Reply, shown: bool) -> str:
    """The toggle's label: whether the thinking is shown, and for how long it went on."""
    action = "hide" if shown else "show"
    if not said.thought:
        return "No thinking yet" if not said.end else "No thinking"
    if said.thinking is not None:
        return f"Thought for {said.thinking:.1f} s ({action})"
    return f"Thinking, {said.seconds:.1f} s ({action})" if not said.end else f"Thought for {said.seconds:.1f} s ({action})"


def history_block(turns: Sequence[ChatTurn], voice: str) -> str:
    """Earlier turns as one voice had them, thoughts folded: they are no longer part of what the model reads."""
    parts = []
    if len(turns) > HISTORY:
        parts.append(f'<div style="{BLOCK}">[… {len(turns) - HISTORY} earlier turns; Export has them …]</div>')
    for turn in turns[-HISTORY:]:
        said = turn.of(voice)
        parts.append(user_block(turn.user))
        if said.thought:
            parts.append(f"<details><summary>Thought, no longer read by the model</summary>"
                         f'<div style="{BLOCK}">{capped(said.thought, SHOWN // 4)}</div></details>')  # fmt: skip
        stopped = " [stopped]" if said.answer and said.end == "stopped" else ""
        parts.append(f'<div style="{BLOCK}">{capped(said.answer, SHOWN // 4) or NOT_READ}{stopped}</div>')
        parts += [error_block(said.error)] if said.error else []
    return "".join(parts) + ("<hr>" if parts else "")


def copy_block(said: Reply, pane: str) -> str:
    """A button that copies thought and answer; where the browser forbids it, the text appears selected."""
    text = f"{said.thought}\n\n{said.answer}".strip()
    if not text:
        return ""
    label = "Copy" if len(text) <= COPIED else f"Copy the first {COPIED:,} characters"
    return (
        f'<button type="button" class="jupyter-widgets jupyter-button widget-button pushback-copy-button" '
        f'style="width:auto" aria-label="{label}: reply {pane}" onclick="{_COPY}">{label}</button>'
        f'<textarea hidden readonly rows="4" style="width:100%" aria-label="Reply {pane} to copy">'
        f"{escape(text[:COPIED])}</textarea>"
    )


def turn_table(turn: ChatTurn) -> str:
    """One turn with both voices side by side, thinking open."""
    parts = {"thinks": lambda said: said.thought, "answers": lambda said: said.answer or said.error or "[no answer]"}
    cell = f"text-align:left;vertical-align:top;{BLOCK}"
    rows = "".join(
        f"<tr><th scope='row'>{name}</th>"
        + "".join(f'<td style="{cell}">{capped(text(said), SHOWN // 4)}</td>' for said in turn.said)
        + "</tr>"
        for name, text in parts.items()
    )
    heads = _heads(said.voice for said in turn.said)
    return f"<div>{user_block(turn.user)}<table><thead><tr><th></th>{heads}</tr></thead><tbody>{rows}</tbody></table></div>"


def _heads(names: Iterable[str]) -> str:
    return "".join(f'<th scope="col" style="text-align:left">{name}</th>' for name in names)


def static_page(turns: Sequence[ChatTurn], name: str) -> str:
    """The transcript so far as a table: what a saved notebook shows where no kernel runs."""
    head = (
        f"<p><strong>Side-by-side chat with {escape(name)}.</strong> This is what was said when the notebook was saved; "
        "run the cell to chat.</p>"
    )
    if not turns:
        return f"<div>{head}<p>Nothing yet.</p></div>"
    rows = "".join(_static_row(turn) for turn in turns[-HISTORY:])
    left_out = f"<p>The last {HISTORY} of {len(turns)} turns.</p>" if len(turns) > HISTORY else ""
    heads = _heads(("prompt", "baseline", "friction"))
    return f"<div>{head}{left_out}<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>"


def transcript_name(turns: Sequence[ChatTurn]) -> str:
    """How many turns there are, in words; "" for none."""
    return {0: "", 1: "Transcript: 1 turn"}.get(len(turns), f"Transcript: {len(turns)} turns")


def _static_row(turn: ChatTurn) -> str:
    cells = [capped(turn.user, SHOWN // 4) + (" <em>(recorded)</em>" if turn.recorded else "")]
    for voice in ("baseline", "friction"):
        said = turn.of(voice)
        thought = f"<details><summary>thought</summary>{capped(said.thought, SHOWN // 4)}</details>" if said.thought else ""
        error = f"<strong>Error:</strong> {capped(said.error, SHOWN // 4)}" if said.error else ""
        answer = capped(said.answer, SHOWN // 4) or ("" if error else "[no answer]")
        cells.append(f"{thought}{answer}{error}<br><small>{escape(figures(said))}</small>")
    return "<tr>" + "".join(f'<td style="text-align:left;{BLOCK}">{cell}</td>' for cell in cells) + "</tr>"


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
        self._said: Reply | None = None
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
        self.earlier.value = history_block(turns, voice) + user_block(user)

    def show(self, said: Reply) -> None:
        """Shows a reply as it stands."""
        busy = not said.end
        self._said = said
        _put(self.thought, said_block(said.thought, f"Thinking, pane {self.letter}", busy=busy, quiet=True)
             if said.thought else "")  # fmt: skip
        error = error_block(said.error) if said.error else ""
        waiting = "Waiting for the first token …" if busy and not said.thought else ""
        answer = said.answer or waiting or ("" if busy or error else "[no answer]")
        _put(self.answer, (said_block(answer, f"Answer, pane {self.letter}", busy=busy) if answer else "") + error)
        _put(self.figures, f"<small>{figures(said)}</small>")
        _put(self.copy, "" if busy else copy_block(said, self.letter))
        self.toggle.disabled = not said.thought
        self._show_thought()

    def hide(self, text: str, answer: str = "") -> None:
        """Shows an answer with nothing that would betray its voice: no thinking, no figures."""
        self._said = None
        _put(self.thought, "")
        _put(self.answer, said_block(answer, f"Answer, pane {self.letter}") if answer else "")
        _put(self.figures, f"<small>{escape(text)}</small>")
        _put(self.copy, "")
        self.toggle.description, self.toggle.disabled = "Thinking hidden until you vote", True

    def _show_thought(self) -> None:
        self.thought.layout.display = "block" if self.toggle.value else "none"
        if self._said is not None:
            label = thinking_label(self._said, self.toggle.value)
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
        _put(self.notice, note_block(backend.note) if backend.note else "")
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
            w.HTML(KEYS, layout=w.Layout(display="none")),
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
        _put(self.status, status_block(text))
