"""Files of others: every layout becomes records that train, and what is refused or left out is told."""

import json
import re

import pytest
from examples import record, row

from pushback_lib.cli import main
from pushback_lib.core.common import PushbackError
from pushback_lib.core.files import LAYOUTS
from pushback_lib.core.records import load_records, save_records, thought_text
from pushback_lib.data.foreign import FORMATS, import_file
from pushback_lib.model.load import load_tokenizer
from pushback_lib.model.recipe import recipe_for
from pushback_lib.train.run import make_trainer


def chat(*texts, roles=("user", "assistant"), who="role", says="content"):
    return [{who: roles[at % 2], says: text} for at, text in enumerate(texts)]


def sharegpt(*texts):
    return chat(*texts, roles=("human", "gpt"), who="from", says="value")


SYSTEM = {"role": "system", "content": "Be kind."}
PARTS = [{"type": "text", "text": "<think>It is"}, {"type": "text", "text": " old.</think>Wait."}]
ROWS = [  # a row, its layout, and what the record holds: history, request, thought, answer
    ({"conversations": sharegpt("Paint it?", "<think>\nIt is old.\n</think>\n\nWait.")}, "sharegpt", [], "It is old.", "Wait."),
    ({"conversations": sharegpt("Hi.", "<think>a</think>Hello.", "Paint it?", "Wait.")}, "sharegpt", ["Hi.", "Hello."], "",
     "Wait."),
    ({"conversations": chat("Paint it?", "Wait."), "system": "Be kind."}, "sharegpt", [], "", "Wait."),
    ({"messages": [SYSTEM, *chat("Paint it?", "It is old.</think>Wait.")]}, "messages", [], "It is old.", "Wait."),
    ({"messages": chat("Paint it?", PARTS)}, "messages", [], "It is old.", "Wait."),
    ({"messages": [*chat("Paint it?"), {"role": "assistant", "content": "Wait.", "reasoning_content": "It is old."}]},
     "messages", [], "It is old.", "Wait."),
    ({"prompt": "Paint it?", "completion": "<think>It is old.</think>Wait."}, "messages", [], "It is old.", "Wait."),
    ({"prompt": chat("Hi.", "Hello.", "Paint it?"), "completion": [{"role": "assistant", "content": "Wait."}]},
     "messages", ["Hi.", "Hello."], "", "Wait."),
    ({"instruction": "Paint it?", "input": "", "output": "Wait."}, "alpaca", [], "", "Wait."),
    ({"instruction": "Paint it?", "output": "Wait.", "history": [["Hi.", "Hello."]], "input": None}, "alpaca",
     ["Hi.", "Hello."], "", "Wait."),
]  # fmt: skip


@pytest.mark.parametrize(("foreign", "layout", "history", "thought", "answer"), ROWS)
@pytest.mark.parametrize("told", [True, False])
def test_a_row_of_each_layout_becomes_a_record_without_labels(tmp_path, foreign, layout, history, thought, answer, told):
    (tmp_path / "f.jsonl").write_text(json.dumps(foreign))
    found = import_file(tmp_path / "f.jsonl", None, layout if told else "")
    assert found.read == {layout: 1}
    (made,) = load_records(tmp_path / "f-records.jsonl")
    assert (made.user_input, thought_text(made), made.answer) == ("Paint it?", thought, answer)
    assert [turn.content for turn in made.history] == history
    assert (made.subset, made.behaviour, made.provenance.source) == ("unlabelled", "unlabelled", "imported")


REFUSED = [
    ({"conversations": sharegpt("Hi.", "Hello.", "Paint it?")}, "does not alternate from user to assistant"),
    ({"conversations": sharegpt("Hi.", "Hello.")[::-1]}, "does not alternate"),
    ({"conversations": []}, "does not alternate"),
    ({"messages": [{"role": "tool", "content": "4"}]}, "messages.0.role: Input should be"),
    ({"messages": [*chat("2 + 2?"), {"role": "assistant", "content": None, "tool_calls": [{}]}]}, "messages.1.content"),
    ({"messages": [*chat("2 + 2?"), {"role": "assistant", "content": "", "tool_calls": [{}]}]}, "messages.1.tool_calls"),
    ({"messages": chat([{"type": "image_url"}], "A cat.")}, "holds a part that is not text"),
    ({"prompt": "Paint it?", "completion": "<think>It is"}, "a thought is never closed"),
    ({"instruction": "Paint it?", "output": ""}, "answer is empty"),
    ({"instruction": "Paint it?", "output": float("nan")}, "holds NaN"),
    ({"instruction": "Paint it?", "output": "\ud800"}, r"half of a character, '\\ud800'"),
    ({"text": "Once upon a time"}, r"of no known layout \(its fields: text\)"),
    ({**row(), "thoughts": []}, "0 thoughts; disagreement needs 6"),
    ([1], "a JSON list, not an object"),
]


@pytest.mark.parametrize(("foreign", "says"), REFUSED)
@pytest.mark.parametrize("array", [True, False])
def test_a_row_that_cannot_be_converted_is_refused_by_its_place_and_the_others_are_kept(tmp_path, foreign, says, array):
    good = {"instruction": "Paint it?", "output": "Wait."}
    text = json.dumps([good, foreign]) if array else f"{json.dumps(good)}\n{json.dumps(foreign)}\n"
    (tmp_path / "f.json").write_text(text)
    ((place, why),) = import_file(tmp_path / "f.json").refused
    assert place == ("entry 2" if array else "line 2")
    assert re.search(says, why), why


ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32")


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("indent", ["lines", None, 1])
def test_the_kits_own_records_come_back_from_any_encoding_and_from_an_array(tmp_path, encoding, indent):
    made = [record(1), record(2, answer="Ça va\u2028plus tard, 日本 ☂.")]
    save_records(tmp_path / "own.jsonl", made)
    lines = (tmp_path / "own.jsonl").read_text(encoding="utf-8")
    text = lines if indent == "lines" else json.dumps([json.loads(line) for line in lines.split("\n")[:-1]], indent=indent)
    (tmp_path / "f").write_bytes(text.encode(encoding))
    found = import_file(tmp_path / "f", tmp_path / "out.jsonl")
    assert load_records(tmp_path / "out.jsonl") == made
    assert (found.read, found.refused) == ({"records": 2}, ())
    assert "without" not in str(found)


def test_what_comes_of_a_file_is_told(tmp_path, capsys):
    rows = [{"id": 7, "conversations": [{"from": "system", "value": "Be kind."}, *sharegpt("Hi.", "Hello.", "Ok?", "Ok.")],
             "category": "small talk"}, {"text": "x"}]  # fmt: skip
    (tmp_path / "f.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert main(["data", "import", str(tmp_path / "f.jsonl")]) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"{tmp_path / 'f-records.jsonl'}: 1 records of 2 rows (1 sharegpt)"
    assert said[1].startswith("refused: line 2: of no known layout")
    assert {line for line in said if line.startswith("left out")} == {
        "left out: 1 system messages (training gives the recipe's own)", "left out: 1 fields 'category'",
        "left out: 1 earlier replies from the loss (they are history)"}  # fmt: skip
    assert "learns to answer without thinking" in said[-2]
    assert "To be filled in by hand: `subset`, `behaviour` (disagree, clarify" in said[-1]
    assert load_records(tmp_path / "f-records.jsonl")[0].id == "7"


def test_a_folder_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in (".", str(tmp_path)):
        with pytest.raises(PushbackError, match=r"is a folder\. Give the file in it"):
            import_file(folder)


def test_labels_that_were_filled_in_are_not_overwritten(tmp_path):
    (tmp_path / "f.jsonl").write_text(json.dumps(ROWS[0][0]))
    import_file(tmp_path / "f.jsonl")
    for out in (None, tmp_path / "f.jsonl"):
        with pytest.raises(PushbackError, match="is there already, maybe with labels"):
            import_file(tmp_path / "f.jsonl", out)


@pytest.mark.parametrize(
    ("raw", "says"),
    [(b"", "it is empty"), (b"PAR1\xff\xfe", "no text in UTF-8"), (b"Dear diary,\nI am", r"line 1: Expecting value"),
     (b"[" * 100_000, "line 1: nested too deeply"), (b"[]", "it is empty"), (None, "No file at")],
)  # fmt: skip
def test_a_file_of_something_else_is_named_and_nothing_written(tmp_path, raw, says):
    if raw is not None:
        (tmp_path / "f").write_bytes(raw)
    with pytest.raises(PushbackError, match=says):
        import_file(tmp_path / "f")
    assert not (tmp_path / "f-records.jsonl").exists()


def test_the_layouts_that_errors_name_are_those_that_can_be_converted():
    assert {name for name, _ in LAYOUTS} | {"records"} == set(FORMATS)


def test_what_was_imported_is_trained_on_whole(tmp_path):
    (tmp_path / "f.json").write_text(json.dumps([foreign for foreign, *_ in ROWS]))
    import_file(tmp_path / "f.json", tmp_path / "out.jsonl")
    recipe = recipe_for("tiny")
    rows, tokenizer = make_trainer(recipe, load_records(tmp_path / "out.jsonl"), tmp_path).train_dataset, load_tokenizer(recipe)
    for made, (*_, thought, answer) in zip(rows, ROWS, strict=True):
        learned = tokenizer.decode([label for label in made["labels"] if label != -100])
        assert learned == f"{thought}\n</think>\n\n{answer}{tokenizer.eos_token}".lstrip("\n")
