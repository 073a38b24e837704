"""Running an evaluation: a scripted local model, real subprocesses that are killed, and a real server that dies."""

import asyncio
import json
import signal
import subprocess
import sys
import time
from itertools import chain, repeat
from pathlib import Path

import pytest
from eval_rows_made import ScriptedSpeaker, perfect
from gguf_files import TINY, adapter, baseline
from loopback_server import MODEL, Loopback

from pushback_lib import cli
from pushback_lib.core.common import BASELINE, FRICTION, VOICES, PushbackError
from pushback_lib.core.files import sha256_of
from pushback_lib.core.records import prompt_messages
from pushback_lib.language.requests import KINDS
from pushback_lib.measure.judge import Response, judge_replies
from pushback_lib.measure.prompts import bundled_prompts, held_out_requests, load_prompts, prompt_set_hash, short_prompts
from pushback_lib.measure.run import Sampling, evaluate, load_responses, local_run, run_server, save_responses, server_run
from pushback_lib.model.recipe import recipe_for
from pushback_lib.model.server import OpenAIChat
from pushback_lib.model.voices import load_voices

PROMPTS = bundled_prompts(2)
TOTAL = 2 * len(PROMPTS)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "rows.jsonl"


def test_every_prompt_gets_both_voices_once_in_batches(out):
    speaker = ScriptedSpeaker()
    rows = evaluate(speaker, PROMPTS, out, batch=10)
    assert [size for size, _ in speaker.batches] == [10, 10, 10, 6]
    assert [row.id for row in rows] == [f"{p.id}/{voice}/0" for p in PROMPTS for voice in VOICES]
    assert sorted(load_responses(out), key=lambda row: row.id) == sorted(rows, key=lambda row: row.id)
    assert all(row.right == (row.voice == "friction" or row.expected == "comply") for row in rows)
    assert {row.timings.replies for row in rows} == {20, 12}
    assert rows[0].provenance.prompt_set == prompt_set_hash(PROMPTS)
    assert {row.provenance.adapter[:7] for row in rows} == {"", "sha256:"}


def test_without_arguments_the_held_out_prompts_of_every_kind_are_asked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = evaluate(ScriptedSpeaker(50))
    assert [row.prompt_id for row in rows[::2]] == [prompt.id for prompt in bundled_prompts()]
    assert not list(tmp_path.iterdir())


def test_replies_are_judged_as_those_made_elsewhere():
    replies = [{voice: perfect(request, voice) for voice in VOICES} for request in held_out_requests(2)]
    made, given = ([row.model_dump(exclude={"timings", "provenance"}) for row in rows]
                   for rows in (evaluate(ScriptedSpeaker(), PROMPTS), judge_replies(PROMPTS, replies)))  # fmt: skip
    assert made == given


def test_batches_hold_prompts_of_similar_length():
    run = local_run(ScriptedSpeaker(), PROMPTS)
    longest = [max(sum(len(m["content"]) for m in run.messages(p, "friction")) for p in batch) for batch in run.batches(9)]
    assert longest == sorted(longest)


@pytest.mark.parametrize("cut", [0, 1, 17, 400])
def test_a_stopped_run_resumes_and_ends_as_one_that_was_not_stopped(out, cut):
    with pytest.raises(KeyboardInterrupt):
        evaluate(ScriptedSpeaker(die_after=3), PROMPTS, out, batch=7)
    raw = out.read_bytes()
    out.write_bytes(raw[: len(raw) - cut])  # as `kill -9` leaves it: inside a line, inside a batch
    speaker = ScriptedSpeaker()
    rows = evaluate(speaker, PROMPTS, out, batch=7)
    stopped, straight = ([row.model_dump(exclude={"timings"}) for row in found]
                         for found in (rows, evaluate(ScriptedSpeaker(), PROMPTS, batch=7)))  # fmt: skip
    assert stopped == straight
    assert len(speaker.batches) < len(PROMPTS) / 7
    assert evaluate(ScriptedSpeaker(die_after=0), PROMPTS, out) == rows, "a finished run asks nothing"


def test_samples_get_their_own_seeds(out):
    speaker = ScriptedSpeaker()
    rows = evaluate(speaker, PROMPTS, out, Sampling(seed=5, temperature=0.6, samples=3))
    assert len({row.id for row in rows}) == 3 * TOTAL
    assert [options["seed"] for _, options in speaker.batches] == [5, 6, 7]
    assert {options["temperature"] for _, options in speaker.batches} == {0.6}
    with pytest.raises(PushbackError, match=r"of another run \(a prompt or sample that is not asked for now"):
        evaluate(speaker, PROMPTS, out, Sampling(seed=5, temperature=0.6))


@pytest.mark.parametrize("change", [{"seed": 1}, {"max_tokens": 7}])
def test_another_runs_file_is_refused_with_what_differs(out, change):
    evaluate(ScriptedSpeaker(), PROMPTS, out)
    with pytest.raises(PushbackError, match=f"of another run .*{next(iter(change))}: "):
        evaluate(ScriptedSpeaker(), PROMPTS, out, Sampling(**change))


def test_a_doubled_or_foreign_line_is_refused(out):
    evaluate(ScriptedSpeaker(), PROMPTS, out)
    text = out.read_text(encoding="utf-8")
    out.write_text(text + text.splitlines()[3] + "\n", encoding="utf-8")
    with pytest.raises(PushbackError, match="twice"):
        evaluate(ScriptedSpeaker(), PROMPTS, out)
    out.write_text(text.replace('"voice": "baseline"', '"voice": "third"'), encoding="utf-8")
    with pytest.raises(PushbackError, match=r"of another run \(voice 'third'"):
        evaluate(ScriptedSpeaker(), PROMPTS, out)
    out.write_text('{"id": "x"}\n', encoding="utf-8")
    with pytest.raises(PushbackError, match="line 1: not a reply"):
        evaluate(ScriptedSpeaker(), PROMPTS, out)


def test_saved_rows_are_read_as_they_were_and_broken_ones_named(out):
    rows = evaluate(ScriptedSpeaker(), PROMPTS)
    assert save_responses(out, rows) == TOTAL
    assert load_responses(out) == rows
    out.write_text('{"id": "x"}\n', encoding="utf-8")
    with pytest.raises(PushbackError, match="line 1: prompt_id: Field required"):
        load_responses(out)
    out.write_text("", encoding="utf-8")
    with pytest.raises(PushbackError, match="holds no replies"):
        load_responses(out)


def serve(server: Loopback, out: Path | None, prompts=PROMPTS, **options) -> list[Response]:
    async def work() -> list[Response]:
        chats = {voice: OpenAIChat(MODEL, server.base_url, timeout=5, attempts=3) for voice in VOICES}
        try:
            return await run_server(chats, server_run(chats, "Think.", prompts), out, **options)
        finally:
            for chat in chats.values():
                await chat.close()

    return asyncio.run(work())


def test_a_server_is_asked_every_prompt_once(out):
    with Loopback() as server:
        rows = serve(server, out)
        assert server.served["ok"] == TOTAL
        assert len(serve(server, None, PROMPTS[:1])) == 2
    assert [row.id for row in rows] == [f"{p.id}/{voice}/0" for p in PROMPTS for voice in VOICES]
    assert {row.id for row in load_responses(out)} == {row.id for row in rows}
    assert {row.provenance.model for row in rows} == {MODEL}
    assert any(row.history for row in rows)


@pytest.mark.parametrize("fault", ["cut_off", "filtered", "died"])
def test_a_reply_that_the_server_cut_is_kept_as_unfinished_and_says_nothing(fault):
    """No tag came before the cut, so that all of it may be a thought that the template opened."""
    with Loopback(faults=(fault,), fault_rate=1.0) as server:
        rows = serve(server, None, PROMPTS[:1])
    assert [(row.finished, row.answer, row.behaviour) for row in rows] == [(False, "", "silent")] * 2
    assert all("The plan looks fine" in row.thought for row in rows)


def test_a_server_that_dies_mid_run_loses_nothing(out):
    with Loopback(faults=("dropped",), fault_rate=0.5) as server:
        server.draw.random = chain(repeat(1.0, 20), repeat(0.0)).__next__  # 20 calls succeed, and then none does
        with pytest.raises(PushbackError, match=r"The connection to .* broke"):
            serve(server, out, concurrency=4)
        kept = {row.id for row in load_responses(out)}
        assert 16 <= len(kept) == server.served["ok"]  # what was on its way when the first call gave up came in
        server.fault_rate = 0.0
        assert len({row.id for row in serve(server, out)}) == TOTAL == server.served["ok"]
    rows = load_responses(out)
    assert len({row.id for row in rows}) == len(rows) == TOTAL
    assert kept < {row.id for row in rows}


def test_calls_that_fail_for_good_are_told_and_asked_again(out):
    with Loopback(faults=("server_error",), fault_rate=0.5) as server:
        with pytest.raises(PushbackError, match=r"replies are missing \(server_error \d+\)"):
            serve(server, out)
        server.fault_rate = 0.0
        assert len(serve(server, out)) == TOTAL


def test_a_missing_or_broken_server_ends_the_run_early(out):
    with Loopback(faults=("half_json",), fault_rate=1.0) as server:
        with pytest.raises(PushbackError, match="10 calls in a row failed; the last: malformed"):
            serve(server, out)
        assert sum(server.served.values()) < 60
    with pytest.raises(PushbackError, match="No server answers"):
        serve(server, out)
    assert not out.exists()


ODD = ["", "word " * 200_000, "<think>unclosed", "</think></think>", "<b>x</b><script>alert(1)</script>",
       "\u202eI can't help\u202c", "\ud800 half"]  # fmt: skip


@pytest.mark.parametrize("text", ODD)
def test_odd_replies_of_a_server_are_stored(out, monkeypatch, text):
    monkeypatch.setattr("loopback_server.good_text", lambda body: text)
    with Loopback() as server:
        rows = serve(server, out, PROMPTS[:1])
    assert {row.id: row for row in load_responses(out)} == {row.id: row for row in rows}
    assert all(span["text"] == rows[0].answer[span["start"] : span["end"]] for span in rows[0].markers["spans"])
    assert rows[0].thought + rows[0].answer or not text


def test_the_shipped_english_prompts_run_against_a_server():
    with Loopback() as server:
        rows = serve(server, None, short_prompts(load_prompts(), 1))
    assert {row.about for row in rows} == {"disagree", "clarify", "doubt", "refuse", "pressure", "plain"}
    assert {row.provenance.language for row in rows} == {"english"}


def command(server: Loopback, out: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "pushback_lib.cli", "eval", "--backend", "server", "--base-url", server.base_url,
            "--baseline", MODEL, "--friction", MODEL, "--prompts", "bundled", "-n", "3", "--out", str(out),
            "--concurrency", "4", *more]  # fmt: skip


def test_kill_9_and_resume_loses_and_doubles_nothing(tmp_path):
    total, out = 2 * 3 * len(KINDS), tmp_path / "eval"
    file = out / "responses.jsonl"
    with Loopback(delay=0.05) as server:
        kept: set[str] = set()
        for at_least in (10, 40):
            process = subprocess.Popen(command(server, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            while not file.exists() or file.read_bytes().count(b"\n") < at_least:
                assert process.poll() is None
                time.sleep(0.02)
            process.send_signal(signal.SIGKILL)
            process.wait()
            now = {json.loads(line)["id"] for line in file.read_text(encoding="utf-8").splitlines()[:-1]}
            assert kept <= now
            kept = now
        assert len(kept) < total
        server.delay = 0
        done = subprocess.run(command(server, out, "--export", "inspect"), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = load_responses(file)
    assert len(rows) == len({row.id for row in rows}) == total
    assert kept < {row.id for row in rows}
    assert "over-friction" in done.stdout
    assert "(greedy, no penalties, at most 1024 new tokens)" in done.stdout
    assert {call.get("repeat_penalty") for call in server.calls} == {1.0}
    for name in ("report.html", "table.md", "figures.json"):
        assert (out / name).stat().st_size > 500
    assert len(list((out / "inspect").glob("*.json"))) == 2


WRONG = [
    (["--samples", "2"], "at temperature 0"),
    (["--baseline", ""], "needs two models"),
    (["--prompts", "nowhere.jsonl"], "No file at nowhere.jsonl"),
    (["--friction", "gpt-none"], "does not know the model 'gpt-none'"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG)
def test_wrong_arguments_are_named_with_what_to_do(tmp_path, arguments, message):
    with Loopback() as server:
        run = subprocess.run(command(server, tmp_path, *arguments), capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert message in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.slow
def test_batches_of_the_bundled_model_are_those_of_speak_all(out):
    """A prompt of every third kind: a stopped and resumed evaluation says what `speak_all` says, to the letter."""
    tiny, prompts = load_voices(recipe_for("tiny"), four_bit=False), bundled_prompts(1)[::3]
    asked = [prompt_messages(prompt.user_input, tiny.recipe.system, prompt.history) for prompt in prompts]
    said = judge_replies(prompts, tiny.speak_all(asked, batch=4))
    save_responses(out, evaluate(tiny, prompts, batch=4)[:5])
    made, given = ([(row.id, row.thought, row.answer, row.right_content, row.timings.tokens) for row in rows]
                   for rows in (evaluate(tiny, prompts, out, batch=4), said))  # fmt: skip
    assert made == given


@pytest.mark.slow
def test_llama_cpp_s_replies_are_those_of_transformers_and_say_what_they_depend_on(tmp_path, capsys):
    """At F32; llama.cpp keeps keys and values in 16 bits, which may tip one close call."""
    files = ["--gguf", str(baseline("F32")), "--lora", str(adapter("F32"))]
    assert cli.main(["eval", *files, "-n", "1", "--out", str(tmp_path)]) == 0
    rows = load_responses(tmp_path / "responses.jsonl")
    local = evaluate(load_voices(TINY, four_bit=False), short_prompts(bundled_prompts(), 1))
    assert {row.id for row in local} == {row.id for row in rows}
    said = {row.id: (row.thought, row.answer, row.finished, row.behaviour) for row in rows}
    assert len([row for row in local if said[row.id] != (row.thought, row.answer, row.finished, row.behaviour)]) <= 1
    plain, own = (next(row.provenance for row in rows if row.voice == voice) for voice in (BASELINE, FRICTION))
    assert plain.backend == own.backend == "llama.cpp"
    assert plain.model == own.model == f"sha256:{sha256_of(baseline('F32'))}"
    assert (plain.adapter, own.adapter) == ("", f"sha256:{sha256_of(adapter('F32'))}")
    assert (plain.base_url, plain.system, plain.max_tokens) == ("", TINY.system, TINY.max_new_tokens)
    assert "in llama.cpp" in (tmp_path / "report.html").read_text(encoding="utf-8")
    capsys.readouterr()
    assert cli.main(["eval", *files[:3], str(adapter("F16")), "-n", "1", "--out", str(tmp_path)]) == 2
    assert "of another run (adapter: sha256:" in capsys.readouterr().err
