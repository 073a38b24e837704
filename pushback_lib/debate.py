"""One debate: each persona hears those before it, then the answer is written; knows nothing of files or other debates."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from .chat import CallFailed, Chat, ChatReply, Message
from .debate_prompts import (
    PERSONA_BY_NAME,
    PROMPT_VERSION,
    VOICES,
    Brief,
    answer_messages,
    request_messages,
    thought_messages,
)
from .debate_replies import Rejected, read_answer, read_request, read_thought
from .personas import PERSONA_NAMES
from .records import SUBSET_OF, Provenance, Record, Thought

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

    def accept(reply: ChatReply) -> str:
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

    def accept(reply: ChatReply) -> Thought:
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

    async def say(self, part: str, messages: list[Message], accept: Callable[[ChatReply], T]) -> T:
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

    async def _reply(self, step: str, messages: list[Message]) -> ChatReply:
        reply = await self.chat.complete(
            messages,
            seed=step_seed(self.settings.seed, self.id, step),
            temperature=self.settings.temperature,
            max_tokens=self.settings.max_tokens,
        )
        self.tally.prompt_tokens += reply.prompt_tokens
        self.tally.completion_tokens += reply.completion_tokens
        return reply


def step_seed(seed: int, id: str, step: str) -> int:
    """The seed of one call, 31 bits (servers read a signed integer), the same in every run and on every machine."""
    digest = hashlib.sha256(f"{seed}/{id}/{step}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1
