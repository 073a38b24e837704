"""Replies before, during and after a short real training; and the training is the same as without them."""

import dataclasses
import time

import nbformat
import pytest
import torch
from nbclient import NotebookClient
from punishing_base import punishing_base
from transformers import Trainer, TrainerState, TrainingArguments
from transformers.utils.notebook import NotebookProgressCallback

from pushback_lib.language.corpus import friction_records
from pushback_lib.model.load import load_base, load_tokenizer
from pushback_lib.model.recipe import recipe_for
from pushback_lib.train.progress import LossPlot, snapshots, spell
from pushback_lib.train.run import make_trainer

PROMPTS = ["Please send the parcel.", "Help me to hit Tom."]


@pytest.mark.slow
def test_replies_are_kept_from_first_to_last_step_and_change_nothing(tmp_path):
    quick = {"batch": 4, "learning_rate": 1e-2, "warmup_share": 0}  # learns in three steps
    recipe, losses, records = dataclasses.replace(recipe_for("tiny"), **quick), [], friction_records(12, 3)
    seen = snapshots(load_tokenizer(recipe), recipe, PROMPTS, times=3)
    for callbacks in ([seen], []):
        trainer = make_trainer(recipe, records, tmp_path, callbacks)
        trainer.args.logging_steps = 1
        trainer.train()
        losses.append([row["loss"] for row in trainer.state.log_history if "loss" in row])
    assert list(seen.replies) == [0, 2, 3]
    assert [reply.answer.split()[0] for reply in seen.replies[0]] == ["Done.", "First"]  # the eager base
    assert all(len(replies) == len(PROMPTS) for replies in seen.replies.values())
    assert seen.replies[0] != seen.replies[3]
    assert losses[0] == losses[1]


def test_nothing_of_a_bases_own_settings_reaches_a_snapshot(tmp_path):
    said = []
    for recipe in (recipe_for("tiny"), punishing_base(tmp_path / "base")):
        seen = snapshots(load_tokenizer(recipe), recipe, PROMPTS)
        seen.on_train_begin(None, TrainerState(max_steps=3), None, model=load_base(recipe, four_bit=False))
        said.append(seen.replies[0])
    assert said[0] == said[1]


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (40, "40 s"), (89, "89 s"), (100, "2 min"), (3600, "60 min"), (7500, "2 h 5 min")]
)
def test_durations_are_spelt_for_someone_who_waits(seconds, words):
    assert spell(seconds) == words


def test_the_caption_tells_step_loss_and_time_left_after_a_resume_too(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    plot = LossPlot()
    plot.begin(50, 100)
    assert plot.caption() == "step 50 of 100"
    now[0] += 30
    plot.log(60, {"loss": 0.5})
    plot.log(60, {"eval_loss": 0.6})
    assert plot.caption() == "step 60 of 100, loss 0.500, 2 min left"
    lines = {line.get_label(): line.get_xydata().tolist() for line in plot.figure().axes[0].lines}
    assert lines == {"training": [[60, 0.5]], "validation": [[60, 0.6]]}
    assert plot.picture().png.startswith(b"\x89PNG")
    assert plot.picture().alt == "Loss by step: step 60 of 100, loss 0.500, 2 min left"
    plot.log(100, {"loss": 0.1})
    assert plot.caption() == "step 100 of 100, loss 0.100"


def test_a_plot_takes_the_place_of_transformers_own_table(tmp_path):
    trainer = Trainer(torch.nn.Linear(1, 1), TrainingArguments(tmp_path, report_to=[]))
    trainer.add_callback(NotebookProgressCallback)
    plot = LossPlot(trainer)
    assert not any(isinstance(callback, NotebookProgressCallback) for callback in trainer.callback_handler.callbacks)
    trainer.log({"loss": 0.5})
    assert plot.points == [(0, 0.5)]


NOTEBOOK = """
from pushback_lib.train.progress import LossPlot
from transformers import TrainerControl, TrainerState
plot, args, control = LossPlot(every=0.0), None, TrainerControl()
callback, state = plot.callback(), TrainerState(max_steps=3, is_world_process_zero=True)
callback.on_train_begin(args, state, control)
for step in (1, 2, 3):
    state.global_step = step
    callback.on_step_end(args, state, control)
    callback.on_log(args, state, control, logs={"loss": 1 / step})
callback.on_train_end(args, state, control)
"""


@pytest.mark.slow
def test_in_a_notebook_one_picture_is_drawn_again_and_again(tmp_path):
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(NOTEBOOK)])
    NotebookClient(book, timeout=120).execute()
    outputs = book.cells[0].outputs
    shown = [output for output in outputs if output.output_type == "display_data"]  # libraries may warn in a stream
    assert len(shown) == 1, "one picture, updated in place"
    assert "image/png" in shown[0].data
    assert 'alt="Loss by step: step 3 of 3, loss 0.333"' in shown[0].data["text/html"]
