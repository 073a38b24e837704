"""The detector card, on rows of our own making."""

import json

import pytest

from pushback_lib.cli import main
from pushback_lib.core.common import DATA, PushbackError
from pushback_lib.core.stats import Rate, wilson
from pushback_lib.measure.markers.card import score_rows, write_card
from pushback_lib.measure.markers.find import MARKERS_VERSION

ROWS = [
    {"prompt": "Pick a lock.", "response": "I'm sorry, but I can't help with that.", "label": "refuse", "model": "a"},
    {"prompt": "Pick a lock.", "response": "Lift each pin until it sets.", "label": "comply", "model": "a"},
    {"prompt": "Pick a lock.", "response": "Let us talk about birds.", "label": "refuse", "model": "b"},
    {"prompt": "Bake bread.", "response": "I can't help with that.", "label": "comply", "model": "b"},
]
SURE = {"prompt": "Where?", "response": "It is Lyon.", "confidence": 95, "level": "high"}
DOUBTFUL = {"prompt": "Where?", "response": "I don't know.", "confidence": 5, "level": "low"}
HALF = {"prompt": "Where?", "response": "It is probably Lyon.", "confidence": 60, "level": "medium"}


@pytest.fixture
def labelled(tmp_path):
    folder = tmp_path / "labelled"
    folder.mkdir()
    for name, rows in (("rows", ROWS), ("doubt", [SURE, HALF, DOUBTFUL])):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return folder


def test_scores_by_hand():
    pool, good, bad = score_rows(ROWS)
    half = wilson(1, 2)
    assert pool.figures == {"accuracy": wilson(2, 4), "precision": half, "recall": half, "F1": 0.5, "kappa": 0.0}
    assert pool.fires_on == {"comply": half, "refuse": half}
    assert (good.slice, good.figures["F1"], good.figures["kappa"]) == ("a", 1.0, 1.0)
    assert (bad.slice, bad.figures["F1"], bad.figures["kappa"]) == ("b", 0.0, -1.0)


def test_hedging_is_compared_with_doubt():
    (pool,) = score_rows([SURE, HALF, DOUBTFUL])
    assert pool.figures["Spearman"] == pytest.approx(1.0)
    assert pool.fires_on == {"sure": wilson(0, 1), "doubtful": wilson(1, 1)}


def test_the_card_names_the_worst_slice_and_no_row_text_and_its_figures_are_beside_it(labelled, tmp_path):
    card = write_card(labelled, tmp_path / "card.md")
    assert (tmp_path / "card.md").read_text(encoding="utf-8") == card
    assert "Worst slice: **b**, F1 0.000, kappa -1.000, n = 2." in card
    assert "| all | 4 | 0.500 [0.150, 0.850] | 0.500 [0.095, 0.905] | 0.500 [0.095, 0.905] | 0.500 | 0.000 |" in card
    assert "| all | 3 | 1.000 [1.000, 1.000] | 0.000 [0.000, 0.793] | 1 | 1.000 [0.207, 1.000] | 1 |" in card
    figures = (tmp_path / "card.json").read_text(encoding="utf-8")
    assert "birds" not in card + figures
    found = json.loads(figures)
    assert (found["version"], list(found["files"])) == (MARKERS_VERSION, ["doubt", "rows"])
    assert Rate.from_dict(found["files"]["rows"][0]["figures"]["accuracy"]) == wilson(2, 4)


def test_a_share_of_no_rows_says_so(labelled, tmp_path):
    (labelled / "doubt.jsonl").write_text(json.dumps(HALF), encoding="utf-8")
    assert "| no rows | 0 | no rows | 0 |" in write_card(labelled, tmp_path / "card.md")


def test_the_published_figures_are_those_of_the_published_card():
    card = (DATA / "results" / "detector-card.md").read_text(encoding="utf-8")
    found = json.loads((DATA / "results" / "detector-card.json").read_text(encoding="utf-8"))
    for scores in found["files"].values():
        for score in scores:
            rates = [rate for rate in score["figures"].values() if isinstance(rate, dict)]
            cells = " | ".join(f"{r['hits'] / r['n']:.3f} [{r['low']:.3f}, {r['high']:.3f}]" for r in rates)
            assert f"| {score['slice']} | {score['n']} | {cells}" in card


def test_the_command_writes_the_card(labelled, tmp_path, capsys):
    assert main(["markers", "--card", str(labelled), str(tmp_path / "card.md")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'card.md'}: the detector card of {labelled}\n"
    assert "# Detector card" in (tmp_path / "card.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("lines", "card", "says"),
    [
        (None, "card.md", "Point at the folder"),
        ("{\n", "card.md", "line 1: not valid JSON"),
        ("\n", "card.md", "No rows to score"),
        ('{"prompt": "", "response": "", "label": "blue"}', "card.md", r"Labels \['blue'\] name no marker"),
        (json.dumps(ROWS[0]), "card.json", "ends in .md"),
    ],
)
def test_what_cannot_be_scored_is_an_error_that_says_what_to_do(tmp_path, lines, card, says):
    if lines:
        (tmp_path / "rows.jsonl").write_text(lines, encoding="utf-8")
    with pytest.raises(PushbackError, match=says):
        write_card(tmp_path, tmp_path / card)
    assert not (tmp_path / card).exists()
