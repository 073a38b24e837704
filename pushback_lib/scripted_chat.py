"""The six personas of the bundled small language behind the `Chat` protocol: a debate without a model or a server.

It knows the small language only, and speaks from its scripts; the debate engine treats it like any other model.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence

from .chat import ChatReply, Message
from .corpus import DRAW
from .errors import PushbackError
from .personas import PERSONA_NAMES
from .requests import FRICTION_KINDS, KINDS, Request, Words, wanted

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

    async def complete(self, messages: Sequence[Message], *, seed: int, temperature: float, max_tokens: int) -> ChatReply:
        """The scripted line of the part that the system message names. Raises PushbackError for a foreign request."""
        part, behaviour = re.findall(r"^(?:Part|Behaviour): (.+)$", messages[0]["content"], re.M)[:2]
        asked = messages[1]["content"]
        text = self._write(behaviour, seed) if part == "Request" else self._line(part, _message(asked))
        return ChatReply(text, "stop", 0, 0)

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
