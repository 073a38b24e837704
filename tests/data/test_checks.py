"""Each check on a set that passes and on one broken on purpose, the report, the card, and the text rules."""

import json
import random

import pytest
from examples import record, row, thought

from pushback_lib.cli import main
from pushback_lib.core.common import PushbackError
from pushback_lib.core.files import write_jsonl
from pushback_lib.core.records import PERSONA_NAMES, save_records
from pushback_lib.data import checks
from pushback_lib.data.card import counter, figures, write_card, write_report
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


def splits(records: list, first: int, second: int) -> dict[str, list]:
    return {"train": records[:first], "validation": records[first:second], "test": records[second:]}


def named(name: str, findings: list[checks.Finding]) -> checks.Finding:
    return next(finding for finding in findings if finding.name == name)


# Text rules

TEXTS = {
    (looks_english, True): [
        "The backup is old and nobody has looked at it.",
        "Offer concrete titles with low peril, plus non-fiction.",
        "Whole roof or patch was never said.",
        "Run `git log --oneline` first.\n```\ngit der die das und nicht\n```",
        "Señora Muñoz said the café in Zürich was never her idea.",
        "Tent, van or bivvy bag fall under different rules.",
        "",
    ],
    (looks_english, False): [
        "Das ist keine gute Idee.",
        "Je ne sais pas, désolé.",
        "No creo que este plan sea bueno, porque nadie ha comprobado la copia.",
        "Ik denk dat dit plan niet goed is.",
        "Penso che questo piano non sia buono, perché nessuno ha controllato.",
        "Это плохой план.",
        "我认为这个计划不好。",
        "The plan is 不好，因为没有人检查过备份。",
    ],
    (control_tokens, True): [
        "<think>",
        "so</think> there",
        "<|im_start|>user",
        "<｜end▁of▁sentence｜>",
        "[INST] hi [/INST]",
        "</s>",
        "<end_of_turn>",
    ],
    (control_tokens, False): ["a < b and c > d", "use <strong> and <span> here", "x | y || z", "I think so"],
    (personal_data, True): [
        "write to jo.smith@mail-company.com",
        "call +31 6 1234 5678 now",
        "call (415) 555-2671",
        "pay with 4111 1111 1111 1111",
        "send it to DE89 3704 0044 0532 0130 00",
        "ping 8.8.8.8",
    ],
    (personal_data, False): [
        "write to someone@example.com",
        "pay with 4111 1111 1111 1112",
        "the counts were 31 28 35 40 44 71 66 33 30",
        "send it to DE00 3704 0044 0532 0130 00",
        "ping 192.168.0.1 or 127.0.0.1",
        "version 1.2.3",
        "in 1989 and 2024, 10,000,000 people",
        "cost 2500-3000 a year, 20-30 %",
    ],
}


@pytest.mark.parametrize(("rule", "wanted", "text"), [(*rule, text) for rule, texts in TEXTS.items() for text in texts])
def test_what_a_text_rule_finds(rule, wanted, text):
    assert bool(rule(text)) == wanted, f"{rule.__name__}({text!r}) -> {rule(text)}"


# Checks of texts


def test_a_sound_set_passes_every_check():
    for finding in checks.check_splits({"": sound()}):
        assert finding.ok, finding
        assert not finding.ids or finding.limit != 0


GERMAN = "Das ist keine gute Idee, weil niemand die Sicherung geprüft hat und wir sie brauchen."
NOT_OPENED = [thought(name, "kettle", name == "Synthesizer") for name in PERSONA_NAMES]
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
    ("lengths", changed(7, count=60, answer="No."), (7,), "4 to 300"),
    ("lengths", changed(7, count=60, answer="the kettle is old " * 90), (7,), "4 to 300"),
    ("ids", [record(1), record(2), record(1)], (1,), "of 2"),
    ("personas", [record(1), record(2, thoughts=NOT_OPENED)], (2,), "fewer than 2"),
    ("personas", [record(3, "comply", thoughts=[thought("Synthesizer", "kettle")]), record(4, "comply")], (3,), "plain"),
    ("near-duplicate answers", changed(9, count=60, answer=f"{sound()[3].answer} Really."), (3, 9), "in 1 pairs"),
    ("answer openings", changed(5, 20, 60, answer="I hear you, friend: {}"), (5, 20, 60), "'i hear you friend'"),
    ("stock phrases", [*STEP, *ALIKE[4:]], (0, 1, 2, 3), "take a step back"),
]


@pytest.mark.parametrize(("name", "records", "numbers", "says"), BROKEN)
def test_what_breaks_a_rule_is_found_with_its_ids(name, records, numbers, says):
    finding = named(name, checks.check_splits({"": records}))
    assert finding.ids == tuple(f"t-{number:04d}" for number in numbers)
    assert not finding.ok
    assert says in finding.detail


def test_answers_dealt_to_the_wrong_requests_are_found():
    topics = ["".join(random.Random(number).choices("abcdefghij", k=9)) for number in range(120)]
    fits = [
        record(n, user_input=f"Should I sell the {t} now?", answer=f"Keep the {t} until spring, it costs you nothing.")
        for n, t in enumerate(topics)
    ]
    assert checks.relevance(fits).count == 0
    finding = checks.relevance([found.model_copy(update={"answer": fits[n - 1].answer}) for n, found in enumerate(fits)])
    assert not finding.ok
    assert finding.count > 90


def test_relevance_needs_enough_requests_to_compare_with():
    finding = checks.relevance(sound(20))
    assert finding.limit is None
    assert finding.ok


# Checks for repetition


def test_near_duplicates_are_found_and_likeness_is_exact():
    base = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
    near = base.replace("fourteen", "fifteen")  # 9 of 11 shingles
    far = "one two three four five six seven and then something else altogether comes in here"
    assert checks.near_pairs([base, far, near, "short", "Short!"]) == [(0, 2), (3, 4)]
    assert checks.jaccard(checks.shingles(base), checks.shingles(near)) == pytest.approx(9 / 11)


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
    sets = [checks.shingles(text) for text in texts]
    full = {(i, j) for j in range(len(sets)) for i in range(j) if checks.jaccard(sets[i], sets[j]) > 0.5}
    assert len(full) > 30
    assert set(checks.near_pairs(texts)) == full


def test_distinct_requests_ignore_case_and_spacing():
    shouted = sound()[2].user_input.upper().replace(" ", "  ")
    finding = named("distinct requests", checks.repeat_checks(changed(8, user_input=shouted)))
    assert (finding.count, finding.limit, finding.ids) == (1, 2, ("t-0008",))


def test_thoughts_used_more_than_three_times_are_counted():
    same = [thought(name, "kettle") for name in PERSONA_NAMES]
    few, many = ([record(n, thoughts=same) for n in range(uses)] for uses in (3, 4))
    assert named("repeated thoughts", checks.repeat_checks(few)).count == 0
    finding = named("repeated thoughts", checks.repeat_checks(many))
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
    ("plain share", a_hundred(34), 1),
    ("plain share", a_hundred(35), 0),
    ("plain share", a_hundred(50), 0),
    ("plain share", a_hundred(53), 3),
    ("domain balance", sound(), 53),  # one domain, of which 12 % are allowed
    ("domain balance", [record(n, domain=f"domain {n % 12}") for n in range(240)], 0),
]


@pytest.mark.parametrize(("name", "records", "wrong"), BALANCE)
def test_records_that_are_missing_or_too_many_are_counted(name, records, wrong):
    finding = named(name, checks.balance_checks({"train": records}))
    assert (finding.count, finding.ok) == (wrong, wrong == 0)


def test_an_absent_subset_is_missed():
    records = [record(n, "disagree" if n < 40 else "doubt") for n in range(80)]
    finding = named("subset balance", checks.balance_checks({"train": records}))
    assert not finding.ok
    assert "reluctance 0.0 %" in finding.detail


def test_a_scenario_or_a_request_in_two_splits_is_found():
    one, two, three = record(1, scenario="a"), record(2, scenario="b"), record(3, scenario="a")
    four = record(4, scenario="c", user_input=two.user_input)
    assert named("leakage between splits", checks.balance_checks({"train": [one, three], "test": [two]})).ok
    finding = named("leakage between splits", checks.balance_checks({"train": [one, two], "test": [three, four]}))
    assert (finding.count, set(finding.ids)) == (2, {"t-0001", "t-0002", "t-0003", "t-0004"})
    torn = [record(n, scenario=f"{n}", pair="p") for n in (5, 6)]
    assert named("leakage between splits", checks.balance_checks({"train": torn[:1], "test": torn[1:]})).count == 1


def test_twins_are_no_near_duplicates_of_each_other():
    """They are made to be alike."""
    alike = changed(9, count=60, answer=f"{sound()[3].answer} Really.")
    for number in (3, 9):
        alike[number] = alike[number].model_copy(update={"pair": "p"})
    assert not named("near-duplicate answers", checks.check_splits({"": alike})).ids


@pytest.mark.parametrize(("ends", "ok"), [((80, 90), True), ((95, 98), False)])
def test_held_out_splits_have_their_size(ends, ok):
    assert named("held-out splits", checks.balance_checks(splits(sound(100), *ends))).ok == ok


# From the command line


@pytest.fixture
def folder(tmp_path):
    made = record(59, "comply", provenance={"source": "engine", "model": "m"})
    for name, records in splits([*sound(59), made], 48, 54).items():
        save_records(tmp_path / "set" / f"{name}.jsonl", records)
    return tmp_path / "set"


def test_check_of_a_small_file_passes_and_of_a_small_folder_names_what_is_missing(folder, capsys):
    assert main(["data", "check", str(folder / "train.jsonl")]) == 0
    assert "FAIL" not in capsys.readouterr().out
    assert main(["data", "check", str(folder)]) == 1
    said = capsys.readouterr().out
    assert "FAIL  size: 1940" in said
    assert said.splitlines()[-1].endswith(
        "not: size, scenarios, plain share, domain balance, thinking on plain requests, turns, levels"
    )


def test_a_record_broken_on_purpose_is_caught(tmp_path, capsys):
    answer = "<think>hm</think> Leave the kettle alone until somebody has opened it."
    save_records(tmp_path / "own.jsonl", changed(4, count=30, answer=answer))
    assert main(["data", "check", str(tmp_path / "own.jsonl")]) == 1
    said = capsys.readouterr().out
    assert "FAIL  control tokens: 1" in said
    assert "t-0004" in said


def test_a_folder_is_checked_without_the_splits_that_it_lacks_and_gets_no_card(folder):
    (folder / "test.jsonl").unlink()
    assert list(checks.load_splits(folder)) == ["train", "validation"]
    with pytest.raises(PushbackError, match=r"No test\.jsonl in"):
        write_card(folder)


def test_imported_records_are_counted_as_unlabelled_and_get_no_card(folder):
    bare = {"subset": "unlabelled", "behaviour": "unlabelled", "provenance": {"source": "imported"}, "thoughts": []}
    write_jsonl(folder / "test.jsonl", [{**row(number), **bare} for number in (97, 98)])
    findings = {finding.name: finding for finding in checks.check_splits(checks.load_splits(folder))}
    assert findings["labels"].ids == ("t-0097", "t-0098")
    assert not findings["labels"].ok
    assert findings["personas"].ok
    with pytest.raises(PushbackError, match="2 records of others, which the card would call synthetic"):
        write_card(folder)


@pytest.mark.parametrize(("path", "says"), [("nothing-here", "Nothing at"), (".", r"No file at .*train\.jsonl")])
def test_a_path_without_data_is_named(tmp_path, path, says):
    with pytest.raises(PushbackError, match=says):
        checks.load_splits(tmp_path / path)


def test_the_report_is_one_file_with_every_check_and_the_plot(folder, tmp_path):
    loaded = checks.load_splits(folder)
    findings = [*checks.check_splits(loaded), checks.Finding("odd <b>", 1, 0, ("<img src=x>",), "a & b")]
    page = write_report(loaded, findings, tmp_path / "report").read_text()
    assert page.count("data:image/png;base64,") == page.count(' alt="') == 1
    assert "http" not in page.replace("data:image", "")[:2000]
    assert "<img src=x>" not in page
    assert "odd &lt;b&gt;" in page
    assert "a &amp; b" in page
    assert f"<td>answer</td><td>{figures(loaded).summary('answer')}</td>" in page
    found = json.loads((tmp_path / "report" / "findings.json").read_text())
    assert [row["ok"] for row in found] == [finding.ok for finding in findings]


def test_the_card_takes_its_figures_from_the_data(folder):
    import yaml

    path = write_card(folder)
    text = path.read_text()
    assert path == folder / "README.md"
    for said in ("**All text is synthetic.**", "`written`: **59** of 60 records", "`engine`: **1** of 60 records",
                 "| train | 48 |", "| plain | comply | 15 | 25.0 % |", "| size | 1940 | 0 | **broken** |"):  # fmt: skip
        assert said in text
    found = yaml.safe_load(text.split("---\n")[1])  # for the Hub
    assert (found["license"], found["language"], found["size_categories"]) == ("apache-2.0", ["en"], ["n<1K"])
    assert "synthetic" in found["tags"]
    assert [part["split"] for part in found["configs"][0]["data_files"]] == ["train", "validation", "test"]


def test_lengths_are_in_words_or_in_tokens_of_a_given_tokenizer(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.WordLevel({"[unk]": 0}, unk_token="[unk]"))
    raw.pre_tokenizer = pre_tokenizers.Split("", "isolated")  # one token a character
    PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="[unk]").save_pretrained(tmp_path / "letters")
    assert figures({"": [record(1)]}).lengths["request"] == [len(record(1).user_input.split())]
    found = figures({"": [record(1)]}, str(tmp_path / "letters"))
    assert found.lengths["request"] == [len(record(1).user_input)]
    assert found.unit == "tokens of letters"


def test_an_unknown_tokenizer_is_named():
    with pytest.raises(PushbackError, match="No tokenizer at '/nowhere/at/all'"):
        counter("/nowhere/at/all")
