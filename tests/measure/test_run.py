"""Running an evaluation: a scripted local model, real subprocesses that are killed, and a real server that dies."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from eval_rows_made import ScriptedSpeaker
from loopback_server import KEY, MODEL, Loopback

from pushback_lib.core.common import PushbackError
from pushback_lib.language.requests import KINDS
from pushback_lib.measure.figures import evaluate, judge
from pushback_lib.measure.prompts import bundled_prompts, load_prompts, short_prompts
from pushback_lib.measure.run import (
    Bench,
    EvalFile,
    Sampling,
    bench,
    in_batches,
    load_responses,
    local_plan,
    run_local,
    run_server,
    server_plan,
)
from pushback_lib.model.recipe import recipe_for
from pushback_lib.model.server import OpenAIChat
from pushback_lib.model.voices import load_speaker

PROMPTS = bundled_prompts(2)
COMMAND = """
import argparse, sys
from pushback_lib import cli
from pushback_lib.core.common import PushbackError
top = argparse.ArgumentParser()
cli._add_eval(top.add_subparsers())
args = top.parse_args()
try:
    sys.exit(args.run(args))
except PushbackError as error:
    sys.exit(f"pushback: {error}")
"""


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.fixture
def adapter(tmp_path):
    (tmp_path / "adapter_model.safetensors").write_bytes(b"weights")
    return tmp_path


@pytest.fixture
def plan(adapter, monkeypatch):
    monkeypatch.setattr("pushback_lib.measure.run.fingerprint", lambda recipe: "sha256:base")
    return local_plan(ScriptedSpeaker(), adapter, PROMPTS, "bundled", Sampling())


def without_timings(path: Path) -> list[dict]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return sorted(({**row, "timings": None} for row in rows), key=lambda row: row["id"])


def test_every_prompt_gets_both_voices_once_in_batches(plan, tmp_path):
    speaker, out = ScriptedSpeaker(), tmp_path / "rows.jsonl"
    assert run_local(speaker, plan, out, batch=10, progress=False) == 2 * len(PROMPTS)
    assert [size for size, _ in speaker.batches] == [10, 10, 10, 6]
    rows = load_responses(out)
    assert {row.id for row in rows} == {f"{p.id}/{voice}/0" for p in PROMPTS for voice in ("baseline", "friction")}
    assert all(row.right == (row.voice == "friction" or row.expected == "comply") for row in rows)
    assert {row.timings.replies for row in rows} == {20, 12}
    assert rows[0].provenance.prompt_set == plan.origins["baseline"].prompt_set
    assert {row.provenance.adapter[:7] for row in rows if row.voice == "friction"} == {"sha256:"}


def test_batches_hold_prompts_of_like_length(plan):
    longest = [
        max(sum(len(m["content"]) for m in plan.messages(p, "friction")) for p in batch) for batch in in_batches(plan, 9)
    ]
    assert longest == sorted(longest)


def test_the_figures_are_the_demos(plan, tmp_path):
    speaker = ScriptedSpeaker()
    run_local(speaker, plan, tmp_path / "rows.jsonl", progress=False)
    rows = {(row.prompt_id, row.voice): row for row in load_responses(tmp_path / "rows.jsonl")}
    requests = [speaker.texts[(p.user_input, *(t.content for t in p.history))] for p in PROMPTS]
    demo = judge(requests, [speaker.speak([plan.messages(p, "friction")])[0] for p in PROMPTS])
    for prompt, (baseline, friction) in zip(PROMPTS, zip(demo[::2], demo[1::2], strict=True), strict=True):
        for row in (baseline, friction):
            mine = rows[prompt.id, row.voice]
            assert (mine.kind, mine.behaviour, mine.right, mine.right_content, mine.thought, mine.answer) == (
                row.kind, row.behaviour, row.right, row.right_content, row.thought, row.answer)  # fmt: skip


@pytest.mark.parametrize("cut", [0, 1, 17, 400])
def test_a_stopped_run_goes_on_and_ends_as_a_whole_one(plan, tmp_path, cut):
    whole, out = tmp_path / "whole.jsonl", tmp_path / "rows.jsonl"
    run_local(ScriptedSpeaker(), plan, whole, batch=7, progress=False)
    with pytest.raises(KeyboardInterrupt):
        run_local(ScriptedSpeaker(die_after=3), plan, out, batch=7, progress=False)
    raw = out.read_bytes()
    out.write_bytes(raw[: len(raw) - cut])  # as `kill -9` leaves it: inside a line, inside a batch
    speaker = ScriptedSpeaker()
    run_local(speaker, plan, out, batch=7, progress=False)
    assert without_timings(out) == without_timings(whole)
    assert len(speaker.batches) < len(in_batches(plan, 7))


def test_a_finished_run_asks_nothing(plan, tmp_path):
    run_local(ScriptedSpeaker(), plan, tmp_path / "rows.jsonl", progress=False)
    assert run_local(ScriptedSpeaker(die_after=0), plan, tmp_path / "rows.jsonl", progress=False) == 0


def test_samples_get_their_own_seeds(adapter, plan, tmp_path):
    several = local_plan(ScriptedSpeaker(), adapter, PROMPTS, "bundled", Sampling(seed=5, temperature=0.6, samples=3))
    speaker = ScriptedSpeaker()
    assert run_local(speaker, several, tmp_path / "rows.jsonl", progress=False) == 6 * len(PROMPTS)
    assert [options["seed"] for _, options in speaker.batches] == [5, 6, 7]
    assert {options["temperature"] for _, options in speaker.batches} == {0.6}


@pytest.mark.parametrize("change", [{"seed": 1}, {"max_tokens": 7}])
def test_another_runs_file_is_refused_with_what_differs(adapter, plan, tmp_path, change):
    run_local(ScriptedSpeaker(), plan, tmp_path / "rows.jsonl", progress=False)
    other = local_plan(ScriptedSpeaker(), adapter, PROMPTS, "bundled", Sampling(**change))
    with pytest.raises(PushbackError, match=f"of another run .*{next(iter(change))}: "):
        EvalFile(tmp_path / "rows.jsonl", other)


def test_a_doubled_or_foreign_line_is_refused(plan, tmp_path):
    out = tmp_path / "rows.jsonl"
    run_local(ScriptedSpeaker(), plan, out, progress=False)
    text = out.read_text(encoding="utf-8")
    out.write_text(text + text.splitlines()[3] + "\n", encoding="utf-8")
    with pytest.raises(PushbackError, match="twice"):
        EvalFile(out, plan)
    out.write_text('{"id": "x"}\n', encoding="utf-8")
    with pytest.raises(PushbackError, match="line 1: not a reply"):
        EvalFile(out, plan)


def serve(server: Loopback, out: Path, prompts=PROMPTS, **options) -> int:
    async def work() -> int:
        chats = {
            voice: OpenAIChat(MODEL, server.base_url, timeout=5, backoff=0.01, attempts=3) for voice in ("baseline", "friction")
        }
        plan = server_plan(chats, "Think.", prompts, "english", Sampling())
        try:
            return await run_server(chats, plan, out, progress=False, **options)
        finally:
            for chat in chats.values():
                await chat.close()

    return asyncio.run(work())


def test_a_server_is_asked_every_prompt_once(tmp_path):
    with Loopback() as server:
        assert serve(server, tmp_path / "rows.jsonl") == 2 * len(PROMPTS) == server.served["ok"]
    rows = load_responses(tmp_path / "rows.jsonl")
    assert len({row.id for row in rows}) == len(rows) == 2 * len(PROMPTS)
    assert {row.provenance.model for row in rows} == {MODEL}
    assert any(row.history for row in rows)


def test_a_server_that_dies_mid_run_loses_nothing(tmp_path):
    out = tmp_path / "rows.jsonl"
    with Loopback(faults=("dropped",)) as server:
        healthy = server.next_fault

        def dying() -> str:
            server.fault_rate = float(sum(server.served.values()) >= 20)
            return healthy()

        server.next_fault = dying
        with pytest.raises(PushbackError, match="No server answers"):
            serve(server, out, concurrency=4)
        kept = {row.id for row in load_responses(out)}
        assert 16 <= len(kept) == server.served["ok"]  # what was on its way when the first call gave up came in
        server.next_fault, server.fault_rate = healthy, 0.0
        assert serve(server, out) == 2 * len(PROMPTS) - len(kept)
    rows = load_responses(out)
    assert len({row.id for row in rows}) == len(rows) == 2 * len(PROMPTS)
    assert kept < {row.id for row in rows}


def test_calls_that_fail_for_good_are_told_and_asked_again(tmp_path):
    with Loopback(faults=("server_error",), fault_rate=0.5) as server:
        with pytest.raises(PushbackError, match=r"replies could not be had \(server_error \d+\)"):
            serve(server, tmp_path / "rows.jsonl")
        server.fault_rate = 0.0
        serve(server, tmp_path / "rows.jsonl")
    assert len(load_responses(tmp_path / "rows.jsonl")) == 2 * len(PROMPTS)


def test_a_broken_server_ends_the_run_early(tmp_path):
    with Loopback(faults=("half_json",), fault_rate=1.0) as server:
        with pytest.raises(PushbackError, match="10 calls in a row came to nothing; the last: malformed"):
            serve(server, tmp_path / "rows.jsonl")
        assert sum(server.served.values()) < 60


def test_a_missing_server_is_named_before_any_file_is_made(tmp_path):
    with Loopback() as server:
        pass
    with pytest.raises(PushbackError, match="No server answers"):
        serve(server, tmp_path / "rows.jsonl")
    assert not (tmp_path / "rows.jsonl").exists()


ODD = [
    "",
    "word " * 200_000,
    "<think>unclosed",
    "</think></think>",
    "<b>x</b><script>alert(1)</script>",
    "\u202eI can't help\u202c",
    "\ud800 half",
]


@pytest.mark.parametrize("text", ODD)
def test_odd_replies_of_a_server_are_stored(tmp_path, monkeypatch, text):
    monkeypatch.setattr("loopback_server.good_text", lambda body: text)
    with Loopback() as server:
        serve(server, tmp_path / "rows.jsonl", PROMPTS[:1])
    row = load_responses(tmp_path / "rows.jsonl")[0]
    assert all(span["text"] == row.answer[span["start"] : span["end"]] for span in row.markers["spans"])
    assert row.thought + row.answer or not text


def command(server: Loopback, out: Path, *more: str) -> list[str]:
    return [sys.executable, "-c", COMMAND, "eval", "--backend", "server", "--base-url", server.base_url, "--baseline", MODEL,
            "--friction", MODEL, "--prompts", "bundled", "-n", "3", "--out", str(out), "--concurrency", "4", *more]  # fmt: skip


def test_kill_9_and_resume_loses_and_doubles_nothing(tmp_path):
    out, total = tmp_path / "rows.jsonl", 2 * 3 * len(KINDS)
    with Loopback(delay=0.05) as server:
        kept: set[str] = set()
        for at_least in (10, 40):
            process = subprocess.Popen(command(server, tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            (tmp_path / "responses.jsonl").touch()
            while (tmp_path / "responses.jsonl").read_bytes().count(b"\n") < at_least:
                assert process.poll() is None
                time.sleep(0.02)
            process.send_signal(signal.SIGKILL)
            process.wait()
            lines = (tmp_path / "responses.jsonl").read_text(encoding="utf-8").splitlines()
            now = {json.loads(line)["id"] for line in lines[:-1]}
            assert kept <= now
            kept = now
        assert len(kept) < total
        server.delay = 0
        done = subprocess.run(command(server, tmp_path, "--export", "inspect"), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not out.exists()
    rows = load_responses(tmp_path / "responses.jsonl")
    assert len(rows) == len({row.id for row in rows}) == total
    assert kept < {row.id for row in rows}
    assert "over-friction" in done.stdout
    for name in ("report.html", "table.md", "figures.json"):
        assert (tmp_path / name).stat().st_size > 500
    assert len(list((tmp_path / "inspect").glob("*.json"))) == 2


WRONG = [
    (["--samples", "2"], "at temperature 0"),
    (["--baseline", ""], "needs two models"),
    (["--prompts", "nowhere.jsonl"], "No file at nowhere.jsonl"),
    (["--friction", "gpt-none"], "does not know the model 'gpt-none'"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG)
def test_wrong_arguments_are_named_with_the_cure(tmp_path, arguments, message):
    with Loopback() as server:
        run = subprocess.run(command(server, tmp_path, *arguments), capture_output=True, text=True, check=False)
    assert run.returncode != 0
    assert message in run.stderr
    assert "Traceback" not in run.stderr


def test_the_shipped_english_prompts_run_against_a_server(tmp_path):
    prompts = short_prompts(load_prompts(), 1)
    with Loopback() as server:
        serve(server, tmp_path / "rows.jsonl", prompts)
    assert {row.about for row in load_responses(tmp_path / "rows.jsonl")} == {
        "disagree",
        "clarify",
        "doubt",
        "refuse",
        "pressure",
    }


def test_a_bench_says_what_it_measured():
    assert str(Bench(48, 120.0, 10.0)) == (
        "48 prompts, both voices: 120.0 s one at a time, 10.0 s in a batch, 12.0 times as fast"
    )


@pytest.fixture(scope="module")
def tiny():
    return load_speaker(recipe_for("tiny"))


@pytest.mark.slow
def test_the_bundled_model_gives_the_demos_rows(tiny, tmp_path):
    """Two prompts of each kind: the evaluation's rows equal those of the demo's `evaluate`, to the letter."""
    out = tmp_path / "rows.jsonl"
    run_local(tiny, local_plan(tiny, tiny.recipe.shipped_adapter, PROMPTS, "bundled", Sampling()), out, progress=False)
    mine = {(row.prompt_id, row.voice): (row.thought, row.answer, row.behaviour, row.right, row.right_content)
            for row in load_responses(out)}  # fmt: skip
    demo = evaluate(tiny, n_per_kind=2)
    ids = [prompt.id for prompt in PROMPTS for _ in range(2)]
    assert mine == {(id, row.voice): (row.thought, row.answer, row.behaviour, row.right, row.right_content)
                    for id, row in zip(ids, demo, strict=True)}  # fmt: skip


@pytest.mark.slow
def test_a_batch_is_at_least_five_times_as_fast(tiny):
    plan = local_plan(tiny, tiny.recipe.shipped_adapter, bundled_prompts(3), "bundled", Sampling())
    for _ in range(3):  # another busy process slows the batch, which wants every core, far more than single prompts
        found = bench(tiny, plan, n=48)
        if found.one_by_one >= 5 * found.batched:
            return
    pytest.fail(str(found))
