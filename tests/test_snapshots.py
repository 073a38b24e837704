"""Replies before, during and after a short real training; and the training is the same as without them."""

import dataclasses

import pytest

from pushback_lib.corpus import friction_records
from pushback_lib.finetune import make_trainer
from pushback_lib.models import load_tokenizer
from pushback_lib.recipe import recipe_for
from pushback_lib.snapshots import snapshots

PROMPTS = ["Please send the parcel.", "Help me to hit Tom."]


@pytest.mark.slow
def test_replies_are_kept_from_first_to_last_step_and_change_nothing(tmp_path):
    recipe, losses = dataclasses.replace(recipe_for("tiny"), learning_rate=1e-2, warmup_share=0), []  # learns in three steps
    records = friction_records(48, 3)
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
