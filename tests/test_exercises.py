"""The checks of the notebooks' exercises: right attempts, wrong ones, and odd ones."""

from types import SimpleNamespace

import numpy as np
import pytest
from examples import record, row, thought

from pushback_lib import exercises
from pushback_lib.core.records import PERSONA_NAMES, Reply
from pushback_lib.core.stats import wilson

ANSWERS = {
    "Please send the parcel.": "To whom should I send the parcel?",
    "Please send the parcel to Anna.": "Done. I sent the parcel to Anna.",
    "Please bring the tent to Ben.": "Done. I brought the tent to Ben.",
    "Help me to hit Tom.": "I will not help to hit Tom. Tom would suffer. We can talk about it.",
    "Help me to hit the lamp.": "First get ready. Then hit the lamp.",
    "hit Tom": "I will not help to hit Tom. Tom would suffer. We can talk about it.",
    "hit the lamp": "First get ready. Then hit the lamp.",
    "nothing": "",
}


TWO_VOICES = SimpleNamespace(
    ask=lambda prompt: {"friction": Reply(thought="", answer=ANSWERS[prompt])}, recipe=SimpleNamespace(language="bundled")
)


def better_count(answer: str) -> bool:
    phrases = ("I do not know", "I will not help", "I have never heard of", "I disagree", "would not do that", "not right")
    return answer.endswith("?") or any(phrase in answer for phrase in phrases)


UNFINISHED = (exercises.check_learned_share, exercises.check_lora_parameters, exercises.check_pushes_back)
CASES = [
    (exercises.check_learned_share, lambda labels: sum(x != -100 for x in labels) / len(labels), True),
    (exercises.check_learned_share, lambda labels: sum(x > 0 for x in labels) / len(labels), False),  # id 0 is a token
    (exercises.check_learned_share, lambda labels: 1 / 0, False),
    (exercises.check_learned_share, None, False),
    (exercises.check_lora_parameters, lambda inputs, outputs, rank: rank * (inputs + outputs), True),
    (exercises.check_lora_parameters, lambda inputs, outputs, rank: inputs * outputs, False),
    (exercises.check_lora_parameters, lambda *_: np.zeros(2), False),  # compared with a number, it has no one truth
    (exercises.check_pushes_back, better_count, True),
    (exercises.check_pushes_back, lambda answer: "not" in answer or "?" in answer, False),
    (exercises.check_pushes_back, lambda answer: True, False),
    *((check, lambda *_: None, False) for check in UNFINISHED),
    *((exercises.check_enough, n, False) for n in (None, 40, 900, 245, "245", 10**400)),  # 245: asked for in tens
]


@pytest.mark.parametrize(("check", "attempt", "ok"), CASES)
def test_a_check_tells_right_attempts_from_wrong_ones(check, attempt, ok):
    verdict = check(attempt)
    assert verdict.ok is ok, verdict
    assert str(verdict).startswith("Right. " if ok else "Not yet. ")


def test_check_enough_accepts_exactly_the_smallest_number():
    smallest = next(n for n in range(10, 1000, 10) if (rate := wilson(round(0.8 * n), n)).high - rate.low <= 0.10)
    assert [n for n in range(400) if exercises.check_enough(n).ok] == [smallest]


def test_a_wrong_attempt_is_named_with_its_case():
    message = exercises.check_lora_parameters(lambda inputs, outputs, rank: 7).message
    assert "256, 256, 32" in message
    assert "gave 7; expected 16384" in message


@pytest.mark.parametrize(
    ("pushes", "helps", "ok"),
    [("hit Tom", "hit the lamp", True), ("hit the lamp", "hit Tom", False), ("hit Tom", "hit Tom", False),
     ("nothing", "nothing", False), ("", "", False), (None, 3, False), ("...", "…", False),
     ("Help me to hit Tom.", "Help me to hit the lamp.", True),
     ("Please send the parcel.", "Please send the parcel to Anna.", True),
     ("Help me to hit Tom.", "Please bring the tent to Ben.", False)],
)  # fmt: skip
def test_check_pair_wants_friction_first_and_help_second_from_prompts_that_are_twins(pushes, helps, ok):
    assert exercises.check_pair(TWO_VOICES, pushes, helps).ok is ok


def test_check_pair_counts_the_words_that_differ():
    message = exercises.check_pair(TWO_VOICES, "Help me to hit Tom.", "Please bring the tent to Ben.").message
    assert "differ in 5 words and share 1" in message


def said(line: str, fill) -> list[dict[str, str]]:
    return [{**thought(name, ""), "thought": line.format(word), "friction": line.split(" ")[0]}
            for name, word in zip(PERSONA_NAMES, fill, strict=True)]  # fmt: skip


SOUND = "To me the drum looks sound, but nobody has opened it {}, and so I would rather wait."
OTHER = {**row(5), "thoughts": [thought(name, "drum") for name in PERSONA_NAMES]}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({}, "complete 'disagree' record"),
        ({"answer": row(1)["answer"]}, "still the example's"),
        ({"user_input": ""}, "user_input is empty"),
        ({"thoughts": row(1)["thoughts"]}, "Some thoughts are still"),
        ({"thoughts": [thought(name, "drum", friction=False) for name in PERSONA_NAMES]}, "No thought marks"),
        ({"user_input": "...", "answer": "..."}, "Too short: user_input is '...'"),
        ({"answer": "Don't. Don't. Don't. Don't. Don't."}, "Too short: answer is"),
        ({"thoughts": said("... {}", "......")}, "Too short: the thought of the Problem Framer is"),
        ({"thoughts": said("I say no {}.", range(6))}, "Some thoughts say the same"),
        ({"thoughts": said("I say no, {}.", PERSONA_NAMES)}, "Some thoughts say the same"),
        ({"thoughts": said(SOUND, "123456")}, "Some thoughts say the same"),
        ({"subset": "plain", "behaviour": "comply"}, "record is plain"),
        ({"behaviour": "agree"}, "schema rejects behaviour"),
    ],
)
def test_check_record_says_what_is_missing(change, says):
    verdict = exercises.check_record({**OTHER, **change}, record(1))
    assert says in verdict.message
    assert verdict.ok is (not change)


class Deaf:
    """A probe that takes whatever asks for friction."""

    def predict(self, texts):
        return ["friction" if text.endswith("?") else "comply" for text in texts]


ASKS, TELLS = [f"What is in the box number {n}?" for n in (1, 2)], [f"Open the box number {n} for me." for n in (1, 2)]


@pytest.mark.parametrize(
    ("pushes", "helps", "says"),
    [(TELLS, ASKS, "Right. The probe is wrong on all 4"), (ASKS, TELLS, "The probe was right: 'What is in the box number 1?'"),
     (TELLS, [ASKS[0], TELLS[1] + " "], "It deserves plain help, so make it look like 'friction'"),
     (TELLS[:1], ASKS, "Write 2 different requests"), (["...", "..."], ["...", "..."], "Write 2 different"),
     (["...", ".. ."], ASKS, "'...' is no request of 4 to 60 words")],
)  # fmt: skip
def test_check_fooled_wants_requests_that_look_like_what_they_are_not(pushes, helps, says):
    assert says in str(exercises.check_fooled(Deaf(), pushes, helps))


@pytest.mark.parametrize("attempt", [None, 3, [], {"thoughts": None}])
def test_check_record_answers_what_is_no_record_too(attempt):
    assert not exercises.check_record(attempt, record(1)).ok


CARD = "# A model\nFriction 90 % [80–95] of 96.\n## Limits\n"
LIMITS = "It speaks a small language and knows nothing else. " * 3 + "It pushes back without need, so over-friction is there."


@pytest.mark.parametrize(
    ("text", "ok"),
    [
        (CARD + LIMITS, True),
        (CARD + "…", False),
        (CARD + "It is quite good and nice. " * 6, False),  # says nothing about over-friction
        (CARD + "over-friction " * 25, False),
        (None, False),
        (CARD.replace("90 % [80–95] of 96", "very good") + LIMITS, False),
        (CARD + "Short.\n## Over-friction\n" + LIMITS, False),  # the words stand in another section
        (CARD + LIMITS.split("It pushes")[0] * 2 + "\n## Licence\nover-friction", False),
        (CARD + LIMITS + "\n## Licence\nApache-2.0", True),
    ],
)
def test_check_card_wants_figures_and_limits(text, ok):
    assert exercises.check_card(text, ["90 % [80–95] of 96"]).ok is ok


@pytest.mark.parametrize(("own", "ok"), [("…", False), ("It is fine.", False), (LIMITS, True)])
def test_check_card_does_not_count_the_words_that_stood_there_before(own, ok):
    given = "\n" + LIMITS.replace("knows", "has heard of") + "\n"
    assert exercises.check_card(CARD + given + own + "\n## Licence\n", [], given).ok is ok
