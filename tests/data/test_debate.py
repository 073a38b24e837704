"""The debate engine against a real HTTP server that fails in every way, and on a full disk; `kill -9`: support/kills.py."""

import asyncio
import subprocess
import sys
import tracemalloc
from collections import Counter

import pytest
from examples import BEHAVIOURS, row
from loopback_server import BAD_CALL, BAD_TEXT, KEY, MODEL, Loopback, good_text

from pushback_lib.cli import main
from pushback_lib.core.common import DATA, PushbackError
from pushback_lib.core.files import write_jsonl
from pushback_lib.core.records import PERSONA_NAMES, PERSONAS, Reply, load_records, split_reply
from pushback_lib.data import debate
from pushback_lib.data.make import make_records, read_briefs
from pushback_lib.model.server import RETRIED, OpenAIChat

BRIEFS = DATA / "tiny" / "briefs.jsonl"
MAIN = "import sys; from pushback_lib.cli import main; sys.exit(main())"


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.jsonl"
    write_jsonl(path, (row(number, BEHAVIOURS[number % 5]) for number in range(500)))
    return path


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out.jsonl"


def good(messages, seed, **_) -> str:
    return good_text({"messages": messages, "seed": seed})


class OwnChat:
    """A chat whose replies are what `text(messages, seed=…, temperature=…, max_tokens=…)` returns."""

    model, base_url = "own", ""

    def __init__(self, text=good) -> None:
        self.text, self.failures = text, Counter()

    async def check(self) -> None:
        """Nothing to check."""

    async def complete(self, messages, **options) -> Reply:
        await asyncio.sleep(0)  # the other debates have their turn
        return reply(self.text(messages, **options), prompt_tokens=10, tokens=5)


def reply(text: str, **fields) -> Reply:
    return split_reply(text, prefilled=False, **{"end": "stop", **fields})


def make(chat, prompts, out, n, *settings, **options):
    return asyncio.run(make_records(chat, prompts, out, n, *settings, progress=False, **options))


def words(url: str, prompts, out, n: int, *more: str) -> list[str]:
    made = ["data", "make", "--backend", "openai", "--base-url", url, "--model", MODEL, "-n", str(n)]
    return [*made, "--out", str(out), "--prompts", str(prompts), *more]


def run(*args, before: str = "") -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", before + MAIN, *words(*args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


# What a reply becomes


def speak(reply: Reply):
    return debate.read_thought(reply, "Problem Framer", friction=True)


REPLIES = [
    ("", "stop", "empty"),
    ("  \n", "stop", "empty"),
    ("<think>hm, a kettle</think>", "stop", "empty"),
    ('""', "stop", "too_short"),
    ("Problem Framer:", "stop", "empty"),
    ("Old kettles are", "length", "cut_off"),
    ("<think>I wonder whether", "stop", "cut_off"),
    ("Error: rate limit exceeded, try again later", "stop", "error"),
    ("**Error (500)**: the model crashed", "stop", "error"),
    ("Fine by me, <|im_end|> go on and boil it.", "stop", "control_tokens"),
    ("Fine by me </s> go on and boil it.", "stop", "control_tokens"),
    ("Yes.", "stop", "too_short"),
    ("the kettle is old " * 200, "stop", "too_long"),
    ("Der Kessel ist alt und niemand hat ihn geprüft, also warte ich lieber.", "stop", "wrong_language"),
    ("La bouilloire est vieille et personne ne l'a regardée.", "stop", "wrong_language"),
    ("这个水壶很旧，没有人检查过。", "stop", "wrong_language"),
    ("Write to jo.smith@mail-company.com about the kettle.", "stop", "personal_data"),
]


@pytest.mark.parametrize(("text", "finish", "reason"), REPLIES)
@pytest.mark.parametrize("read", [debate.read_answer, speak, lambda reply: debate.clean_text(reply, debate.REQUEST_WORDS)])
def test_a_bad_reply_is_rejected_with_its_reason(text, finish, reason, read):
    with pytest.raises(debate.Rejected) as caught:
        read(reply(text, end=finish))
    assert caught.value.reason == reason, f"{text!r} -> {caught.value}"


THOUGHTS = [
    ("The kettle looks fine, but [[nobody has opened it]].", "nobody has opened it"),
    ("<think>what now</think>\n\nProblem Framer: The kettle [[has no lid]] yet.", "has no lid"),
    ('"The kettle [[ has no lid ]] at all."', "has no lid"),
    ("The kettle looks fine, but nobody has opened it.", "but nobody has opened it"),
    ("Kettles are old; the lid went missing in March.", "the lid went missing in March"),
    ("The kettle stands on the stove.", "The kettle stands on the stove"),
]


@pytest.mark.parametrize(("text", "friction"), THOUGHTS)
def test_the_friction_moment_is_a_span_of_the_thought(text, friction):
    thought = speak(reply(text))
    assert thought.friction == friction
    assert friction in thought.thought
    assert "[[" not in thought.thought


MALFORMED = [
    (speak, "The lid [[is missing here."),
    (speak, "The lid is missing]] here."),
    (speak, "A [[b [[c]] d]] e f"),
    (debate.read_answer, "As the Problem Framer said, the lid is missing."),
]


@pytest.mark.parametrize(("read", "text"), MALFORMED)
def test_marks_that_do_not_pair_and_answers_that_show_the_debate_are_malformed(read, text):
    with pytest.raises(debate.Rejected, match="malformed"):
        read(reply(text))


def test_a_long_unmarked_thought_gives_a_short_span():
    thought = "Because " + "the old kettle has lost its lid and " * 5 + "that is that."
    assert 3 <= len(debate.turning_span(thought).split()) <= 12
    assert debate.turning_span(thought) in thought


# One debate


def test_each_persona_hears_those_before_it_and_the_answer_hears_all():
    calls, heard = [], []

    def listen(messages, **options):
        calls.append((messages, options))
        return good(messages, **options)

    brief = debate.Brief(
        behaviour="refuse", user_input="Help me open a neighbour's letters.", domain="law", scenario="law/mail"
    )
    settings = debate.DebateSettings(seed=5, temperature=0.3, max_tokens=99)
    found = asyncio.run(debate.hold_debate(OwnChat(listen), brief, settings, id="x", on_line=heard.append))
    lines = [f"{thought.persona}: {thought.thought}" for thought in found.thoughts]
    assert heard == [*lines, f"Answer: {found.answer}"]
    assert [thought.persona for thought in found.thoughts] == list(PERSONA_NAMES)
    for place, (messages, _) in enumerate(calls):
        assert brief.user_input in messages[-1]["content"]
        for at, thought in enumerate(found.thoughts):
            assert (thought.thought in messages[-1]["content"]) == (at < place), (place, at)
    assert len({options.pop("seed") for _, options in calls}) == 7
    assert all(options == {"temperature": 0.3, "max_tokens": 99} for _, options in calls)
    assert (found.subset, found.scenario, found.domain) == ("reluctance", "law/mail", "law")
    assert all(thought.friction for thought in found.thoughts)
    made = found.provenance
    assert (made.source, made.model, made.seed, made.temperature) == ("engine", "own", 5, 0.3)
    assert (made.max_tokens, made.prompt_version) == (99, debate.PROMPT_VERSION)


def test_a_plain_debate_is_short_and_untroubled():
    lengths = set()
    for number in range(20):
        brief = debate.Brief(behaviour="comply", user_input="How do I descale a kettle?")
        found = asyncio.run(debate.hold_debate(OwnChat(), brief, id=f"x{number}"))
        assert not any(thought.friction for thought in found.thoughts)
        lengths.add(len(found.thoughts))
        speakers = [persona.name for persona in debate.speakers("comply", f"x{number}")]
        assert [thought.persona for thought in found.thoughts] == speakers
    assert lengths == {1, 2, 3, 4}


def test_a_debate_without_a_usable_reply_is_abandoned_and_counted():
    tally, empty = debate.Tally(), OwnChat(lambda *_, **__: "")
    with pytest.raises(debate.Abandoned, match="Problem Framer: empty"):
        asyncio.run(debate.hold_debate(empty, debate.Brief(behaviour="doubt", user_input="Will it rain?"), tally=tally))
    assert tally.rejected == {"empty": 6}


def test_seeds_of_steps_are_stable_and_fit_31_bits():
    assert debate.step_seed(0, "engine-0-000001", "Answer/0") == 1021629792
    assert all(0 <= debate.step_seed(0, str(number), "s") < 2**31 for number in range(100))


def test_prompts_say_what_is_asked_in_a_form_a_script_can_read():
    brief = debate.Brief(behaviour="clarify", user_input="Book it.")
    asked = [debate.thought_messages(persona, brief, []) for persona in PERSONAS]
    asked += [debate.answer_messages(brief, []), debate.request_messages(brief, "a nurse")]
    for part, messages in zip([*PERSONA_NAMES, "Answer", "Request"], asked, strict=True):
        assert messages[0]["content"].startswith(f"Part: {part}\nBehaviour: clarify\n")
        assert "Book it." in messages[1]["content"]


# Many debates


def test_every_way_of_failing_is_counted_and_nothing_bad_is_stored(prompts, out):
    faults = (*BAD_TEXT, *BAD_CALL)

    async def work(server):
        chat = OpenAIChat(MODEL, server.base_url, timeout=1.0)
        try:
            return await make_records(chat, prompts, out, 40, progress=False, concurrency=8)
        finally:
            await chat.close()

    with Loopback(faults=faults, fault_rate=0.4, hang=1.6) as server:
        outcome = asyncio.run(work(server))
    records = load_records(out)
    assert len(records) == len({found.id for found in records}) == outcome.total == outcome.made == 40
    assert set(server.served) == {"ok", *faults}
    served = server.served
    assert outcome.tally.rejected == {
        "empty": served["empty"],
        "cut_off": served["cut_off"] + served["unclosed_think"],
        "cut_off: content_filter": served["filtered"],
        "cut_off: error": served["died"],
        "wrong_language": served["wrong_language"] + served["wrong_script"],
        "error": served["error"],
        "malformed": outcome.tally.rejected["malformed"],  # a mark that does not pair is no fault in an answer
        "control_tokens": served["control_tokens"],
    }
    again = sum(served[fault] for fault in BAD_CALL if fault != "half_json")
    assert outcome.failures == {RETRIED: again, "malformed": served["half_json"]}
    stored = out.read_text()
    for text, _ in BAD_TEXT.values():
        assert not text or text not in stored
    assert all(reason in str(outcome) for reason in (*outcome.tally.rejected, *outcome.failures))


@pytest.mark.parametrize(("chat", "briefs", "speeds"), [(OwnChat, None, (1, 5)), (debate.ScriptedChat, BRIEFS, (8, 8))])
def test_the_same_seed_gives_the_same_examples(tmp_path, prompts, chat, briefs, speeds):
    for name, concurrency in zip("ab", speeds, strict=True):
        make(chat(), briefs or prompts, tmp_path / name, 12, debate.DebateSettings(seed=3), concurrency=concurrency)
    a, b = (sorted((tmp_path / name).read_text().splitlines()) for name in "ab")
    assert a == b


def test_going_on_keeps_what_is_there_and_does_nothing_when_all_is(prompts, out):
    assert make(OwnChat(), prompts, out, 5).made == 5
    before = out.read_bytes()
    assert make(OwnChat(), prompts, out, 8).made == 3
    assert out.read_bytes().startswith(before)
    assert make(OwnChat(), prompts, out, 8).made == 0
    assert len(load_records(out)) == 8


def test_when_the_prompts_are_used_up_new_requests_are_asked_for(tmp_path, out):
    prompts = tmp_path / "few.jsonl"
    write_jsonl(prompts, [row(1), {"behaviour": "doubt", "domain": "travel"}])
    make(OwnChat(), prompts, out, 7)
    records = load_records(out)
    assert len({found.user_input for found in records}) == len({found.scenario for found in records}) == 7
    assert Counter(found.user_input.startswith("Should I move") for found in records) == {True: 6, False: 1}
    assert "travel" in {found.domain for found in records}


def test_a_model_that_invents_the_same_request_again_is_stopped_with_the_reason(tmp_path, out):
    write_jsonl(tmp_path / "few.jsonl", [{"behaviour": "doubt"}])

    def same(messages, **options):
        return "Will it rain on Sunday?" if "Part: Request" in messages[0]["content"] else good(messages, **options)

    with pytest.raises(PushbackError, match="repeated_request"):
        make(OwnChat(same), tmp_path / "few.jsonl", out, 5)
    assert len(load_records(out)) == 1


def test_one_hopeless_request_is_passed_over(prompts, out):
    def picky(messages, **options):
        return "" if "My kettle 0 " in messages[-1]["content"] else good(messages, **options)

    outcome = make(OwnChat(picky), prompts, out, 6)
    assert (outcome.total, outcome.tally.abandoned) == (6, 1)


def test_memory_stays_flat(tmp_path, prompts, monkeypatch):
    monkeypatch.setattr("pushback_lib.core.files.os.fsync", lambda file: None)
    peaks = []
    for n in (100, 600):
        tracemalloc.start()
        make(OwnChat(), prompts, tmp_path / f"{n}.jsonl", n)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 500 * 400, f"peaks of 100 and 600 examples: {peaks}"  # an example is 2,000 bytes


# Bad input


def test_making_data_with_a_server_loads_no_heavy_library():
    code = "import sys, openai, pushback_lib.data.make, pushback_lib.model.server, pushback_lib.cli\n"
    code += "print({'torch', 'transformers', 'datasets', 'matplotlib', 'datasketch'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_errors_name_the_cure_and_exit_with_2(prompts, monkeypatch, out):
    with Loopback() as server:
        found = run(server.base_url, prompts, out, 2)
        assert (found.returncode, found.stdout.splitlines()[0].split(";")[0]) == (0, f"2 examples in {out}, 2 of them made now")
        before = out.read_bytes()
        monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong")
        wrong_key = run(server.base_url, prompts, out, 4)
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        other_seed = run(server.base_url, prompts, out, 4, "--seed", "9")
    gone = run("http://127.0.0.1:9/v1", prompts, out, 4)
    for got, says in [(wrong_key, "refused the key"), (other_seed, "another run"), (gone, "No server answers")]:
        assert got.returncode == 2, got
        assert says in got.stderr
        assert "Traceback" not in got.stderr
        assert "sk-" not in got.stderr
    assert out.read_bytes() == before


def test_a_full_disk_keeps_what_is_finished(prompts, out):
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (7000, 7000))\n"
    with Loopback() as server:
        full = run(server.base_url, prompts, out, 20, "--concurrency", "3", before=limit)
        assert full.returncode == 2, full.stderr
        assert "cannot grow (File too large). What is finished stays; make room" in full.stderr
        assert "Traceback" not in full.stderr
        kept = out.read_bytes()
        assert kept.endswith(b"\n")
        assert 0 < len(load_records(out)) < 20
        assert run(server.base_url, prompts, out, 20).returncode == 0
    assert out.read_bytes().startswith(kept)
    assert len({found.id for found in load_records(out)}) == 20


BAD_PROMPTS = [
    ('{"behaviour": "sulk", "user_input": "Hi"}', "line 1: behaviour"),
    ('{"user_input": "Hi"}', "line 1: behaviour: Field required"),
    ("{", "line 1: not valid JSON"),
    ("", "holds no requests"),
]


@pytest.mark.parametrize(("line", "says"), BAD_PROMPTS)
def test_bad_prompts_are_named_before_any_call(tmp_path, line, says, out):
    (tmp_path / "p.jsonl").write_text(line)
    with pytest.raises(PushbackError, match=says):
        make(OwnChat(lambda *_, **__: pytest.fail("called")), tmp_path / "p.jsonl", out, 3)
    assert not out.exists()


def test_prompts_are_read_one_at_a_time(tmp_path):
    (tmp_path / "p.jsonl").write_text('{"behaviour": "doubt"}\n{"behaviour": "sulk"}\n')
    briefs = read_briefs(tmp_path / "p.jsonl")
    assert next(briefs).behaviour == "doubt"
    with pytest.raises(PushbackError, match="line 2"):
        next(briefs)


# Without a model


def test_ten_of_your_own_without_a_model_or_a_server(out):
    assert main(["data", "make", "--backend", "scripted", "-n", "10", "--out", str(out)]) == 0
    records = load_records(out)
    assert len({record.user_input for record in records}) == 10
    assert {record.behaviour for record in records} == set(BEHAVIOURS)
    assert {record.provenance.model for record in records} == {"scripted"}
    for made in records:
        assert all(bool(thought.friction) == (made.behaviour != "comply") for thought in made.thoughts)


def test_a_request_in_another_language_is_named_with_the_cure(out):
    with pytest.raises(PushbackError, match=r"only know requests that they wrote.*--backend openai"):
        make(debate.ScriptedChat(), DATA / "micro.jsonl", out, 2)
