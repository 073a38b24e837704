"""Every notebook in a real JupyterLab in a real Chromium, and the chat of notebook 01 used as a person would.

Screenshots are kept under runs/test-screenshots, for somebody to look at.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from lab_server import NOTEBOOKS, running_lab

SHOTS = Path(__file__).parent.parent / "runs" / "test-screenshots"
NAMES = sorted(path.name for path in NOTEBOOKS.glob("*.ipynb"))
EVIL = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script><b>unclosed'

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    SHOTS.mkdir(parents=True, exist_ok=True)
    with running_lab(tmp_path_factory.mktemp("lab")) as running:
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
        button = self.part(name)
        return button.is_enabled() and button.get_attribute("disabled") is None

    def wait_until(self, what, seconds=120):
        start = time.monotonic()
        while not what():
            assert time.monotonic() - start < seconds, self.text("status")
            time.sleep(0.03)
        return time.monotonic() - start

    def answers(self, prompt):
        """Asks, waits for the end, and returns both answers."""
        self.ask(prompt)
        self.wait_until(lambda: self.enabled("stop") or prompt in self.text("earlier-a"))
        self.wait_until(lambda: self.enabled("send"))
        return self.text("answer-a"), self.text("answer-b")

    def shot(self, name):
        self.root.screenshot(path=SHOTS / f"{name}.png")


def dial(chat, value):
    """Moves the friction dial with the keyboard."""
    chat.part("dial").locator(".noUi-handle, .ui-slider-handle, [role=slider]").first.focus()
    chat.page.keyboard.press("Home")
    for _ in range(round(value / 0.05)):
        chat.page.keyboard.press("ArrowRight")


def test_enter_sends_and_both_panes_stream_at_the_same_time(chat):
    chat.part("clear").click()
    chat.ask("The capital of France is Rome, right?")
    seen = []
    while not seen or chat.enabled("stop"):
        seen.append(tuple(len(chat.text(f"thought-{pane}") + chat.text(f"answer-{pane}")) for pane in "ab"))
        assert len(seen) < 5000
    chat.shot("streamed")
    growing = [{pane[at] for pane in seen} for at in (0, 1)]
    assert all(len(lengths) >= 3 for lengths in growing), seen
    assert any(a and b for a, b in seen[:-1])
    assert "Paris" in chat.text("answer-b")
    assert "tokens/s" in chat.text("figures-a")


def test_the_thinking_is_toggled_by_keyboard(chat):
    chat.answers("Please send the parcel.")
    toggle = chat.part("toggle-b")
    assert "Thought for" in toggle.inner_text()
    assert "Problem Framer" in chat.text("thought-b")
    toggle.focus()
    chat.page.keyboard.press("Space")
    chat.wait_until(lambda: not chat.part("thought-b").is_visible(), 10)
    chat.wait_until(lambda: "(show)" in toggle.inner_text(), 10)
    chat.shot("thinking-hidden")
    toggle.focus()
    chat.page.keyboard.press("Space")
    chat.wait_until(lambda: chat.part("thought-b").is_visible(), 10)


def test_stop_stops_and_the_chat_goes_on(chat):
    chat.ask("Help me to hit Tom.")
    chat.wait_until(lambda: chat.enabled("stop"))
    chat.part("stop").click()
    seconds = chat.wait_until(lambda: chat.enabled("send"))
    print(f"stopped after {seconds:.2f} s")
    assert seconds < 10  # the half second is asserted without a browser, in test_stream_local.py
    assert "stopped" in chat.text("figures-a") + chat.text("figures-b")
    chat.part("clear").click()
    assert "hit Tom" in chat.answers("Help me to hit Tom.")[0]


def test_the_dial_changes_what_the_friction_voice_says(chat):
    chat.part("clear").click()
    dial(chat, 0)
    chat.wait_until(lambda: "dial at 0.00" in chat.text("status"), 20)
    eager, careful = chat.answers("Help me to hit Tom.")
    assert eager == careful
    chat.shot("dial-at-zero")
    chat.part("clear").click()
    dial(chat, 1)
    chat.wait_until(lambda: "dial at 1.00" in chat.text("status"), 20)
    eager, careful = chat.answers("Help me to hit Tom.")
    assert eager != careful
    assert "I will not help" in careful


def test_markup_shows_as_text(chat):
    chat.part("clear").click()
    chat.answers(EVIL)
    assert EVIL in chat.text("earlier-a")
    assert chat.page.evaluate("() => window.hacked") is None
    chat.shot("markup")


def test_a_blind_vote_is_counted_revealed_and_exported(lab, chat):
    blind = Chat(lab, 1)
    blind.root.scroll_into_view_if_needed()
    blind.answers("Please send the parcel.")
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


def test_every_control_has_a_name_for_screen_readers(chat):
    unnamed = chat.root.evaluate("""root => [...root.querySelectorAll('input, select, textarea, button')].filter(one =>
        !one.hidden && !(one.textContent.trim() || one.getAttribute('aria-label') || one.title ||
        (one.id && root.querySelector(`label[for="${one.id}"]`)))).map(one => one.outerHTML.slice(0, 120))""")
    assert unnamed == []


@pytest.mark.parametrize("name", NAMES[1:])
def test_the_notebook_runs_in_the_browser(lab, name):
    lab.open(name)
    assert lab.run_all() == []
    lab.page.screenshot(path=SHOTS / f"{name[:2]}.png")
    lab.close_kernels()
