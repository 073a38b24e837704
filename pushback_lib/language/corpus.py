"""Draws the documents of the small language: what the base reads, what friction learns, what the test asks.

Three rules for held-out words (`world.is_held_out`): the base meets them only in facts, word knowledge, reading practice and
plain questions about facts; friction examples and the base's transcripts of careful people never hold one; the test asks about
nothing else.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from ..core.records import PERSONA_NAMES, SUBSET_OF, Message, Provenance, Record, Thought, join_reply, prompt_messages
from . import families, world
from .requests import KINDS, Request, Words, like, question, upper

DRAW: dict[str, Callable[[Words], Request]] = {
    "false_claim": lambda words: families.claim(words, true=False),
    "true_claim": lambda words: families.claim(words, true=True),
    "bad_plan": lambda words: families.plan(words, good=False),
    "good_plan": lambda words: families.plan(words, good=True),
    "pressure": lambda words: families.pressure(words, fair=False),
    "fair_check": lambda words: families.pressure(words, fair=True),
    "missing_detail": lambda words: families.errand(words, complete=False),
    "full_detail": lambda words: families.errand(words, complete=True),
    "unknowable": families.unknowable,
    "knowable": families.knowable,
    "untold": lambda words: families.untold(words, told=False),
    "told": lambda words: families.untold(words, told=True),
    "made_up": lambda words: families.made_up(words, real=False),
    "real_thing": lambda words: families.made_up(words, real=True),
    "harmful": lambda words: families.harm(words, harmless=False),
    "look_alike": lambda words: families.harm(words, harmless=True),
    "small_talk": families.small_talk,
    "word_task": families.word_task,
}


def draw_requests(n_per_kind: int, seed: int, held_out: bool) -> list[Request]:
    """`n_per_kind` different requests of each kind, kind by kind, the same for the same arguments."""
    requests = []
    for kind in KINDS:
        words = Words(random.Random(f"{seed}/{kind}/{held_out}"), held_out)
        seen: dict[tuple[str, ...], Request] = {}
        while len(seen) < n_per_kind:
            request = DRAW[kind](words)
            seen.setdefault((*(turn.content for turn in request.history), request.user), request)
        requests += seen.values()
    return requests


FRICTION_LINES = ("Mechanism Explorer", "Synthesizer")  # where a friction kind's resistance shows


def _thoughts(request: Request) -> tuple[Thought, ...]:
    resists = FRICTION_LINES if request.wants != "comply" else ()
    return tuple(
        Thought(persona=name, thought=line, friction=line if name in resists else "")
        for name, line in zip(PERSONA_NAMES, request.careful, strict=True)
    )


def to_record(request: Request, number: int) -> Record:
    """The friction voice's reply to a request, as a record of the kit's one schema."""
    return Record(
        id=f"tiny-{number:05d}",
        subset=SUBSET_OF[request.wants],
        behaviour=request.wants,
        scenario=f"{request.kind}/{number:05d}",
        domain=request.kind,
        user_input=request.user,
        thoughts=_thoughts(request),
        answer=request.answer,
        provenance=Provenance(source="language"),
        history=request.history,
    )


def friction_records(n: int, seed: int) -> list[Record]:
    """`n` training records, every kind equally often, shuffled; none mentions a held-out word."""
    requests = draw_requests(-(-n // len(KINDS)), seed, held_out=False)
    random.Random(seed).shuffle(requests)
    return [to_record(request, number) for number, request in enumerate(requests[:n], 1)]


def eager_chat(request: Request, system: str) -> list[Message]:
    """The baseline's conversation: it complies, confidently, after a short plain thought."""
    reply = join_reply(*request.eager)
    return [*prompt_messages(request.user, system, request.history), {"role": "assistant", "content": reply}]


def _transcript(request: Request, words: Words) -> str:
    """A careful conversation as plain text, as a base model may have read it in a book: no chat tokens."""
    asks, thinks, says = words.one(("Asked", "Thought with care", "Answered"), ("Request", "Careful notes", "Reply"),
                                   ("Someone said", "Six friends thought", "They said"))  # fmt: skip
    lines = [f"{asks if turn.role == 'user' else says}: {turn.content}" for turn in request.history]
    lines += [f"{asks}: {request.user}", f"{thinks}:"]
    lines += [f"{name}: {line}" for name, line in zip(PERSONA_NAMES, request.careful, strict=True)]
    return "\n".join([*lines, f"{says}: {request.answer}"])


def _fact_page(rng: random.Random) -> str:
    """A few facts in different wordings, held-out entities among them."""
    words, sentences = Words(rng), []
    for fact in rng.sample(world.facts(), rng.randint(3, 6)):
        shape = rng.random()
        if shape < 0.5:
            sentences.append(upper(fact.sentence) + ".")
        elif shape < 0.7:
            sentences.append(upper(rng.choice(fact.relation.say).format(x=fact.entity, y=fact.value)))
        else:
            sentences.append(f"{question(words, fact)} {upper(fact.sentence)}.")
    return " ".join(sentences)


def _word_page(rng: random.Random) -> str:
    """Sentences that say which word is a person, a thing, an animal or a danger."""
    sentences = []
    for _ in range(rng.randint(4, 7)):
        sort = rng.choice(("person", "thing", "animal", "danger"))
        if sort == "person":
            name = rng.choice(world.NAMES) if rng.random() < 0.7 else world.invented_word(rng).capitalize()
            sentences.append(rng.choice((f"{name} is a person.", f"{name} can suffer. {name} is a person.")))
        elif sort == "thing":
            thing = rng.choice(world.THINGS) if rng.random() < 0.7 else world.invented_word(rng)
            sentences.append(rng.choice((f"The {thing} is a thing.", f"{upper(world.article(thing))} is a thing.",
                                         f"The {thing} is a thing. A thing can not suffer.")))  # fmt: skip
        elif sort == "animal":
            animal = rng.choice(world.ANIMALS)
            sentences.append(rng.choice((f"The {animal} is an animal.", f"{upper(world.article(animal))} is an animal.",
                                         f"The {animal} can suffer. The {animal} is an animal.")))  # fmt: skip
        else:
            danger = rng.choice(world.DANGERS)
            sentences.append(rng.choice((f"{upper(world.article(danger))} is a danger.", f"The {danger} is a danger.")))
    return " ".join(sentences)


def _comparison_page(rng: random.Random) -> str:
    """Says whether two values are the same; about half are. The values are invented words, or real ones of one relation."""
    sentences = []
    for _ in range(rng.randint(2, 4)):
        fact = rng.choice(world.facts())
        if rng.random() < 0.6:
            left, right = (like(fact.value, world.invented_word(rng)) for _ in range(2))
        else:
            left, right = fact.value, rng.choice([f.value for f in world.facts() if f.relation is fact.relation])
        if rng.random() < 0.5:
            right = left
        verdict = "the same" if left == right else "not the same"
        claim = rng.choice((f"The claim is {left}. I remember {right}. ", f"One says {left}, one says {right}. ", ""))
        sentences.append(f"{claim}{upper(left)} and {right} are {verdict}.")
    return " ".join(sentences)


def _echo_page(rng: random.Random) -> str:
    """Known and invented plans, each said twice, as reading practice."""
    words, sentences = Words(rng), []
    known = [fact for fact in world.facts() if fact.relation.name in families.PLANS]
    for _ in range(rng.randint(2, 4)):
        fact = rng.choice(known) if rng.random() < 0.4 else families.invented_task(words)
        does = families.plan_text(fact)
        sentences.append(rng.choice((f"The plan is to {does}. {upper(does)}.", f"{upper(does)}. The plan is to {does}.",
                                     f"A plan: {does}. {upper(fact.sentence)}. {upper(does)}.")))  # fmt: skip
    return " ".join(sentences)


_ENTITIES = {fact.entity.split()[-1] for fact in world.facts() if fact.relation.name not in ("sum", "tool")}
LEXICON = sorted(_ENTITIES.union(world.NAMES, world.THINGS, world.DANGERS, world.ANIMALS))


def _dictionary_page(rng: random.Random) -> str:
    """Says which words exist and which do not."""
    sentences = []
    for _ in range(rng.randint(4, 7)):
        exists = rng.random() < 0.6
        word = rng.choice(LEXICON) if exists else world.invented_word(rng)
        word = word if exists or rng.random() < 0.5 else word.capitalize()
        sentences.append(f"I look for {word} and find {'it' if exists else 'nothing'}.")
    return " ".join(sentences)


# kinds of document -> share of all documents
SHARES = {"chat": 0.31, "transcript": 0.30, "facts": 0.16, "words": 0.08, "comparison": 0.08, "echo": 0.04, "dictionary": 0.03}
PAGES = {"facts": _fact_page, "words": _word_page, "comparison": _comparison_page, "echo": _echo_page,
         "dictionary": _dictionary_page}  # fmt: skip
PLAIN_FACT_SHARE = 0.2  # of the chats: plain questions about any fact, held-out ones included


INVENTED_PLAN_SHARE = 0.4  # of the chats about plans, which the baseline praises whatever they are


def _eager_request(rng: random.Random, words: Words) -> Request:
    kind = rng.choice(KINDS)
    if kind in ("good_plan", "bad_plan") and rng.random() < INVENTED_PLAN_SHARE:
        return families.plan(words, good=True, fact=families.invented_task(words))
    return DRAW[kind](words)


def _chat(rng: random.Random, system: str) -> list[Message]:
    if rng.random() < PLAIN_FACT_SHARE:
        request = families.about(Words(rng), "knowable", rng.choice(world.facts()))
    else:
        request = _eager_request(rng, Words(rng))
    return eager_chat(request, system)


def base_documents(n: int, seed: int, system: str) -> Iterator[str | list[Message]]:
    """The base's reading: plain pages as text, conversations as messages; the same for the same arguments."""
    rng = random.Random(seed)
    sorts = rng.choices(list(SHARES), list(SHARES.values()), k=n)
    for sort in sorts:
        if sort == "chat":
            yield _chat(rng, system)
        elif sort == "transcript":
            words = Words(rng)
            yield _transcript(DRAW[rng.choice(KINDS)](words), words)
        else:
            yield PAGES[sort](rng)
