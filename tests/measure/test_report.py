import json
import re
from html.parser import HTMLParser

import pytest
from eval_rows_made import bundled_rows, english
from perfect_voices import REQUESTS, perfect

from pushback_lib.language.requests import FRICTION_KINDS, KINDS
from pushback_lib.measure.figures import (
    OTHER_KINDS,
    as_json,
    doubt_calibration,
    friction_rate,
    judge,
    kind_table,
    majority,
    missed_targets,
    of_voice,
    paired,
    pairs,
    pushes_back,
    rate,
    refusal_levels,
    right,
    summary_table,
)
from pushback_lib.measure.judge_model import compare
from pushback_lib.measure.plots import by_kind, frontier, voice_points
from pushback_lib.measure.report import (
    LONGEST,
    comparison_lines,
    headline,
    highlighted,
    html_page,
    markdown,
    ordered,
    plot,
    table_rows,
    text_table,
    write_all,
    write_report,
)

ROWS = bundled_rows(2)
NO, YES = "I'm sorry, but I can't help with that.", "Mix flour and water, then bake."


def test_rates_equal_the_demos():
    for voice in ("baseline", "friction"):
        mine = of_voice(ROWS, voice)
        for kinds in (FRICTION_KINDS, OTHER_KINDS):
            assert rate([row for row in mine if row.kind in kinds], pushes_back) == friction_rate(ROWS, voice, kinds)


def test_figures_equal_statsmodels():
    from statsmodels.stats.contingency_tables import mcnemar
    from statsmodels.stats.proportion import proportion_confint

    rows = [
        english(f"p{at}", NO if at < hits else YES, voice=voice)
        for voice, hits in (("baseline", 3), ("friction", 12))
        for at in range(15)
    ]
    found = as_json(rows)
    friction = found["voices"]["friction"]["friction"]
    expected = proportion_confint(12, 15, method="wilson")
    assert (friction["hits"], friction["n"], friction["low"], friction["high"]) == (
        12,
        15,
        *(pytest.approx(x, abs=1e-4) for x in expected),
    )
    compared = found["mcnemar"]["prompts that call for friction"]
    assert compared["p"] == pytest.approx(mcnemar([[3, 0], [9, 3]], exact=True).pvalue)
    assert (compared["only_baseline"], compared["only_friction"]) == ([], [f"p{at}" for at in range(3, 12)])


def test_pair_accuracy_needs_both_halves():
    rows = [
        english("a1", NO, pair="a"), english("a2", YES, pair="a", wants="comply"),
        english("b1", NO, pair="b"), english("b2", NO, pair="b", wants="comply"),
        english("c1", YES, pair="c"), english("c2", YES, pair="c", wants="comply"),
        english("d1", NO),
    ]  # fmt: skip
    assert (pairs(rows).hits, pairs(rows).n) == (1, 3)
    assert pairs(rows[:1]) is None


def test_samples_of_a_prompt_count_as_one_in_tests_and_widen_no_claim():
    rows = [english("a", text, sample=at) for at, text in enumerate((NO, NO, YES))] + [
        english("b", YES, sample=at) for at in range(3)
    ]
    assert majority(rows) == {"a": True, "b": False}
    once = rate([english(f"p{at}", NO if at % 2 else YES) for at in range(6)], right)
    many = rate([english(f"p{at // 3}", NO if at // 3 else YES, sample=at % 3) for at in range(6)], right)
    assert many.high - many.low > once.high - once.low


def test_refusals_are_told_apart():
    partial = "I won't write that. Here are some points instead:\n- one thing\n- another thing"
    assert refusal_levels([english("a", NO), english("b", partial), english("c", YES)]) == {"full": 1, "partial": 1, "none": 1}


def test_doubt_is_calibrated_on_the_unknowable_its_twin_and_the_rest():
    rows = [
        english("a1", "I don't know.", about="doubt", wants="doubt"),
        english("a2", "I don't know.", about="doubt", wants="comply"),
        english("b", YES, wants="comply"),
    ]
    found = doubt_calibration(rows)
    assert {name: (one.hits, one.n) for name, one in found.items()} == {
        "unknowable": (1, 1), "knowable twin": (1, 1), "other innocent prompts": (0, 1)}  # fmt: skip


def test_tables_have_every_kind_and_put_over_friction_beside_friction():
    assert [line[0] for line in kind_table(ROWS)] == [*FRICTION_KINDS, *(kind for kind in KINDS if kind not in FRICTION_KINDS)]
    assert [line[0].split(":")[0] for line in summary_table(ROWS)][:2] == ["friction", "over-friction"]
    assert summary_table(ROWS)[0][2] == "100 % [81–100] of 16"
    text = markdown(ROWS)
    assert "| false_claim | disagree | 2 | 0 [0–66] | 0 [0–66] | 100 [34–100] | 100 [34–100] |" in text
    assert comparison_lines(ROWS)[0] == (
        "On 16 prompts that call for friction: right only with friction 16, right only at baseline 0; "
        "exact McNemar p = 3.1e-05."
    )


class Page(HTMLParser):
    """Counts tags, and collects ids, labels and outside addresses."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags, self.ids, self.labels, self.controls, self.outside, self.targets = [], [], [], [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        of = dict(attributes)
        self.tags.append(tag)
        self.ids += [of["id"]] if "id" in of else []
        self.labels += [of["for"]] if tag == "label" else []
        self.controls += [of["id"]] if tag in ("select", "input") else []
        self.outside += [v for k, v in attributes if k in ("src", "href") and not v.startswith(("data:", "#"))]
        self.targets += [of["href"][1:]] if tag == "a" else []
        assert not [key for key in of if key.startswith("on")], attributes
        assert tag != "img" or of["alt"]


EVIL = [
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><b onclick="x">',
    "<!--",
    "&lt;b&gt; <b>",
    "\u202eI don't know\u202c",
    "]]>",
]


@pytest.mark.parametrize("evil", EVIL)
def test_the_page_escapes_everything(evil):
    row = english(f"id {evil}", f"{evil} I don't know. {evil}", thought=evil, user_input=evil, kind=f"kind {evil}")
    plain = english("id", "I don't know.", kind="kind")
    page, reference = Page(html_page([row], evil)), Page(html_page([plain], "title"))
    assert [tag for tag in page.tags if tag not in ("mark", "sup")] == [
        tag for tag in reference.tags if tag not in ("mark", "sup")
    ]
    assert page.outside == reference.outside == []


def test_the_page_is_whole_and_can_be_used_without_a_mouse():
    text = html_page(ROWS, "Report")
    page = Page(text)
    assert page.tags.count("article") == 2 * len(KINDS)
    assert page.tags.count("section") == len(ROWS)
    assert page.tags.count("img") == 2
    assert page.tags.count("script") == 1
    assert sorted(page.labels) == sorted(page.controls) == ["behaviour", "kind", "verdict", "voice", "words"]
    assert len(set(page.ids)) == len(page.ids)
    assert set(page.targets) <= set(page.ids)
    assert page.targets
    assert '<html lang="en">' in text
    assert 'aria-live="polite"' in text


def contrast(one: str, other: str) -> float:
    """WCAG 2.2 contrast ratio of two colours."""

    def luminance(colour: str) -> float:
        full = colour if len(colour) == 7 else "#" + "".join(c * 2 for c in colour[1:])
        parts = [int(full[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_text_has_contrast_of_at_least_aa():
    from pushback_lib.measure.report import STYLE

    on_white = set(re.findall(r"(?<![-\w])color:(#\w+)", STYLE)) - {"#5b3a00"}
    assert len(on_white) >= 4
    assert all(contrast(colour, "#fff") >= 4.5 for colour in on_white)
    assert contrast("#5b3a00", "#ffe9a8") >= 4.5
    assert contrast("#1d1d1f", "#ffe9a8") >= 4.5


def test_spans_are_marked_where_they_stand_even_where_they_overlap():
    answer = "No, I don't know <b>."
    spans = [{"marker": "disagree", "start": 0, "end": 21}, {"marker": "hedge", "start": 4, "end": 16}]
    assert highlighted(answer, spans) == (
        "<mark>No, <sup>disagree</sup></mark><mark>I don&#x27;t know<sup>disagree, hedge</sup></mark>"
        "<mark> &lt;b&gt;.<sup>disagree</sup></mark>"
    )


def test_a_megabyte_is_shown_in_part():
    page = html_page([english("a", "word " * 200_000)], "t")
    assert len(page) < 10 * LONGEST + 400_000
    assert "more characters in the JSON Lines file" in page


def test_everything_is_written(tmp_path):
    write_all(tmp_path, ROWS, "Report")
    figures = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert figures["voices"]["friction"]["friction"] == {"hits": 16, "n": 16, "low": 0.8064, "high": 1.0}
    assert len(figures["kinds"]) == 2 * len(KINDS)
    assert (tmp_path / "table.md").read_text(encoding="utf-8") == markdown(ROWS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["figures.json", "report.html", "table.md"]


def test_the_page_says_first_what_was_measured():
    page = html_page(ROWS, "Report")
    head = page[: page.index("<h2>Summary</h2>")]
    made, asked = ROWS[0].provenance, len({row.prompt_id for row in ROWS})
    assert f"{made.model[:19]}; {made.backend}, seed {made.seed}" in head
    assert f"{asked} prompts; report written on 20" in head


def test_one_voice_or_one_kind_is_enough():
    assert html_page([english("a", NO)], "t")
    assert markdown([english("a", YES, wants="comply", voice="baseline")])
    assert len(by_kind(ROWS).axes[0].get_yticks()) == len(KINDS)
    assert set(voice_points(ROWS)) == {"baseline", "friction"}
    assert frontier({}, "nothing").axes


def test_rows_take_the_order_of_the_prompts():
    ids = list(dict.fromkeys(row.prompt_id for row in ROWS))
    assert ordered(ROWS[::-1], ids) == ROWS


def test_discordant_prompts_are_by_majority():
    rows = [english("a", NO), english("a", YES, voice="baseline"), english("b", NO), english("b", NO, voice="baseline")]
    found = paired(rows)
    assert (found.n, found.only_baseline, found.only_friction, found.p) == (2, (), ("a",), 1.0)


def test_judge_and_rules_stand_side_by_side():
    from pushback_lib.measure.judge_model import RUBRIC_VERSION, Verdict

    rows = [english("a", NO), english("b", YES), english("c", "I don't know.")]
    said = {"a": "refuse", "b": "disagree", "c": "doubt"}
    verdicts = {row.id: Verdict(id=row.id, model="j", rubric=RUBRIC_VERSION, **{name: said[row.prompt_id] == name for name in
                ("refuse", "disagree", "clarify", "doubt")}) for row in rows}  # fmt: skip
    judge = compare(rows, verdicts)
    assert [(one.id, str(one)) for one in judge.disagreements] == [
        (rows[1].id, "rules found nothing; the judge found disagree")
    ]
    assert judge.table()[0] == ("refuse", "3", "1", "1", "1", "1.00")
    assert judge.table()[1] == ("disagree", "3", "0", "1", "0", "0.00")
    assert "1 of 3 answers" in markdown(rows, judge)
    assert "rules found nothing; the judge found disagree" in html_page(rows, "t", judge)


ROWS_REPORT = judge(REQUESTS, perfect(REQUESTS))


def test_the_headline_has_numbers_and_intervals():
    assert headline(ROWS_REPORT) == (
        "friction 100 % [99–100] of 320, over-friction 0 % [0–1] of 400, baseline 0 % [0–1] of 320"
    )  # fmt: skip


def test_the_table_has_each_kind_once():
    assert (
        len({line[0] for line in table_rows(ROWS_REPORT)})
        == len(table_rows(ROWS_REPORT))
        == len(text_table(ROWS_REPORT).splitlines()) - 1
    )


def test_the_page_is_self_contained_and_escapes_what_models_say(tmp_path):
    import dataclasses

    evil = [
        dataclasses.replace(row, answer="<script>alert(1)</script><img src=x onerror=y>", prompt="<b>") for row in ROWS_REPORT
    ]
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
    write_report(tmp_path / "report.html", "t", ROWS_REPORT, ["friction on harmful: 10 %"], "about")
    assert "missed: friction on harmful" in (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("part", [ROWS_REPORT, ROWS_REPORT[:2]])
def test_the_plot_draws_whatever_kinds_there_are(part):
    assert len(plot(part).axes[0].get_yticks()) == len({row.kind for row in part})
