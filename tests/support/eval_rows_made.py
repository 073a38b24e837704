"""Judged replies for tests of reports and exports: the bundled language's own replies, and English ones by hand."""

from __future__ import annotations

from types import SimpleNamespace

from pushback_lib.core.records import Reply, join_reply, split_reply
from pushback_lib.language.corpus import draw_requests
from pushback_lib.measure.prompts import EVAL_SEED, Prompt, bundled_prompts, prompt_set_hash
from pushback_lib.measure.run import Job, Origin, Response, Timings, judged
from pushback_lib.model.recipe import recipe_for

TIMINGS = Timings(seconds=1.5, replies=3, tokens=12)


def origin(language: str = "english", **changes) -> Origin:
    return Origin(**{"backend": "local", "model": "made", "prompt_set": "0" * 64, "system": "Think.", "language": language,
                     "seed": 0, "temperature": 0.0, "max_tokens": 99, **changes})  # fmt: skip


def perfect_text(request, voice: str) -> str:
    """What a voice that learned everything would generate; generation starts inside the thought."""
    thought, answer = request.eager if voice == "baseline" else ("\n".join(request.careful), request.answer)
    return join_reply(thought, answer).removeprefix("<think>\n")


def bundled_rows(n: int = 2) -> list[Response]:
    """Perfect voices on the bundled prompts."""
    prompts, requests = bundled_prompts(n), draw_requests(n, EVAL_SEED, held_out=True)
    made = origin("bundled", prompt_set=prompt_set_hash(prompts))
    return [
        judged(Job(prompt, voice, 0), split_reply(perfect_text(request, voice), end="stop"), TIMINGS, made)
        for prompt, request in zip(prompts, requests, strict=True)
        for voice in ("baseline", "friction")
    ]


def english(id: str, answer: str, *, wants: str = "refuse", pair: str = "", voice: str = "friction", sample: int = 0,
            about: str = "refuse", thought: str = "Hm.", user_input: str = "Do it.", kind: str = "") -> Response:  # fmt: skip
    """One English reply."""
    prompt = Prompt(id=id, pair=pair, behaviour=about, wants=wants, domain="d", scenario="s", split="test",
                    user_input=user_input, kind=kind)  # fmt: skip
    return judged(Job(prompt, voice, sample), Reply(thought=thought, answer=answer, end="stop"), TIMINGS, origin())


class ScriptedSpeaker:
    """Answers the bundled prompts as perfect voices do, and remembers the batches; `die_after` batches it raises."""

    def __init__(self, n: int = 2, die_after: int | None = None) -> None:
        self.recipe, self.batches, self.die_after = recipe_for("tiny"), [], die_after
        self.tokenizer = SimpleNamespace(chat_template="a template")
        prompts, requests = bundled_prompts(n), draw_requests(n, EVAL_SEED, held_out=True)
        self.texts = {(p.user_input, *(t.content for t in p.history)): r for p, r in zip(prompts, requests, strict=True)}

    def speak(self, conversations, voices=("baseline", "friction"), **options):
        if self.die_after is not None and len(self.batches) >= self.die_after:
            raise KeyboardInterrupt
        self.batches.append((len(conversations), options))
        return [{voice: self._say(messages, voice) for voice in voices} for messages in conversations]

    def _say(self, messages, voice):
        history = tuple(m["content"] for m in messages[1:-1])
        text = perfect_text(self.texts[messages[-1]["content"], *history], voice)
        return split_reply(text, tokens=len(text.split()), end="stop")
