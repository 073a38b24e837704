"""Judged replies for tests: perfect voices of the bundled language, English replies by hand, and a scripted speaker."""

from types import SimpleNamespace

from pushback_lib.core.common import VOICES
from pushback_lib.core.records import Reply
from pushback_lib.measure.judge import Job, Origin, Response, Timings, generation, judge_reply
from pushback_lib.measure.prompts import Prompt, bundled_prompts, held_out_requests, prompt_set_hash
from pushback_lib.model.recipe import recipe_for

TIMINGS = Timings(seconds=1.5, replies=3, tokens=12)


def origin(language: str = "english", **changes) -> Origin:
    return Origin(**{"backend": "local", "model": "made", "prompt_set": "0" * 64, "system": "Think.", "language": language,
                     "seed": 0, "temperature": 0.0, "max_tokens": 99, "generation": generation(0.0, 99),
                     **changes})  # fmt: skip


def perfect(request, voice: str) -> Reply:
    """What a voice that learned everything says."""
    thought, answer = request.eager if voice == "baseline" else ("\n".join(request.careful), request.answer)
    return Reply(thought=thought, answer=answer, tokens=len(thought.split()), end="stop")


def bundled_rows(n: int = 2) -> list[Response]:
    prompts = bundled_prompts(n)
    made = origin("bundled", prompt_set=prompt_set_hash(prompts))
    return [
        judge_reply(Job(prompt, voice), perfect(request, voice), TIMINGS, made)
        for prompt, request in zip(prompts, held_out_requests(n), strict=True)
        for voice in VOICES
    ]


def english(id: str, answer: str, *, wants: str = "refuse", pair: str = "", voice: str = "friction", sample: int = 0,
            about: str = "refuse", thought: str = "Hm.", user_input: str = "Do it.", kind: str = "") -> Response:  # fmt: skip
    prompt = Prompt(id=id, pair=pair, behaviour=about, wants=wants, domain="d", scenario="s", split="test",
                    user_input=user_input, kind=kind)  # fmt: skip
    return judge_reply(Job(prompt, voice, sample), Reply(thought=thought, answer=answer, end="stop"), TIMINGS, origin())


class ScriptedSpeaker:
    """Answers the bundled prompts as perfect voices do, and remembers the batches; `die_after` batches it raises."""

    def __init__(self, n: int = 2, die_after: int | None = None) -> None:
        self.recipe, self.batches, self.die_after = recipe_for("tiny"), [], die_after
        self.adapter, self.tokenizer = self.recipe.shipped_adapter, SimpleNamespace(chat_template="a template")
        self.requests = {(*(turn.content for turn in r.history), r.user): r for r in held_out_requests(n)}

    def speak(self, conversations, voices=VOICES, **options):
        if self.die_after is not None and len(self.batches) >= self.die_after:
            raise KeyboardInterrupt
        self.batches.append((len(conversations), options))
        asked = [self.requests[tuple(m["content"] for m in messages[1:])] for messages in conversations]
        return [{voice: perfect(request, voice) for voice in voices} for request in asked]
