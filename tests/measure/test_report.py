import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from eval_rows_made import bundled_rows, english
from matplotlib.colors import to_rgb

import pushback_lib.measure.report as report
from pushback_lib.core.common import BASELINE, FRICTION, VOICES
from pushback_lib.language.requests import KINDS
from pushback_lib.measure.figures import figures_of
from pushback_lib.measure.judge_model import RUBRIC_VERSION, Verdict, compare
from pushback_lib.measure.plots import plot_frontier, plot_kinds
from pushback_lib.measure.report import LONGEST, markdown, pair_text, parts, write_report, write_results

ROWS = bundled_rows(2)
DRAWN = "greedy, no penalties, at most 99 new tokens"
NO, YES = "I'm sorry, but I can't help with that.", "Mix flour and water, then bake."


def html_page(rows, title="Report", **more):
    return report.html_page(figures_of(rows), rows, title, **more)


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


EVIL = ["</script><script>alert(1)</script>", "<img src=x onerror=alert(1)>", '"><b onclick="x">', "<!--", "&lt;b&gt; <b>",
        "\u202eI don't know\u202c", "]]>", "{{ 7 * 7 }} {% for"]  # fmt: skip


@pytest.mark.parametrize("evil", EVIL)
def test_the_page_escapes_everything(evil):
    row = english(f"id {evil}", f"{evil} I don't know. {evil}", thought=evil, user_input=evil, kind=f"kind {evil}")
    plain = english("id", "I don't know.", kind="kind")
    page, reference = Page(html_page([row], evil, about=evil)), Page(html_page([plain], "title", about="about"))
    made, expected = ([tag for tag in one.tags if tag not in ("mark", "sup")] for one in (page, reference))
    assert made == expected
    assert page.outside == reference.outside == []


def test_the_page_is_complete_and_can_be_used_without_a_mouse():
    text = html_page(ROWS)
    page = Page(text)
    counts = {tag: page.tags.count(tag) for tag in ("article", "section", "img", "script")}
    assert counts == {"article": 2 * len(KINDS), "section": len(ROWS), "img": 2, "script": 1}
    assert sorted(page.labels) == sorted(page.controls) == ["behaviour", "kind", "verdict", "voice", "words"]
    assert len(set(page.ids)) == len(page.ids)
    assert set(page.targets) <= set(page.ids)
    assert page.targets
    assert text.startswith('<!doctype html>\n<html lang="en">')
    assert 'aria-live="polite"' in text
    assert not re.search("https?://", text)


def contrast(one: str, other: str) -> float:
    """WCAG 2.2 contrast ratio of two colours."""

    def luminance(colour: str) -> float:
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in to_rgb(colour)]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_text_has_contrast_of_at_least_aa():
    style = Path(report.__file__).with_suffix(".html").read_text(encoding="utf-8").partition("</style>")[0]
    on_white = set(re.findall(r"(?<![-\w])color:(#\w+)", style)) - {"#5b3a00"}
    assert len(on_white) >= 4
    assert all(contrast(colour, "#fff") >= 4.5 for colour in on_white)
    assert all(contrast(colour, "#ffe9a8") >= 4.5 for colour in ("#5b3a00", "#1d1d1f"))


def test_spans_are_marked_where_they_stand_even_where_they_overlap():
    answer = "No, I don't know <b>."
    spans = [{"marker": "disagree", "start": 0, "end": 21}, {"marker": "hedge", "start": 4, "end": 16}]
    assert parts(answer, spans) == [
        ("No, ", "disagree"), ("I don't know", "disagree, hedge"), (" <b>.", "disagree")]  # fmt: skip
    row = english("a", answer)
    page = html_page([row.model_copy(update={"markers": {**row.markers, "spans": spans}})])
    assert (
        '<p class="text" dir="auto"><mark>No, <sup>disagree</sup></mark><mark>I don&#39;t know<sup>disagree, hedge</sup></mark>'
        "<mark> &lt;b&gt;.<sup>disagree</sup></mark></p>"
    ) in page


def test_a_megabyte_is_shown_in_part():
    page = html_page([english("a", "word " * 200_000)])
    assert len(page) < 10 * LONGEST + 400_000
    assert "980,000 more characters in the JSON Lines file" in page


def test_everything_is_written(tmp_path):
    found = write_report(tmp_path, ROWS, about="It took 5 s.")
    written = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert written["voices"]["friction"]["friction"] == {"hits": 16, "n": 16, "low": 0.8064, "high": 1.0}
    assert {made["generation"] for made in written["provenance"].values()} == {DRAWN}
    assert (tmp_path / "table.md").read_text(encoding="utf-8").count(f"seed 0, {DRAWN}, prompt set") == 2
    assert (tmp_path / "table.md").read_text(encoding="utf-8") == markdown(found)
    assert "<p>It took 5 s.</p>" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["figures.json", "report.html", "table.md"]


def test_results_for_the_slides_say_what_they_were_measured_on(tmp_path):
    write_results(tmp_path, figures_of(ROWS), 113.7)
    found = json.loads((tmp_path / "demo.json").read_text(encoding="utf-8"))
    assert {name: (one["hits"], one["n"]) for name, one in found["rates"].items()} == {
        "friction": (16, 16), "over_friction": (0, 20), "baseline": (0, 16), "baseline_over_friction": (0, 20)}  # fmt: skip
    assert len(found["kinds"]) == 2 * len(KINDS)
    assert (found["training_seconds"], found["provenance"]) == (114, {"model": "made", "adapter": "", "generation": DRAWN})
    assert found["machine"]
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")


def test_the_page_says_first_what_was_measured_and_what_was_missed():
    page = html_page(ROWS)
    head = page[: page.index("<h2>Summary</h2>")]
    made, asked = ROWS[0].provenance, len({row.prompt_id for row in ROWS})
    assert f"{made.model[:19]}; {made.backend}, seed {made.seed}, {DRAWN}, prompt set" in head
    assert f"{asked} prompts; report written on 20" in head
    assert f"<strong>{figures_of(ROWS).headline}</strong>" in head
    assert "<p>All targets are met on all 18 kinds.</p>" in head
    lazy = [row for row in ROWS if row.voice == BASELINE]
    lazy += [row.model_copy(update={"voice": FRICTION}) for row in lazy]
    missed = '<p class="missed">target missed: friction on harmful: right behaviour 0 %, target at least 90 % (n = 2)</p>'
    assert missed in html_page(lazy)
    assert "<h2>Targets</h2>" not in html_page([english("a", NO)])


@pytest.mark.parametrize("rows", [ROWS, ROWS[:2], [english("a", NO)], [english("a", YES, wants="comply", voice="baseline")]])
def test_one_voice_or_one_kind_is_enough(rows):
    found = figures_of(rows)
    assert html_page(rows)
    assert markdown(found)
    assert len(plot_kinds(found).axes[0].get_yticks()) == len({row.kind for row in rows})
    both = len(rows) == len(ROWS)
    legend = plot_frontier(found).axes[0].get_legend()
    assert (legend is not None) == both
    assert not both or [text.get_text() for text in legend.get_texts()] == list(VOICES)


def test_judge_and_rules_stand_side_by_side():
    rows = [english("a", NO), english("b", YES), english("c", "I don't know.")]
    said = {"a": "refuse", "b": "disagree", "c": "doubt"}
    verdicts = {row.id: Verdict(id=row.id, model="j", rubric=RUBRIC_VERSION, **{name: said[row.prompt_id] == name for name in
                ("refuse", "disagree", "clarify", "doubt")}) for row in rows}  # fmt: skip
    judge = compare(rows, verdicts)
    words = "rules found nothing; the judge found disagree"
    assert [(one.id, str(one)) for one in judge.disagreements] == [(rows[1].id, words)]
    assert judge.table()[:2] == [("refuse", "3", "1", "1", "1", "1.00"), ("disagree", "3", "0", "1", "0", "0.00")]
    assert "1 of 3 answers" in markdown(figures_of(rows), judge)
    assert words in html_page(rows, judge=judge)


def test_the_first_pair_of_a_kind_is_shown_as_text():
    baseline, friction = [row for row in ROWS if row.kind == "pressure"][:2]
    text = pair_text(ROWS, "pressure")
    assert text.startswith(f"[pressure: wants disagree]\nuser: {baseline.history[0].content}\n")
    assert f"baseline thinks:\n    {baseline.thought.splitlines()[0]}" in text
    assert text.endswith(f"\nfriction: {friction.answer}")
