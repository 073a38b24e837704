"""Likelihoods of given answers: against a computation by hand, on the shipped model's two voices, in figures and files."""

import dataclasses
import json

import pytest
import torch
from chatml_twin import twin

from pushback_lib.cli import main
from pushback_lib.core.common import BASELINE, DATA, FRICTION, PushbackError
from pushback_lib.core.records import Reply
from pushback_lib.core.stats import wilson
from pushback_lib.measure import likelihood
from pushback_lib.measure.judge import judge_replies
from pushback_lib.measure.likelihood import (
    CALLED_FOR,
    Given,
    check_answers,
    compare_answers,
    log_probabilities,
    preferences_of,
    preferences_plot,
)
from pushback_lib.measure.prompts import bundled_prompts, held_out_requests, is_friction
from pushback_lib.measure.run import evaluate, local_run
from pushback_lib.model.load import load_base, load_tokenizer
from pushback_lib.model.recipe import recipe_for
from pushback_lib.model.voices import Speaker, load_voices

PAIRS = ("false_claim", "missing_detail", "unknowable")  # each with its contrast kind


def prompts_with_answers(n: int = 4):
    """Pairs of the small language: the careful answer is right; too eager is the baseline's, on a twin its other half's."""
    prompts, requests = bundled_prompts(n), held_out_requests(n)
    careful = {prompt.id: request.answer for prompt, request in zip(prompts, requests, strict=True)}
    other_half = {prompt.pair: careful[prompt.id] for prompt in prompts if is_friction(prompt)}
    return [
        prompt.model_copy(update={"right": request.answer,
                                  "eager": request.eager[1] if is_friction(prompt) else other_half[prompt.pair]})
        for prompt, request in zip(prompts, requests, strict=True)
        if prompt.pair.startswith(PAIRS)
    ]  # fmt: skip


PROMPTS = prompts_with_answers()


@pytest.fixture(scope="module")
def speaker():
    return load_voices(recipe_for("tiny"))


@pytest.fixture(scope="module")
def exact():
    """The same voices unquantised: NF4 computes one row otherwise than several."""
    return load_voices(recipe_for("tiny"), four_bit=False)


@pytest.fixture(scope="module")
def run(speaker):
    return local_run(speaker, PROMPTS)


def replies(answer: str = "Done.", thought: str = "I help.", end: str = "stop"):
    """The baseline agrees; the friction voice thinks, and answers as it is told."""
    friction = Reply(thought=thought, answer=answer, end=end)
    said = {BASELINE: Reply(thought="Easy.", answer="Yes.", end="stop"), FRICTION: friction}
    return judge_replies(PROMPTS, [said] * len(PROMPTS))


def by_hand(speaker, given: Given, text: str) -> float:
    """The mean log-probability of an answer after a prompt in text, one token after the other, with one voice's model."""
    encode = speaker.tokenizer.encode
    ids, answer = (encode(part, add_special_tokens=False) for part in (text, given.answer))
    total = 0.0
    for token in answer:
        with torch.inference_mode():
            if given.voice == BASELINE:
                with speaker.model.disable_adapter():
                    logits = speaker.model(torch.tensor([ids])).logits
            else:
                logits = speaker.model(torch.tensor([ids])).logits
        total += logits[0, -1].log_softmax(-1)[token].item()
        ids = [*ids, token]
    return total / len(answer)


@pytest.mark.parametrize("voice", [BASELINE, FRICTION])
@pytest.mark.parametrize(
    ("thought", "closed"), [("", "</think>\n\n"), ("I think.\nI am sure.", "I think.\nI am sure.\n</think>\n\n")]
)
def test_a_likelihood_is_what_one_token_after_the_other_gives(exact, run, voice, thought, closed):
    answers = [Given(prompt, voice, thought, answer) for prompt in PROMPTS[:3] for answer in (prompt.right, prompt.eager)]
    others = [Given(prompt, FRICTION, "Hm. " * 9, prompt.right) for prompt in PROMPTS]  # fill the batches with other lengths
    found = log_probabilities(exact, run, [*answers, *others])
    for given, (mean, tokens) in zip(answers, found, strict=False):
        prompt = exact.tokenizer.apply_chat_template(
            run.messages(given.prompt, voice), add_generation_prompt=True, tokenize=False
        )
        assert mean == pytest.approx(by_hand(exact, given, prompt + closed), abs=1e-4)
        assert tokens == len(exact.tokenizer.encode(given.answer, add_special_tokens=False))


def test_the_size_of_a_batch_does_not_matter(exact, run, monkeypatch):
    answers = [Given(prompt, voice, "", prompt.right) for prompt in PROMPTS for voice in (BASELINE, FRICTION)]
    together = log_probabilities(exact, run, answers)
    monkeypatch.setattr(likelihood, "TOKENS_AT_ONCE", 1)
    alone = log_probabilities(exact, run, answers)
    assert [mean for mean, _ in together] == pytest.approx([mean for mean, _ in alone], abs=1e-4)


HEADS = [  # what stands before the answer, after ChatML's prompt, which opens no thought
    (BASELINE, "", ""),
    (BASELINE, "Hm.", "<think>\nHm.\n</think>\n\n"),
    (FRICTION, "", "<think>\n</think>\n\n"),
    (FRICTION, "Hm.", "<think>\nHm.\n</think>\n\n"),
]


@pytest.fixture(scope="module")
def chatml(tmp_path_factory):
    """A speaker of the family whose prompt opens no thought; without an adapter, since nothing is computed."""
    recipe = twin(tmp_path_factory.mktemp("twin") / "base")
    return Speaker(load_base(recipe, four_bit=False), load_tokenizer(recipe), recipe, recipe.shipped_adapter)


@pytest.mark.parametrize(("voice", "thought", "head"), HEADS)
def test_where_the_prompt_opens_no_thought_the_baseline_has_none(chatml, run, voice, thought, head):
    before, _ = likelihood._tokens(chatml, run, Given(PROMPTS[0], voice, thought, "Yes."))
    assert chatml.tokenizer.decode(before).endswith(f"<|im_start|>assistant\n{head}")


def test_after_its_own_thought_the_shipped_adapter_prefers_the_right_answer_and_leaves_the_twins(speaker, run):
    """Without a thought it does not: the friction of the bundled model sits there."""
    found = preferences_of(compare_answers(speaker, run, evaluate(speaker, PROMPTS)))
    likelier = {(line.prompts, line.voice, line.thinking): line.likelier.share for line in found.lines
                if (line.about, line.against) == ("all", "eager")}  # fmt: skip
    friction, plain = CALLED_FOR[True], CALLED_FOR[False]
    assert likelier[friction, BASELINE, "own"] < 0.3 < 0.7 < likelier[friction, FRICTION, "own"], likelier
    assert likelier[plain, FRICTION, "own"] > 0.7, likelier
    assert likelier[friction, FRICTION, "none"] < 0.5, likelier


def conditions(rows):
    return {(row.voice, row.thinking, row.against) for row in rows}


def test_without_an_evaluation_only_given_answers_are_compared_after_no_thought(speaker, run):
    rows = compare_answers(speaker, run)
    assert conditions(rows) == {(voice, "none", "eager") for voice in (BASELINE, FRICTION)}
    assert len({row.id for row in rows}) == len(rows) == 2 * len(PROMPTS)
    assert all(row.margin == row.right_logprob - row.other_logprob for row in rows)


def test_with_an_evaluation_own_thoughts_and_the_baselines_answers_come_in(speaker, run):
    rows = compare_answers(speaker, run, replies())
    assert conditions(rows) == {(voice, thinking, against) for voice in (BASELINE, FRICTION) for thinking in ("none", "own")
                                for against in ("eager", "greedy")}  # fmt: skip
    assert {row.thought for row in rows if row.thinking == "own"} == {"Easy.", "I help."}
    assert {row.other for row in rows if row.against == "greedy"} == {"Yes."}


@pytest.mark.parametrize("reply", [{"answer": "", "end": "length"}, {"thought": ""}])
def test_a_thought_that_was_cut_off_or_empty_is_not_its_own(speaker, run, reply):
    rows = compare_answers(speaker, run, replies(**reply))
    assert (FRICTION, "own", "eager") not in conditions(rows)
    assert (BASELINE, "own", "eager") in conditions(rows)


def test_the_baselines_answer_is_not_compared_with_itself(speaker, run):
    same = dataclasses.replace(run, prompts=tuple(p.model_copy(update={"right": "Yes."}) for p in PROMPTS))
    assert {row.against for row in compare_answers(speaker, same, replies())} == {"eager"}


def made(speaker, run, margins):
    """Rows of the friction voice with these margins, on friction prompts and their twins in turn."""
    rows = [row for row in compare_answers(speaker, run) if row.voice == FRICTION]
    asked, plain = ([row for row in rows if (row.expected != "comply") is called] for called in (True, False))
    chosen = [row for both in zip(asked, plain, strict=True) for row in both]
    return [row.model_copy(update={"right_logprob": margin, "other_logprob": 0.0})
            for row, margin in zip(chosen, margins, strict=False)]  # fmt: skip


def test_figures_count_by_behaviour_and_by_whole_pairs(speaker, run):
    found = preferences_of(made(speaker, run, [1.0, 1.0, 2.0, -1.0, -1.0, 3.0, 0.0, 1.0]))
    lines = {(line.prompts, line.about): line for line in found.lines}
    assert lines[CALLED_FOR[True], "all"].likelier == wilson(2, 4), "a tie is no preference"
    assert lines[CALLED_FOR[True], "all"].margin[0] == pytest.approx(0.5)
    assert lines[CALLED_FOR[False], "all"].likelier == wilson(3, 4)
    assert lines[likelihood.BOTH, "all"].likelier == wilson(1, 4)
    table = found.table()
    assert list(table.columns) == ["against", "after", "prompts", "behaviour", BASELINE, FRICTION]
    assert set(table[BASELINE]) == {"–"}
    assert table[FRICTION][0].startswith("50 % [15–85] of 4; margin +0.50 [")


def test_the_plot_has_a_panel_for_each_condition_and_a_line_for_each_behaviour(speaker, run):
    found = preferences_of(compare_answers(speaker, run, replies()))
    figure = preferences_plot(found)
    assert len(figure.axes) == len(found.conditions) == 4
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert labels == ["all", "clarify", "disagree", "doubt", "all plain", "clarify twin", "disagree twin", "doubt twin"]


@pytest.fixture
def prompt_file(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join(prompt.model_dump_json() for prompt in PROMPTS), encoding="utf-8")
    return path


@pytest.mark.slow
def test_the_command_writes_rows_figures_and_a_plot_and_adds_to_the_report_of_an_evaluation(tmp_path, prompt_file, capsys):
    command = ["eval", "--prompts", str(prompt_file), "--out", str(tmp_path / "out")]
    names = {".pushback", "likelihood.jsonl", "likelihood.json", "likelihood.png"}
    assert main([*command, "--likelihood"]) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    assert "Report: " not in capsys.readouterr().out
    assert main(command) == 0
    assert main([*command, "--likelihood"]) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == names | {"responses.jsonl", "report.html", "table.md",
                                                                            "figures.json"}  # fmt: skip
    written = json.loads((tmp_path / "out" / "likelihood.json").read_text(encoding="utf-8"))
    assert {(line["thinking"], line["against"]) for line in written["lines"]} == {
        (thinking, against) for thinking in ("none", "own") for against in ("eager", "greedy")}  # fmt: skip
    assert json.loads((tmp_path / "out" / "figures.json").read_text(encoding="utf-8"))["likelihood"] == written["lines"]
    for name in ("report.html", "table.md"):
        assert likelihood.HOW.split("'")[0] in (tmp_path / "out" / name).read_text(encoding="utf-8")
    assert "Report: " in capsys.readouterr().out
    assert main([*command, "--likelihood", "--max-tokens", "7"]) == 2
    assert "max_tokens: 220, now 7;" in capsys.readouterr().err


def test_prompts_without_answers_are_an_error_before_anything_is_loaded(capsys, tmp_path):
    with pytest.raises(PushbackError, match="None of the 36 prompts has a right answer and an eager one"):
        check_answers(bundled_prompts(2))
    assert main(["eval", "--likelihood", "--out", str(tmp_path / "out")]) == 2
    assert "Pass --prompts data/eval/prompts.jsonl" in capsys.readouterr().err
    assert main(["eval", "--likelihood", "--backend", "server", "--prompts", str(DATA / "eval" / "prompts.jsonl")]) == 2
    assert "which no server tells" in capsys.readouterr().err
