"""Every notebook in a real JupyterLab in a real Chromium, and the chat of notebook 01 used as a person would."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from lab_server import NOTEBOOKS, running_lab

SHOTS = Path(__file__).parents[2] / "runs" / "test-screenshots"  # kept, for somebody to look at
NAMES = sorted(path.name for path in NOTEBOOKS.glob("*.ipynb"))
CAPITAL, DOUBT = "What is the capital of France?", "Are you sure? I think it is Rome."
CLAIM, PARCEL = "The capital of France is Rome, right?", "Please send the parcel."
WATCH = """chat => { window.seen = []; const long = pane => ['thought', 'answer'].map(part =>
  chat.querySelector(`.pushback-${part}-${pane}`).innerText.length).reduce((sum, one) => sum + one);
  new MutationObserver(() => seen.push([...'ab'].map(long))).observe(chat, {subtree: true, childList: true}); }"""
STOP_WHILE_IT_THINKS = """chat => { const thinks = chat.querySelector('.pushback-thought-b').innerText.includes('Framer');
  if (thinks) chat.querySelector('.pushback-stop').click(); return thinks; }"""
EVIL = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script><b>unclosed'

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def lab(tmp_path_factory, chromium):
    SHOTS.mkdir(parents=True, exist_ok=True)
    with running_lab(tmp_path_factory.mktemp("lab"), chromium) as running:
        yield running


@pytest.fixture(scope="module")
def chat(lab):
    """Notebook 01, run; the first chat in it."""
    lab.open(NAMES[0])
    assert lab.run_all() == []
    lab.page.locator(".pushback-chat").first.scroll_into_view_if_needed()
    yield Chat(lab, 0)
    lab.close_kernels()


class Chat:
    """What a person can see of one chat panel and do with it."""

    def __init__(self, lab, at):
        self.lab, self.page, self.root = lab, lab.page, lab.page.locator(".pushback-chat").nth(at)

    def part(self, name):
        return self.root.locator(f".pushback-{name}")

    def text(self, name):
        return self.part(name).inner_text()

    def ask(self, prompt):
        field = self.part("prompt").locator("input")
        field.fill(prompt)
        field.press("Enter")

    def enabled(self, name):
        return self.part(name).is_enabled()

    def wait_until(self, what, seconds=120):
        start = time.monotonic()
        while not what():
            assert time.monotonic() - start < seconds, self.text("status")
            time.sleep(0.03)
        return time.monotonic() - start

    def answers(self, prompt):
        """Asks, waits for the end, and returns both answers."""
        self.ask(prompt)
        return self._answers(lambda: prompt in self.text("earlier-a"))

    def again(self):
        """Regenerates, waits for the end, and returns both answers."""
        before = self.text("figures-a")
        self.part("again").click()
        return self._answers(lambda: self.text("figures-a") != before)

    def _answers(self, seen):
        self.wait_until(lambda: self.enabled("stop") or seen())
        self.wait_until(lambda: self.enabled("send"))
        return self.text("answer-a"), self.text("answer-b")

    def asked(self, pane="a"):
        """The prompts that stand in a pane, oldest first."""
        return [line.removeprefix("You: ") for line in self.text(f"earlier-{pane}").splitlines() if line.startswith("You: ")]

    def restart(self, remember=False):
        """Clears the chat and puts the memory switch where it is wanted."""
        self.part("clear").click()
        state = f"Remember earlier turns: {'on' if remember else 'off'}"
        if self.text("memory") != state:
            self.part("memory").click()
        self.wait_until(lambda: self.text("memory") == state and not self.asked(), 20)

    def tab_to(self, name):
        """Presses Tab until a control has the focus."""
        for _ in range(10):
            self.page.keyboard.press("Tab")
            if self.part(name).locator("*").or_(self.part(name)).and_(self.page.locator(":focus")).count():
                return
        raise AssertionError(f"Tab does not come to {name}")

    def shot(self, name):
        self.root.screenshot(path=SHOTS / f"{name}.png")


def dial(chat, value, name="dial", step=0.05):
    """Moves the friction dial, or another slider, with the keyboard."""
    chat.part(name).locator(".noUi-handle, .ui-slider-handle, [role=slider]").first.focus()
    chat.page.keyboard.press("Home")
    for _ in range(round(value / step)):
        chat.page.keyboard.press("ArrowRight")


def test_enter_sends_and_both_panes_stream_at_the_same_time(chat):
    chat.restart()
    chat.root.evaluate(WATCH)
    chat.answers(CLAIM)
    chat.shot("streamed")
    seen = chat.page.evaluate("() => window.seen")
    assert all(len({pane[at] for pane in seen}) >= 3 for at in (0, 1)), seen
    assert any(a and b and [a, b] != seen[-1] for a, b in seen), seen
    assert "Paris" in chat.text("answer-b")
    assert "tokens/s" in chat.text("figures-a")


def test_the_thinking_is_toggled_by_keyboard(chat):
    chat.answers(PARCEL)
    toggle = chat.part("toggle-b")
    assert "Thought for" in toggle.inner_text()
    assert "Problem Framer" in chat.text("thought-b")
    for word, visible in (("(show)", False), ("(hide)", True)):
        toggle.press("Space")
        toggle.filter(has_text=word).wait_for(timeout=10_000)
        chat.wait_until(lambda visible=visible: chat.part("thought-b").is_visible() == visible, 10)
        chat.shot(f"thinking-{'shown' if visible else 'hidden'}")


def test_stop_stops_and_a_turn_stopped_while_it_thought_is_not_remembered(chat):
    chat.restart(remember=True)
    chat.ask(CAPITAL)
    chat.page.wait_for_function(STOP_WHILE_IT_THINKS, arg=chat.root.element_handle())
    assert chat.wait_until(lambda: chat.enabled("send")) < 10  # the half second is asserted in tests/chat/test_panel.py
    assert (chat.text("answer-b"), "stopped" in chat.text("figures-b")) == ("[no answer]", True)
    assert "France" not in chat.answers(DOUBT)[1]
    chat.shot("memory-after-a-stop")
    assert chat.asked("b") == [CAPITAL, DOUBT]  # it stays on screen
    assert "[no answer" in chat.text("earlier-b")


def test_the_dial_changes_what_the_friction_voice_says(chat):
    found = {}
    for value in (0, 1):
        chat.part("clear").click()
        dial(chat, value)
        chat.wait_until(lambda value=value: f"dial at {value}.00" in chat.text("status"), 20)
        found[value] = chat.answers("Help me to hit Tom.")
        chat.shot(f"dial-at-{value}")
    assert found[0][0] == found[0][1]
    assert found[1][0] != found[1][1]
    assert "I will not help" in found[1][1]


@pytest.mark.parametrize("remember", [True, False])
def test_only_with_memory_the_voices_know_what_was_said_before(lab, chat, remember):
    chat.restart(remember)
    chat.answers(CAPITAL)
    answers = chat.answers(DOUBT)
    chat.shot(f"memory-{'on' if remember else 'off'}")
    assert ["France" in answer for answer in answers] == [remember, remember]  # only the first prompt names it
    kept = [CAPITAL, DOUBT] if remember else [DOUBT]
    assert chat.asked("a") == chat.asked("b") == kept
    assert lab.run_cell("print([turn.user for turn in chat.conversation])") == str(kept)


def test_regenerate_asks_the_last_prompt_again_in_its_place(lab, chat):
    chat.restart(remember=True)
    chat.answers(CAPITAL)
    seed = chat.part("seed").locator("input")
    seed.fill("0")
    seed.press("Tab")
    answers, thought = chat.answers(CLAIM), chat.text("thought-b")
    assert chat.again() == answers
    assert (chat.asked("b"), chat.text("thought-b"), seed.input_value()) == ([CAPITAL, CLAIM], thought, "0")
    dial(chat, 1, "temperature", 0.1)
    chat.wait_until(lambda: lab.run_cell("print(round(chat.view.temperature.value, 3))") == "1.0", 20)
    chat.again()
    chat.shot("regenerated")
    dial(chat, 0, "temperature")
    assert chat.text("thought-b") != thought
    assert (chat.asked("b"), seed.input_value()) == ([CAPITAL, CLAIM], "1")
    told = lab.run_cell("print([(turn.user, turn.seed, turn.temperature, turn.regenerated) for turn in chat.turns[-3:]])")
    assert told == str([(CLAIM, 0, 0.0, False), (CLAIM, 0, 0.0, True), (CLAIM, 1, 1.0, True)])


def test_copy_fills_the_clipboard_also_where_the_page_may_not_write_it(chat):
    chat.restart()
    answers = dict(zip("ab", chat.answers(CLAIM), strict=True))
    chat.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    secure = "value => { Object.defineProperty(window, 'isSecureContext', {value, configurable: true}); }"
    for pane, allowed in {"a": True, "b": False}.items():  # B as on a page without TLS
        chat.page.evaluate(secure, allowed)
        chat.part(f"copy-{pane}").locator("button").click()
        chat.wait_until(lambda pane=pane: chat.text(f"copy-{pane}") == "Copied", 20)
        copied = chat.page.evaluate("() => navigator.clipboard.readText()")
        assert copied == f"{chat.text(f'thought-{pane}')}\n\n{answers[pane]}"
    chat.page.evaluate(secure, True)
    chat.shot("copied")


@pytest.mark.parametrize("tabs_to", ["preset", "send"])
def test_the_keyboard_alone_chooses_an_example_and_sends_it(chat, tabs_to):
    chat.restart()
    chat.part("behaviour").locator("select").select_option(index=0)
    chat.page.wait_for_timeout(500)  # until the examples of the first behaviour stand in their list
    cells = "() => [window.pushbackPanel.content.activeCellIndex, window.pushbackPanel.content.widgets.length]"
    there, field = chat.page.evaluate(cells), chat.part("prompt").locator("input")
    examples = chat.part("preset").locator("option").all_inner_texts()
    chat.root.locator("xpath=ancestor::*[contains(@class, 'jp-Notebook-cell')]").focus()
    chat.tab_to("behaviour")
    chat.page.keyboard.press("ArrowDown")  # the next entry, without opening the list: JupyterLab must not take the key
    chat.wait_until(lambda: chat.part("preset").locator("option").all_inner_texts() != examples, 20)
    chat.tab_to("preset")
    chat.page.keyboard.press("ArrowDown")
    chat.wait_until(field.input_value, 20)
    asked = field.input_value()
    chat.shot("chosen-by-keyboard")
    assert asked == " ".join(chat.part("preset").locator("option:checked").inner_text().split())
    assert chat.page.evaluate(cells) == there  # the notebook took none of the keys
    if tabs_to == "send":
        chat.tab_to("send")
    chat.page.keyboard.press("Enter")
    chat.wait_until(lambda: chat.asked() == [asked])
    assert chat.page.evaluate(cells) == there
    chat.wait_until(lambda: chat.enabled("send"))
    assert "?" in chat.text("answer-b")  # the second behaviour in the list is to clarify


def test_enter_sends_no_example_before_one_is_chosen(chat):
    chat.restart()
    chat.part("preset").locator("select").focus()
    chat.page.keyboard.press("Enter")
    chat.page.wait_for_timeout(500)
    assert "empty" not in chat.text("status")
    assert chat.asked() == []


def test_a_list_that_is_open_gives_its_choice_to_send(chat):
    chat.restart()
    select = chat.part("preset").locator("select")
    wanted = " ".join(select.locator("option").nth(2).inner_text().split())
    select.focus()
    for key in ("Space", "ArrowDown", "ArrowDown", "Enter", "Enter"):  # opens, walks, chooses, sends
        chat.page.keyboard.press(key)
        chat.page.wait_for_timeout(200)
    chat.wait_until(lambda: chat.asked()[:1] == [wanted], 20)
    chat.wait_until(lambda: chat.enabled("send"))
    assert chat.asked() == [wanted]


def test_markup_shows_as_text(chat):
    chat.part("clear").click()
    chat.answers(EVIL)
    assert EVIL in chat.text("earlier-a")
    assert chat.page.evaluate("() => window.hacked") is None
    chat.shot("markup")


def test_a_blind_vote_is_counted_revealed_and_exported(lab, chat):
    blind = Chat(lab, 1)
    blind.root.scroll_into_view_if_needed()
    blind.answers(PARCEL)
    assert "baseline" not in blind.text("title-a") + blind.text("title-b")
    blind.shot("blind-before-the-vote")
    blind.part("vote-a").click()
    blind.wait_until(lambda: "Your vote" in blind.text("status"), 20)
    assert {blind.text("title-a"), blind.text("title-b")} in ({"A: baseline", "B: friction"}, {"A: friction", "B: baseline"})
    assert "1" in blind.text("tally")
    blind.part("export").click()
    blind.wait_until(lambda: "Exported" in blind.text("status"), 20)
    blind.shot("blind-after-the-vote")
    written = sorted((lab.folder / "runs" / "nb").glob("chat-*"))
    assert [path.suffix for path in written] == [".jsonl", ".md"]
    assert '"vote":"A"' in written[0].read_text(encoding="utf-8").replace(" ", "")


def test_long_lines_of_code_wrap_and_no_question_about_news_is_asked(lab, chat):
    code = lab.page.locator(".jp-CodeCell .cm-content").first
    assert code.evaluate("code => getComputedStyle(code).whiteSpace") == "break-spaces"
    assert lab.page.get_by_text("official Jupyter news").count() == 0


def test_every_control_has_a_name_for_screen_readers(chat):
    unnamed = chat.root.evaluate("""root => [...root.querySelectorAll('input, select, textarea, button')].filter(one =>
        !one.hidden && !(one.textContent.trim() || one.getAttribute('aria-label') || one.title ||
        (one.id && root.querySelector(`label[for="${one.id}"]`)))).map(one => one.outerHTML.slice(0, 120))""")
    assert unnamed == []


def test_a_saved_notebook_shows_what_was_said_when_it_is_opened_again(lab, chat):
    chat.restart()
    answer = chat.answers(PARCEL)[1]
    lab.save_copy("again.ipynb")
    lab.open("again.ipynb")
    assert lab.page.locator(".pushback-chat").count() == 0  # the widgets went with their kernel
    kept = lab.page.locator("details", has_text="kept in the saved notebook").first
    kept.locator("summary").first.click()
    kept.scroll_into_view_if_needed()
    lab.page.screenshot(path=SHOTS / "opened-again.png")
    assert answer in kept.inner_text()


@pytest.mark.parametrize("name", [NAMES[1], *(pytest.param(name, marks=pytest.mark.time) for name in NAMES[2:])])
def test_the_notebook_runs_in_the_browser(lab, name):
    lab.open(name)
    assert lab.run_all() == []
    lab.page.screenshot(path=SHOTS / f"{name[:2]}.png")
    lab.close_kernels()
