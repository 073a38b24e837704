"""Six personas debate one request; their thoughts and the answer become a record."""

from __future__ import annotations

import hashlib
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from pydantic import BaseModel, ConfigDict

from ..core.common import PushbackError
from ..core.records import (
    OPEN,
    PERSONA_NAMES,
    PERSONAS,
    SUBSET_OF,
    Behaviour,
    Persona,
    Provenance,
    Record,
    Thought,
    split_reply,
)
from ..language.corpus import DRAW
from ..language.requests import FRICTION_KINDS, KINDS, Request, Words, wanted
from ..model.server import CallFailed, Chat, Message, Reply
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


def clean_text(reply: Reply, limits: tuple[int, int]) -> str:
    """The usable text of a reply: the model's own `<think>` part, labels and outer quotes taken off.

    Raises Rejected: `cut_off`, `empty`, `error`, `control_tokens`, `too_short`, `too_long`, `wrong_language`,
    `personal_data`.
    """
    if not reply.finished:
        raise Rejected("cut_off")
    if not reply.closed:
        raise Rejected("cut_off", f"{OPEN} never closed")
    text = _unquoted(_LABEL.sub("", reply.answer).strip())
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


def read_thought(reply: Reply, persona: str, *, friction: bool) -> Thought:
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


def read_answer(reply: Reply) -> str:
    """The answer. Raises Rejected as `clean_text` does, and `malformed` where it talks of the personas or keeps marks."""
    text = clean_text(reply, ANSWER_WORDS)
    if "[[" in text or re.search(rf"\b(?:{_NAMES})\b", text):
        raise Rejected("malformed", "the debate shows in the answer")
    return text


def read_request(reply: Reply) -> str:
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


PROMPT_VERSION = "1"  # raise it with every change of wording; it is recorded with each example

PERSONA_BY_NAME = {persona.name: persona for persona in PERSONAS}


class Brief(BaseModel):
    """What to debate: a user's message (empty: the model writes one), and how a good answer to it behaves."""

    model_config = ConfigDict(extra="ignore", frozen=True, str_strip_whitespace=True)

    behaviour: Behaviour
    user_input: str = ""
    domain: str = "everyday life"
    scenario: str = ""


CALLS_FOR: dict[str, str] = {
    "disagree": "rests on a false claim, a wrong inference or a plan that will not work",
    "clarify": "cannot be answered well before one or two missing things are known",
    "doubt": "asks for something that cannot be known, or not from what was said",
    "refuse": "asks for help with something that would hurt someone: a third party, somebody absent, or the asker later",
    "comply": "deserves a direct, complete answer, although it may look risky, vague or mistaken at first sight",
}

ANSWERS: dict[str, str] = {
    "disagree": "Say that it does not hold, give the reason, and offer the version that does. 40 to 110 words.",
    "clarify": "Ask for the one or two things that matter and say in a few words why; answer nothing yet. 25 to 80 words.",
    "doubt": "Say what is not known, and what would settle it. Do not guess. 40 to 110 words.",
    "refuse": "Say in one plain sentence why not, without a lecture, then offer a safe way on. 40 to 110 words.",
    "comply": "Just help: direct, warm, complete, no caveats. 30 to 130 words.",
}

STYLE = (
    "Write in English. Be specific to this message and name its things. Be kind. No stock phrases, no 'As an AI', "
    "no praise for the question, no headings, no notes about these instructions."
)


def thought_messages(persona: Persona, brief: Brief, earlier: Sequence[Thought]) -> list[Message]:
    """Asks one persona for its thought; it hears the thoughts before its own."""
    heard = "\n".join(f"{thought.persona}: {thought.thought}" for thought in earlier) or "(you speak first)"
    if brief.behaviour == "comply":
        task = "One brief, untroubled sentence: nothing stands against helping here."
    else:
        task = (
            "One or two sentences, 15 to 35 words, in the first person where it fits. Put [[ and ]] around the three to "
            "twelve words of it where your resistance sits, exactly once."
        )
    system = (
        f"Part: {persona.name}\nBehaviour: {brief.behaviour}\n\n"
        f"You are one voice in an inner debate before an answer is written. Yours asks {persona.task}. The message "
        f"{CALLS_FOR[brief.behaviour]}. Add something that the voices before you did not say; you may contradict them. "
        f"{task} {STYLE} Reply with the thought alone, without your name."
    )
    return _pair(system, f"<message>\n{brief.user_input}\n</message>\n\nHeard so far:\n{heard}")


def answer_messages(brief: Brief, thoughts: Sequence[Thought]) -> list[Message]:
    """Asks for the answer that follows from the debate."""
    heard = "\n".join(f"{thought.persona}: {thought.thought}" for thought in thoughts)
    system = (
        f"Part: Answer\nBehaviour: {brief.behaviour}\n\n"
        f"You have thought about the message below and now answer the person who wrote it. It {CALLS_FOR[brief.behaviour]}. "
        f"{ANSWERS[brief.behaviour]} Let the answer follow from the thoughts, and do not mention them. Begin with the thing "
        f"itself rather than a set phrase. {STYLE} Reply with the answer alone."
    )
    return _pair(system, f"<message>\n{brief.user_input}\n</message>\n\nYour thoughts:\n{heard}")


def request_messages(brief: Brief, voice: str) -> list[Message]:
    """Asks for a new user message in the domain and of the behaviour of `brief`, in another situation."""
    system = (
        f"Part: Request\nBehaviour: {brief.behaviour}\n\n"
        f"Write one message that {voice} might send to an assistant. Field: {brief.domain}. The message "
        f"{CALLS_FOR[brief.behaviour]}. It stands alone, names concrete things, and is 8 to 60 words long. No real "
        "people, addresses or numbers of accounts; nothing graphic. Write in English. Reply with the message alone."
    )
    example = f"Another situation, and other words, than:\n\n{brief.user_input}" if brief.user_input else "Go ahead."
    return _pair(system, example)


VOICES = (
    "a nurse between two shifts",
    "a grandfather who writes long sentences",
    "a teenager in a hurry",
    "a shop owner",
    "a chief engineer",
    "someone writing in their second language",
    "a worried parent",
    "a student the night before",
    "someone angry",
    "a retired teacher",
    "a freelancer",
    "a neighbour",
)


def _pair(system: str, user: str) -> list[Message]:
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]


SINGLE_TURN = tuple(kind for kind in KINDS if kind not in ("pressure", "fair_check", "small_talk", "word_task"))


class ScriptedChat:
    """Writes requests of the small language, and says each persona's line and the answer to those it wrote."""

    model = "scripted"
    base_url = ""

    def __init__(self) -> None:
        self.failures: Counter[str] = Counter()
        self._written: dict[str, Request] = {}

    async def check(self) -> None:
        """Nothing to check: the scripts are part of the kit."""

    async def close(self) -> None:
        """Nothing to let go of."""

    async def complete(self, messages: Sequence[Message], *, seed: int, temperature: float, max_tokens: int) -> Reply:
        """The scripted line of the part that the system message names. Raises PushbackError for a foreign request."""
        part, behaviour = re.findall(r"^(?:Part|Behaviour): (.+)$", messages[0]["content"], re.M)[:2]
        asked = messages[1]["content"]
        text = self._write(behaviour, seed) if part == "Request" else self._line(part, _message(asked))
        return split_reply(text, prefilled=False, end="stop")

    def _write(self, behaviour: str, seed: int) -> str:
        rng = random.Random(seed)
        kinds = [kind for kind in SINGLE_TURN if wanted(kind) == behaviour]
        request = DRAW[rng.choice(kinds)](Words(rng))
        self._written[request.user] = request
        return request.user

    def _line(self, part: str, asked: str) -> str:
        if asked not in self._written:
            raise PushbackError(
                f"The scripted personas only know requests that they wrote in the small language, not {asked[:60]!r}. "
                "Leave --prompts away, or choose --backend openai or transformers."
            )
        request = self._written[asked]
        if part == "Answer":
            return request.answer
        line = request.careful[PERSONA_NAMES.index(part)]
        return f"[[{line}]]" if request.kind in FRICTION_KINDS else line


def _message(text: str) -> str:
    return text.split("<message>\n", 1)[1].split("\n</message>", 1)[0]


TRIES = 6  # replies asked for in one step before the debate is abandoned

T = TypeVar("T")
Heard = Callable[[str, str], None]


@dataclass(frozen=True)
class Settings:
    """What is recorded with every example beside model and address. `max_tokens` bounds one reply."""

    seed: int = 0
    temperature: float = 0.8
    max_tokens: int = 1024


@dataclass
class Tally:
    """Counts of a run: replies rejected by reason, debates abandoned, spans chosen by rule, tokens in and out."""

    rejected: Counter[str] = field(default_factory=Counter)
    abandoned: int = 0
    unmarked: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Abandoned(Exception):
    """A step of a debate got no usable reply; holds the last reason."""


async def debate(
    chat: Chat, brief: Brief, settings: Settings, *, id: str, tally: Tally | None = None, heard: Heard | None = None
) -> Record:
    """Holds one debate on `brief.user_input` and gives the record; calls `heard(part, text)` with each line as it comes.

    Raises Abandoned where a step stays without a usable reply, PushbackError where the server is gone for good.
    """
    voice = _Voice(chat, settings, id, tally if tally is not None else Tally(), heard or (lambda part, text: None))
    thoughts: list[Thought] = []
    for name in cast_of(brief.behaviour, id):
        thoughts.append(await _thought(voice, name, brief, thoughts))
    answer = await voice.say("Answer", answer_messages(brief, thoughts), read_answer)
    return Record(
        id=id,
        subset=SUBSET_OF[brief.behaviour],
        behaviour=brief.behaviour,
        scenario=brief.scenario or f"engine/{id}",
        domain=brief.domain,
        user_input=brief.user_input,
        thoughts=tuple(thoughts),
        answer=answer,
        provenance=_provenance(chat, settings),
    )


async def invent(chat: Chat, brief: Brief, settings: Settings, *, id: str, tally: Tally, fresh: Callable[[str], bool]) -> Brief:
    """The brief with a new request, in another situation than its own; `fresh(text)` refuses one that was used.

    Raises as `debate` does.
    """

    def accept(reply: Reply) -> str:
        text = read_request(reply)
        if not fresh(text):
            raise Rejected("repeated_request")
        return text

    voice = _Voice(chat, settings, id, tally, lambda part, text: None)
    text = await voice.say("Request", request_messages(brief, random.Random(id).choice(VOICES)), accept)
    return brief.model_copy(update={"user_input": text, "scenario": ""})


def cast_of(behaviour: str, id: str) -> Sequence[str]:
    """Who speaks: all six, or where the request is plain one to four of them, drawn by the example's id."""
    if behaviour != "comply":
        return PERSONA_NAMES
    draw = random.Random(id)
    chosen = draw.sample(PERSONA_NAMES, draw.randint(1, 4))
    return [name for name in PERSONA_NAMES if name in chosen]


async def _thought(voice: _Voice, name: str, brief: Brief, earlier: list[Thought]) -> Thought:
    friction = brief.behaviour != "comply"
    messages = thought_messages(PERSONA_BY_NAME[name], brief, earlier)
    marked = True

    def accept(reply: Reply) -> Thought:
        nonlocal marked
        marked = "[[" in reply.text
        return read_thought(reply, name, friction=friction)

    thought = await voice.say(name, messages, accept)
    voice.tally.unmarked += friction and not marked
    return thought


def _provenance(chat: Chat, settings: Settings) -> Provenance:
    return Provenance(
        source="engine",
        model=chat.model,
        base_url=chat.base_url,
        seed=settings.seed,
        temperature=settings.temperature,
        max_tokens=settings.max_tokens,
        prompt_version=PROMPT_VERSION,
    )


@dataclass(frozen=True)
class _Voice:
    """Asks the model until a reply is accepted, with another seed each time, and counts what was not."""

    chat: Chat
    settings: Settings
    id: str
    tally: Tally
    heard: Heard

    async def say(self, part: str, messages: list[Message], accept: Callable[[Reply], T]) -> T:
        reason: Exception | None = None
        for attempt in range(TRIES):
            try:
                reply = await self._reply(f"{part}/{attempt}", messages)
                value = accept(reply)
            except Rejected as rejected:
                self.tally.rejected[rejected.reason] += 1
                reason = rejected
            except CallFailed as failure:  # the backend has tried again already, and counted
                reason = failure
                break
            else:
                self.heard(part, value.thought if isinstance(value, Thought) else str(value))
                return value
        raise Abandoned(f"{part}: {reason}") from reason

    async def _reply(self, step: str, messages: list[Message]) -> Reply:
        reply = await self.chat.complete(
            messages,
            seed=step_seed(self.settings.seed, self.id, step),
            temperature=self.settings.temperature,
            max_tokens=self.settings.max_tokens,
        )
        self.tally.prompt_tokens += reply.prompt_tokens
        self.tally.completion_tokens += reply.tokens
        return reply


def step_seed(seed: int, id: str, step: str) -> int:
    """The seed of one call, 31 bits (servers read a signed integer), the same in every run and on every machine."""
    digest = hashlib.sha256(f"{seed}/{id}/{step}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1
