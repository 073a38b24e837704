"""The exported logs, read by the real inspect_ai package."""

import pytest
from eval_rows_made import bundled_rows, english
from inspect_ai.analysis import samples_df
from inspect_ai.log import list_eval_logs, read_eval_log

from pushback_lib.measure.inspect_log import export_inspect

ROWS = bundled_rows(2)


def test_inspect_reads_every_sample(tmp_path):
    paths = export_inspect(tmp_path, ROWS)
    assert [path.name.split("_")[1] for path in paths] == ["pushback-baseline", "pushback-friction"]
    for path, voice in zip(paths, ("baseline", "friction"), strict=True):
        log = read_eval_log(str(path))
        mine = [row for row in ROWS if row.voice == voice]
        assert (log.status, log.version, len(log.samples)) == ("success", 2, len(mine))
        for row, sample in zip(mine, log.samples, strict=True):
            assert (sample.id, sample.epoch, sample.target) == (row.prompt_id, 1, row.expected)
            assert sample.output.completion == row.answer
            assert sample.messages[-1].content[0].reasoning == row.thought
            assert [m.role for m in sample.input] == ["system", *(turn.role for turn in row.history), "user"]
            assert sample.scores["right"].value == ("C" if row.right else "I")
            assert sample.scores["right"].answer == row.behaviour
            assert sample.metadata["kind"] == row.kind
        scores = {score.name: score.metrics["accuracy"].value for score in log.results.scores}
        assert scores["right"] == pytest.approx(sum(row.right for row in mine) / len(mine))


def test_inspect_lists_the_logs_with_their_scores_and_a_second_export_replaces_them(tmp_path):
    export_inspect(tmp_path, ROWS)
    export_inspect(tmp_path, ROWS)
    assert len(list_eval_logs(str(tmp_path))) == 2
    frame = samples_df(str(tmp_path))
    assert len(frame) == len(ROWS)
    assert {"score_right", "score_right_content"} <= set(frame.columns)


def test_samples_of_one_prompt_are_epochs(tmp_path):
    (path,) = export_inspect(tmp_path, [english("a", "Yes.", sample=at) for at in range(3)])
    log = read_eval_log(str(path))
    assert ([sample.epoch for sample in log.samples], log.eval.config.epochs, log.eval.dataset.samples) == ([1, 2, 3], 3, 1)


def test_an_answer_that_never_came_is_read_too(tmp_path):
    (path,) = export_inspect(tmp_path, [english("a", "", thought="")])
    assert read_eval_log(str(path)).samples[0].output.completion == ""
