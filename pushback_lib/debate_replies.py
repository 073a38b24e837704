"""Turns a model's reply into a thought, an answer or a request, or rejects it with a reason; sends nothing."""

from __future__ import annotations

import re

from .chat import ChatReply
from .personas import PERSONA_NAMES
from .records import Thought
from .replies import OPEN, split_reply
from .text_rules import control_tokens, looks_english, personal_data

THOUGHT_WORDS, ANSWER_WORDS, REQUEST_WORDS = (3, 90), (3, 400), (3, 150)


class Rejected(Exception):
    """A reply that must not be stored. `reason` is a short word to count by."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


_ERROR = re.compile(r"^\W*(?:error|exception|traceback|internal server error|rate limit)\b\W*[:(\d]", re.IGNORECASE)
_NAMES = "|".join(PERSONA_NAMES)
_LABEL = re.compile(rf"^\W*(?:{_NAMES}|answer|thought|message|reply|user)\b\**\s*:\**\s*", re.IGNORECASE)


def clean_text(reply: ChatReply, limits: tuple[int, int]) -> str:
    """The usable text of a reply: the model's own `<think>` part, labels and outer quotes taken off.

    Raises Rejected: `cut_off`, `empty`, `error`, `control_tokens`, `too_short`, `too_long`, `wrong_language`,
    `personal_data`.
    """
    if reply.finish_reason == "length":
        raise Rejected("cut_off")
    split = split_reply(reply.text, prefilled=False)
    if not split.finished_thinking:
        raise Rejected("cut_off", f"{OPEN} never closed")
    text = _unquoted(_LABEL.sub("", split.answer).strip())
    if not text:
        raise Rejected("empty")
    if _ERROR.match(text):
        raise Rejected("error", text[:80])
    if found := control_tokens(text):
        raise Rejected("control_tokens", found[0])
    count = len(text.split())
    if not looks_english(text):
        raise Rejected("wrong_language", text[:80])
    if not limits[0] <= count <= limits[1]:
        raise Rejected("too_short" if count < limits[0] else "too_long", f"{count} words")
    if found := personal_data(text):
        raise Rejected("personal_data", found[0])
    return text


def read_thought(reply: ChatReply, persona: str, *, friction: bool) -> Thought:
    """One persona's thought, its friction span marked by `[[…]]` (or chosen by `turning_span` where no mark is).

    Raises Rejected as `clean_text` does, and `malformed` (marks that do not pair).
    Thoughts that repeat are left to curation, which counts them over the whole set.
    """
    text = " ".join(clean_text(reply, THOUGHT_WORDS).split())
    spans = [span.strip() for span in re.findall(r"\[\[(.+?)\]\]", text)]
    plain = re.sub(r"\[\[\s*(.+?)\s*\]\]", r"\1", text)
    if "[[" in plain or "]]" in plain:
        raise Rejected("malformed", "[[ and ]] do not pair")
    span = (spans[0] if spans else turning_span(plain)) if friction else ""
    return Thought(persona=persona, thought=plain, friction=span)


def read_answer(reply: ChatReply) -> str:
    """The answer. Raises Rejected as `clean_text` does, and `malformed` where it talks of the personas or keeps marks."""
    text = clean_text(reply, ANSWER_WORDS)
    if "[[" in text or re.search(rf"\b(?:{_NAMES})\b", text):
        raise Rejected("malformed", "the debate shows in the answer")
    return text


def read_request(reply: ChatReply) -> str:
    """A user's message. Raises Rejected as `clean_text` does."""
    return clean_text(reply, REQUEST_WORDS)


_TURN = re.compile(r"\b(?:but|yet|however|although|though|unless|whereas|except|because|until)\b|[;:]\s", re.IGNORECASE)


def turning_span(thought: str) -> str:
    """The words where an unmarked thought turns: from its last "but", "yet", "unless" …, else its last twelve words.

    Small models often forget the marks; the engine counts how many spans were chosen this way (`unmarked`).
    """
    body = thought.rstrip(" .!?…")
    turns = [match.end() if match[0][0] in ";:" else match.start() for match in _TURN.finditer(body)]
    start = turns[-1] if turns and len(body[turns[-1] :].split()) >= 3 else 0
    words = list(re.finditer(r"\S+", body[start:]))
    first = words[0].start() if start else words[max(0, len(words) - 12)].start()
    last = words[min(len(words), 12) - 1].end() if start else len(body)
    return body[start + first : start + last].strip()


def _unquoted(text: str) -> str:
    """Takes off quotation marks that wrap the whole text, as models like to put round a message."""
    pairs = {'"': '"', "“": "”", "«": "»"}
    inner = text[1:-1]
    if len(text) > 2 and text[-1] == pairs.get(text[0]) and not set(inner) & {text[0], text[-1]}:
        return inner.strip()
    return text
