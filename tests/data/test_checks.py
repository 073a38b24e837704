"""Each check on a set that passes and on one broken on purpose, the report, the card, and the text rules."""

from __future__ import annotations

import json
import random

import pytest
from examples import record, row, thought

from pushback_lib.cli import main
from pushback_lib.core.common import PushbackError
from pushback_lib.core.records import PERSONA_NAMES, save_records
from pushback_lib.data.card import card, counter, figures, write_card, write_report
from pushback_lib.data.checks import (
    Finding,
    balance_checks,
    check_splits,
    jaccard,
    load_splits,
    near_pairs,
    relevance,
    repeat_checks,
    shingles,
)
from pushback_lib.data.text_rules import control_tokens, looks_english, personal_data

CYCLE = ("disagree", "clarify", "refuse", "comply")


def sound(count: int = 60) -> list:
    return [record(number, CYCLE[number % 4]) for number in range(count)]


def changed(*places: int, count: int = 100, **changes) -> list:
    """A sound set, but for some records; "{}" in a change is the record's own text."""
    records = sound(count)
    for place in places:
        own = {name: value.format(getattr(records[place], name)) for name, value in changes.items()}
        records[place] = records[place].model_copy(update=own)
    return records


def named(name: str, findings: list[Finding]) -> Finding:
    return next(finding for finding in findings if finding.name == name)


def cli(*args: str) -> int:
    return main(["data", *args])


# Text rules

ENGLISH = [
    ("The backup is old and nobody has looked at it.", True),
    ("Offer concrete titles with low peril, plus non-fiction.", True),
    ("Whole roof or patch was never said.", True),
    ("Run `git log --oneline` first.\n```\ngit der die das und nicht\n```", True),
    ("Señora Muñoz said the café in Zürich was never her idea.", True),
    ("Tent, van or bivvy bag fall under different rules.", True),
    ("", True),
    ("Das ist keine gute Idee.", False),
    ("Je ne sais pas, désolé.", False),
    ("No creo que este plan sea bueno, porque nadie ha comprobado la copia.", False),
    ("Ik denk dat dit plan niet goed is.", False),
    ("Penso che questo piano non sia buono, perché nessuno ha controllato.", False),
    ("Это плохой план.", False),
    ("我认为这个计划不好。", False),
    ("The plan is 不好，因为没有人检查过备份。", False),
]


@pytest.mark.parametrize(("text", "wanted"), ENGLISH)
def test_english_or_not(text, wanted):
    assert looks_english(text) == wanted, text


TAGS = [
    ("<think>", True),
    ("so</think> there", True),
    ("<|im_start|>user", True),
    ("<｜end▁of▁sentence｜>", True),
    ("[INST] hi [/INST]", True),
    ("</s>", True),
    ("<end_of_turn>", True),
    ("a < b and c > d", False),
    ("use <strong> and <span> here", False),
    ("x | y || z", False),
    ("I think so", False),
]


@pytest.mark.parametrize(("text", "wanted"), TAGS)
def test_control_tokens(text, wanted):
    assert bool(control_tokens(text)) == wanted, text


PERSONAL = [
    ("write to jo.smith@mail-company.com", True),
    ("write to someone@example.com", False),
    ("call +31 6 1234 5678 now", True),
    ("call (415) 555-2671", True),
    ("pay with 4111 1111 1111 1111", True),
    ("pay with 4111 1111 1111 1112", False),
    ("the counts were 31 28 35 40 44 71 66 33 30", False),
    ("send it to DE89 3704 0044 0532 0130 00", True),
    ("send it to DE00 3704 0044 0532 0130 00", False),
    ("ping 8.8.8.8", True),
    ("ping 192.168.0.1 or 127.0.0.1", False),
    ("version 1.2.3", False),
    ("in 1989 and 2024, 10,000,000 people", False),
    ("cost 2500-3000 a year, 20-30 %", False),
]


@pytest.mark.parametrize(("text", "wanted"), PERSONAL)
def test_personal_data(text, wanted):
    assert bool(personal_data(text)) == wanted, f"{text!r} -> {personal_data(text)}"


# Checks of texts


def test_a_sound_set_passes_every_check():
    for finding in check_splits({"": sound()}):
        assert finding.ok, finding
        assert not finding.ids or finding.limit != 0


GERMAN = "Das ist keine gute Idee, weil niemand die Sicherung geprüft hat und wir sie brauchen."
NOT_OPENED = [thought(name, "kettle", name != "Synthesizer") for name in PERSONA_NAMES]
IN_GERMAN = [*row()["thoughts"][:5], {"persona": "Synthesizer", "thought": GERMAN, "friction": "niemand"}]
ALIKE = [record(n, answer=f"Item{n} is {n} and next to item{n + 1}.") for n in range(100)]
STEP = [found.model_copy(update={"answer": f"{found.answer} Let us take a step back here."}) for found in ALIKE[:4]]
BROKEN = [
    ("language", changed(7, answer=GERMAN), (7,), "English"),
    ("language", [record(1), record(5, thoughts=IN_GERMAN)], (5,), "English"),
    ("control tokens", changed(7, answer="Take the lid off <|im_end|> and then let it dry for an hour or so."), (7,), "tags"),
    ("control tokens", changed(7, user_input="</think> what about my kettle?"), (7,), "tags"),
    ("stored errors", changed(7, answer="Error: the model is overloaded, please try again in a minute."), (7,), "Error:"),
    ("personal data", changed(7, answer="Write to jo.smith@mail-company.com and ask her for the lid."), (7,), "e-mail"),
    ("lengths", changed(7, count=60, answer="No."), (7,), "8 to 300"),
    ("lengths", changed(7, count=60, answer="the kettle is old " * 90), (7,), "8 to 300"),
    ("ids", [record(1), record(2), record(1)], (1,), "of 2"),
    ("personas", [record(1), record(2, thoughts=NOT_OPENED)], (2,), "without six"),
    ("personas", [record(3, "comply", thoughts=[thought("Synthesizer", "kettle")]), record(4, "comply")], (3,), "plain"),
    ("near-duplicate answers", changed(9, count=60, answer=f"{sound()[3].answer} Really."), (3, 9), "in 1 pairs"),
    ("answer openings", changed(5, 20, 60, answer="I hear you, friend: {}"), (5, 20, 60), "'i hear you friend'"),
    ("stock phrases", [*STEP, *ALIKE[4:]], (0, 1, 2, 3), "take a step back"),
]


@pytest.mark.parametrize(("name", "records", "numbers", "says"), BROKEN)
def test_what_breaks_a_rule_is_found_with_its_ids(name, records, numbers, says):
    finding = named(name, check_splits({"": records}))
    assert finding.ids == tuple(f"t-{number:04d}" for number in numbers)
    assert not finding.ok
    assert says in finding.detail


def test_answers_dealt_to_the_wrong_requests_are_found():
    topics = [f"alpha{number} beta{number} gamma{number}" for number in range(120)]
    topics = ["".join(random.Random(topic).choices("abcdefghij", k=9)) for topic in topics]
    fits = [
        record(n, user_input=f"Should I sell the {t} now?", answer=f"Keep the {t} until spring, it costs you nothing.")
        for n, t in enumerate(topics)
    ]
    assert relevance(fits).count == 0
    answers = [found.answer for found in fits]
    dealt = [found.model_copy(update={"answer": answers[n - 1]}) for n, found in enumerate(fits)]
    finding = relevance(dealt)
    assert not finding.ok
    assert finding.count > 90


def test_relevance_needs_enough_requests_to_compare_with():
    finding = relevance(sound(20))
    assert finding.limit is None
    assert finding.ok


# Checks for repetition


def test_near_duplicates_are_found_and_likeness_is_exact():
    base = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
    near = base.replace("fourteen", "fifteen")  # 9 of 11 shingles
    far = "one two three four five six seven and then something else altogether comes in here"
    assert near_pairs([base, far, near, "short", "Short!"]) == [(0, 2), (3, 4)]
    one, other = shingles(base), shingles(near)
    assert jaccard(one, other) == pytest.approx(9 / 11)


def test_candidates_miss_no_pair_that_a_full_comparison_finds():
    draw = random.Random(3)
    words = [f"w{number}" for number in range(400)]
    texts = []
    for _ in range(60):
        text = draw.choices(words, k=60)
        again = [*text]
        for place in draw.sample(range(60), draw.randint(0, 5)):
            again[place] = draw.choice(words)
        texts += [" ".join(text), " ".join(again)]
    sets = [shingles(text) for text in texts]
    full = {(i, j) for j in range(len(sets)) for i in range(j) if jaccard(sets[i], sets[j]) > 0.5}
    assert len(full) > 30
    assert set(near_pairs(texts)) == full


def test_distinct_requests_ignore_case_and_spacing():
    finding = named("distinct requests", repeat_checks(changed(8, user_input=sound()[2].user_input.upper().replace(" ", "  "))))
    assert (finding.count, finding.limit, finding.ids) == (1, 2, ("t-0008",))


def test_thoughts_used_more_than_three_times_are_counted():
    same = [thought(name, "kettle") for name in PERSONA_NAMES]
    few, many = ([record(n, thoughts=same) for n in range(uses)] for uses in (3, 4))
    assert named("repeated thoughts", repeat_checks(few)).count == 0
    finding = named("repeated thoughts", repeat_checks(many))
    assert (finding.count, finding.ok) == (24, False)


# Checks of the balance


def a_hundred(plain: int) -> list:
    return [record(n, "comply" if n < plain else "doubt") for n in range(100)]


BALANCE = [
    ("size", [record(0)] * 1_990, 10),
    ("size", [record(0)] * 2_000, 0),
    ("size", [record(0)] * 3_000, 0),
    ("size", [record(0)] * 3_007, 7),
    ("scenarios", [record(n, scenario=f"s/{n}") for n in range(690)], 10),
    ("scenarios", [record(n, scenario=f"s/{n}") for n in range(700)], 0),
    ("plain share", a_hundred(19), 1),
    ("plain share", a_hundred(20), 0),
    ("plain share", a_hundred(30), 0),
    ("plain share", a_hundred(33), 3),
    ("domain balance", sound(), 53),  # one domain, of which 12 % are allowed
    ("domain balance", [record(n, domain=f"domain {n % 12}") for n in range(240)], 0),
]


@pytest.mark.parametrize(("name", "records", "wrong"), BALANCE)
def test_records_that_are_missing_or_too_many_are_counted(name, records, wrong):
    finding = named(name, balance_checks({"train": records}))
    assert (finding.count, finding.ok) == (wrong, wrong == 0)


def test_an_absent_subset_is_missed():
    records = [record(n, "disagree" if n < 40 else "doubt") for n in range(80)]
    finding = named("subset balance", balance_checks({"train": records}))
    assert not finding.ok
    assert "reluctance 0.0 %" in finding.detail


def test_a_scenario_or_a_request_in_two_splits_is_found():
    one, two, three = record(1, scenario="a"), record(2, scenario="b"), record(3, scenario="a")
    four = record(4, scenario="c", user_input=two.user_input)
    assert named("leakage between splits", balance_checks({"train": [one, three], "test": [two]})).ok
    finding = named("leakage between splits", balance_checks({"train": [one, two], "test": [three, four]}))
    assert (finding.count, set(finding.ids)) == (2, {"t-0001", "t-0002", "t-0003", "t-0004"})


@pytest.mark.parametrize(("ends", "ok"), [((80, 90), True), ((95, 98), False)])
def test_held_out_splits_have_their_size(ends, ok):
    rows, (first, second) = sound(100), ends
    splits = {"train": rows[:first], "validation": rows[first:second], "test": rows[second:]}
    assert named("held-out splits", balance_checks(splits)).ok == ok


# From the command line


@pytest.fixture
def folder(tmp_path):
    splits = {"train": sound()[:48], "validation": sound()[48:54], "test": sound()[54:]}
    for name, records in splits.items():
        save_records(tmp_path / "set" / f"{name}.jsonl", records)
    return tmp_path / "set"


def test_check_of_a_small_file_passes_and_of_a_small_folder_names_what_is_missing(folder, capsys):
    assert cli("check", str(folder / "train.jsonl")) == 0
    assert "FAIL" not in capsys.readouterr().out
    assert cli("check", str(folder)) == 1
    said = capsys.readouterr().out
    assert "FAIL  size: 1940" in said
    assert said.splitlines()[-1].endswith("not: size, scenarios, domain balance")


def test_a_record_broken_on_purpose_is_caught(folder, capsys):
    rows = [row(n, CYCLE[n % 4]) for n in range(30)]
    rows[4]["answer"] = "<think>hm</think> Leave the kettle alone until somebody has opened it."
    (folder / "own.jsonl").write_text("".join(json.dumps(found) + "\n" for found in rows))
    assert cli("check", str(folder / "own.jsonl")) == 1
    said = capsys.readouterr().out
    assert "FAIL  control tokens: 1" in said
    assert "t-0004" in said


MISSING = [("nothing-here", "Nothing at"), (".", r"No file at .*train\.jsonl")]


@pytest.mark.parametrize(("path", "says"), MISSING)
def test_a_path_without_data_is_named(tmp_path, path, says):
    with pytest.raises(PushbackError, match=says):
        load_splits(tmp_path / path)


def test_the_report_is_one_file_with_every_check_and_the_plot(folder, tmp_path):
    splits = load_splits(folder)
    odd = Finding("odd <b>", 1, 0, ("<img src=x>",), "a & b")
    path = write_report(splits, [*check_splits(splits), odd], tmp_path / "report")
    page = path.read_text()
    assert page.count("data:image/png;base64,") == page.count(' alt="') == 1
    assert "http" not in page.replace("data:image", "")[:2000]
    assert "<img src=x>" not in page
    assert "odd &lt;b&gt;" in page
    assert "a &amp; b" in page
    assert f"<td>answer</td><td>{figures(splits).summary('answer')}</td>" in page
    found = json.loads((tmp_path / "report" / "findings.json").read_text())
    assert [row["ok"] for row in found] == [finding.ok for finding in [*check_splits(splits), odd]]


def test_the_card_takes_its_figures_from_the_data(folder):
    import yaml

    path = write_card(folder)
    text = path.read_text()
    assert path == folder / "README.md"
    for said in ("**All text is synthetic.**", "`written`: **60** of 60 records", "`engine`: **0** of 60 records",
                 "| train | 48 |", "| plain | comply | 15 | 25.0 % |", "| size | 1940 | 0 | **broken** |"):  # fmt: skip
        assert said in text
    found = yaml.safe_load(text.split("---\n")[1])  # for the Hub
    assert (found["license"], found["language"], found["size_categories"]) == ("apache-2.0", ["en"], ["n<1K"])
    assert "synthetic" in found["tags"]
    assert [part["split"] for part in found["configs"][0]["data_files"]] == ["train", "validation", "test"]


def test_the_card_counts_engine_records():
    made = record(1, provenance={"source": "engine", "model": "m"})
    text = card({"train": [made, record(2)], "validation": [record(3)], "test": [record(4)]}, [])
    assert "`written`: **3** of 4 records" in text
    assert "`engine`: **1** of 4 records" in text


def test_lengths_are_in_words_or_in_tokens_of_a_given_tokenizer(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.WordLevel({"[unk]": 0}, unk_token="[unk]"))
    raw.pre_tokenizer = pre_tokenizers.Split("", "isolated")  # one token a character
    PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="[unk]").save_pretrained(tmp_path / "letters")
    splits = {"": [record(1)]}
    assert figures(splits).lengths["request"] == [len(record(1).user_input.split())]
    found = figures(splits, str(tmp_path / "letters"))
    assert found.lengths["request"] == [len(record(1).user_input)]
    assert found.unit == "tokens of letters"


def test_an_unknown_tokenizer_is_named():
    with pytest.raises(PushbackError, match="No tokenizer at '/nowhere/at/all'"):
        counter("/nowhere/at/all")
