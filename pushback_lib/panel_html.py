"""What a chat shows, as HTML: every text escaped and capped, no state; knows no widget and no model.

Colours are the page's own (`inherit`, `currentColor`), so that light and dark themes keep their contrast; what a colour
would say is said in words.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from .transcript import ChatTurn, Said

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


def figures(said: Said) -> str:
    """Tokens, seconds to the first token, tokens per second, and how the reply ended if not by itself."""
    if said.first_token is None:
        return f"no token in {said.seconds:.1f} s"
    speed = f" · {said.tokens_per_second:.0f} tokens/s" if said.tokens_per_second else ""
    ended = {"length": " · cut off at the maximum of tokens", "stopped": " · stopped", "error": " · failed"}.get(said.end, "")
    return f"{said.tokens} tokens · first after {said.first_token:.2f} s{speed}{ended}"


def thinking_label(said: Said, shown: bool) -> str:
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


def copy_block(said: Said, pane: str) -> str:
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
