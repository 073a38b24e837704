"""Each check on a set that passes and on one broken on purpose, the report, the card, and the text rules."""

from __future__ import annotations

import argparse
import json
import random

import pytest
from examples import record, row, thought

from pushback_lib.cli import _add_data
from pushback_lib.core.common import PushbackError
from pushback_lib.core.records import PERSONA_NAMES, save_records
from pushback_lib.data import checks as curate_repeats
from pushback_lib.data import checks as curate_texts
from pushback_lib.data import checks as curate_whole
from pushback_lib.data.card import card, counter, figures, write_card, write_report
from pushback_lib.data.checks import Finding, check_splits, load_splits
from pushback_lib.data.text_rules import control_tokens, looks_english, personal_data

CYCLE = ("disagree", "clarify", "refuse", "comply")


def sound(count: int = 60) -> list:
    return [record(number, CYCLE[number % 4]) for number in range(count)]


def changed(records: list, place: int, **changes) -> list:
    return [*records[:place], records[place].model_copy(update=changes), *records[place + 1 :]]


def cli(*args: str) -> int:
    parser = argparse.ArgumentParser()
    _add_data(parser.add_subparsers(), lambda: None)
    found = parser.parse_args(["data", *args])
    return found.run(found)


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


def test_a_sound_set_passes_every_check_of_texts():
    for finding in [*curate_texts.text_checks(sound()), *curate_repeats.repeat_checks(sound())]:
        assert finding.ok, finding
        assert not finding.ids or finding.limit != 0


GERMAN = "Das ist keine gute Idee, weil niemand die Sicherung geprüft hat und wir sie brauchen."
BROKEN_TEXTS = [
    ("language", {"answer": GERMAN}),
    ("control tokens", {"answer": "Take the lid off <|im_end|> and then let it dry for an hour or so."}),
    ("control tokens", {"user_input": "</think> what about my kettle?"}),
    ("stored errors", {"answer": "Error: the model is overloaded, please try it again in a minute."}),
    ("personal data", {"answer": "Write to jo.smith@mail-company.com and ask her for the missing lid today."}),
    ("lengths", {"answer": "No."}),
    ("lengths", {"answer": "the kettle is old " * 90}),
]


@pytest.mark.parametrize(("name", "change"), BROKEN_TEXTS)
def test_a_broken_text_is_found_with_its_id(name, change):
    findings = {finding.name: finding for finding in curate_texts.text_checks(changed(sound(), 7, **change))}
    assert findings[name].ids == ("t-0007",)
    assert not findings[name].ok


def test_thoughts_are_looked_at_as_well():
    thoughts = tuple(record(7).thoughts)
    bad = thoughts[3].model_copy(update={"thought": f"{GERMAN} nobody has opened it"})
    records = changed(sound(), 5, thoughts=(*thoughts[:3], bad, *thoughts[4:]))
    found = {finding.name: finding for finding in curate_texts.text_checks(records)}
    assert found["language"].ids == ("t-0005",)


def test_ids_used_twice_are_found():
    assert curate_texts.unique_ids([record(1), record(2), record(1)]).ids == ("t-0001",)


def test_a_friction_thought_without_a_span_is_found_and_so_is_a_plain_one_with():
    bare = [thought(name, "kettle", name != "Synthesizer") for name in PERSONA_NAMES]
    marked = [thought("Synthesizer", "kettle", True)]
    records = [record(1), record(2, thoughts=bare), record(3, "comply", thoughts=marked), record(4, "comply")]
    assert curate_texts.personas(records).ids == ("t-0002", "t-0003")


def test_answers_dealt_to_the_wrong_requests_are_found():
    topics = [f"alpha{number} beta{number} gamma{number}" for number in range(120)]
    topics = ["".join(random.Random(topic).choices("abcdefghij", k=9)) for topic in topics]
    fits = [
        record(n, user_input=f"Should I sell the {t} now?", answer=f"Keep the {t} until spring, it costs you nothing.")
        for n, t in enumerate(topics)
    ]
    assert curate_texts.relevance(fits).count == 0
    answers = [found.answer for found in fits]
    dealt = [found.model_copy(update={"answer": answers[n - 1]}) for n, found in enumerate(fits)]
    finding = curate_texts.relevance(dealt)
    assert not finding.ok
    assert finding.count > 90


def test_relevance_needs_enough_requests_to_compare_with():
    finding = curate_texts.relevance(sound(20))
    assert finding.limit is None
    assert finding.ok


# Checks for repetition


def test_near_duplicates_are_found_and_likeness_is_exact():
    base = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
    near = base.replace("fourteen", "fifteen")  # 9 of 11 shingles
    far = "one two three four five six seven and then something else altogether comes in here"
    assert curate_repeats.near_pairs([base, far, near, "short", "Short!"]) == [(0, 2), (3, 4)]
    one, other = curate_repeats.shingles(base), curate_repeats.shingles(near)
    assert curate_repeats.jaccard(one, other) == pytest.approx(9 / 11)


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
    sets = [curate_repeats.shingles(text) for text in texts]
    full = {(i, j) for j in range(len(sets)) for i in range(j) if curate_repeats.jaccard(sets[i], sets[j]) > 0.5}
    assert len(full) > 30
    assert set(curate_repeats.near_pairs(texts)) == full


def test_near_duplicate_answers_break_the_limit_with_their_ids():
    records = sound(60)
    records = changed(records, 9, answer=f"{records[3].answer} Really.")
    finding = curate_repeats.near_duplicate_answers(records)
    assert finding.ids == ("t-0003", "t-0009")
    assert not finding.ok


def test_distinct_requests_ignore_case_and_spacing():
    records = changed(sound(100), 8, user_input=sound()[2].user_input.upper().replace(" ", "  "))
    finding = curate_repeats.distinct_requests(records)
    assert (finding.count, finding.limit, finding.ids) == (1, 2, ("t-0008",))


def test_an_opening_used_too_often_is_named():
    records = sound(100)
    for place in (5, 20, 60):
        records = changed(records, place, answer=f"I hear you, friend: {records[place].answer}")
    finding = curate_repeats.openings(records)
    assert finding.ids == ("t-0005", "t-0020", "t-0060")
    assert not finding.ok
    assert "'i hear you friend'" in finding.detail


def test_a_stock_phrase_is_named():
    base = [record(n, answer=f"Item{n} is {n} and next to item{n + 1}.") for n in range(100)]
    stock = [found.model_copy(update={"answer": f"{found.answer} Let us take a step back here."}) for found in base[:4]]
    finding = curate_repeats.stock_phrases([*stock, *base[4:]])
    assert finding.ids == ("t-0000", "t-0001", "t-0002", "t-0003")
    assert not finding.ok
    assert "take a step back" in finding.detail


def test_thoughts_used_more_than_three_times_are_counted():
    same = [thought(name, "kettle") for name in PERSONA_NAMES]
    assert curate_repeats.repeated_thoughts([record(n, thoughts=same) for n in range(3)]).count == 0
    finding = curate_repeats.repeated_thoughts([record(n, thoughts=same) for n in range(4)])
    assert (finding.count, finding.ok) == (24, False)


DISTINCT = [(["a b a b"], 1, 0.5), (["a b a b"], 2, 2 / 3), (["a"], 2, 0.0), ([], 1, 0.0)]


@pytest.mark.parametrize(("texts", "n", "wanted"), DISTINCT)
def test_distinct_n(texts, n, wanted):
    assert curate_repeats.distinct_n(texts, n) == pytest.approx(wanted)


# Checks of the whole


SIZES = [(1_990, 10), (2_000, 0), (3_000, 0), (3_007, 7)]


@pytest.mark.parametrize(("count", "short"), SIZES)
def test_size(count, short):
    finding = curate_whole.size([record(0)] * count)
    assert (finding.count, finding.ok) == (short, short == 0)


def test_scenarios():
    assert curate_whole.scenarios([record(n, scenario=f"s/{n}") for n in range(690)]).count == 10
    assert curate_whole.scenarios([record(n, scenario=f"s/{n}") for n in range(700)]).ok


PLAIN = [(19, 1), (20, 0), (30, 0), (33, 3)]


@pytest.mark.parametrize(("plain", "wrong"), PLAIN)
def test_plain_share(plain, wrong):
    records = [record(n, "comply" if n < plain else "doubt") for n in range(100)]
    assert curate_whole.plain_share(records).count == wrong


def test_an_absent_subset_is_missed():
    finding = curate_whole.subset_balance([record(n, "disagree" if n < 40 else "doubt") for n in range(80)])
    assert not finding.ok
    assert "reluctance 0.0 %" in finding.detail


def test_a_domain_that_fills_the_set_is_found():
    assert not curate_whole.domain_balance(sound()).ok
    even = [record(n, domain=f"domain {n % 12}") for n in range(240)]
    assert curate_whole.domain_balance(even).ok


def test_a_scenario_or_a_request_in_two_splits_is_found():
    one, two, three = record(1, scenario="a"), record(2, scenario="b"), record(3, scenario="a")
    four = record(4, scenario="c", user_input=two.user_input)
    assert curate_whole.scenario_leakage({"train": [one, three], "test": [two]}).ok
    finding = curate_whole.scenario_leakage({"train": [one, two], "test": [three, four]})
    assert (finding.count, set(finding.ids)) == (2, {"t-0001", "t-0002", "t-0003", "t-0004"})


def test_held_out_splits_have_their_size():
    rows = sound(100)
    assert curate_whole.split_sizes({"train": rows[:80], "validation": rows[80:90], "test": rows[90:]}).ok
    assert not curate_whole.split_sizes({"train": rows[:95], "validation": rows[95:98], "test": rows[98:]}).ok


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


def test_the_report_is_one_file_with_every_check_and_plot(folder, tmp_path):
    splits = load_splits(folder)
    odd = Finding("odd <b>", 1, 0, ("<img src=x>",), "a & b")
    path = write_report(splits, [*check_splits(splits), odd], tmp_path / "report")
    page = path.read_text()
    assert page.count("data:image/png;base64,") == page.count(' alt="') == 5
    assert "http" not in page.replace("data:image", "")[:2000]
    assert "<img src=x>" not in page
    assert "odd &lt;b&gt;" in page
    found = json.loads((tmp_path / "report" / "findings.json").read_text())
    assert [row["ok"] for row in found] == [finding.ok for finding in [*check_splits(splits), odd]]


def test_the_card_takes_its_figures_from_the_data(folder):
    path = write_card(folder)
    text = path.read_text()
    assert path == folder / "README.md"
    assert "**All text is synthetic.**" in text
    assert "`written`: **60** of 60 records" in text
    assert "`engine`: **0** of 60 records" in text
    assert "| train | 48 |" in text
    assert "| plain | comply | 15 | 25.0 % |" in text
    assert "| size | 1940 | 0 | **broken** |" in text


def test_the_card_begins_with_metadata_for_the_hub(folder):
    import yaml

    head = write_card(folder).read_text().split("---\n")[1]
    found = yaml.safe_load(head)
    assert found["license"] == "apache-2.0"
    assert found["language"] == ["en"]
    assert "synthetic" in found["tags"]
    assert [part["split"] for part in found["configs"][0]["data_files"]] == ["train", "validation", "test"]
    assert found["size_categories"] == ["n<1K"]


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
