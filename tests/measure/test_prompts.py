import json
import random
from collections import Counter

import pytest
from examples import row as row_of_record

from pushback_lib.core.common import DATA, PushbackError
from pushback_lib.core.files import read_jsonl
from pushback_lib.core.records import Record, load_records, save_records
from pushback_lib.data.probe import fit_probe
from pushback_lib.language.requests import FRICTION_KINDS, KINDS
from pushback_lib.measure.prompts import (
    bundled_prompts,
    held_out_requests,
    is_friction,
    kind_of,
    load_prompts,
    pairs_of,
    prompt_set_hash,
    prompts_for,
    short_prompts,
)  # fmt: skip
from pushback_lib.model.recipe import recipe_for


def row(half="friction", pair="p1", **changes):
    wants = "disagree" if half == "friction" else "comply"
    return {"id": f"{pair}-{half}", "pair": pair, "behaviour": "disagree", "wants": wants, "domain": "tests",
            "scenario": "tests/one", "split": "test", "user_input": f"Is {pair} right?", "must": [], "note": "",
            **changes}  # fmt: skip


def stored(tmp_path, *rows):
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join(one if isinstance(one, str) else json.dumps(one) for one in rows), encoding="utf-8")
    return path


def test_a_pair_is_read_with_its_kinds(tmp_path):
    friction, twin = load_prompts(stored(tmp_path, row(), row("twin")))
    assert (is_friction(friction), is_friction(twin)) == (True, False)
    assert (kind_of(friction), kind_of(twin)) == ("disagree", "disagree twin")


BROKEN = [
    ("{", "line 3: not valid JSON"),
    ("[1]", "line 3: a JSON list"),
    (row(pair="p2", wants="argue"), "line 3: wants: Input should be"),
    (row(pair="p2", split="train"), "line 3: split: Input should be"),
    (row(pair="p2", colour="red"), "line 3: colour: Extra inputs"),
    (row(pair="p2", user_input=" "), "line 3: id or user_input is empty"),
    (row(), "line 3: id 'p1-friction' is in line 1 already"),
    (row(pair="p2"), "line 3: pair 'p2' needs one friction prompt and one twin, and has 1"),
    (row(pair="p1", id="third"), "line 3: pair 'p1' needs one friction prompt and one twin, and has 3"),
    ({key: value for key, value in row(pair="p2").items() if key != "wants"}, "line 3: wants: Field required"),
]


@pytest.mark.parametrize(("line", "message"), BROKEN)
def test_a_broken_line_is_named(tmp_path, line, message):
    with pytest.raises(PushbackError) as caught:
        load_prompts(stored(tmp_path, row(), row("twin"), line))
    assert message in str(caught.value)


@pytest.mark.parametrize("change", [{"split": "validation"}, {"behaviour": "refuse"}])
def test_halves_must_belong_together(tmp_path, change):
    with pytest.raises(PushbackError, match="differ in behaviour or split"):
        load_prompts(stored(tmp_path, row(), row("twin", **change)))


def test_an_empty_file_is_named(tmp_path):
    with pytest.raises(PushbackError, match="holds no prompts"):
        load_prompts(stored(tmp_path, ""))


def test_the_bundled_prompts_are_the_demos_requests():
    prompts, requests = bundled_prompts(), held_out_requests()
    assert [(p.kind, p.user_input, p.history, p.must, p.wants) for p in prompts] == [
        (r.kind, r.user, r.history, r.must, r.wants) for r in requests
    ]


def test_bundled_pairs_are_whole_and_split_in_two():
    prompts = bundled_prompts(4)
    assert len({prompt.id for prompt in prompts}) == len(prompts) == 4 * len(KINDS)
    pairs = {}
    for prompt in prompts:
        pairs.setdefault(prompt.pair, []).append(prompt)
    plain = pairs.pop("")
    assert {prompt.behaviour for prompt in plain} == {"plain"}
    assert len(pairs) == 4 * len(FRICTION_KINDS)
    for friction, twin in pairs.values():
        assert (is_friction(friction), is_friction(twin), twin.kind) == (True, False, FRICTION_KINDS[friction.kind][1])
        assert friction.split == twin.split
        assert friction.behaviour == twin.behaviour
    assert {prompt.split for prompt in prompts} == {"validation", "test"}


def test_the_hash_knows_the_prompts_and_not_their_order():
    prompts = bundled_prompts(2)
    shuffled = random.Random(1).sample(prompts, len(prompts))
    assert prompt_set_hash(shuffled) == prompt_set_hash(prompts) != prompt_set_hash(prompts[1:])


def test_the_bundled_prompts_are_drawn_as_when_the_shipped_model_was_trained():
    # model and adapter were trained on these exact draws: what they hold out is what is asked here
    assert prompt_set_hash(bundled_prompts()) == "ac65c3922d0b5fa78f1e41929cfeb6645fabdaf41430d802e5b7fa37c2c39ca9"


def test_version_1_hashes_as_before_prompts_had_a_level_and_answers():
    assert prompt_set_hash(load_prompts("v1")) == "362914dbdd20f60911dd6c6c60db25d852739befef884880f3fc8e2219463e63"


@pytest.mark.parametrize(
    "more", [{"level": "easy"}, {"must_not": ("a",)}, {"also_right": ("doubt",)}, {"right": "No."}, {"eager": "Yes."}]
)
def test_the_hash_knows_what_a_prompt_has_more(more):
    prompts = bundled_prompts(1)
    assert prompt_set_hash([prompts[0].model_copy(update=more), *prompts[1:]]) != prompt_set_hash(prompts)


def test_every_prompt_has_two_answers_of_which_only_the_right_one_has_the_content():
    for prompt in load_prompts():
        assert prompt.right, prompt.id
        assert prompt.eager not in ("", prompt.right), prompt.id
        content = [all(must.lower() in answer.lower() for must in prompt.must)
                   and not any(bad.lower() in answer.lower() for bad in prompt.must_not)
                   for answer in (prompt.right, prompt.eager)]  # fmt: skip
        assert content[0], prompt.id
        assert not content[1] or not (prompt.must or prompt.must_not) or prompt.behaviour == "pressure", prompt.id


def test_pressure_is_two_to_five_pushes_and_short_plain_requests_are_short():
    prompts = load_prompts()
    pushes = [Counter(turn.role for turn in prompt.history)["user"] for prompt in prompts
              if prompt.behaviour == "pressure" and prompt.level != "easy"]  # fmt: skip
    assert Counter(pushes) == {2: 12, 3: 12, 4: 12, 5: 12}  # the first request is no push, the last is `user_input`
    short = [prompt for prompt in prompts if prompt.kind == "short plain"]
    assert len(short) == 48
    assert {prompt.wants for prompt in short} == {"comply"}
    assert max(len(prompt.user_input.split()) for prompt in short) <= 12


def test_neither_length_nor_a_question_mark_tells_the_halves_of_a_pair_apart():
    pairs = pairs_of(load_prompts())
    apart = [len(push.user_input.split()) - len(twin.user_input.split()) for push, twin in pairs]
    assert abs(sum(apart) / len(apart)) < 0.5
    marks = [("?" in push.user_input) - ("?" in twin.user_input) for push, twin in pairs]
    assert abs(sum(marks)) <= 3
    assert sum(map(abs, marks)) <= 9


def test_a_probe_of_version_1s_requests_is_near_chance_within_the_pairs():
    """The look of the old training set does not tell the halves of a pair apart."""
    old = [row for _, row in read_jsonl(DATA / "friction" / "v1-requests.jsonl")]
    probe = fit_probe([row["user_input"] for row in old],
                      ["plain" if row["behaviour"] == "comply" else "friction" for row in old])  # fmt: skip
    told = probe.within_pairs([(push.asked, twin.asked) for push, twin in pairs_of(load_prompts())], "friction")
    assert told.n >= 300
    assert told.share <= 0.57, told


def test_records_become_prompts_with_an_answer_of_another_behaviour_of_their_scenario():
    records = load_records(DATA / "friction" / "test.jsonl")
    prompts, by_id = load_prompts(DATA / "friction" / "test.jsonl"), {one.id: one for one in records}
    by_answer = {one.answer: one for one in records}
    assert [(p.id, p.user_input, p.wants, p.right) for p in prompts] == [
        (r.id, r.user_input, r.behaviour, r.answer) for r in records
    ]
    for prompt in prompts:
        own, other = by_id[prompt.id], by_answer[prompt.eager]
        assert other.scenario == own.scenario
        assert other.behaviour != own.behaviour
        plain = any(one.scenario == own.scenario and one.behaviour == "comply" for one in records)
        assert (other.behaviour == "comply") == (plain and own.behaviour != "comply")
    assert {kind_of(prompt) for prompt in prompts} == {"disagree", "clarify", "doubt", "refuse", "plain"}
    assert {prompt.split for prompt in prompts} == {"test"}
    assert load_prompts(DATA / "friction" / "validation.jsonl")[0].split == "validation"


def test_a_record_without_labels_is_no_prompt(tmp_path):
    bare = Record.model_validate({**row_of_record(), "subset": "unlabelled", "behaviour": "unlabelled"})
    save_records(tmp_path / "test.jsonl", [bare])
    with pytest.raises(PushbackError, match=f"Record '{bare.id}' has no behaviour"):
        load_prompts(tmp_path / "test.jsonl")


def test_a_short_set_keeps_pairs_whole():
    assert short_prompts(bundled_prompts(5), 2) == [p for p in bundled_prompts(5) if int(p.id[-3:]) < 2]


@pytest.mark.parametrize(
    ("name", "of_a_kind", "levels"), [("tiny", 18, {""}), ("english", 10, {"easy"}), ("7b", 11, {"normal", "hard"})]
)
def test_a_model_is_asked_what_it_can_understand(name, of_a_kind, levels):
    prompts = prompts_for(recipe_for(name), 3)
    assert Counter(kind_of(prompt) for prompt in prompts) == dict.fromkeys({kind_of(p) for p in prompts}, 3)
    assert len(prompts) == 3 * of_a_kind
    assert {prompt.level for prompt in prompts} == levels
    assert name == "tiny" or {prompt.split for prompt in prompts} == {"test"}
    pairs = pairs_of(prompts)
    assert len(pairs) == sum(prompt.wants != "comply" for prompt in prompts)
    assert all(push.pair == twin.pair and push.wants != twin.wants == "comply" for push, twin in pairs)


def test_half_a_pair_is_no_pair():
    push, twin = prompts_for(recipe_for("english"), 1)[:2]
    assert pairs_of([twin, push]) == [(push, twin)]
    assert pairs_of([push]) == pairs_of([twin]) == []


def test_the_shipped_prompts_keep_what_the_kit_promises():
    prompts = load_prompts()
    pairs = Counter((push.level == "easy", push.split) for push, _ in pairs_of(prompts))
    assert sum(pairs.values()) >= 300
    assert pairs[True, "test"] >= 80
    assert pairs[True, "validation"] >= 40
    assert {prompt.behaviour for prompt in prompts} == {"disagree", "clarify", "doubt", "refuse", "pressure", "plain"}
    assert all(prompt.history for prompt in prompts if prompt.behaviour == "pressure")
    assert all(prompt.pair for prompt in prompts if prompt.kind != "short plain")
