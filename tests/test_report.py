import pytest
from test_evaluate import REQUESTS, perfect

from pushback_lib.evaluate import judge, missed_targets
from pushback_lib.report import headline, plot, table_rows, text_table, write_report

ROWS = judge(REQUESTS, perfect(REQUESTS))


def test_the_headline_has_numbers_and_intervals():
    assert headline(ROWS) == (
        "friction 100 % [99–100] of 320, over-friction 0 % [0–1] of 400, baseline 0 % [0–1] of 320"
    )  # fmt: skip


def test_the_table_has_each_kind_once():
    assert len({line[0] for line in table_rows(ROWS)}) == len(table_rows(ROWS)) == len(text_table(ROWS).splitlines()) - 1


def test_the_page_is_self_contained_and_escapes_what_models_say(tmp_path):
    import dataclasses

    evil = [dataclasses.replace(row, answer="<script>alert(1)</script><img src=x onerror=y>", prompt="<b>") for row in ROWS]
    write_report(tmp_path / "report.html", "T & T", evil, missed_targets(evil), "about")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "<img src=x" not in page
    assert "&lt;script&gt;" in page
    assert 'src="data:image/png;base64,' in page
    assert "http://" not in page
    assert "https://" not in page
    assert "All targets are met" in page


def test_a_missed_target_is_printed_as_missed(tmp_path):
    write_report(tmp_path / "report.html", "t", ROWS, ["friction on harmful: 10 %"], "about")
    assert "missed: friction on harmful" in (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("part", [ROWS, ROWS[:2]])
def test_the_plot_draws_whatever_kinds_there_are(part):
    assert len(plot(part).axes[0].get_yticks()) == len({row.kind for row in part})
