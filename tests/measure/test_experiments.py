import json
from contextlib import contextmanager

import pytest
from eval_rows_made import ScriptedSpeaker

from pushback_lib.core.common import PushbackError
from pushback_lib.core.records import Reply
from pushback_lib.core.stats import wilson
from pushback_lib.measure.experiments import CONDITIONS, complete_pairs, dial, recommend, run_all, thinking
from pushback_lib.measure.judge import judge_replies
from pushback_lib.measure.prompts import bundled_prompts, is_friction
from pushback_lib.measure.run import answers, local_run
from pushback_lib.model.recipe import recipe_for
from pushback_lib.model.voices import load_voices

PAIRED = complete_pairs(bundled_prompts(4))
SPEAKER = ScriptedSpeaker(4)


def request_of(prompt):
    return SPEAKER.requests[(*(turn.content for turn in prompt.history), prompt.user_input)]


def replies(thought, answer):
    """The friction voice's rows for every prompt."""
    return judge_replies(PAIRED, [{"friction": Reply(thought=thought(p), answer=answer(p), end="stop")} for p in PAIRED])


def test_the_dial_measures_every_setting_on_both_splits():
    now, asked = [], []

    @contextmanager
    def at(scale):
        now.append(scale)
        yield
        now.pop()

    def answer(prompt):
        """Complies below .5, is right up to 1.2, and always refuses above."""
        if now[0] >= 1.2:
            return "I will not help to do it."
        return request_of(prompt).eager[1] if now[0] < 0.5 else request_of(prompt).answer

    def say(thoughts):
        assert thoughts is None
        asked.extend(now)
        return replies(lambda prompt: "Hm.", answer)

    expected = {0.0: (0, 0, 0), 0.5: (16, 0, 16), 0.75: (16, 0, 16), 1.5: (16, 16, 0)}
    lines = dial(say, PAIRED, at, tuple(expected))
    assert asked == [*expected]
    names = ("friction", "over_friction", "pair_accuracy")
    shares = {(line["scale"], line["split"]): tuple(line[name].hits for name in names) for line in lines}
    assert shares == {(scale, split): hits for scale, hits in expected.items() for split in ("validation", "test")}
    assert recommend(lines) == 0.75
    assert {line["friction"].n for line in lines} == {16}


def test_the_test_split_has_no_say():
    hits = {(0.5, "validation"): 9, (1.0, "validation"): 8, (0.5, "test"): 1, (1.0, "test"): 99}
    lines = [{"scale": scale, "split": split, "pair_accuracy": wilson(n, 99)} for (scale, split), n in hits.items()]
    assert recommend(lines) == 0.5


def test_the_dial_needs_pairs_of_both_splits():
    with pytest.raises(PushbackError, match="both splits"):
        dial(None, [prompt for prompt in PAIRED if prompt.split == "test"], None)


def test_experiments_need_complete_pairs():
    friction = [prompt for prompt in PAIRED if is_friction(prompt)]
    with pytest.raises(PushbackError, match="twin"):
        complete_pairs(friction)
    assert complete_pairs([*friction, PAIRED[4 * 8]]) == [prompt for prompt in PAIRED if prompt.pair == PAIRED[4 * 8].pair]


def test_each_condition_gets_the_reasoning_it_names():
    given = []

    def say(thoughts):
        given.append(thoughts)
        own = {prompt.id: f"about {prompt.id}" for prompt in PAIRED} if thoughts is None else thoughts
        return replies(lambda prompt: own[prompt.id], lambda prompt: request_of(prompt).answer)

    lines = thinking(say, PAIRED)
    assert given[0] is None
    assert set(given[1].values()) == {""}
    about = {f"about {prompt.id}": prompt for prompt in PAIRED}
    for prompt in PAIRED:
        same_kind, twin = (about[thoughts[prompt.id]] for thoughts in given[2:])
        assert same_kind.kind == prompt.kind
        assert same_kind.id != prompt.id
        assert (twin.pair, is_friction(twin)) == (prompt.pair, not is_friction(prompt))
    assert [line["reasoning"] for line in lines] == [name for name in CONDITIONS for _ in range(2)]
    assert all((line["right"].hits, line["right"].n) == (32, 32) for line in lines)


def test_another_prompts_reasoning_needs_another_prompt():
    with pytest.raises(PushbackError, match="Only one prompt of kind 'false_claim'"):
        thinking(None, complete_pairs(bundled_prompts(1)))


@pytest.mark.slow
def test_on_the_bundled_model(tmp_path):
    """Dial 0 is the baseline; both experiments run, and write figures and pictures."""
    from peft.helpers import rescale_adapter_scale

    kinds = {"harmful", "look_alike"}
    tiny = load_voices(recipe_for("tiny"), four_bit=False)
    prompts = [prompt for prompt in complete_pairs(bundled_prompts(2)) if prompt.kind in kinds]
    run, some = local_run(tiny, prompts), prompts[:3]
    with rescale_adapter_scale(tiny.model, 0.0):
        off = answers(tiny, run, some, ["friction"])
    both = answers(tiny, run, some)
    assert [row.answer for row in off] == [row.answer for row in both if row.voice == "baseline"]
    mine = answers(tiny, run, some, ["friction"])
    assert [row.answer for row in mine] == [row.answer for row in both if row.voice == "friction"]
    again = answers(tiny, run, some, ["friction"], thoughts=[row.thought for row in mine])
    assert [(row.thought, row.answer) for row in again] == [(row.thought, row.answer) for row in mine]
    silent = answers(tiny, run, some, ["friction"], thoughts=[""] * 3)
    assert [row.thought for row in silent] == [""] * 3
    assert all(row.answer for row in silent)

    lines = list(run_all(tiny, prompts, tmp_path))
    assert any(line.startswith("recommended: ") for line in lines)
    assert any(line.startswith("dial 0, validation: friction 0 % [0–79] of 1, over-friction 0 %") for line in lines)
    found = json.loads((tmp_path / "dial.json").read_text(encoding="utf-8"))
    assert len(found["scales"]) == 14
    assert set(found["scales"][0]["friction"]) == {"hits", "n", "low", "high"}
    assert found["provenance"]["adapter"].startswith("sha256:")
    assert len(json.loads((tmp_path / "thinking.json").read_text(encoding="utf-8"))["conditions"]) == 8
    assert {path.name for path in tmp_path.iterdir()} == {"dial.json", "dial.png", "thinking.json", "thinking.png"}
