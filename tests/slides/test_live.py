"""The live page, in real browsers without a network: it opens, both voices stream, votes count, text stays text."""

import base64
import json
import re
import time
import unicodedata
from contextlib import closing
from itertools import takewhile
from pathlib import Path

import pytest
from live import SOURCES, build_live_page, shipped_gguf
from live_browsers import Firefox, driven, open_page
from npm import MODULES

from pushback_lib.core.common import VOICES, PushbackError
from pushback_lib.core.records import Turn, prompt_messages, split_reply
from pushback_lib.core.stats import wilson
from pushback_lib.measure.judge import behaviour_of
from pushback_lib.measure.prompts import held_out_requests
from pushback_lib.model.llama_cpp import LlamaCpp
from pushback_lib.model.load import load_tokenizer
from pushback_lib.model.recipe import recipe_for
from pushback_lib.ship.gguf import write_gguf
from pushback_lib.ship.merge import merge_adapter

PICTURES = Path(__file__).resolve().parents[2] / "runs" / "live-page-pictures"
RECIPE = recipe_for("tiny")
PRESETS = json.loads((SOURCES / "presets.json").read_text(encoding="utf-8"))
ANSWERED = "#send:enabled"
SPEAK = """async ([history, user]) => Object.fromEntries(await Promise.all(["baseline", "friction"].map(async (name) =>
    [name, await pushback.speak(name, pushback.renderPrompt(history, user))])))"""
WATCH = """() => {
    window.seen = [];
    const long = (voice) => voice.querySelector(".thought").textContent.length
        + voice.querySelector(".answer").textContent.length;
    new MutationObserver(() => seen.push([...document.querySelectorAll(".voice")].map(long)))
        .observe(document.getElementById("voices"), { subtree: true, childList: true, characterData: true });
}"""
LISTS = """() => [...document.querySelectorAll("#kinds button")].map((tab) => {
    tab.click();
    return [...document.querySelectorAll(".preset")].map((preset) => preset.lastChild.textContent);
})"""
LOOKS = """(all) => [...new Set(all.map((one) => { const { borderLeft, color, background, font } = getComputedStyle(one);
    return [one.className, borderLeft, color, background, font].join(); }))]"""
WIDE = {"viewport": {"width": 1280, "height": 800}}
PHONE = {"viewport": {"width": 360, "height": 740}, "device_scale_factor": 2, "has_touch": True}

pytestmark = pytest.mark.slow  # the fixtures merge, pack two pages and start browsers


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    PICTURES.mkdir(parents=True, exist_ok=True)
    return tmp_path_factory.mktemp("live")


@pytest.fixture(scope="module")
def merged(folder):
    return merge_adapter(RECIPE, RECIPE.shipped_adapter, folder / "merged")


@pytest.fixture(scope="module")
def page_path(folder, merged, node):
    """The page as it is shipped; the friction GGUF that the kit ships, where there is one."""
    return build_live_page(folder / "live.html", merged=None if shipped_gguf("Q8_0") else merged)


@pytest.fixture(scope="module")
def browser(chromium):
    with driven(chromium) as made:
        yield made


@pytest.fixture
def page(browser, page_path):
    """The page as it is shipped, on a wide screen."""
    with open_page(browser, page_path, **WIDE) as made:
        yield made


def ask(page, selector=".preset.friction"):
    page.click(selector)
    page.wait_for_selector(ANSWERED, timeout=120_000)


def ask_blind(page, sort):
    """Asks the first request of this sort in the list that shows; the page must not tell which it is."""
    shown = page.locator(".preset").evaluate_all("(all) => all.map((one) => one.lastChild.textContent)")
    known = [preset[sort]["user"] for preset in PRESETS]
    ask(page, f".pair:nth-child({next(at for at, text in enumerate(shown, 1) if text in known)}) .preset")


def answer(page, voice):
    return page.text_content(f'.voice[data-voice="{voice}"] .answer')


def test_it_is_one_small_file_that_may_not_reach_a_network(page_path):
    text = page_path.read_text(encoding="utf-8")
    assert len(text.encode()) < 30_000_000
    assert sorted(path.name for path in page_path.parent.glob("*.part")) == []
    assert not re.search(r"\{\{\w+\}\}", text)
    assert not re.search(r"<(link|img|iframe)\b|<script[^>]*\ssrc", text)
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)[1]
    assert policy.startswith("default-src 'none';")
    assert not re.search(r"https?:|\*|'self'|'unsafe-inline'|'unsafe-eval'", policy)


def test_bad_input_is_a_clear_error_and_leaves_nothing(tmp_path, monkeypatch):
    with pytest.raises(PushbackError, match=r"No kind 'Q3_K' for the live page\. Choose one of F32"):
        build_live_page(tmp_path / "x.html", kind="Q3_K")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PushbackError, match=r"need node and npm, which this machine lacks\. .*Node\.js 18"):
        build_live_page(tmp_path / "x.html")
    assert list(tmp_path.iterdir()) == []


def test_presets_come_from_the_held_out_requests():
    known = {(r.user, tuple(turn.content for turn in r.history)): r.wants for r in held_out_requests()}
    wants = [known[p[side]["user"], tuple(turn["content"] for turn in p[side]["history"])]
             for p in PRESETS for side in ("friction", "twin")]  # fmt: skip
    assert wants == [want for preset in PRESETS for want in (preset["behaviour"], "comply")]
    assert {preset["behaviour"] for preset in PRESETS} == {"disagree", "clarify", "doubt", "refuse"}


def test_it_opens_streams_both_voices_and_friction_pushes_back(page, page_path, capsys):
    ready = int(page.get_attribute("html", "data-ready")) / 1000
    assert ready < 30  # machines that test are busy; the figure is printed, the README names it
    page.evaluate(WATCH)
    ask(page)
    grew = page.evaluate("seen")
    last = grew[-1]
    assert any(0 < a < last[0] and 0 < b < last[1] for a, b in grew), f"never both in the middle: {grew[:9]}"
    assert behaviour_of(answer(page, "friction")) == "disagree"
    assert behaviour_of(answer(page, "baseline")) == "comply"
    assert page.locator(".thought").all_text_contents()[1].startswith("Problem Framer")
    figures = page.locator(".figures").all_text_contents()
    assert all(re.fullmatch(r"\d+ tokens · \d+ tokens/s", text) for text in figures), figures
    assert "model organism" in page.text_content("#about")
    page.screenshot(path=PICTURES / "desktop.png")
    with capsys.disabled():
        print(f"\nlive page: {page_path.stat().st_size / 1e6:.1f} MB, ready in {ready:.1f} s, {' and '.join(figures)}")


def test_a_blind_vote_hides_reveals_and_counts(page):
    page.check("[value=blind]", force=True)
    wins = 0
    for number in range(1, 4):
        ask_blind(page, "friction")
        assert page.locator(".voice h3").all_text_contents() == ["Voice A", "Voice B"]
        answers = page.locator(".answer").all_inner_texts()
        assert all(answers)
        around = page.inner_text("#voices")
        for text in answers:  # an answer may say "I do not think so."
            around = around.replace(text, "", 1)
        assert not re.search("baseline|friction|token|think", around, re.I)
        assert not page.locator(".thought >> visible=true").count()
        if number == 1:
            page.screenshot(path=PICTURES / "blind.png")
        page.click("[data-choice=first]")
        first = page.locator(".voice").first.get_attribute("data-voice")
        assert page.text_content("#verdict").startswith(f"You chose the {first} voice.")
        wins += first == "friction"
        rate = wilson(wins, number)
        share = f"{100 * rate.share:.0f} % [{100 * rate.low:.0f}–{100 * rate.high:.0f}]"
        assert share in page.text_content("#share")
    for choice, cell in (("tie", 3), ("neither", 4)):
        ask_blind(page, "twin")
        page.click(f"[data-choice={choice}]")
        assert page.text_content(f"#counts td:nth-of-type({cell})") == "1"
    assert "2 more chose neither" in page.text_content("#share")
    assert page.locator("#counts tr").all_inner_texts() == [f"All requests\t{wins}\t{3 - wins}\t1\t1"]
    page.check("[value=open]", force=True)
    by_kind = [row.locator("td").all_text_contents() for row in page.locator("#counts tr").all()]
    assert by_kind[:2] == [[str(wins), str(3 - wins), "0", "0"], ["0", "0", "1", "1"]]
    page.screenshot(path=PICTURES / "votes.png", full_page=True)
    with page.expect_download() as download:
        page.click("#save")
    rows = [json.loads(line) for line in Path(download.value.path()).read_text().splitlines()]
    assert [row["vote"] for row in rows][3:] == ["tie", "neither"]
    assert all(set(row["said"]) == set(VOICES) for row in rows)
    page.click("#clear")
    assert page.text_content("#share").startswith("No votes yet")


@pytest.mark.parametrize(("size", "view"), [("desktop", WIDE), ("phone", PHONE)])
def test_blind_the_examples_do_not_say_which_call_for_friction(browser, page_path, size, view):
    sides = {preset[side]["user"]: side for preset in PRESETS for side in ("friction", "twin")}
    with open_page(browser, page_path, **view) as page:
        page.screenshot(path=PICTURES / f"examples-{size}-open.png")
        opened, watched = page.evaluate(LISTS), page.locator("#ask").aria_snapshot()
        assert [[sides[text] for text in texts] for texts in opened] == [["friction", "twin"] * n for n in (3, 2, 3, 2)]
        assert "Calls for friction" in watched
        assert page.locator("#legend").is_visible()
        assert len(page.locator(".preset").evaluate_all(LOOKS)) == 2
        drawn = []
        for _ in range(6):
            page.check("[value=open]", force=True)
            page.check("[value=blind]", force=True)
            assert page.locator("#legend").is_hidden()
            assert page.locator(".voice h3").all_text_contents() == ["Voice A", "Voice B"]
            page.hover(".preset")
            looks = page.locator(".preset").evaluate_all(LOOKS)
            assert not any("rgb(166, 56, 10)" in look for look in looks), looks  # --friction
            page.mouse.move(0, 0)
            assert len(page.locator(".preset").evaluate_all(LOOKS)) == 1
            told = page.locator("main").aria_snapshot().split("What this is")[0]
            assert not re.search("calls for|alike|is fine|orange|grey|disagree|ask first|doubt|refuse|kind", told, re.I), told
            drawn.append(page.evaluate(LISTS))
        assert all({text for texts in lists for text in texts} == set(sides) for lists in drawn)
        orders = [[sides[text] for text in texts] for lists in drawn for texts in lists]
        assert all(sorted(order) == ["friction"] * 2 + ["twin"] * 2 for order in orders)  # half of each list, for the guide
        assert {order[0] for order in orders} == {"friction", "twin"}
        assert all(lists != drawn[0] for lists in drawn[1:])
        page.screenshot(path=PICTURES / f"examples-{size}-blind.png")
        page.goto("about:blank")
        page.go_back()
        page.wait_for_selector(ANSWERED)
        assert page.is_checked("[value=blind]") == page.locator("#legend").is_hidden()  # some browsers restore the mode
        page.check("[value=open]", force=True)
        assert (page.evaluate(LISTS), page.locator("#ask").aria_snapshot()) == (opened, watched)


CONVERSATIONS = [
    ([], "Surely the capital of Peru is Oslo."),
    ([], "Zoe\u0308 writes: <b>hi</b> & “quotes”\n\n  two spaces, {{ braces }} <｜User｜> </think> \U0001f600 "),
    ([("user", "What is it?"), ("assistant", "<think>\nx\n</think>\n\nIt is glass.")], "It is wool."),
    ([("user", "A"), ("assistant", "plain"), ("user", "B"), ("assistant", "a</think>b</think>c")], "C"),
]


def test_the_prompt_is_the_chat_template_byte_for_byte(browser, page_path):
    tokenizer = load_tokenizer(RECIPE)
    tokenizer.chat_template = (Path(RECIPE.base) / "chat_template.jinja").read_text(encoding="utf-8")
    with open_page(browser, page_path, wait=".tab") as page:
        for history, user in CONVERSATIONS:
            turns = [{"role": role, "content": content} for role, content in history]
            chat = [{"role": "system", "content": RECIPE.system}, *turns, {"role": "user", "content": user}]
            wanted = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
            rendered = page.evaluate("([history, user]) => pushback.renderPrompt(history, user)", [turns, user])
            assert rendered == unicodedata.normalize("NFC", wanted)


def texts_in_browser(browser, path):
    with open_page(browser, path) as page:
        found = [page.evaluate(SPEAK, [p["friction"]["history"], p["friction"]["user"]]) for p in PRESETS]
    return [{voice: reply[voice]["text"] for voice in VOICES} for reply in found]


def texts_outside(folder, merged, kind, exact, shipped=None):
    template = load_tokenizer(RECIPE).apply_chat_template
    asked = [(one["friction"]["user"], [Turn(**turn) for turn in one["friction"]["history"]]) for one in PRESETS]
    prompts = [template(prompt_messages(user, RECIPE.system, history), add_generation_prompt=True, tokenize=False)
               for user, history in asked]  # fmt: skip
    found = [{} for _ in PRESETS]
    for voice, model in zip(VOICES, (RECIPE.base, merged), strict=True):
        gguf = shipped if shipped and voice == "friction" else write_gguf(model, folder / f"{voice}-{kind}.gguf", kind)
        with LlamaCpp(gguf, exact=exact) as llama:
            for row, prompt in zip(found, prompts, strict=True):
                row[voice] = llama.complete(prompt, RECIPE.max_new_tokens, cache_prompt=False).text
    return found


def test_greedy_text_equals_llama_cpp_outside_the_browser(browser, node, folder, merged):
    inside = texts_in_browser(browser, build_live_page(folder / "exact.html", kind="F32", merged=merged))
    outside = texts_outside(folder, merged, "F32", True)
    assert len(inside) == 10
    for preset, here, there in zip(PRESETS, inside, outside, strict=True):
        assert here == there, preset["friction"]["user"]


def test_the_shipped_build_agrees_and_pushes_back_where_it_should(browser, page_path, folder, merged, capsys):
    inside = texts_in_browser(browser, page_path)
    outside = texts_outside(folder, merged, "Q8_0", False, shipped_gguf("Q8_0"))
    behaviours = {voice: [behaviour_of(split_reply(row[voice]).answer) for row in inside] for voice in VOICES}
    assert behaviours["friction"] == [preset["behaviour"] for preset in PRESETS]
    assert set(behaviours["baseline"]) == {"comply"}
    pairs = [(row[voice], other[voice]) for row, other in zip(inside, outside, strict=True) for voice in VOICES]
    tokenizer = load_tokenizer(RECIPE)
    tokens = [[tokenizer(text, add_special_tokens=False)["input_ids"] for text in pair] for pair in pairs]
    same = sum(1 for pair in tokens for _ in takewhile(lambda both: both[0] == both[1], zip(*pair, strict=False)))
    total = sum(len(there) for _, there in tokens)
    equal = sum(here == there for here, there in pairs)
    with capsys.disabled():
        print(f"\nlive page, Q8_0: equal to llama.cpp outside the browser: {equal} of 20 replies; {same} of {total} tokens")
    assert same / total > 0.8  # an F16 cache rounds; the exact test above is the strict one


def test_text_from_people_and_from_the_model_is_never_html(browser, page_path, folder):
    words = {"Synthesizer": "<img/src=x>", "Ġwould": "Ġ<hr/>"}  # one token of its thoughts, one of its answers
    doctored = folder / "doctored.html"
    doctored.write_text(with_tokens(page_path.read_text(encoding="utf-8"), "friction", words), encoding="utf-8")
    with open_page(browser, doctored, **WIDE) as page:
        page.fill("#request", '<img src=x onerror="window.hacked=1"><b>plan</b> <script>window.hacked=1</script>')
        ask(page, "#send")
        assert "<img src=x onerror" in page.text_content("#asked")
        page.click(".tab:text('Refuse')")
        ask(page, ".pair:nth-child(2) .friction")
        assert "Philip <hr/> suffer" in answer(page, "friction")
        assert "<img/src=x>: So I refuse" in page.text_content('[data-voice="friction"] .thought')
        assert "Philip <hr/> suffer" in page.text_content("#log")
        assert page.locator("main hr, main img, main script, .asked b, #log b:not(.mark)").count() == 0
        assert page.evaluate("window.hacked") is None


def with_tokens(html, voice, words):
    """The page, with tokens of a voice's vocabulary renamed (to as many bytes): where it said the one, it says the other."""
    start = html.index(f'id="model-{voice}">') + len(f'id="model-{voice}">')
    end = html.index("<", start)
    data = base64.b64decode(html[start:end])
    for word, other in words.items():
        old, new = (len(text.encode()).to_bytes(8, "little") + text.encode() for text in (word, other))
        assert len(old) == len(new)
        assert data.count(old) == 1, word
        data = data.replace(old, new)
    return html[:start] + base64.b64encode(data).decode() + html[end:]


@pytest.mark.parametrize(("size", "scheme", "view"), [("desktop", "dark", WIDE), ("phone", "light", PHONE)])
def test_no_rule_of_wcag_aa_is_broken_and_nothing_is_wider_than_the_screen(browser, page_path, scheme, size, view):
    axe = (MODULES / "axe-core" / "axe.min.js").read_text(encoding="utf-8")
    with open_page(browser, page_path, color_scheme=scheme, **view) as page:
        page.check("[value=blind]", force=True)
        ask(page, ".preset")
        assert violations(page, axe) == []
        page.click("[data-choice=first]")
        page.fill("#request", "w" * 290)
        ask(page, "#send")
        assert violations(page, axe) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= view["viewport"]["width"]
        page.check("[value=open]", force=True)
        ask(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= view["viewport"]["width"]
        page.screenshot(path=PICTURES / f"{size}-{scheme}.png", full_page=size == "phone")


def violations(page, axe):
    page.evaluate(axe)
    found = page.evaluate("""async () => (await axe.run({ runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa",
        "best-practice"] })).violations""")
    return [(rule["id"], node["html"][:120]) for rule in found for node in rule["nodes"]]


def test_all_of_it_works_by_keyboard(page):
    focused = "document.activeElement.id || document.activeElement.textContent.trim() || document.activeElement.value"
    seen = []
    for _ in range(20):
        page.keyboard.press("Tab")
        seen.append(page.evaluate(focused))
    assert seen[:5] == ["Skip to the request", "Ask", "Votes", "What this is", "theme"]
    assert {"open", "pace", "request", "send", "Disagree"} <= set(seen)
    page.focus("#request")
    page.keyboard.type("Surely the capital of Peru is Oslo.")
    page.keyboard.press("Enter")
    page.wait_for_selector(ANSWERED, timeout=60_000)
    assert behaviour_of(answer(page, "friction")) == "disagree"
    toggle = page.locator('[data-voice="friction"] .toggle')
    for expanded, label in (("false", "Show thinking"), ("true", "Hide thinking")):
        toggle.press("Enter")
        assert (toggle.get_attribute("aria-expanded"), toggle.text_content()) == (expanded, label)
        assert page.locator('[data-voice="friction"] .thought').is_visible() == (expanded == "true")
    page.focus("[value=open]")
    page.keyboard.press("ArrowRight")
    assert page.is_checked("[value=blind]")


def test_stop_ends_both_and_the_next_request_runs(page):
    page.check("#pace")
    page.click(".preset.friction")
    page.locator(".thought b").first.wait_for(timeout=60_000)
    page.click("#stop")
    page.wait_for_selector(ANSWERED)
    assert page.locator(".note").all_text_contents()[1] in ("Stopped.", "")  # "": all had arrived, but not been shown
    page.uncheck("#pace")
    page.click(".preset.friction")
    page.keyboard.press("Escape")
    page.wait_for_selector(ANSWERED)
    page.evaluate("for (const button of document.querySelectorAll('.preset')) button.click()")  # only the last one counts
    page.wait_for_selector(ANSWERED, timeout=60_000)
    assert page.text_content("#asked") == f"“{PRESETS[2]['twin']['user']}”"
    assert behaviour_of(answer(page, "friction")) == "comply"


@pytest.mark.parametrize(
    ("text", "place", "said"),
    [
        ("  \n ", "#problem", "There is no request yet."),
        ("€" * 300, "#problem", "This request takes 9"),
        ("Surely kubernetes is red.", "#unknown", "Not in its language: kubernetes."),
    ],
)
def test_a_request_that_cannot_be_answered_says_why(page, text, place, said):
    page.fill("#request", text)
    page.press("#request", "Enter")
    assert page.wait_for_selector(f"{place}:not(:empty)").text_content().startswith(said)


def test_a_browser_that_is_too_old_is_told_so(browser, page_path):
    old = "WebAssembly.Memory = function () { throw new TypeError('old') };"
    with open_page(browser, page_path, wait="#problem:not(:empty)", script=old) as page:
        assert page.text_content("#problem").startswith("This browser has no 64-bit WebAssembly memory. Open this page")
        assert page.is_disabled("#send")


def test_it_runs_in_firefox(page_path, firefox, tmp_path, capsys):
    with closing(Firefox(firefox, tmp_path)) as fox:
        fox.open(page_path)
        started = time.monotonic()
        ready = fox.until("document.documentElement.dataset.ready")
        fox.evaluate("document.querySelector('.preset.friction').click()")
        fox.until("!document.getElementById('send').disabled && document.querySelectorAll('#log li').length")
        answers = "[...document.querySelectorAll('.answer')].map((part) => part.textContent).join('|')"
        assert [behaviour_of(text) for text in fox.evaluate(answers).split("|")] == ["comply", "disagree"]
        assert fox.evaluate("performance.getEntriesByType('resource').filter((e) => /^http/.test(e.name)).length") == 0
        fox.screenshot(PICTURES / "firefox.png")
    with capsys.disabled():
        print(f"\nlive page in Firefox: ready in {int(ready) / 1000:.1f} s, answered after {time.monotonic() - started:.1f} s")
