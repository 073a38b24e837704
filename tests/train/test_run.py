"""Training through the real TRL, PEFT and bitsandbytes, on the bundled model."""

import dataclasses

import pytest
import torch

from pushback_lib.core.common import DATA, PushbackError
from pushback_lib.core.records import load_records, prompt_messages, thought_text, to_messages
from pushback_lib.language.corpus import friction_records
from pushback_lib.language.world import facts
from pushback_lib.model.checks import check_adapter
from pushback_lib.model.load import load_tokenizer
from pushback_lib.model.recipe import RECIPES, recipe_for
from pushback_lib.train.run import (
    LOG_PROJECT,
    VALIDATION,
    EpochOrder,
    make_trainer,
    sft_config,
    train_adapter,
    training_records,
    validation_records,
)

TINY = recipe_for("tiny")
SUPPORT = Path(__file__).parents[1] / "support"
RECORDS = friction_records(96, seed=1)


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    return make_trainer(TINY, RECORDS, tmp_path_factory.mktemp("work"))


def test_the_base_is_really_quantised_and_only_the_adapter_trains(trainer):
    kinds = {type(module).__name__ for module in trainer.model.modules()}
    assert "Linear4bit" in kinds
    trains = [name for name, p in trainer.model.named_parameters() if p.requires_grad]
    assert trains
    assert all("lora_" in name for name in trains)
    rank = trainer.model.peft_config["default"]
    assert (rank.r, rank.lora_alpha) == (32, 64)


@pytest.mark.parametrize("at", range(0, 96, 8))
def test_the_loss_covers_reasoning_and_answer_and_nothing_of_the_prompt(trainer, at):
    record, row, tokenizer = RECORDS[at], trainer.train_dataset[at], load_tokenizer(TINY)
    learned = [token for token, label in zip(row["input_ids"], row["labels"], strict=True) if label != -100]
    masked = [token for token, label in zip(row["input_ids"], row["labels"], strict=True) if label == -100]
    expected = f"{thought_text(record)}\n</think>\n\n{record.answer}{tokenizer.eos_token}"
    assert tokenizer.decode(learned) == expected
    prompt = prompt_messages(record.user_input, TINY.system, record.history)
    assert tokenizer.decode(masked) == tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)


def test_the_models_own_template_would_have_dropped_the_reasoning():
    from trl.chat_template_utils import get_training_chat_template

    tokenizer, record = load_tokenizer(TINY), RECORDS[0]
    messages = to_messages(record, TINY.system)
    line = record.thoughts[0].thought
    assert line not in tokenizer.apply_chat_template(messages, tokenize=False).split(record.user_input)[1]
    training = tokenizer.apply_chat_template(messages, chat_template=get_training_chat_template(tokenizer), tokenize=False)
    assert line in training


@pytest.mark.parametrize("name", RECIPES)
def test_trl_still_takes_the_arguments_we_pass(name, tmp_path):
    config = sft_config(recipe_for(name), tmp_path)
    assert config.assistant_only_loss
    assert config.per_device_train_batch_size * config.gradient_accumulation_steps == recipe_for(name).effective_batch
    assert 8 <= recipe_for(name).effective_batch <= 16
    assert config.report_to == []
    assert not config.push_to_hub
    assert not config.logging_nan_inf_filter, "a NaN must be seen, not averaged away"


@pytest.mark.slow
def test_a_short_training_learns_and_saves_whole(tmp_path):
    recipe = dataclasses.replace(TINY, examples=320)
    training = train_adapter(recipe, friction_records(320, seed=2), tmp_path / "adapter")
    assert training.losses[-1][1] < 0.7 * training.losses[0][1]
    assert 0 < training.trainable < 0.3 * training.total
    check_adapter(tmp_path / "adapter", recipe)
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


@pytest.mark.slow
def test_validation_without_gain_ends_training_and_keeps_the_best(tmp_path):
    recipe = dataclasses.replace(TINY, learning_rate=0.0, patience=1, checkpoint_every=1, epochs=3)
    training = train_adapter(recipe, RECORDS[:32], tmp_path / "adapter", validation=RECORDS[32:48])
    assert [step for step, _ in training.validation] == [1, 2], "a step that cannot gain, then no more of six"
    assert training.best == training.validation[0][1]
    check_adapter(tmp_path / "adapter", recipe)


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        ("trl.SFTTrainer", ["model", "args", "train_dataset", "eval_dataset", "processing_class", "peft_config", "callbacks"]),
        ("trl.SFTTrainer._get_train_sampler", ["train_dataset"]),
        ("trl.SFTTrainer.training_step", []),
        ("trl.SFTTrainer._save_checkpoint", ["model", "trial"]),
        ("trl.SFTTrainer._save_rng_state", ["output_dir"]),
        ("trl.SFTTrainer._load_from_checkpoint", ["resume_from_checkpoint", "model"]),
        ("trl.SFTTrainer._send_telemetry", []),
        ("trl.SFTTrainer.train", ["resume_from_checkpoint"]),
        ("peft.LoraConfig", ["r", "lora_alpha", "target_modules", "task_type"]),
        ("peft.PeftModel.save_pretrained", ["state_dict", "save_embedding_layers"]),
        ("transformers.EarlyStoppingCallback", ["early_stopping_patience"]),
        ("transformers.trainer_pt_utils.get_length_grouped_indices", ["lengths", "batch_size", "generator"]),
    ],
)
def test_what_we_call_and_override_upstream_is_still_there(call, arguments):
    import inspect
    import pkgutil

    parameters = inspect.signature(pkgutil.resolve_name(call)).parameters
    taken = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    assert taken or not set(arguments) - set(parameters), f"{call} takes {list(parameters)}"


def test_on_a_t4_the_adapter_trains_in_fp32(trainer, monkeypatch):
    import torch

    from pushback_lib.train import run as finetune
    from pushback_lib.train.run import trained_weights

    before = {name: parameter.data for name, parameter in trained_weights(trainer.model).items()}
    assert {tensor.dtype for tensor in before.values()} == {torch.bfloat16}
    monkeypatch.setattr(finetune, "compute_dtype", lambda: torch.float16)
    finetune.cast_trainable(trainer.model)
    assert {parameter.dtype for parameter in trained_weights(trainer.model).values()} == {torch.float32}
    for name, parameter in trained_weights(trainer.model).items():
        parameter.data = before[name]


@pytest.mark.slow
@pytest.mark.parametrize("log", ["", "tensorboard", "trackio"])
def test_a_run_tells_nobody_about_itself_and_logs_only_where_it_is_told(log, tmp_path):
    import os
    import subprocess
    import sys

    from loopback_hub import LoopbackHub

    code = ("import sys; from train_small import *; from pushback_lib.cli import set_up_log; "
            "out, log = Path(sys.argv[1]), sys.argv[2] or None; log and set_up_log(log, out); "
            "train_adapter(small(epochs=1), records()[:48], out, log=log)")  # fmt: skip
    with LoopbackHub() as hub:
        env = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "hf")}
        env.pop("CI", None)  # which would keep TRL's telemetry quiet by itself
        run = subprocess.run([sys.executable, "-c", code, str(tmp_path / "adapter"), log], env=env, cwd=SUPPORT,
                             capture_output=True, text=True, check=False)  # fmt: skip
        assert run.returncode == 0, run.stderr[-2000:]
        assert hub.asked == []
    assert {path.name for path in tmp_path.iterdir()} - {"hf"} == {"adapter", f"adapter.{log}"} - {"adapter."}
    assert LOGGED[log](tmp_path / f"adapter.{log}") == [1, 2, 3]


def _steps_in_tensorboard(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return [scalar.step for scalar in events.Scalars("train/loss")]


def _steps_in_trackio(folder):
    import json
    import sqlite3

    with sqlite3.connect(folder / f"{LOG_PROJECT}.db") as database:
        rows = [json.loads(metrics) for (metrics,) in database.execute("SELECT metrics FROM metrics ORDER BY id")]
    return [row["train/global_step"] for row in rows if "train/loss" in row]


LOGGED = {"": lambda folder: [1, 2, 3], "tensorboard": _steps_in_tensorboard, "trackio": _steps_in_trackio}


def test_nothing_to_train_on_is_said_at_once(tmp_path):
    with pytest.raises(PushbackError, match="no records to train on"):
        train_adapter(TINY, [], tmp_path / "adapter")


TINY_DATA = recipe_for("tiny")


@pytest.mark.parametrize("name", ["1.5b", "7b", "14b", "32b"])
def test_the_real_sizes_take_the_data_set_and_its_validation_split(name):
    train = training_records(recipe_for(name))
    validation = validation_records(recipe_for(name), train)
    assert train == load_records(DATA / "friction" / "train.jsonl")
    assert validation == load_records(DATA / "friction" / "validation.jsonl")


def test_tiny_takes_its_own_language_and_validates_on_what_it_was_not_trained_on():
    recipe = dataclasses.replace(TINY_DATA, examples=360, patience=3)
    train = training_records(recipe)
    assert len(train) == 360
    validation = validation_records(recipe, train)
    assert len(validation) == VALIDATION
    assert not {r.user_input for r in validation if not r.history} & {r.user_input for r in train if not r.history}
    words = {word.strip(".,?!").lower() for record in validation for word in record.user_input.split()}
    assert not words & {fact.entity.lower() for fact in facts(held_out=True)}


def test_without_patience_nothing_is_validated():
    assert validation_records(TINY_DATA, []) == []


def test_given_paths_win(tmp_path):
    micro = DATA / "micro.jsonl"
    assert training_records(recipe_for("7b"), micro) == load_records(micro)
    assert validation_records(recipe_for("7b"), [], micro) == load_records(micro)


LENGTHS = [(7 * at) % 50 + 10 for at in range(103)]


def order(alone=True, epoch=0, seed=7):
    made = EpochOrder(LENGTHS, 8, seed, alone)
    made.epoch = epoch
    return made


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("epoch", [0, 1, 2])
def test_every_example_comes_once_an_epoch_in_batches_of_like_length(alone, epoch):
    drawn = list(order(alone, epoch))
    assert sorted(drawn) == list(range(103))
    spread = [max(batch) - min(batch) for batch in ([LENGTHS[i] for i in drawn[at : at + 8]] for at in range(8, 96, 8))]
    assert sum(spread) / len(spread) < 25, "a random batch of eight spreads over about 40"


def test_later_epochs_and_several_processes_depend_on_the_seed_alone():
    torch.manual_seed(1)
    first, second, processes = list(order(epoch=0)), list(order(epoch=1)), list(order(alone=False))
    torch.manual_seed(2)
    assert list(order(epoch=0)) != first, "a single process draws its first epoch as transformers does"
    assert list(order(epoch=1)) == second
    assert list(order(alone=False)) == processes
    assert list(order(epoch=1, seed=8)) != second
    assert list(order(epoch=2)) != second


def test_the_first_epoch_is_that_of_transformers_own_sampler():
    from transformers.trainer_pt_utils import LengthGroupedSampler

    torch.manual_seed(3)
    theirs = list(LengthGroupedSampler(8, lengths=LENGTHS))
    torch.manual_seed(3)
    assert list(order()) == theirs


def test_a_stored_order_is_taken_up_in_its_epoch_only(tmp_path):
    torch.manual_seed(1)
    made = order()
    drawn = list(made)
    made.save(tmp_path / "order.json")
    torch.manual_seed(99)
    again = order()
    again.load(tmp_path / "order.json")
    assert list(again) == drawn
    again.epoch = 1
    assert list(again) == list(order(epoch=1))
