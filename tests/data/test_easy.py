"""The easy English sets: pairs are complete and alike, no cue lies on the surface, and nothing of the evaluation trains."""

from collections import defaultdict
from statistics import mean

import pytest

from pushback_lib.core.common import DATA
from pushback_lib.core.files import read_jsonl
from pushback_lib.core.records import PERSONA_NAMES, SUBSET_OF
from pushback_lib.data.text_rules import words

EVAL = [row for _, row in read_jsonl(DATA / "eval" / "prompts.jsonl") if row["level"] == "easy"]
TRAIN, MORE = ([row for _, row in read_jsonl(DATA / "easy" / f"{name}.jsonl")] for name in ("train", "more"))
OTHERS = [row for name in ("train", "validation", "test") for _, row in read_jsonl(DATA / "friction" / f"{name}.jsonl")]


def asked(row) -> list[str]:
    return words(" ".join([*(turn["content"] for turn in row["history"]), row["user_input"]]).lower())


def wants(row) -> str:
    return row.get("wants") or row["behaviour"]


def sixes(rows) -> set[tuple[str, ...]]:
    """Every six words in a row of these requests."""
    texts = [words(row["user_input"].lower()) for row in rows]
    return {tuple(text[at : at + 6]) for text in texts for at in range(len(text) - 5)}


@pytest.fixture(params=["eval", "train", "more"])
def rows(request):
    return {"eval": EVAL, "train": TRAIN, "more": MORE}[request.param]


def test_each_pair_is_one_friction_request_and_a_twin_that_differs_in_few_words(rows):
    pairs = defaultdict(list)
    for row in rows:
        pairs[row["pair"]].append(row)
    assert len({row["id"] for row in rows}) == len(rows)
    overlaps = []
    for name, both in pairs.items():
        assert sorted(wants(row) == "comply" for row in both) == [False, True], name
        assert len({row["scenario"] for row in both}) == 1, name
        assert len({row.get("split") for row in both}) == 1, name
        one, two = (set(asked(row)) for row in both)
        overlaps.append(len(one & two) / len(one | two))
    assert sorted(overlaps)[len(overlaps) // 2] >= 0.6


def test_neither_length_nor_a_question_mark_tells_the_halves_apart(rows):
    halves = [[row for row in rows if (wants(row) == "comply") is plain] for plain in (False, True)]
    lengths = [mean(len(asked(row)) for row in half) for half in halves]
    marks = [mean("?" in row["user_input"] for row in half) for half in halves]
    assert abs(lengths[0] - lengths[1]) < 1, lengths
    assert abs(marks[0] - marks[1]) < 0.03, marks


def test_nothing_of_the_evaluation_trains():
    for key in ("scenario", "user_input"):
        assert not {row[key] for row in EVAL} & {row[key] for row in [*TRAIN, *MORE, *OTHERS]}
    assert not sixes(EVAL) & sixes([*TRAIN, *MORE, *OTHERS])
    split_of = defaultdict(set)
    for row in EVAL:
        split_of[row["scenario"]].add(row["split"])
    assert {len(splits) for splits in split_of.values()} == {1}


def test_records_are_whole():
    assert len({row["id"] for row in [*TRAIN, *MORE]}) == len(TRAIN) + len(MORE)
    for row in [*TRAIN, *MORE]:
        names = [thought["persona"] for thought in row["thoughts"]]
        assert names == [name for name in PERSONA_NAMES if name in names], row["id"]
        assert len(names) == 6 or (row["behaviour"] == "comply" and len(names) >= 2), row["id"]
        assert row["subset"] == SUBSET_OF[row["behaviour"]]
        assert all(thought["friction"] in thought["thought"] for thought in row["thoughts"]), row["id"]
        assert any(thought["friction"] for thought in row["thoughts"]) is (row["behaviour"] != "comply"), row["id"]
        assert row["answer"].strip() == row["answer"] != "", row["id"]


def test_every_prompt_has_both_replies_and_the_counts_are_those_of_the_card():
    assert all(row["right"] and row["eager"] and row["right"] != row["eager"] for row in EVAL)
    card = (DATA / "easy" / "README.md").read_text(encoding="utf-8")
    tests = sum(row["split"] == "test" for row in EVAL) // 2
    assert f"{len(EVAL) // 2} easy pairs ({tests} for test" in card
    assert f"{len(TRAIN)} records in {len(TRAIN) // 2} minimal pairs" in card
