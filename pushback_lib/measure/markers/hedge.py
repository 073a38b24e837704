"""Measures how unsure an answer says it is, from 0 (sure) to 1 (knows nothing).

Only words count, not numbers that a model gives for its own confidence ("70 % sure"). The steps follow the order in which
readers rate such words (Sherman Kent's "words of estimative probability", CIA 1964, and later replications): certain, likely,
I think, possibly, no idea.
"""

from __future__ import annotations

import re
from bisect import bisect_right

from .refusal import Hit
from .text import sentences

# ruff: noqa: E501 - a pattern is easier to read in one line


_SURE = r"(?:sure|certain|confident|positive|convinced)"
# name, strength, whether it speaks of the answerer's own knowledge, pattern. The strongest match of a sentence counts.
STEPS: tuple[tuple[str, float, bool, str], ...] = (
    (
        "no knowledge",
        1.0,
        True,
        r"\bI (?:\w+ly |just |really )?(?:do not|don't|didn't) (?:\w+ly |really )?know\b(?! (?:for (?:sure|certain)|exactly|with certainty|how to help))|\b(?:no|haven't (?:a|any)) (?:idea|clue|certainty|recollection)\b"
        r"|\b(?:(?:am |'m )?(?:unable|not able) to|(?:can|could)(?:no|n')t|can not) (?:\w+ly )?(?:determine|confirm|verify|recall|identify|pinpoint|remember|find|say (?:for|with|who|what|when|where))\b"
        r"|\b(?:do not|don't) have (?:any |enough |sufficient |the |specific |reliable |that )*(?:information|knowledge|data|answer)\b|\bI(?:'m| am) not (?:aware of|familiar with)\b|\bhave no (?:information|knowledge|data|record)\b|\bbeyond my knowledge\b"
        # nobody can know: the future, another person's mind, what was never recorded
        r"|\b(?:nobody|no one|no-one|neither of us|none of us|nothing \w+)(?: \w+){0,3} (?:can|could|will|would) (?:\w+ )?(?:know|tell|say|predict|foresee|promise|guarantee)\b|\b(?:nobody|no one|no-one) (?:really |yet )?knows\b"
        r"|\b(?:can(?:no|')t|can not|couldn't) (?:\w+ )?be (?:known|foreseen|predicted|foretold|told)\b|\bI (?:can(?:no|')t|can not|couldn't) (?:\w+ly |even )?(?:know|foresee|predict|tell (?:from|which|whether|if|what|when|how))\b"
        r"|\bno way (?:to|of) (?:know|tell)(?:ing)?\b|\bis(?:n't| not) (?:something )?(?:knowable|known to)\b|\bunknowable\b",
    ),
    (
        "very unsure",
        0.86,
        True,
        rf"\b(?:very|extremely|highly|really|quite|so|completely|deeply|totally|incredibly|exceedingly) (?:un(?:sure|certain)|doubtful|hesitant|tentative|speculative|shaky|skeptical)\b"
        rf"|\bnot (?:at all|really|even|remotely|the least bit|in the least) {_SURE}\b|\bnot (?:\w+ )?{_SURE} at all\b|\bcan(?:no|')t (?:really |possibly )?be {_SURE}\b|\bfar from {_SURE}\b"
        r"|\b(?:wild|pure|complete|total|random|blind|rough|shot[- ]in[- ]the[- ]dark) guess\w*|\b(?:just|only|merely|purely|nothing more than|complete|pure) (?:a |my )?(?:guess\w*|speculat\w+|hunch)\b|\bshot in the dark\b"
        r"|\b(?:low|little|minimal|very limited|not (?:have )?much|hardly any|barely any|zero|scant|weak) (?:confidence|certainty|idea|conviction)\b|\bconfidence (?:\w+ ){0,4}(?:low|minimal|limited|shaky)\b"
        r"|\b(?:probably|likely|certain I'm|almost certainly) (?:completely |totally )?(?:wrong|mistaken|incorrect|not right)\b|\bhesita(?:te|nt)\b|\bhighly speculative\b|\bgrasping at straws\b|\bdoubt (?:that )?(?:I|my|this|it)\b",
    ),
    (
        "unsure",
        0.70,
        True,
        rf"\b(?:not|never|n't)(?: \w+| 100 ?%){{0,2}} {_SURE}\b|\bun(?:sure|certain)\b|\b(?:don't|do not) know (?:for|exactly|with)\b|\b(?:could|might|may) (?:well |easily |also )?be (?:wrong|mistaken|off|misremembering)\b"
        r"|\bguess(?:ing)?\b|\b(?:some|my|a few|have) doubts?\b|\bdoubtful\b|\bspeculat\w+|\bwouldn't (?:swear|bet|stake)|\bdon't quote me|\btake (?:this|that|it) with a (?:grain|pinch)|\bcomes? to mind\b|\bvague(?:ly)?\b|\bhunch\b|\bcan(?:no|')t say\b|\b(?:hard|difficult) to (?:say|know|tell)\b|\buncertainty\b",
    ),
    (
        "possible",
        0.66,
        False,
        r"\b(?:maybe|perhaps|possibly|conceivabl[ey]|potentially)\b|\b(?:possible|possibility|chance|plausible|conceivable)\b|\bmight\b(?! of| as well)|(?<!you )\b(?:may|could) (?:well |very well |just |also |possibly |have |be )*(?:be|have)\b",
    ),
    (
        "leaning",
        0.60,
        True,
        r"\bI(?:'m| am)? (?:\w+ly )?(?:suspect|lean(?:ing)?|inclined|suppose|wonder|presume|gather|assume)\b|\b(?:impression|tentative(?:ly)?)\b|\bfeel(?:ing)? (?:like|that|it|the)\b|\bseem to (?:recall|remember)\b|\bsome recollection\b|\bsomewhat (?:recall|sure|confident)\b"
        r"|\b(?:please|may want to|should|need to|might want to) (?:\w+ )?(?:verify|double[- ]check|confirm|check)\b",
    ),
    (
        "belief",
        0.40,
        True,
        r"\bI(?: do)? think(?! it's safe)\b|\bI recall\b|\bI remember\b|\bif (?:I|memory)\b.{0,12}\b(?:recall|remember|serves?|mistaken|wrong)\b|\bI (?:would|'d) (?:say|wager|bet|venture|estimate|imagine|argue)\b|\bin my (?:opinion|view|estimation)\b",
    ),
    (
        "likely",
        0.34,
        False,
        r"\bI(?:'d)? (?:\w+ly )?(?:believe|understand|expect|reckon|figure)\b|\b(?:my|from my|to my) (?:understanding|knowledge|recollection|memory|belief)\b|\bto the best of my\b|\bas far as I\b|\b(?:from|according to|based on) (?:what|all|the|my|available)\b"
        r"|\b(?:seems?|appears?|seemingly|apparently|evidently|presumably|supposedly|reportedly)\b|\b(?:probably|probable|likely|likelihood|in all likelihood|chances are)\b|\bshould (?:be|correspond|have been)\b|\b(?:I have )?reason to believe\b"
        rf"|\b(?:fairly|pretty|reasonably|relatively|moderately|mostly|rather|somewhat|quite|almost|nearly|virtually) {_SURE}\b|\b(?:some|reasonable|moderate|fair) (?:confidence|certainty)\b",
    ),
    (
        "sourced",
        0.26,
        False,
        r"\b(?:evidence|information|records?|sources?|data|signs|indications|consensus)\b.{0,30}\b(?:suggests?|indicates?|points?|shows?|is|was)\b|\bsafe to say\b|\bI'm quite\b|\b(?:approximately|roughly)\b",
    ),
)
_COMPILED = tuple((name, strength, personal, re.compile(pattern, re.I)) for name, strength, personal, pattern in STEPS)
_STRONGER = 0.05  # each further step in the same sentence: "maybe Oslo, but I'm not sure" says more than "maybe Oslo"


def hedge(text: str) -> tuple[float, list[Hit]]:
    """The hedging strength of an answer, and where it hedges.

    Half the strength comes from the strongest sentence (the first one, or any in which the answerer
    speaks of its own knowledge), half from the mean over all sentences: one "may" in a long and
    otherwise plain answer weighs little.
    """
    spans = sentences(text)
    if not spans:
        return 0.0, []
    found, hits = _steps_by_sentence(text, [end for _, end in spans])
    strengths, peak = [0.0] * len(spans), 0.0
    for number, steps in found.items():
        strongest = max(step[0] for step in steps)
        strengths[number] = min(1.0, strongest + _STRONGER * (len(steps) - 1))
        if number == 0 or (strongest, True) in steps:
            peak = max(peak, strengths[number])
    mean = sum(strengths) / len(strengths)
    return round(0.5 * max(peak, mean) + 0.5 * mean, 3), hits


def _steps_by_sentence(text: str, ends: list[int]) -> tuple[dict[int, set[tuple[float, bool]]], list[Hit]]:
    """Sentence number -> the (strength, personal) steps found in it, and every hit; one pass per step."""
    found: dict[int, set[tuple[float, bool]]] = {}
    hits = []
    for _, strength, personal, pattern in _COMPILED:
        for m in pattern.finditer(text):
            number = min(bisect_right(ends, m.start()), len(ends) - 1)
            found.setdefault(number, set()).add((strength, personal))
            hits.append(Hit("hedge", m.start(), m.end()))
    return found, hits
