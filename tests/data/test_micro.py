"""The micro data set: coverage, determinism, and a page that keeps its answers below the fold."""

from collections import Counter
from itertools import product

import pytest
from examples import BEHAVIOURS, record
from live_browsers import driven, open_page
from markupsafe import escape
from pypdf import PdfReader

from pushback_lib.core.common import DATA
from pushback_lib.core.records import load_records
from pushback_lib.data.micro import choose, gist, sheet_html, write_micro

DOMAINS = tuple(f"domain {letter}" for letter in "abcdefgh")


def many(each: int = 6) -> list:
    pairs = [pair for _ in range(each) for pair in product(DOMAINS, BEHAVIOURS)]
    return [record(n, behaviour, domain=domain) for n, (domain, behaviour) in enumerate(pairs)]


@pytest.mark.parametrize("n", [1, 20, 40, 60])
def test_domains_and_behaviours_are_even(n):
    chosen = choose(many(), n)
    assert len(chosen) == len({found.id for found in chosen}) == n
    for key, names in (("domain", DOMAINS), ("behaviour", BEHAVIOURS)):
        counts = Counter(getattr(found, key) for found in chosen)
        assert max(counts.values()) - min(counts[name] for name in names) <= 1, counts


def test_every_pair_is_there_as_soon_as_there_is_room():
    pairs = {(found.domain, found.behaviour) for found in choose(many(), 40)}
    assert pairs == set(product(DOMAINS, BEHAVIOURS))


def test_the_choice_does_not_depend_on_the_order_of_the_file():
    assert choose(many(), 30) == choose(many()[::-1], 30)


def test_short_requests_go_first():
    long = [found.model_copy(update={"user_input": "x" * 300}) for found in many()[:120]]
    assert not any(found in long for found in choose([*long, *many()[120:]], 60))


def test_fewer_records_than_asked_for_are_all_taken():
    assert len(choose(many(1), 60)) == 40


def test_the_sheet_gives_no_answer_beside_its_requests_and_escapes_what_it_shows():
    chosen = choose(many(), 60)
    chosen[0] = chosen[0].model_copy(update={"user_input": "<script>alert(1)</script>"})
    page = sheet_html(chosen)
    requests, answers = page.split('<section class="answers">')
    assert "1. <u></u> &lt;script&gt;alert(1)&lt;/script&gt;" in requests
    for number, found in enumerate(chosen, 1):
        assert f"<p>{number}. <u></u> " in requests
        assert f"<p>{number}. <b>{found.behaviour}</b> {escape(gist(found))}</p>" in answers
        assert escape(gist(found)) not in requests
    assert "<b>" not in requests
    assert "size: A4" in page


def test_the_bundled_sheet_is_what_its_command_writes(tmp_path):
    (tmp_path / "micro.jsonl").write_text("of an earlier run")
    out, sheet = write_micro(DATA / "friction" / "train.jsonl", tmp_path / "micro.jsonl")
    assert (out, sheet) == (tmp_path / "micro.jsonl", tmp_path / "micro-sheet.html")
    assert len(load_records(out)) == 60
    assert out.read_bytes() == (DATA / "micro.jsonl").read_bytes()
    assert sheet.read_bytes() == (DATA / "micro-sheet.html").read_bytes()


def test_the_bundled_sheet_prints_on_one_page_with_the_answers_below_the_fold(tmp_path, chromium):
    with driven(chromium) as browser, open_page(browser, DATA / "micro-sheet.html", wait=".answers") as page:
        page.wait_for_load_state()
        page.pdf(path=tmp_path / "sheet.pdf", prefer_css_page_size=True)
    (printed,) = PdfReader(tmp_path / "sheet.pdf").pages
    requests, answers = printed.extract_text().split("The answers")
    assert "60. " in requests
    assert "60. " in answers


GISTS = [
    ("Keep it.", "Keep it."),
    ("**Keep** the `lid` on:\n- one\n- two", "Keep the lid on: one two"),
    ("Keep the lid on, " * 10, "Keep the lid on, " * 4 + "Keep the\N{NO-BREAK SPACE}…"),
]


@pytest.mark.parametrize(("answer", "wanted"), GISTS)
def test_gist(answer, wanted):
    assert gist(record(answer=answer)) == wanted
