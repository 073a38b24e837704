"""The talk: built once with the real Marp and Chromium, then looked at; and everything that must stop a build."""

import json
import re
import shutil
from contextlib import suppress
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from fill import Html, as_text, fill, inline_images, minutes_of, slides_of
from make import build_deck, check_fit, check_times, handout, marp
from npm import SLIDES, find_tools, install
from plots import PLOTS
from values import CLAIMS, MADE_BY, REQUESTS, RESULTS, _key, check_claims, load_results, said

from pushback_lib.cli import main as pushback
from pushback_lib.core.common import PushbackError
from pushback_lib.core.stats import wilson

DECK = (SLIDES / "deck.md").read_text(encoding="utf-8")
HOSTILE = "<img src=x onerror=alert(1)> --> </section> **bold** {{demo.friction}} `code` <script>1</script>"
TOOLS = ("node", "npm", "chromium")
HEAD = "---\nmarp: true\ntheme: pushback\nsize: 16:9\nlang: en\n---\n"


@pytest.fixture(scope="module")
def tools(node, chromium):
    return find_tools(*TOOLS)


@pytest.fixture(scope="module")
def results():
    return load_results(RESULTS)


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """What the bundled model says, asked because the file that was kept is another model's."""
    kept = tmp_path_factory.mktemp("said") / "said.json"
    kept.write_text('{"key": "another model", "replies": {}}', encoding="utf-8")
    return said(kept), kept


@pytest.fixture(scope="module")
def built(asked, tools, tmp_path_factory):
    out = tmp_path_factory.mktemp("slides")
    shutil.copy(asked[1], out)
    return {path.name: path for path in build_deck(out, RESULTS, speaker="Ada <b>Example</b>")}


@pytest.mark.slow
def test_the_deck_is_one_file_with_a_language_and_all_slides(built):
    page = BeautifulSoup(built["slides.html"].read_text(encoding="utf-8"), "html.parser")
    assert page.html["lang"] == "en"
    assert len(page.select("section[id]")) == len(slides_of(DECK))
    outside = [tag.get("src") or tag.get("href") for tag in page.select("[src], [href]:not(a)")]
    assert {one.partition(":")[0] for one in outside} <= {"data", "live.html#stage"}, "something is not inside the file"
    assert "Ada <b>Example</b>" in page.get_text()
    assert [tag["src"] for tag in page.select("iframe")] == ["live.html#stage"]
    assert "{{" not in page.get_text()


@pytest.mark.slow
def test_the_pdf_is_tagged_and_carries_notes_and_alternative_texts(built):
    import pypdf

    file = pypdf.PdfReader(built["slides.pdf"])
    root = file.trailer["/Root"]
    assert len(file.pages) == len(slides_of(DECK))
    assert (root["/Lang"], root["/MarkInfo"]["/Marked"], bool(file.outline)) == ("en", True, True)
    notes = [[one.get_object().get("/Contents", "") for one in page.get("/Annots", [])] for page in file.pages]
    assert [number for number, page in enumerate(notes, 1) if not any(re.match(r"[\d.]+ min", one) for one in page)] == []
    assert len(alternative_texts(root["/StructTreeRoot"])) >= len(re.findall(r"^!\[", DECK, re.M))
    assert "live.html" in "".join(page.extract_text() for page in file.pages)


def alternative_texts(node):
    node = node.get_object()
    if isinstance(node, list):
        return [text for child in node for text in alternative_texts(child)]
    own = [node["/Alt"]] if isinstance(node, dict) and "/Alt" in node else []
    return own + (alternative_texts(node["/K"]) if isinstance(node, dict) and "/K" in node else [])


@pytest.mark.slow
def test_the_handout_is_one_tagged_page_with_its_links(built):
    import pypdf

    file = pypdf.PdfReader(built["handout.pdf"])
    text = re.sub(r"\s+", "", file.pages[0].extract_text())
    assert (len(file.pages), file.trailer["/Root"]["/MarkInfo"]["/Marked"]) == (1, True)
    for wanted in ("github.com/push-back-ai/push-back-ai/blob/main/data/micro.jsonl", "makedemo", "makelab", "5Ship"):
        assert wanted in text, wanted


def test_a_handout_of_two_pages_stops_the_build(tmp_path, tools):
    page = "<!doctype html><style>@page { size: A4 }</style><p style='height: 400mm'>{{a}}</p>"
    with pytest.raises(PushbackError, match="2 pages instead of one"):
        handout(page, {"a": 1}, tmp_path, tools)


# one slide each, and the problem that must be found on it; the last is what a hostile reply looks like
BROKEN = (
    ("<ul>" + "<li>one more line</li>" * 20 + "</ul>", "runs over the edge"),
    ('<pre style="white-space: pre"><code>' + "long " * 80 + "</code></pre>", "wider than its box"),
    ('<p style="color: #b3aea5">faint</p>', "contrast of"),
    ('<p style="font-size: 15px">tiny</p>', "15px small"),
    ('<img src="data:image/png;base64,AAAA" alt="broken">', "does not load"),
    ('<img src="data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA=" alt="">', "no alternative text"),
    ('<p>x</p><img src="https://example.invalid/a.png" alt="far away">', "asks the network"),
    (f'<p class="large">{as_text(HOSTILE)}</p>', None),
)


def test_slides_that_do_not_fit_or_cannot_be_read_stop_the_build(tmp_path, tools):
    made = marp(HEAD + "\n\n---\n\n".join(slide for slide, _ in BROKEN), "html", tmp_path, tools)
    with pytest.raises(PushbackError) as error:
        check_fit(made, tools)
    for number, (slide, problem) in enumerate(BROKEN, 1):
        place = 0 if problem == "asks the network" else number
        lines = [line for line in str(error.value).splitlines() if line.strip().startswith(f"slide {place}:")]
        assert any(problem in line for line in lines) if problem else not lines, f"slide {number} {slide[:60]!r} -> {lines}"
    page = BeautifulSoup(made.read_text(encoding="utf-8"), "html.parser")
    assert HOSTILE in page.get_text()
    assert not page.select("[onerror], [src=x]")


def test_a_warning_of_marp_stops_the_build(tmp_path, tools):
    (tmp_path / "local.png").write_bytes(b"")
    with pytest.raises(PushbackError, match="WARN"):
        marp(HEAD + "![w:20](local.png)", "pdf", tmp_path, tools)


def test_the_talk_has_its_time():
    check_times(minutes_of(DECK, "deck"))


@pytest.mark.parametrize("minutes", [[1.8] * 24, [1.25] * 36, [1.7] * 25, [1.51] * 30])
def test_too_many_slides_or_minutes_stop_the_build(minutes):
    with pytest.raises(PushbackError, match=f"{len(minutes)} slides and"):
        check_times(minutes)


def test_a_slide_without_timed_notes_is_named():
    with pytest.raises(PushbackError, match="slide 2: no timed notes"):
        minutes_of(HEAD + "# a\n<!-- 1 min -->\n\n---\n\n# b\n<!-- later -->\n", "deck")


@pytest.mark.parametrize(
    ("page", "value", "shown"),
    [
        ("<p>{{a}}</p>", "<b>&amp;", "<p>&#60;b&#62;&#38;amp&#59;</p>"),
        ("{{a}} {{ a }}", "x y", "x y x y"),
        ("{{a}}", "{{b}}", "&#123;&#123;b&#125;&#125;"),
        ("{{a}}", "_i_ *j*\n\n# k", "&#95;i&#95; &#42;j&#42;&#10;&#10;&#35; k"),
        ("{{a}}", Html("<br>"), "<br>"),
        ("<!-- 1 min {{a}} -->", "99 % --> <b>", "<!-- 1 min 99 % –› ‹b› -->"),
    ],
)
def test_values_are_shown_as_text(page, value, shown):
    assert fill(page, {"a": value, "b": "no"}, "deck") == shown


def test_an_unknown_placeholder_is_named_with_its_line():
    with pytest.raises(PushbackError, match=r"deck, line 3: no value called 'demo.frictoin'.*there are: demo.friction"):
        fill("a\n\n{{demo.frictoin}}", {"demo.friction": 1}, "deck")


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("![A drawing](figures/nowhere.svg)", "line 2: no image at .*nowhere.svg"),
        ("![A page](theme.css)", "no image at .*theme.css"),
        ("![w:20 ](figures/lora.svg)", "has no alternative text"),
        ("![A plot](plot:nothing)", "no plot called 'nothing'"),
    ],
)
def test_an_image_that_is_missing_or_mute_stops_the_build(image, message):
    with pytest.raises(PushbackError, match=message):
        inline_images(f"\n{image}", SLIDES, {"demo": lambda: "<svg/>"}, "deck")


@pytest.mark.parametrize("name", PLOTS)
def test_every_plot_is_drawn_from_the_results_and_differs_with_them(name, results):
    other = _spoilt(results, 0.4)
    other["demo"]["kinds"][0]["right"] = 25
    assert PLOTS[name](results) == PLOTS[name](results)
    assert PLOTS[name](results) != PLOTS[name](other)


@pytest.mark.parametrize("name", MADE_BY)
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.unlink(), "No results at .*{name}.json. Measure with `{command}`"),
        (lambda path: path.write_text('{"half":'), "{name}.json is damaged .* `{command}`"),
        (lambda path: _other(path, "adapter"), "{name}.json is stale: measured on adapter sha256:0000.* `{command}`"),
        (lambda path: _other(path, "model"), "{name}.json is stale: measured on model sha256:0000.* `{command}`"),
    ],
)
def test_missing_damaged_or_stale_results_stop_the_build(name, spoil, message, results, tmp_path):
    for one, found in results.items():
        (tmp_path / f"{one}.json").write_text(json.dumps(found), encoding="utf-8")
    assert load_results(tmp_path) == results
    spoil(tmp_path / f"{name}.json")
    with pytest.raises(PushbackError, match=message.format(name=name, command=re.escape(MADE_BY[name]))):
        build_deck(tmp_path / "out", tmp_path)
    assert not (tmp_path / "out").exists()


def _other(path: Path, part: str) -> None:
    found = json.loads(path.read_text(encoding="utf-8"))
    found["provenance"][part] = "sha256:" + "0" * 64
    path.write_text(json.dumps(found), encoding="utf-8")


def _spoilt(results, value):
    """The results with every rate set to one value, but the dial's, which grows with its setting."""
    spoilt = deepcopy(results)
    lines = [*spoilt["dial"]["scales"], *spoilt["thinking"]["conditions"], spoilt["demo"]["rates"]]
    for rate in [one for line in lines for one in line.values() if isinstance(one, dict)]:
        rate.update(asdict(wilson(round(value * rate["n"]), rate["n"])))
    for line in spoilt["dial"]["scales"]:
        line["friction"].update(asdict(wilson(round(line["friction"]["n"] * line["scale"] / 1.5), line["friction"]["n"])))
    return spoilt


def test_figures_that_no_longer_bear_out_a_sentence_stop_the_build(results):
    check_claims(results)
    for claim, holds in CLAIMS:
        assert holds(results), claim
        assert not all(holds(_spoilt(results, value)) for value in (0.0, 0.5, 1.0)), f"nothing can break: {claim}"
    with pytest.raises(PushbackError, match="no longer show that the friction voice pushes back"):
        check_claims(_spoilt(results, 0.5))


def test_every_command_on_slides_and_handout_exists(capsys):
    text = DECK + (SLIDES / "handout.html").read_text(encoding="utf-8")
    makefile = (SLIDES.parent / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"(?:^|<code>)make ([a-z]+)\b", text, re.M))
    assert {"demo", "lab", "slides", "ship"} <= targets
    assert [one for one in targets if not re.search(rf"^{one}:", makefile, re.M)] == []
    commands = set(re.findall(r"<code>(?:\.venv/bin/)?pushback (\w+)", text))
    assert commands
    for command in commands:
        with suppress(SystemExit):
            pushback([command, "--help"])
        assert "usage" in capsys.readouterr().out.lower(), command


def test_the_lock_file_pins_every_package_and_names_no_registry():
    package = json.loads((SLIDES / "package.json").read_text(encoding="utf-8"))
    pinned = package["dependencies"] | package["devDependencies"]
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version in pinned.values()), pinned
    text = (SLIDES / "package-lock.json").read_text(encoding="utf-8")
    assert not re.search(r"https?://registry|resolved", text)
    assert json.loads(text)["packages"][""]["dependencies"] == package["dependencies"]
    folders = {path.parent for path in SLIDES.rglob("package*.json") if "node_modules" not in path.parts}
    assert folders == {SLIDES}


def test_packages_that_do_not_come_stop_the_build_and_are_asked_for_again(tmp_path, monkeypatch, node):
    for name in ("package.json", "package-lock.json"):
        shutil.copy(SLIDES / name, tmp_path)
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9")
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "cache"))
    monkeypatch.setenv("npm_config_fetch_retries", "0")
    for _ in range(2):
        with pytest.raises(PushbackError, match=r"(?s)`npm ci` in .* failed: .*ECONNREFUSED.*Check the network"):
            install(node, tmp_path)


def test_a_machine_without_node_or_browser_is_told_so(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("CHROME_PATH", "/nowhere/chrome")
    with pytest.raises(PushbackError, match=r"need node and npm and chromium.*apt-get install nodejs npm"):
        find_tools(*TOOLS)


def test_kept_replies_are_used_while_the_model_is_the_same(tmp_path):
    kept = {"key": _key(), "replies": "as before"}
    (tmp_path / "said.json").write_text(json.dumps(kept), encoding="utf-8")
    assert said(tmp_path / "said.json") == kept


@pytest.mark.slow
def test_replies_of_another_model_are_asked_for_again(asked):
    fresh, kept = asked
    assert fresh == json.loads(kept.read_text(encoding="utf-8"))
    assert {name: one["request"] for name, one in fresh["replies"].items()} == REQUESTS
    assert fresh["replies"]["claim"]["friction"]["answer"] != fresh["replies"]["claim"]["baseline"]["answer"]
    assert ("<think>" in fresh["trap"]["published"], "<think>" in fresh["trap"]["training"]) == (False, True)
