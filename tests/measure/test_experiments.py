import json
from contextlib import contextmanager

import pytest
from eval_rows_made import TIMINGS, ScriptedSpeaker, origin

from pushback_lib.core.common import PushbackError
from pushback_lib.core.records import Reply
from pushback_lib.measure.experiments import CONDITIONS, dial, recommend, run_all, speak_from, thinking, whole_pairs
from pushback_lib.measure.prompts import bundled_prompts, is_friction
from pushback_lib.measure.run import Job, judged
from pushback_lib.model.recipe import recipe_for
from pushback_lib.model.voices import load_speaker

PAIRED = whole_pairs(bundled_prompts(4))
SPEAKER = ScriptedSpeaker(4)
MADE = origin("bundled")


def request_of(prompt):
    return SPEAKER.texts[(prompt.user_input, *(turn.content for turn in prompt.history))]


def reply(prompt, thought, answer):
    return judged(Job(prompt, "friction", 0), Reply(thought=thought, answer=answer, end="stop"), TIMINGS, MADE)


class Dialled:
    """Complies below .5, is right up to 1.2, and always refuses above."""

    def __init__(self):
        self.scale, self.seen = None, []

    @contextmanager
    def at(self, scale):
        self.scale = scale
        yield
        self.scale = None

    def say(self, prompts):
        self.seen.append(self.scale)
        return [reply(prompt, "Hm.", self.answer(request_of(prompt))) for prompt in prompts]

    def answer(self, request):
        if self.scale < 0.5:
            return request.eager[1]
        return request.answer if self.scale < 1.2 else "I will not help to do it."


def test_the_dial_measures_every_setting_on_both_splits():
    dialled = Dialled()
    found = dial(dialled.say, PAIRED, dialled.at, (0.0, 0.5, 0.75, 1.5))
    assert dialled.seen == [0.0, 0.5, 0.75, 1.5]
    names = ("friction", "over_friction", "pair_accuracy")
    shares = {(line["scale"], line["split"]): tuple(line[name]["hits"] for name in names) for line in found["scales"]}
    assert shares == {
        **{(0.0, split): (0, 0, 0) for split in ("validation", "test")},
        **{(scale, split): (16, 0, 16) for scale in (0.5, 0.75) for split in ("validation", "test")},
        **{(1.5, split): (16, 16, 0) for split in ("validation", "test")},
    }
    assert found["recommended"] == 0.75
    assert all(
        line["friction"]["n"] == 16 and 0 <= line["friction"]["low"] <= line["friction"]["high"] <= 1
        for line in found["scales"]
    )


def test_the_test_split_has_no_say():
    hits = {(0.5, "validation"): 9, (1.0, "validation"): 8, (0.5, "test"): 1, (1.0, "test"): 99}
    lines = [{"scale": scale, "split": split, "pair_accuracy": {"hits": n}} for (scale, split), n in hits.items()]
    assert recommend(lines) == 0.5


def test_the_dial_needs_pairs_of_both_splits():
    with pytest.raises(PushbackError, match="both splits"):
        dial(None, [prompt for prompt in PAIRED if prompt.split == "test"], None)


def test_experiments_need_whole_pairs():
    friction = [prompt for prompt in PAIRED if is_friction(prompt)]
    with pytest.raises(PushbackError, match="twin"):
        whole_pairs(friction)
    assert whole_pairs([*friction, PAIRED[4 * 8]]) == [prompt for prompt in PAIRED if prompt.pair == PAIRED[4 * 8].pair]


def test_each_condition_gets_the_reasoning_it_names():
    given = []

    def say(prompts, thoughts):
        given.append(thoughts)
        own = [f"about {prompt.id}" for prompt in prompts] if thoughts is None else thoughts
        return [reply(prompt, thought, request_of(prompt).answer) for prompt, thought in zip(prompts, own, strict=True)]

    found = thinking(say, PAIRED)
    assert given[0] is None
    assert set(given[1]) == {""}
    for prompt, same_kind, twin in zip(PAIRED, given[2], given[3], strict=True):
        other = {f"about {p.id}": p for p in PAIRED}
        assert other[same_kind].kind == prompt.kind
        assert other[same_kind].id != prompt.id
        assert (other[twin].pair, is_friction(other[twin])) == (prompt.pair, not is_friction(prompt))
    assert [line["reasoning"] for line in found["conditions"]] == [name for name in CONDITIONS for _ in range(2)]
    assert all((line["right"]["hits"], line["right"]["n"]) == (32, 32) for line in found["conditions"])


def test_another_prompts_reasoning_needs_another_prompt():
    with pytest.raises(PushbackError, match="Only one prompt of kind 'false_claim'"):
        thinking(None, whole_pairs(bundled_prompts(1)))


@pytest.fixture(scope="module")
def tiny():
    return load_speaker(recipe_for("tiny"))


@pytest.mark.slow
def test_on_the_bundled_model(tiny, tmp_path):
    """Dial 0 is the baseline; both experiments run, and write figures and pictures."""
    from peft.helpers import rescale_adapter_scale

    from pushback_lib.measure.run import Sampling, local_plan

    prompts = whole_pairs(bundled_prompts(2))
    adapter = tiny.recipe.shipped_adapter
    plan = local_plan(tiny, adapter, prompts, "bundled", Sampling())
    some = prompts[:3]
    with rescale_adapter_scale(tiny.model, 0.0):
        off = speak_from(tiny, plan, some)
    both = [tiny.speak([plan.messages(prompt, "friction")])[0] for prompt in some]
    assert [row.answer for row in off] == [one["baseline"].answer for one in both]
    assert [row.answer for row in speak_from(tiny, plan, some)] == [one["friction"].answer for one in both]
    silent = speak_from(tiny, plan, some, [""] * 3)
    assert [row.thought for row in silent] == [""] * 3
    assert all(row.answer for row in silent)

    lines = list(run_all(tiny, adapter, prompts, "bundled", tmp_path))
    assert any(line.startswith("recommended: ") for line in lines)
    found = json.loads((tmp_path / "dial.json").read_text(encoding="utf-8"))
    assert len(found["scales"]) == 14
    assert found["provenance"]["adapter"].startswith("sha256:")
    assert len(json.loads((tmp_path / "thinking.json").read_text(encoding="utf-8"))["conditions"]) == 8
    assert {path.name for path in tmp_path.iterdir()} == {"dial.json", "dial.png", "thinking.json", "thinking.png"}
