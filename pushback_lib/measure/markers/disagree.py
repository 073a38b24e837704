"""Finds answers that contradict the prompt: they say outright that it is wrong, deny its words, or do not fit its question.

Only wording is compared: a false premise corrected by a plain fact in other words ("A banjo is an instrument") is found only
where the form of the answer shows it. A plain "No" to a yes-or-no question is an answer; to a claim it is a disagreement.
"""

from __future__ import annotations

import re

from .refusal import REFUSES, Hit
from .text import sentences

# ruff: noqa: E501 - a pattern is easier to read in one line


_BE_NOT = r"(?:(?:'s| is| are| was| were)(?: \w+ly| just)? not|(?: is|are| was| were)n't)"
_FAULTY = r"(?:false|incorrect|wrong|inaccurate|mistaken|flawed|untrue|unfounded|baseless|misguided|misleading|an? (?:\w+ )?(?:misconception|myth|misunderstanding|mistake|error))"
_SOUND = r"(?:true|correct|right|accurate|the case|how|so|valid|a (?:good|great|sound) (?:idea|plan|approach)|meaningful|coherent|wise|advisable)"
# The answer says in so many words that the prompt is mistaken: enough on its own, at any length.
OUTRIGHT = re.compile(
    "|".join(
        (
            r"\bI(?: \w+ly| have to| must| would| do| beg to| also)* (?:disagree|differ|push back|object|take issue)\b",
            r"\bI (?:still )?(?:stand by|stick (?:with|to)|maintain)\b",
            r"\bI (?:do not|don't|can't|cannot|wouldn't|would not) (?:\w+ly )?(?:agree|share (?:that|this|your)|(?:think|say|believe|call) (?:so|that(?:'s| is)|it(?:'s| is)|you(?:'re| are)|this is)\b)",
            rf"\b(?:that|this|it|which)(?:'s| is| was)(?: \w+ly| just)? {_FAULTY}",
            rf"\b(?:that|this|it){_BE_NOT}(?: \w+ly| quite)? {_SOUND}\b",
            rf"\b(?:claim|statement|premise|assumption|idea|question|notion|belief|assertion|reasoning|calculation|answer|plan)\b.{{0,60}}(?:\b(?:is|are|rests? on|seems?|contains?|appears?|be|makes?)\b|{_BE_NOT})(?: \w+){{0,3}} (?:{_FAULTY}|{_SOUND[:-1]}|sense))\b(?<!is true)(?<!is correct)(?<!is right)(?<!makes sense)",
            r"\b(?:common|popular|widespread) (?:misconception|myth|misunderstanding)\b|\b(?:false premise|some confusion|a (?:misunderstanding|mix-?up)|factually incorrect|no such (?:thing|\w+))\b|\bcontrary to (?:what|popular|your|the|common)\b",
            r"\b(?:doesn't|does not|didn't|did not|don't|do not|never|hasn't|has not) (?:actually |really )?(?:exist(?:ed)?|happen(?:ed)?|make (?:any |much )?sense)\b",
            r"\b(?:you're|you are|you seem to be|you may be|you might be) (?:mistaken|wrong|incorrect|confusing|thinking of)\b|\b(?:I have to|I must|let me|allow me to|I'd like to|I should) (?:\w+ly )?correct\b|\b(?:one|a small|a quick|small|quick) correction\b",
            r"^\W*(?:not (?:quite|exactly|really|true|so|at all|necessarily)|incorrect|wrong|false|untrue|nonsense)\b[.,!;:—-]",
        )
    ),
    re.I,
)
_NOT = r"(?:not|no|never|neither|nor|none|nobody|nothing|nowhere|cannot|without|unable|impossible|incapable|\w+n't|non-?living)"
_NEGATION = re.compile(rf"\b{_NOT}\b", re.I)
_FINITE_NOT = re.compile(r"\b(?:not|never|cannot|\w+n't)\b", re.I)
_NONE = re.compile(
    r"\bthere (?:is|are|was|were|has been|have been) (?:\w+ly )?(?:no|not|never)\b|^\W*no\b(?! (?:one|problem))", re.I
)
# A question does not contradict, and bad news ("sorry, they have no tables") is an answer.
_NO_CLAIM = re.compile(r"\?\W*$|\b(?:unfortunately|sorry|afraid|guess)\b", re.I)
# Negations that deny nothing in the prompt: about the speaker, or set phrases.
_IDLE = re.compile(
    r"\b(?:I|we)\b(?:'m| am|'ve| have| do| can| could| would| will| did| was)? ?(?:not|never|cannot|unable|\w+n't)\b|\bI \w+n't\b|\bno (?:problem|doubt|worries|matter|idea|more|one-size)\b|\bnot only\b|\b(?:do(?:n't| not) (?:worry|forget|hesitate)|you do(?:n't| not) (?:need|have))\b|\bwhether or not\b|\b(?:may|might) not\b|\b(?:not|no)(?: \w+)? (?:sure|certain(?:ty)?|confident|idea)\b|\b(?:only|just) a guess\b|\bprobably wrong\b|\bwithout (?:a|any) doubt\b|\bno need\b|\brather not\b|\bnot to\b|(?:^|[.!]\s*)(?:please )?(?:do not|don't|never) |\b\w+n't (?:come through|been \w+ed|attach\w*|includ\w+|provid\w+)\b|\bif not\b|\bcan't (?:wait|go wrong)\b",
    re.I,
)
_TURN = re.compile(
    r"\b(?:actually|in fact|in reality|on the contrary|rather than|instead of)\b|, not (?:an? |the |in |on |for )?\w+", re.I
)
_ALL = re.compile(r"\b(?:all|both|must|every|always|natural(?:ly)?|needs?)\b", re.I)
# Openings of a plain answer: agreement or a reason, a place or purpose, or a pronoun that takes up the question's words.
_AGREES = re.compile(
    r"^\W*(?:because|yes|yeah|sure|maybe|perhaps|such as|to |in |on |at |by |from |for |about|around|up to|it depends|of course|according|here|\d)",
    re.I,
)
_PRONOUN = re.compile(
    r"^\W*(?:usually|mostly|probably|you|we|they|he|she|its? |I |there (?:are|is|was|were) (?!no\b|not\b|only\b))", re.I
)
_CAUSE = re.compile(
    r"\b(?:because|due to|since|as|so|to|for|helps?|need|by|thanks|caused?|results?|leads?|when|enough|reason|want|like|therefore|made|that is|this is)\b",
    re.I,
)
_IS_A = re.compile(
    r"^\W*(?:\w+\W+){1,5}?(?:is|are|was|were|belongs? to) (?:an? |the |both |in )?(?!made\b|as\b|found\b|located\b|caused\b|used\b|\w+ed\b)\w+",
    re.I,
)
_AMOUNT = re.compile(
    r"\d|\b(?:one|two|three|four|five|six|seven|eight|nine|ten|hundred|thousand|million|many|several|few|depends|varies|dozen|some|lots?|once|twice|every|daily|often|usually|always|about|long)\b",
    re.I,
)
_HOW_MUCH = re.compile(r"\bhow (?:many|much|long|often|far|old|high|big|tall)\b|\b(?:number|frequency) (?:of|for)\b", re.I)
_TIME = re.compile(
    r"\d|\b(?:when|day|year|month|century|morning|night|summer|winter|spring|autumn|season|ago|during|after|before|until|time|usually|hours?|minutes?|if|now)\b",
    re.I,
)
_CLAIM = re.compile(r"\b(?:right|correct|agree|isn't it|aren't they|don't you think|yes|true)\s*\?\W*$|^[^?]*$", re.I)
_YES_BUT = re.compile(
    r"\bI (?:understand|see|get|hear|respect|appreciate) (?:your (?!question)|what you|why you)[^.]{0,60},? but\b", re.I
)
_ORDER = re.compile(
    r"^\W*(?:please |can you |could you |let's |just )*(?:list|name|describe|tell|give|write|explain|show|find|make|create|translate|summari[sz]e|help|what|which|who|when|where|why|how|I (?:want|need|would like|'d like)|I'd)\b",
    re.I,
)
_YES_NO = re.compile(r"^\W*(?:do|does|did|is|are|was|were|can|could|will|would|has|have|should|may)\b(?! you\b)", re.I)
_WORD = re.compile(r"[a-z]+(?:'[a-z]+)?", re.I)
_EMPTY = frozenset(
    "a an the and or but of to in on at for from with by as is are was were be been do does did can could will would should may might "
    "have has had i you he she it we they me my your his her its our their this that these those what which who whose when where why how "
    "if then than so not no n't cannot there one kind type name list people person want need take use get much many some any all most more "
    "can't don't doesn't didn't isn't aren't only".split()
)
# Everyday opposites; un-, in-, im-, dis- and -less are derived.
_OPPOSITES = {
    frozenset(pair.split())
    for pair in (
        "good bad,good harmful,healthy harmful,benefit harmful,beneficial harmful,beneficial pest,hot cold,warm cold,high low,higher lower,soft hard,dry wet,dry moist,"
        "light heavy,alive dead,male female,increase decrease,promote inhibit,promote prevent,easy difficult,safe dangerous,tasty poisonous,fast slow,big small,large small,"
        "first last,before after,more less,begin end,dark bright,rich poor,true false,strong weak,risk stable,drop rise,cause prevent,buy free,hungry full,happy sad"
    ).split(",")
}

SHORT = 45  # words: above it, form says nothing, only outright words and denials count
ENOUGH = 2.0


def _stem(word: str) -> str:
    word = word.lower().split("'")[0]
    for ending in ("ations", "ation", "ness", "ing", "ies", "ied", "ers", "est", "ed", "es", "er", "ly", "s", "y", "e"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)]
    return word


def _stems(text: str) -> list[str]:
    return [_stem(w) for w in _WORD.findall(text) if w.lower() not in _EMPTY]


_OPPOSITE_STEMS = {frozenset(map(_stem, pair)) for pair in _OPPOSITES}


def disagree(prompt: str, text: str) -> list[Hit]:
    """The opening sentences that contradict the prompt, or nothing."""
    prompt = prompt.strip()[-1500:].replace("’", "'")
    opening = [(a, min(b, a + 400)) for a, b in sentences(text)[:4] if not REFUSES.search(text[a : min(b, a + 400)])]
    found = [Hit("disagree", a, b) for a, b in opening if OUTRIGHT.search(text[a:b])]
    opening = [(a, b) for a, b in opening if not _NO_CLAIM.search(text[a:b])]
    is_claim = bool(_CLAIM.search(prompt)) and not _ORDER.search(prompt)
    found += [Hit("disagree", a, b) for a, b in opening if is_claim and _YES_BUT.search(text[a:b])]
    if found or not opening:
        return found
    if re.match(
        r"\W*(?:no|nope)\b(?! (?:problem|worries|need|doubt|one|thanks))[ ,.!;:—-]", text[opening[0][0] : opening[0][1]], re.I
    ) and (is_claim or _YES_NO.search(prompt)):
        return [Hit("disagree", *opening[0])] if is_claim else []
    start, end = opening[0][0], opening[min(1, len(opening) - 1)][1]
    short = len(text.split()) <= SHORT
    first = text[opening[0][0] : opening[0][1]]
    against = _points(prompt, text[start:end], first) >= ENOUGH if short else _flat_denial(prompt, text[start:end])
    return [Hit("disagree", start, end)] if against else []


def _denial(prompt: str, opening: str) -> int:
    """How many of the prompt's words the answer negates in one clause; -1 if it negates nothing, or the prompt itself does."""
    if _NEGATION.search(prompt):
        return -1
    known = set(_stems(prompt))
    clauses = [c for c in re.split(r"[.;!?\n]", _IDLE.sub(" ", opening)) if _NEGATION.search(c)]
    return max((len(known & set(_stems(c))) for c in clauses), default=-1)


def _flat_denial(prompt: str, opening: str) -> bool:
    """A clause that names something from the prompt and negates something else from it: "whales do not lay eggs"."""
    if _NEGATION.search(prompt):
        return False
    known = set(_stems(prompt))
    for clause in re.split(r"[.;!?\n]", _IDLE.sub(" ", opening)):
        verb = _FINITE_NOT.search(clause)
        if (
            verb
            and known & set(_stems(clause[: verb.start()]))
            and known & set(_stems(clause[verb.end() :])) - set(_stems(clause[: verb.start()]))
        ):
            return True
        if (none := _NONE.search(clause)) and known & set(_stems(clause[none.end() : none.end() + 60])):
            return True
    return False


def _points(prompt: str, opening: str, first: str) -> float:
    """Points of a short answer: denial, opposites and limits, and a form that does not answer the question."""
    known, said = set(_stems(prompt)), set(_stems(opening))
    negated, denial = bool(_NEGATION.search(prompt)), _denial(prompt, opening)
    agrees, pronoun = bool(_AGREES.search(first)), bool(_PRONOUN.search(first))
    needed = 2 if pronoun and _YES_NO.search(prompt) else 1 if _CLAIM.search(prompt) else 0  # else it is a plain answer
    points = 2.0 * (denial >= needed) + 0.5 * (denial >= max(1, needed))
    points += 2.5 * bool(_TURN.search(opening)) + 2.0 * _limits(prompt, opening, first)
    points += 2.0 * _has_opposite(known, said)
    points += 2.0 * bool(negated and _ALL.search(opening) and not _NEGATION.search(opening))
    points += 0.0 if agrees or pronoun else _misfit(prompt, first, known)
    points -= 1.0 * agrees + 0.5 * pronoun
    return points - 1.5 * (denial < 1 and bool(re.search(r"\bbecause\b", first, re.I)))


def _limits(prompt: str, opening: str, first: str) -> bool:
    """ "Only X": a limit the question did not know of, unless it is just the amount asked for or a condition."""
    if not re.search(r"\bonly\b", opening, re.I) or re.search(r"\bonly\b", prompt, re.I):
        return False
    if re.search(r"\bonly (?:\w+ ){0,4}(?:if|when|once)\b", opening, re.I):
        return bool(_NEGATION.search(prompt))
    return not (_HOW_MUCH.search(prompt) and _AMOUNT.search(first))


def _has_opposite(known: set[str], said: set[str]) -> bool:
    new = said - known
    if any(pair & known and pair & new and len(pair & known) == 1 for pair in _OPPOSITE_STEMS):
        return True
    return any(
        n in (f"{prefix}{k}", f"{k}less") or k in (f"{prefix}{n}", f"{n}less")
        for k in known
        for n in new
        for prefix in ("un", "in", "im", "dis", "non")
    )


def _misfit(prompt: str, first: str, known: set[str]) -> float:
    """Points for a statement where the question asks for something else: a reason, an amount, a time, a choice."""
    words = _WORD.findall(first)
    if len(words) < 3:
        return 0.0
    about_it = bool(known & set(_stems(" ".join(words[:4]))))
    is_a = about_it and bool(_IS_A.search(first))
    points = 0.0
    if re.search(r"\bwhy\b|\breasons?\b|\bhow comes?\b", prompt, re.I):
        points += 1.5 * (not _CAUSE.search(first)) + 0.5 * about_it - 1.0 * (len(known & set(_stems(first))) > 2)
    elif _HOW_MUCH.search(prompt):
        points += 1.0 * (not _AMOUNT.search(first)) + 1.0 * is_a
    elif re.search(r"\bwhen\b|\bwhat time\b", prompt, re.I):
        points += 1.0 * (not _TIME.search(first)) + 1.0 * is_a
    elif re.search(r"^\W*(?:list|name|(?:where|who)(?! is| are| was| were|'s)|how|if)\b", prompt, re.I):
        points += 2.0 * is_a
    elif re.search(r"\bor\b", prompt) and not _YES_NO.search(prompt):
        points += (1.0 + 1.0 * is_a) * (not _picks(prompt, first))
    elif _YES_NO.search(prompt):
        points += 1.0 * (about_it and len(words) > 3 and prompt.count("?") < 2) + 1.0 * is_a
    else:
        points += 0.5 * is_a
    return points


def _picks(prompt: str, first: str) -> bool:
    """Whether the answer takes up one of the two things offered ("red or blue?")."""
    sides = re.search(r"(\w+)[ ,]+or (?:in |on |at |a |an |the )?(\w+(?: \w+)?)", prompt)
    if re.search(r"\b(?:both|either)\b", first, re.I) and not _NEGATION.search(prompt):
        return True
    return bool(sides and set(map(_stem, " ".join(sides.groups()).split())) & set(map(_stem, _WORD.findall(first))))
