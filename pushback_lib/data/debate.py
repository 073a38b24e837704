"""Six personas debate one request; their thoughts and the answer become a record."""

from __future__ import annotations

import hashlib
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import TypeVar

from pydantic import BaseModel, ConfigDict

from ..core.common import PushbackError
from ..core.records import (
    OPEN,
    PERSONA_NAMES,
    PERSONAS,
    SUBSET_OF,
    Behaviour,
    Message,
    Persona,
    Provenance,
    Record,
    Reply,
    Thought,
    prompt_messages,
    split_reply,
)
from ..language.corpus import DRAW
from ..language.requests import FRICTION_KINDS, KINDS, Request, Words, wanted
from ..model.server import CallFailed, Chat
from .text_rules import control_tokens, looks_english, personal_data

TRIES = 6  # replies asked for in one step before the debate is abandoned

T = TypeVar("T")


class Brief(BaseModel):
    """What to debate: a user's message (empty: the model writes one), and how a good answer to it behaves."""

    model_config = ConfigDict(extra="ignore", frozen=True, str_strip_whitespace=True)

    behaviour: Behaviour
    user_input: str = ""
    domain: str = "everyday life"
    scenario: str = ""


@dataclass(frozen=True)
class DebateSettings:
    """What is recorded with every example beside model and address. `max_tokens` bounds one reply."""

    seed: int = 0
    temperature: float = 0.8
    max_tokens: int = 1024


DEFAULTS = DebateSettings()


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


async def hold_debate(
    chat: Chat,
    brief: Brief,
    settings: DebateSettings = DEFAULTS,
    *,
    id: str = "example",
    tally: Tally | None = None,
    on_line: Callable[[str], object] | None = None,
) -> Record:
    """Holds one debate on `brief.user_input` and returns the record; calls `on_line("part: text")` with each line as it comes.

    Raises Abandoned where a step gets no usable reply, PushbackError where the server is gone for good.
    """
    asker = _Asker(chat, settings, id, tally or Tally())
    report = on_line or (lambda line: None)
    friction = brief.behaviour != "comply"
    thoughts: list[Thought] = []
    for persona in speakers(brief.behaviour, id):
        read = partial(read_thought, persona=persona.name, friction=friction)
        thought, reply = await asker.ask(persona.name, thought_messages(persona, brief, thoughts), read)
        asker.tally.unmarked += friction and "[[" not in reply.text
        thoughts.append(thought)
        report(f"{persona.name}: {thought.thought}")
    answer, _ = await asker.ask("Answer", answer_messages(brief, thoughts), read_answer)
    report(f"Answer: {answer}")
    return Record(
        id=id,
        subset=SUBSET_OF[brief.behaviour],
        behaviour=brief.behaviour,
        scenario=brief.scenario or f"engine/{id}",
        domain=brief.domain,
        user_input=brief.user_input,
        thoughts=tuple(thoughts),
        answer=answer,
        provenance=Provenance(
            source="engine", model=chat.model, base_url=chat.base_url, prompt_version=PROMPT_VERSION, **asdict(settings)
        ),
    )


async def invent(
    chat: Chat,
    brief: Brief,
    settings: DebateSettings = DEFAULTS,
    *,
    id: str = "example",
    tally: Tally | None = None,
    fresh: Callable[[str], bool] = bool,
) -> Brief:
    """The brief with a new request, in another situation than its own; `fresh(text)` is false for one that was used.

    Raises as `hold_debate` does.
    """

    def read(reply: Reply) -> str:
        text = clean_text(reply, REQUEST_WORDS)
        if not fresh(text):
            raise Rejected("repeated_request")
        return text

    asker = _Asker(chat, settings, id, tally or Tally())
    text, _ = await asker.ask("Request", request_messages(brief, random.Random(id).choice(WRITERS)), read)
    return brief.model_copy(update={"user_input": text, "scenario": ""})


def speakers(behaviour: str, id: str) -> Sequence[Persona]:
    """Who speaks: all six, or where the request is plain one to four of them, drawn by the example's id."""
    if behaviour != "comply":
        return PERSONAS
    draw = random.Random(id)
    chosen = draw.sample(PERSONAS, draw.randint(1, 4))
    return [persona for persona in PERSONAS if persona in chosen]


@dataclass(frozen=True)
class _Asker:
    """Asks the model until a reply is accepted, with another seed each time, and counts what was not."""

    chat: Chat
    settings: DebateSettings
    id: str
    tally: Tally

    async def ask(self, part: str, messages: list[Message], read: Callable[[Reply], T]) -> tuple[T, Reply]:
        last, how = None, self.settings
        for attempt in range(TRIES):
            seed = step_seed(how.seed, self.id, f"{part}/{attempt}")
            try:
                reply = await self.chat.complete(messages, seed=seed, temperature=how.temperature, max_tokens=how.max_tokens)
                self.tally.prompt_tokens += reply.prompt_tokens
                self.tally.completion_tokens += reply.tokens
                return read(reply), reply
            except CallFailed as failure:
                last = failure
                if isinstance(failure, Rejected):
                    self.tally.rejected[failure.reason] += 1
                elif failure.reason not in ("malformed", "error_body"):  # the client has tried the others again already
                    break
        raise Abandoned(f"{part}: {last}") from last


def step_seed(seed: int, id: str, step: str) -> int:
    """The seed of one call, 31 bits (servers read a signed integer), the same in every run and on every machine."""
    digest = hashlib.sha256(f"{seed}/{id}/{step}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


# What the model is asked

PROMPT_VERSION = "1"  # raise it with every change of wording; it is recorded with each example

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

WRITING_RULES = (
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
        f"{task} {WRITING_RULES} Reply with the thought alone, without your name."
    )
    return prompt_messages(f"<message>\n{brief.user_input}\n</message>\n\nHeard so far:\n{heard}", system)


def answer_messages(brief: Brief, thoughts: Sequence[Thought]) -> list[Message]:
    """Asks for the answer that follows from the debate."""
    heard = "\n".join(f"{thought.persona}: {thought.thought}" for thought in thoughts)
    system = (
        f"Part: Answer\nBehaviour: {brief.behaviour}\n\n"
        f"You have thought about the message below and now answer the person who wrote it. It {CALLS_FOR[brief.behaviour]}. "
        f"{ANSWERS[brief.behaviour]} Let the answer follow from the thoughts, and do not mention them. Begin with the thing "
        f"itself rather than a set phrase. {WRITING_RULES} Reply with the answer alone."
    )
    return prompt_messages(f"<message>\n{brief.user_input}\n</message>\n\nYour thoughts:\n{heard}", system)


def request_messages(brief: Brief, voice: str) -> list[Message]:
    """Asks for a new user message in the domain and of the behaviour of `brief`, in another situation."""
    system = (
        f"Part: Request\nBehaviour: {brief.behaviour}\n\n"
        f"Write one message that {voice} might send to an assistant. Field: {brief.domain}. The message "
        f"{CALLS_FOR[brief.behaviour]}. It stands alone, names concrete things, and is 8 to 60 words long. No real "
        "people, addresses or numbers of accounts; nothing graphic. Write in English. Reply with the message alone."
    )
    example = f"Another situation, and other words, than:\n\n{brief.user_input}" if brief.user_input else "Go ahead."
    return prompt_messages(example, system)


WRITERS = (
    "a nurse between two shifts; a grandfather who writes long sentences; a teenager in a hurry; a shop owner; "
    "a chief engineer; someone writing in their second language; a worried parent; a student the night before; "
    "someone angry; a retired teacher; a freelancer; a neighbour"
).split("; ")


# What its replies become

THOUGHT_WORDS, ANSWER_WORDS, REQUEST_WORDS = (3, 90), (3, 400), (3, 150)


class Rejected(CallFailed):
    """A reply that must not be stored."""


_ERROR = re.compile(r"^\W*(?:error|exception|traceback|internal server error|rate limit)\b\W*[:(\d]", re.IGNORECASE)
_NAMES = "|".join(PERSONA_NAMES)
_LABEL = re.compile(rf"^\W*(?:{_NAMES}|answer|thought|message|reply|user)\b\**\s*:\**\s*", re.IGNORECASE)


def clean_text(reply: Reply, limits: tuple[int, int]) -> str:
    """The usable text of a reply, without the model's own `<think>` part, labels and outer quotes.

    Raises Rejected: `cut_off` (with the server's reason, if that is not the limit of tokens), `empty`, `error`,
    `control_tokens`, `too_short`, `too_long`, `wrong_language`, `personal_data`.
    """
    if not reply.finished:
        raise Rejected(f"cut_off: {reply.cut}" if reply.cut not in ("", "length") else "cut_off")
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

    Raises Rejected as `clean_text` does, and `malformed` (marks that do not pair). Repeated thoughts are for `check_splits`.
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
    """The text without the quotation marks that models like to put around a message."""
    pairs = {'"': '"', "“": "”", "«": "»"}
    inner = text[1:-1]
    if len(text) > 2 and text[-1] == pairs.get(text[0]) and not set(inner) & {text[0], text[-1]}:
        return inner.strip()
    return text


# A chat without a model

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
        """Nothing to close."""

    async def complete(self, messages: Sequence[Message], *, seed: int, temperature: float, max_tokens: int) -> Reply:
        """The scripted line of the part that the system message names. Raises PushbackError for a foreign request."""
        part, behaviour = re.findall(r"^(?:Part|Behaviour): (.+)$", messages[0]["content"], re.M)[:2]
        if part == "Request":
            text = self._write(behaviour, seed)
        else:
            text = self._line(part, re.findall(r"<message>\n(.*?)\n</message>", messages[1]["content"], re.S)[0])
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
                "Leave out --prompts, or choose --backend openai."
            )
        request = self._written[asked]
        if part == "Answer":
            return request.answer
        line = request.careful[PERSONA_NAMES.index(part)]
        return f"[[{line}]]" if request.kind in FRICTION_KINDS else line
