"""The words put to a model in a debate, versioned; knows nothing about how they are sent or what comes back.

Every system message begins with two lines, `Part: …` (a persona's name, `Answer` or `Request`) and `Behaviour: …`, and
the message under debate stands between `<message>` tags, so that a scripted backend can tell what is asked of it.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from .chat import Message
from .personas import PERSONAS, Persona
from .records import Behaviour, Thought

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
