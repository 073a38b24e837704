"""Finds questions, with or without a question mark, that ask the user for something this request needs.

Wording tells them from courtesy ("anything else?"), offers ("shall I book it?"), confirmations ("is that right?") and
rhetorical questions.
"""

from __future__ import annotations

import re

from .refusal import LIST_ITEM, Hit, rule
from .text import sentences

# ruff: noqa: E501 - a pattern is easier to read in one line


_COURTESY = rule(
    r"\b(?:anything|something|what|who|how|where) (?:else|more|further)\b",
    r"\b(?:further|other|additional|any ?more|more) (?:\w+ )?(?:help|assist\w*|questions?|way|queries)\b",
    r"\bhow (?:can|may|could|else) ",
    r"\b(?:another|any|other) (?:\w+ )?(?:tasks?|requests?|needs|services?)\b",
    r"\b(?:like|need|want|require) (?:any |some |my )?(?:assistance|help)\b",
    r"\bwhat services?\b",
    r"\b(?:can|may|could|shall|should) I (?:\w+ )?(?:help|assist)\b",
    r"\b(?:that|this) (?:be )?(?:all|everything)\b",
    r"\b(?:help|assist)(?: you)? (?:further|today|with (?:that|this|anything))",
    r"\bfeel free\b",
    r"\bon your mind\b",
    r"\bI do for you\b",
    r"\blet me know if (?:you (?:need|have|want|would|require|prefer|'d)|you'd|there|I|this|that|it|any)\b",
    r"\bif you (?:have|need|want|would like|'d like)\b.{0,60}\blet me know\b",
    r"\bhow are you\b",
    r"\bare you (?:there|ok|okay|alright|all right|satisfied|happy)\b",
    r"\bneed (?:anything|something|any)\b",
    r"\ball (?:you need|good|set)\b",
)
_OFFER = rule(
    r"\b(?:would you like|do you want|did you want|want|would you prefer|do you need|would you care|do you wish|should I|shall I|can I|may I|could I) ?(?:me |for me |us )?(?:to )?(?:\w+ahead and |try )?"
    r"(?:go ahead|book|reserve|buy|purchase|schedule|make|set|add (?:it|this|that)|play|see|watch|hear|know (?:more|about)|continue|proceed|fix|order|confirm|try|explain|show|listen|view|send|start|call|pay|get (?:tickets|them|it|this|that)|have (?:tickets|it|me|them))\b(?! with)",
    r"\b(?:like|want|need|prefer|wish|care) (?:for )?me to (?!look|search|find|check)",
    r"\b(?:shall|should) I (?!look|search|find|check)",
    r"\b(?:would|does|will|is|are|do|can|could|did) (?:that|this|it|these|those|one|any of)\b",
)
_PROPOSAL = rule(
    r"\b(?:how|what) about\b",
    r"\bhow (?:does|do|would) (?:that|this|it|these)\b",
    r"\bwhat do you (?:think|say)\b",
)
_CONFIRM = rule(
    r"\b(?:correct|right|is that so|okay|ok|good|good for you|accurate|fine)\s*\?",
    r"\b(?:confirm(?:ation)?|verify|check(?!(?:ing)?[- ](?:in|out)\b)|make sure)\b(?!.{0,20}\b(?:which|what|whether)\b)",
    r"^\W*(?:so|okay,? so|ok,? so)\b.{0,12}\byou (?:want|would|need|are|'d)",
)
_RHETORICAL = rule(
    r"\b(?:did you know|have you ever|ever wonder\w*|guess what|you know what|who knows|who wouldn't|who doesn't|why not|isn't (?:it|that)|aren't (?:they|we)|don't you think|wouldn't you|can you believe|can you imagine)\b",
    r"\b(?:ask yourself|consider|think about)\b",
    r"^\W*(?:so,? )?(?:why|how|what) (?:does|do|did|is|are|was|were|might|can|makes?) (?!you\b|your\b|the (?:purpose|goal|name|date|time|address|destination|location)\b)",
)
_DETAIL = (
    r"(?:name|number|date|time|day|city|cit(?:y|ies)|location|address|destination|area|place|amount|type|kind|size|details?|information|context|specifics?|text|code|file|"
    r"version|language|budget|length|topic|example|goal|purpose|model|message|error|audience|preference\w*|period|duration|data|document|sentence|passage|question|article|email|origin|title)"
)
EXPLICIT_ASK = rule(
    r"\b(?:could|can|would|will) you (?:please |kindly |perhaps |possibly |also |maybe )?(?:clarify|specify|provide|share|tell me|give me|let me know|elaborate|explain what you|say more|describe|paste|send|rephrase|confirm (?:which|what|whether)|be more specific|remind me)\b",
    r"\b(?:please|kindly|just|first,?|can you|yes,?|sure,?|okay,?) (?:first )?(?:tell me|let me know|give me|provide|specify|clarify|share|state|advise|paste|rephrase)\b(?! if you (?:need|have|want|would|'d))",
    rf"^\W*(?:(?:please|yes|sure|ok|okay|first|just|then|so|but|and|now|also)\W+){{0,3}}(?:tell me|let me know|give me|specify|clarify)\b(?! if).{{0,40}}\b(?:your|which|what|when|where|how|who|{_DETAIL})\b",
    r"\bI(?:'ll| will| would|'d)?(?: also| first| just| still)? (?:need|require)(?: to know| you to| a (?:bit|little) more| some| more| the| your| further| a few| additional)\b",
    r"\bI (?:want|would like|'d like) to know\b",
    r"\b(?:may|can|could) I (?:please )?(?:know|have|get|ask|see) (?:your|the|what|which|when|where|how|a|for)\b",
    r"\b(?:it|that) (?:would|'d) (?:help|be helpful|be useful)(?: me)?(?: to know| if (?:you could|you|I knew|I had))",
    r"\bwhat (?:exactly )?(?:do|did) you mean\b",
    r"\b(?:you (?:haven't|have not|didn't|did not|forgot to)|I don't see|no)\b.{0,30}\b(?:attach(?:ed)?|includ(?:e|ed)|provided?|mention(?:ed)?|specif(?:y|ied)|shared?|past(?:e|ed))\b(?! that)",
    r"\b(?:depends on|without knowing)\b.{0,60}\b(?:could you|can you|which|tell me|let me know)\b",
)
_WH = r"(?:what|which|when|where|who|whom|whose|how (?:many|much|long|often|far|old|big|soon|would|should|do you|are you)|till when|until when|whether)"
_HAS_WH = re.compile(rf"\b{_WH}\b", re.I)
QUESTION = rule(
    rf"\b{_WH}\b.{{0,120}}\b(?:you|your|I|we|me|us)\b",
    r"\b(?:do|did|are|were|will|would|have|is|can|is there|are there) (?:you|your|there)\b",
    r"\bany (?:\w+ )?(?:preferred|preference|specific|particular)\b",
    r"\bdo I\b",
)
FRAGMENT = re.compile(
    rf"^\W*(?:(?:and|ok|okay|sure|sure thing|yes|of course|certainly|no problem|alright|great|got it)\W+){{0,2}}(?:(?:in|on|at|for|from|to|by|with|until|till) )?{_WH}\b[^.!?]{{0,70}}\??\W*$",
    re.I,
)
_ASKED_TO_ASK = re.compile(
    r"\b(?:write|draft|create|generate|give|list|suggest|make|tell|compose|come up)\b.{0,60}\b(?:questions?|quiz|interview|survey|dialogue|script|story|poem|joke|riddle|e-?mail|letter|speech|essay|slogan|ad|headline)\b",
    re.I,
)

_SPEAKER = re.compile(r"^[ \t*_]*[A-Z][\w ]{1,20}[*_]{0,3}: ", re.M)


def clarify(prompt: str, text: str) -> list[Hit]:
    """Sentences that ask the user for something the model needs for this request."""
    spans, found = sentences(text), []
    made_to_order = bool(_ASKED_TO_ASK.search(prompt)) and (len(spans) > 2 or bool(_SPEAKER.search(text)))
    for number, (start, end) in enumerate(spans):
        at_the_edge = number < 3 or number >= len(spans) - 3
        sentence = text[start : min(end, start + 400)]
        if at_the_edge and not LIST_ITEM.match(sentence) and _asks(sentence, made_to_order, number == len(spans) - 1):
            found.append(Hit("clarify", start, end))
    return found


def _asks(sentence: str, made_to_order: bool, last: bool) -> bool:
    if _COURTESY.search(sentence) or _CONFIRM.search(sentence) or _RHETORICAL.search(sentence):
        return False
    if EXPLICIT_ASK.search(sentence):
        return True
    if made_to_order or _PROPOSAL.search(sentence) or (_OFFER.search(sentence) and not _HAS_WH.search(sentence)):
        return False
    if "?" in sentence:
        return bool(
            QUESTION.search(sentence)
            or (last and (FRAGMENT.search(sentence) or (_HAS_WH.search(sentence) and len(sentence.split()) <= 8)))
        )
    return last and bool(FRAGMENT.search(sentence)) and len(sentence.split()) <= 8
