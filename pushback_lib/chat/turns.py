"""Turns of a side-by-side chat: what was said, blind votes, the transcript as JSONL, Markdown and HTML."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from ..core.common import BASELINE, FRICTION, VOICES, PushbackError
from ..core.files import read_models, replacing, write_jsonl
from ..core.records import Message, Reply, Turn, prompt_messages
from ..core.stats import Rate, wilson

PANES = ("A", "B")
TIE, BOTH_BAD = "tie", "both bad"
CHOICES = (*PANES, TIE, BOTH_BAD)
EARLIER_TURNS = 8  # shown in a pane and in a saved copy; Export has them all
SHORT, LONG = 3_000, 12_000  # characters of a text that are shown: beside others, and alone; more make the browser slow
BLOCK = "white-space:pre-wrap;overflow-wrap:anywhere;line-height:1.45;margin:0 0 6px 0"
Voice = Literal["baseline", "friction"]


def shuffled(rng: random.Random) -> tuple[str, str]:
    """The voices of pane A and pane B, each order as likely as the other."""
    return VOICES if rng.random() < 0.5 else VOICES[::-1]


@dataclass(frozen=True)
class Tally:
    """How often each voice was preferred, and how often neither."""

    friction: int = 0
    baseline: int = 0
    ties: int = 0
    both_bad: int = 0

    @property
    def decided(self) -> int:
        return self.friction + self.baseline

    @property
    def rate(self) -> Rate | None:
        """Votes for friction among the decided ones, with Wilson's interval; None before the first."""
        return wilson(self.friction, self.decided) if self.decided else None

    def __str__(self) -> str:
        counts = f"friction {self.friction}, baseline {self.baseline}, tie {self.ties}, both bad {self.both_bad}"
        if self.rate is None:
            return f"{counts}; no vote for either voice yet"
        return f"{counts}; friction preferred in {self.rate} decided votes (95 % interval, Wilson)"


def tally(preferences: Iterable[str]) -> Tally:
    """Counts what `ChatTurn.preferred` gave for each vote."""
    counts = Counter(preferences)
    return Tally(counts[FRICTION], counts[BASELINE], counts[TIE], counts[BOTH_BAD])


class ChatTurn(BaseModel):
    """One prompt and both replies. `panes` names the voices of pane A and B; `vote` was cast while they were hidden."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    at: str  # ISO 8601, UTC
    model: str
    user: str
    said: tuple[Reply, Reply]
    seed: int = 0
    temperature: float = 0.0
    max_tokens: int = 0
    dial: float | None = None
    dial_moved_to: float | None = None  # where it stood at the end, if it was moved while they spoke
    number: int = 1  # which turn of its conversation
    regenerated: bool = False
    recorded: bool = False  # replayed from a file, not generated
    blind: bool = False
    panes: tuple[Voice, Voice] = ("baseline", "friction")
    vote: Literal["", "A", "B", "tie", "both bad"] = ""

    def of(self, voice: str) -> Reply:
        """The reply of one voice."""
        return next(said for said in self.said if said.voice == voice)

    def voted(self, choice: str) -> ChatTurn:
        """The same turn with a vote. Raises PushbackError if it is none of the four."""
        if choice not in CHOICES:
            raise PushbackError(f"{choice!r} is no vote. Vote one of: {', '.join(CHOICES)}.")
        return self.model_copy(update={"vote": choice})

    @property
    def preferred(self) -> str:
        """The voice that got the vote, `tie`, `both bad`, or "" where there was no vote."""
        return dict(zip(PANES, self.panes, strict=True)).get(self.vote, self.vote)

    def __repr__(self) -> str:
        return f"<turn {self.number} with {self.model}: {self.user[:60]!r}>"

    def _repr_html_(self) -> str:
        """Both replies side by side, as the last line of a cell."""
        return turn_table(self)


def messages_for(voice: str, system: str, turns: Sequence[ChatTurn], user: str) -> list[Message]:
    """One voice's conversation: earlier turns with its own answers, thoughts dropped as the model's template demands.

    A turn in which it gave no answer (stopped while it thought, failed) is left out.
    """
    history = []
    for turn in turns:
        answer = turn.of(voice).answer
        if answer.strip():
            history += [Turn(role="user", content=turn.user), Turn(role="assistant", content=answer)]
    return prompt_messages(user, system, history)


def save_turns(path: str | os.PathLike[str], turns: Iterable[ChatTurn]) -> int:
    """Writes one JSON line a turn; returns how many."""
    return write_jsonl(path, (turn.model_dump(mode="json") for turn in turns))


def load_turns(path: str | os.PathLike[str]) -> list[ChatTurn]:
    """Reads a transcript. Raises PushbackError naming the file, the line and the broken rule, or if there is no turn."""
    turns = [turn for _, turn in read_models(path, ChatTurn)]
    if not turns:
        raise PushbackError(f"{Path(path)} holds no turns. Export one from a chat, or replay another file.")
    return turns


def as_markdown(turns: Sequence[ChatTurn]) -> str:
    """The transcript for people: figures and text of every turn, text in fences so that nothing in it is markup."""
    votes = [turn.preferred for turn in turns if turn.vote]
    parts = ["# Transcript of a side-by-side chat", *([f"Votes: {tally(votes)}."] if votes else [])]
    for number, turn in enumerate(turns, 1):
        dial = "" if turn.dial is None else f", dial {turn.dial:g}"
        parts.append(f"## Turn {number}" + (" (recorded)" if turn.recorded else ""))
        parts.append(f"{_code(turn.model)}, {turn.at}, seed {turn.seed}, temperature {turn.temperature:g}, "
                     f"at most {turn.max_tokens} tokens{dial}")  # fmt: skip
        parts.append(fenced(turn.user))
        if turn.blind:
            vote = f"voted {turn.vote}, so {turn.preferred}" if turn.vote else "no vote"
            parts.append(f"Blind: A was {turn.panes[0]}, B was {turn.panes[1]}; {vote}.")
        for said in turn.said:
            parts += [f"### {said.voice}", _figures(said)]
            parts += [f"Thought:\n\n{fenced(said.thought)}"] if said.thought else []
            parts += [f"Answer:\n\n{fenced(said.answer)}"] if said.answer else ["No answer."]
            parts += [f"Error:\n\n{fenced(said.error)}"] if said.error else []
    return "\n\n".join(parts) + "\n"


def save_markdown(path: str | os.PathLike[str], turns: Sequence[ChatTurn]) -> None:
    """Writes `as_markdown` aside, then renames."""
    with replacing(path) as part:
        part.write_text(as_markdown(turns), encoding="utf-8")


def fenced(text: str) -> str:
    """The text in a code fence longer than any run of backticks in it."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}text\n{text}\n{fence}"


def _code(text: str) -> str:
    return f"`{' '.join(text.replace('`', ' ').split())}`"


def _figures(said: Reply) -> str:
    first = "no token" if said.first_token is None else f"first token after {said.first_token:.2f} s"
    speed = f", {said.tokens_per_second:.0f} tokens/s" if said.tokens_per_second else ""
    ended = {"length": ", cut off at the limit", "stopped": ", stopped", "error": ", failed"}.get(said.end, "")
    return f"{said.tokens} tokens, {first}{speed}{ended}"


def capped(text: str, limit: int = SHORT) -> str:
    """The text, escaped; of a longer one its beginning and end, and how much is left out."""
    if len(text) <= limit:
        return escape(text)
    left_out = f"{len(text) - limit:,} characters are not shown here; Export has them all"
    return f"{escape(text[: limit // 2])}\n[… {left_out} …]\n{escape(text[-limit // 2 :])}"


def figures(said: Reply) -> str:
    """Tokens, seconds to the first token, tokens per second, and how the reply ended if not by itself."""
    if said.first_token is None:
        return f"no token in {said.seconds:.1f} s"
    speed = f" · {said.tokens_per_second:.0f} tokens/s" if said.tokens_per_second else ""
    ended = {"length": " · cut off at the maximum of tokens", "stopped": " · stopped", "error": " · failed"}.get(said.end, "")
    return f"{said.tokens} tokens · first after {said.first_token:.2f} s{speed}{ended}"


def user_block(text: str) -> str:
    """What the person asked."""
    return f'<div style="{BLOCK}"><strong>You:</strong> {capped(text)}</div>'


def turn_table(turn: ChatTurn) -> str:
    """One turn with both voices side by side, thinking open."""
    parts = {"thinks": [said.thought for said in turn.said],
             "answers": [said.answer or said.error or "[no answer]" for said in turn.said]}  # fmt: skip
    rows = [[f"<th scope='row'>{name}</th>", *(_cell(capped(text)) for text in texts)] for name, texts in parts.items()]
    return f"<div>{user_block(turn.user)}{_table(['', *(said.voice for said in turn.said)], rows)}</div>"


def static_page(turns: Sequence[ChatTurn], name: str) -> str:
    """The transcript so far as a table: what a saved notebook shows where no kernel runs."""
    head = (
        f"<p><strong>Side-by-side chat with {escape(name)}.</strong> This is what was said when the notebook was saved; "
        "run the cell to chat.</p>"
    )
    if not turns:
        return f"<div>{head}<p>Nothing yet.</p></div>"
    left_out = f"<p>The last {EARLIER_TURNS} of {len(turns)} turns.</p>" if len(turns) > EARLIER_TURNS else ""
    rows = [
        [_cell(capped(turn.user) + (" <em>(recorded)</em>" if turn.recorded else "")),
         *(_static_reply(turn.of(voice)) for voice in VOICES)]
        for turn in turns[-EARLIER_TURNS:]
    ]  # fmt: skip
    return f"<div>{head}{left_out}{_table(('prompt', *VOICES), rows)}</div>"


def folded(summary: str, text: str) -> str:
    """A text behind a line that opens it; "" for no text."""
    return f"<details><summary>{summary}</summary>{capped(text)}</details>" if text else ""


def _static_reply(said: Reply) -> str:
    error = f"<strong>Error:</strong> {capped(said.error)}" if said.error else ""
    answer = capped(said.answer) or ("" if error else "[no answer]")
    return _cell(f"{folded('thought', said.thought)}{answer}{error}<br><small>{escape(figures(said))}</small>")


def _cell(content: str) -> str:
    return f'<td style="text-align:left;vertical-align:top;{BLOCK}">{content}</td>'


def _table(names: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    heads = "".join(f'<th scope="col" style="text-align:left">{name}</th>' for name in names)
    body = "".join(f"<tr>{''.join(cells)}</tr>" for cells in rows)
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"
