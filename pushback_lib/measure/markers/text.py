"""Prepares an English response for the marker rules: which words are the model's own, and where each sentence is.

Every function keeps the length of the text, so that offsets stay offsets into the complete response.
"""

from __future__ import annotations

import re

_THINK_TAG = re.compile(r"(?<!`)<(/?)think(?:ing)?>", re.I)
_FENCE = re.compile(r"^[ \t]*(?:```|~~~)", re.M)
_BLOCK_QUOTE = re.compile(r"^[ \t]*>.*$", re.M)
_HTML_TAG = re.compile(r"</?[a-zA-Z!][^<>\n]{0,200}>")
_QUOTED = re.compile(r'"[^"\n]{1,600}"|“[^“”\n]{1,600}”|«[^«»\n]{1,600}»')
# From its salutation on, a drafted letter speaks for its sender, not for the model.
_LETTER = re.compile(r"^[ \t*]*(?:Dear\s|Subject:|To whom it may concern)", re.I | re.M)
_STOP = re.compile(r"[.!?…]+(?=[\s\"”')*_\]]|$)|\n+")
_ABBREVIATION = re.compile(r"(?:\b(?:dr|mr|mrs|ms|st|rep|prof|jr|sr|vs|e\.g|i\.e|etc|approx)|\b[A-Z])$", re.I)
_LIST_OR_CODE = re.compile(r"^\s*(?:[-*+•|#>]|\d+[.)]|```|~~~|https?:)")
# A sentence never ends on one of these words.
_DANGLING = re.compile(
    r"(?:[,;(–—]|\b(?:a|an|the|and|or|but|of|to|for|with|from|by|as|if|because|which|is|are|was|your|their|my))\s*$", re.I
)
_INVISIBLE = re.compile("[\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]")


def blank(text: str, start: int, end: int) -> str:
    """`text` with everything from `start` to `end` turned into spaces."""
    return text[:start] + " " * (end - start) + text[end:]


def blank_matches(pattern: re.Pattern[str], text: str) -> str:
    """`text` with each match of `pattern` turned into spaces."""
    return pattern.sub(lambda m: " " * len(m.group()), text)


def think_spans(response: str) -> tuple[list[tuple[int, int]], bool]:
    """Where the reasoning is, and whether its last block was never closed.

    A closing tag without an opening one hides everything before it: some chat templates
    put the opening tag into the generation prompt.
    """
    spans: list[tuple[int, int]] = []
    opened: int | None = None
    for tag in _THINK_TAG.finditer(response):
        if not tag.group(1):
            opened = tag.start() if opened is None else opened
        elif opened is None:
            spans = [(0, tag.end())]
        else:
            spans.append((opened, tag.end()))
            opened = None
    if opened is not None:
        spans.append((opened, len(response)))
    return spans, opened is not None


def _code_spans(text: str) -> list[tuple[int, int]]:
    """Fenced code, line fences paired in order; an unclosed fence runs to the end."""
    marks = [m.start() for m in _FENCE.finditer(text)]
    ends = [text.find("\n", m) for m in marks[1::2]]
    ends = [len(text) if e < 0 else e for e in ends] + [len(text)]
    return list(zip(marks[0::2], ends, strict=False))


def _blank_all(text: str, spans: list[tuple[int, int]]) -> str:
    parts, at = [], 0
    for start, end in sorted(spans):
        start = max(start, at)
        parts += [text[at:start], " " * max(0, end - start)]
        at = max(at, end)
    return "".join(parts) + text[at:]


def without_thinking(response: str) -> str:
    """The response with its reasoning blanked out, straight apostrophes, and no invisible direction marks."""
    text = _blank_all(response, think_spans(response)[0])
    return _INVISIBLE.sub(" ", text.replace("’", "'").replace("‘", "'"))


def own_words(visible: str) -> str:
    """What the model says in its own voice: code, markup, quotations and drafted letters blanked out."""
    text = _blank_all(visible, _code_spans(visible))
    text = blank_matches(_HTML_TAG, blank_matches(_BLOCK_QUOTE, text))
    unquoted = blank_matches(_QUOTED, text)
    text = unquoted if unquoted.strip(" \n.*_") else text.replace('"', " ")  # all of it in quotes: it is the answer
    letter = _LETTER.search(text)
    return blank(text, letter.start(), len(text)) if letter else text


def sentences(text: str) -> list[tuple[int, int]]:
    """Offsets of the sentences of `text`, line breaks ending a sentence too."""
    found, start = [], 0
    for stop in _STOP.finditer(text):
        if stop.group() == "." and _ABBREVIATION.search(text, max(start, stop.start() - 8), stop.start()):
            continue
        if text[start : stop.start()].strip(" \t*_-#"):
            found.append((start, stop.end()))
        start = stop.end()
    if text[start:].strip():
        found.append((start, len(text)))
    return found


def ends_mid_sentence(visible: str) -> bool:
    """True if prose stops without an end mark; a bare word, a list item or a code block may end so."""
    text = visible.rstrip()
    if len(_FENCE.findall(text)) % 2:
        return True
    tail = text[-2000:]
    last_line = tail.rsplit("\n", 1)[-1]
    if not tail or (_LIST_OR_CODE.match(last_line) and not _DANGLING.search(tail)):
        return False
    if _DANGLING.search(tail):
        return len(last_line.split()) > 2
    is_prose = len(last_line.split()) >= 12 or bool(re.search(r"[a-z]{2}[.!?] +[A-Z]", last_line))
    return is_prose and tail[-1].isalnum()
