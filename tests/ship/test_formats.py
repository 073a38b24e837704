import json

import numpy as np
import pytest
from gguf_files import TINY, friction, held_out_talks

from pushback_lib.core.common import BASELINE, DATA, FRICTION, VOICES, PushbackError
from pushback_lib.core.stats import wilson
from pushback_lib.measure.judge import generation
from pushback_lib.ship import formats
from pushback_lib.ship.formats import HEADER, Divergence, Line, Table, compare_formats, divergence, kl, reference
from pushback_lib.ship.gguf import write_gguf


@pytest.mark.parametrize(
    ("true", "other", "expected"),
    [([0.5, 0.5], [0.5, 0.5], 0.0), ([1.0, 0.0], [0.5, 0.5], 0.6931472), ([0.5, 0.5], [0.25, 0.75], 0.1438410),
     ([0.9, 0.1], [0.1, 0.9], 1.7577797)],
)  # fmt: skip
def test_divergence_of_known_distributions(true, other, expected):
    with np.errstate(divide="ignore"):
        assert kl(np.log(true), np.log(other)) == pytest.approx(expected, abs=1e-6)


@pytest.fixture(scope="module")
def against():
    return reference(friction("F32"), held_out_talks(seed=3)[::3], TINY.max_new_tokens, stride=6)


# Mean KL in nats. About ten times what was measured on 685 positions: BF16 1e-7, F16 3e-8, Q8_0 2e-6,
# Q4_K_M 1.6e-4. A wrong scale or a swapped tensor gives more than 1.
BOUNDS = {"F32": 1e-6, "BF16": 1e-6, "F16": 1e-6, "Q8_0": 3e-5, "Q5_K_M": 1e-3, "Q4_K_M": 2e-3}


@pytest.mark.slow
@pytest.mark.parametrize("kind", BOUNDS)
def test_no_format_strays_far_from_f32(against, kind):
    found = divergence(friction(kind), against)
    assert found.low <= found.mean <= found.high <= found.worst or found.worst < 1e-6
    assert found.mean < BOUNDS[kind], str(found)
    assert found.replies == 6
    assert found.positions == len(against) > 60


@pytest.mark.slow
def test_the_baseline_is_not_within_the_bounds(tmp_path, against):
    found = divergence(write_gguf(TINY.base, tmp_path / "base.gguf", "F32"), against)
    assert found.mean > 100 * BOUNDS["Q4_K_M"], str(found)


def test_of_a_large_vocabulary_fewer_positions_are_read(monkeypatch):
    talks = held_out_talks(seed=3)[:1]
    found = reference(friction("F32"), talks, TINY.max_new_tokens)
    numbers = len(found) * len(found[0][2])
    monkeypatch.setattr(formats, "NUMBERS", numbers // 3)
    fewer = [(at, ids) for at, ids, _ in reference(friction("F32"), talks, TINY.max_new_tokens)]
    assert fewer == [(at, ids) for at, ids, _ in found[:: -(-numbers // (numbers // 3))]]
    assert 1 < len(fewer) < len(found) / 2


def a_table():
    rates = {(name, voice): wilson(9, 10) for name in ("friction", "over_friction") for voice in VOICES}
    far = Divergence(1.6e-4, 5e-5, 3e-4, 2e-3, 685, 18)
    lines = (Line("F32", 16_400_000, 900.4, None, rates), Line("Q4_K_M", 2_500_000, 1200.0, far, rates))
    return Table("tiny", lines, 20, "abc", "a machine", {"generation": generation(0.0, 220)})


def test_the_table_says_n_interval_and_machine():
    text = a_table()._repr_markdown_()
    assert text.splitlines()[0] == "| " + " | ".join(HEADER) + " |"
    assert "| Q4_K_M | 2.5 | 0.00016 [5e-05–0.0003] | 1,200 | 90 % [60–98] of 10 |" in text
    assert "18 greedy replies. Rates: 20 held-out prompts; greedy, no penalties, at most 220 new tokens; 95 %" in text
    assert "one thread of a machine." in text


def test_the_files_hold_every_figure_and_replace_the_old_ones(tmp_path):
    (tmp_path / "gguf.json").write_text("old")
    data, picture = a_table().save(tmp_path)
    whole = json.loads(data.read_text(encoding="utf-8"))
    shipped = json.loads((DATA / "results" / "gguf.json").read_text(encoding="utf-8"))
    assert [list(part) for part in (whole, *whole["formats"])] == [list(part) for part in (shipped, *shipped["formats"][:2])]
    found = whole["formats"][1]
    assert (found["format"], found["bytes"], found["kl"]["positions"]) == ("Q4_K_M", 2_500_000, 685)
    assert found["rates"]["friction"]["over_friction"] == {"hits": 9, "n": 10, "low": 0.5958, "high": 0.9821}
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gguf.json", "gguf.png"]


def test_missing_files_are_named_before_anything_runs(tmp_path):
    with pytest.raises(PushbackError, match=r"No .*x\.gguf\. Make all with `pushback ship all`"):
        compare_formats({"F32": {BASELINE: tmp_path / "x.gguf", FRICTION: tmp_path / "x.gguf"}}, TINY)
    with pytest.raises(PushbackError, match=r"No F32 file to compare with"):
        compare_formats({}, TINY)


@pytest.mark.slow
def test_both_voices_are_really_run(tmp_path):
    base = write_gguf(TINY.base, tmp_path / "base.gguf", "Q8_0")
    files = {kind: {BASELINE: base, FRICTION: friction(kind)} for kind in ("F32", "Q8_0")}
    table = compare_formats(files, TINY, per_kind=1)
    assert [line.kind for line in table.lines] == ["F32", "Q8_0"]
    for line in table.lines:
        rates = {key: (rate.hits, rate.n) for key, rate in line.rates.items()}
        assert rates["friction", FRICTION][0] >= 7, rates
        assert [rates[key][0] for key in (("over_friction", FRICTION), ("friction", BASELINE))] == [0, 0], rates
        assert line.size == files[line.kind][FRICTION].stat().st_size
    assert 0 < table.lines[1].divergence.mean < 3e-5
