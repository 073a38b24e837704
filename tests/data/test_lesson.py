"""What a model would learn from a data set: each check on a small set that passes, and with a planted fault."""

import random

import pytest
from examples import record, thought

from pushback_lib.cli import main
from pushback_lib.core.common import DATA, PushbackError
from pushback_lib.core.records import PERSONA_NAMES
from pushback_lib.data import lesson
from pushback_lib.data.checks import check_splits, load_splits
from pushback_lib.data.probe import fit_probe, held_out_shares

THINGS = "kettle ladder violin pump bridge lease oven tent ferry fence statue puzzle".split()
DRY = random.Random(3).choices((True, False), k=400)
KINDS = random.Random(4).choices(("disagree", "clarify", "doubt", "refuse"), k=400)


def request(number: int, plain: bool) -> str:
    """The same words on both sides; one of them decides, and no word is always on one side."""
    good, bad = ("dry", "wet") if DRY[number] else ("wet", "dry")
    return f"The {THINGS[number % 12]} number {number} is {good if plain else bad}, so I will paint it today"


def half(number: int, plain: bool, **changes):
    """One half of a sound pair."""
    behaviour = "comply" if plain else KINDS[number]
    thoughts = [thought(name, f"{THINGS[number % 12]} {number}", not plain) for name in PERSONA_NAMES]
    thoughts[4]["thought"] = f"But that holds only for paint on number {number}; nobody has opened it."
    text = {
        "user_input": request(number, plain),
        "answer": f"Number {number} is what it is. So wait for it. Then paint it at {number}.",
    }
    return record(number, behaviour, id=f"{number}-{plain}", scenario=f"s/{number}", pair=f"p{number}",
                  **{"level": "normal", "thoughts": thoughts, **text, **changes})  # fmt: skip


def sound(count: int = 320, **changes) -> dict[str, list]:
    """Pairs in three splits; every tenth has an earlier turn."""
    records = []
    for number in range(count):
        more = (
            {"history": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Yes?"}]}
            if number % 10 == 0
            else {}
        )
        records += [half(number, plain, **more, **changes) for plain in (True, False)]
    cut = 2 * int(0.8 * count)
    return {"train": records[:cut], "validation": records[cut : cut + 64], "test": records[cut + 64 :]}


PROBED = ("request gives the behaviour away", "request gives friction away", "look within pairs",
          "first thought gives the behaviour away")  # fmt: skip


def found(splits, name):
    probed = lesson.probe_checks(splits) if name in PROBED else lesson.text_lessons(splits)
    return next(finding for finding in probed if finding.name == name)


@pytest.fixture(scope="module")
def findings():
    return {finding.name: finding for finding in lesson.lesson_checks(sound())}


def test_a_sound_set_passes_each_check(findings):
    assert set(findings) == {*PLANTED, "names and numbers from elsewhere"}
    assert [str(one) for one in findings.values() if not one.ok] == []


def changed(**how):
    """The sound set with some texts changed by `how[field](record)`."""
    return {name: [one.model_copy(update={field: change(one) for field, change in how.items()}) for one in part]
            for name, part in sound().items()}  # fmt: skip


def plain(one) -> bool:
    return one.behaviour == "comply"


FIRST = {"comply": "Nice and easy work.", "disagree": "Wrong claim here.", "clarify": "Which one is meant?",
         "doubt": "Who knows that?", "refuse": "Harm to somebody."}  # fmt: skip


def first_tells(one):
    first = one.thoughts[0].model_copy(update={"thought": f"{FIRST[one.behaviour]} {one.id}", "friction": ""})
    return (first, *one.thoughts[1:])


def past_each_other(one):
    """No two thoughts share a word."""
    return tuple(thought.model_copy(update={"thought": f"{letter * 8} {letter * 9} {one.id}", "friction": ""})
                 for letter, thought in zip("abcdef", one.thoughts, strict=True))  # fmt: skip


def she_wants(one):
    return (one.thoughts[0].model_copy(update={"thought": "What she wants is paint.", "friction": ""}), *one.thoughts[1:])


PLANTED = {
    "request gives the behaviour away": {"user_input": lambda one: f"{one.user_input} {one.behaviour} {one.behaviour}"},
    "request gives friction away": {"user_input": lambda one: f"{'Please' if plain(one) else 'Now'}: {one.user_input}"},
    "look within pairs": {"user_input": lambda one: f"{one.user_input}{' please' if plain(one) else '!'}"},
    "first thought gives the behaviour away": {"thoughts": first_tells},
    "question marks": {"user_input": lambda one: one.user_input + "?" * (one.behaviour == "doubt")},
    "short requests": {"user_input": lambda one: one.user_input + " and then again" * 3 * (one.behaviour != "clarify")},
    "long requests": {"user_input": lambda one: one.user_input + " and then once more" * 8 * (one.behaviour == "refuse")},
    "scary words": {"user_input": lambda one: one.user_input + " with poison" * plain(one)},
    "lists in answers": {"answer": lambda one: ("- one\n- two\n" * plain(one)) + one.answer},
    "no debate": {"thoughts": past_each_other},
    "thinking on plain requests": {"thoughts": lambda one: one.thoughts[4:6] if plain(one) else one.thoughts},
    "quips at the end": {"answer": lambda one: one.answer + " Paint has its pride."},
    "he or she": {"thoughts": she_wants},
    "turns": {"history": lambda one: ()},
    "levels": {"level": lambda one: ""},
    "overlap with data/eval": {"scenario": lambda one: "geography/nairobi-capital" if one.id == "7-True" else one.scenario},
}  # fmt: skip


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_is_found_and_its_records_are_named(name):
    one = found(changed(**PLANTED[name]), name)
    assert not one.ok, one
    assert one.ids or name == "turns"


def test_what_pairs_are_missing_counts_as_given_away():
    one = found(sound(120), "look within pairs")
    assert not one.ok
    assert "180 missing" in one.detail


def test_names_and_numbers_from_elsewhere_are_listed_and_never_fail():
    splits = sound()
    splits["test"][3] = splits["test"][3].model_copy(update={"answer": "Ask Miriam Opare. She has 4711 of them. Then paint."})
    one = found(splits, "names and numbers from elsewhere")
    assert one.ok
    assert splits["test"][3].id in one.ids


def test_a_request_that_is_nearly_one_kept_for_measuring_is_found():
    splits = sound()
    copied = "Nairobi is the capital of Tanzania, right, I think?"
    splits["train"][5] = splits["train"][5].model_copy(update={"user_input": copied})
    assert found(splits, "overlap with data/eval").ids == (splits["train"][5].id,)


def test_of_a_single_file_only_its_texts_are_judged():
    names = {finding.name for finding in lesson.lesson_checks({"": sound(40)["train"]})}
    assert names == {"quips at the end", "he or she", "names and numbers from elsewhere", "overlap with data/eval"}


# The probe


def test_a_probe_learns_a_telling_word_and_names_it():
    texts = [f"{'kindly' if n % 2 else 'rather'} paint the {THINGS[n % 12]} {n}" for n in range(80)]
    labels = ["plain" if n % 2 else "friction" for n in range(80)]
    probe = fit_probe(texts, labels)
    assert probe.predict(["kindly mend the tent", "rather mend the tent"]) == ["plain", "friction"]
    assert any("kindly" in word for word in probe.favourites("plain", 3))
    assert any("rather" in word for word in probe.favourites("friction", 3))
    with pytest.raises(PushbackError, match=r"knows no 'doubt'\. Its labels are friction, plain"):
        probe.favourites("doubt")


def test_held_out_shares_never_come_from_a_probe_that_saw_the_group():
    """Each group has a word of its own, and its label is a coin's: only a leak could read it off."""
    coin = random.Random(5)
    groups = [f"g{n // 4}" for n in range(240)]
    label_of = {group: coin.choice("ab") for group in groups}
    labels, shares = held_out_shares([f"{group}x {group}y paint it" for group in groups], [label_of[g] for g in groups], groups)
    right = sum(labels[row.argmax()] == label_of[group] for row, group in zip(shares, groups, strict=True))
    assert right < 0.65 * len(groups)


def test_a_probe_needs_two_labels():
    with pytest.raises(PushbackError, match="all 3 texts have the same"):
        fit_probe(["a", "b", "c"], ["x", "x", "x"])


RED = {  # until the data set teaches the line: what is red on it, by name, strictly
    "plain share", "request gives the behaviour away", "request gives friction away", "look within pairs",
    "first thought gives the behaviour away", "question marks", "short requests", "long requests", "scary words",
    "lists in answers", "no debate", "thinking on plain requests", "quips at the end", "he or she", "turns", "levels",
}  # fmt: skip


def test_of_the_shipped_set_exactly_the_named_checks_are_red(capsys):
    folder = DATA / "friction"
    red = {finding.name for finding in check_splits(load_splits(folder)) if not finding.ok}
    assert red == RED
    assert main(["data", "check", str(folder)]) == bool(RED)
    assert "checks hold" in capsys.readouterr().out
