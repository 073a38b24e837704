"""Training through the real TRL, PEFT and bitsandbytes, on the bundled model, and the `pushback train` command."""

import dataclasses
import inspect
import json
import os
import pkgutil
import re
import sqlite3
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from hub_server import HubServer
from train_small import quick_learner

from pushback_lib import cli
from pushback_lib.core.common import DATA, PushbackError
from pushback_lib.core.records import load_records, prompt_messages, thought_text, to_messages
from pushback_lib.language.corpus import friction_records
from pushback_lib.language.world import facts
from pushback_lib.model.checks import check_adapter
from pushback_lib.model.load import load_tokenizer
from pushback_lib.model.recipe import RECIPES, Mixture, recipe_for
from pushback_lib.train import run
from pushback_lib.train.guard import MARK, work_folder
from pushback_lib.train.mixture import mixed_records
from pushback_lib.train.window import token_lengths

TINY = recipe_for("tiny")
SUPPORT = Path(__file__).parents[1] / "support"
RECORDS = friction_records(96, seed=1)


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    return run.make_trainer(TINY, RECORDS, tmp_path_factory.mktemp("work"))


def test_the_base_is_really_quantised_and_only_the_adapter_trains(trainer):
    assert "Linear4bit" in {type(module).__name__ for module in trainer.model.modules()}
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


def test_lengths_are_told_as_they_are_trained_on(trainer):
    assert token_lengths(RECORDS, TINY) == [len(ids) for ids in trainer.train_dataset["input_ids"]]


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
    config = run.sft_config(recipe_for(name), tmp_path)
    assert config.assistant_only_loss
    assert config.per_device_train_batch_size * config.gradient_accumulation_steps == recipe_for(name).effective_batch
    assert 8 <= recipe_for(name).effective_batch <= 16
    assert config.report_to == []
    assert not config.push_to_hub
    assert not config.logging_nan_inf_filter, "a NaN must be seen, not averaged away"


@pytest.mark.slow
def test_a_short_training_learns_and_saves_a_complete_adapter(tmp_path):
    training = run.train_adapter(quick_learner(), RECORDS, tmp_path / "adapter")
    assert training.losses[-1][1] < 0.7 * training.losses[0][1]
    assert 0 < training.trainable < 0.3 * training.total
    check_adapter(tmp_path / "adapter", TINY)
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


@pytest.mark.slow
def test_validation_without_gain_ends_training_and_keeps_the_best(tmp_path):
    recipe = dataclasses.replace(TINY, learning_rate=0.0, patience=1, checkpoint_every=1, epochs=3)
    training = run.train_adapter(recipe, RECORDS[:32], tmp_path / "adapter", validation=RECORDS[32:48])
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
        ("accelerate.data_loader.DataLoaderShard.set_epoch", ["epoch"]),
    ],
)
def test_what_we_call_and_override_upstream_is_still_there(call, arguments):
    parameters = inspect.signature(pkgutil.resolve_name(call)).parameters
    taken = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    assert taken or not set(arguments) - set(parameters), f"{call} takes {list(parameters)}"


@pytest.mark.parametrize(
    ("computes", "trains"),
    [(torch.float16, torch.float32), (torch.bfloat16, torch.bfloat16), (torch.float32, torch.bfloat16)],
)
def test_on_a_t4_the_adapter_trains_in_fp32(trainer, monkeypatch, computes, trains):
    before = {name: parameter.data for name, parameter in run.trained_weights(trainer.model).items()}
    assert {tensor.dtype for tensor in before.values()} == {torch.bfloat16}
    monkeypatch.setattr(run, "compute_dtype", lambda: computes)
    run.cast_trainable(trainer.model)
    assert {parameter.dtype for parameter in run.trained_weights(trainer.model).values()} == {trains}
    for name, parameter in run.trained_weights(trainer.model).items():
        parameter.data = before[name]


def _steps_in_tensorboard(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return [scalar.step for scalar in events.Scalars("train/loss")]


def _steps_in_trackio(folder):
    with sqlite3.connect(folder / f"{run.LOG_PROJECT}.db") as database:
        rows = [json.loads(metrics) for (metrics,) in database.execute("SELECT metrics FROM metrics ORDER BY id")]
    return [row["train/global_step"] for row in rows if "train/loss" in row]


# trackio first: it reads its folder when it is imported
LOGGED = {"trackio": _steps_in_trackio, "tensorboard": _steps_in_tensorboard, "": lambda folder: [1, 2, 3]}


RUNS = """
from train_small import *
from pushback_lib.train.run import set_up_log
for folder, log in zip(sys.argv[1::2], sys.argv[2::2]):
    out = Path(folder) / "adapter"
    out.parent.mkdir()
    log and set_up_log(log, out)
    train_adapter(small(epochs=1), records()[:24], out, log=log or None)
"""


@pytest.mark.slow
def test_a_run_tells_nobody_about_itself_and_logs_only_where_it_is_told(tmp_path):
    told = {log: tmp_path / f"logs {log}" for log in LOGGED}
    with HubServer() as hub:
        env = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "hf")}
        env.pop("CI", None)  # which would keep TRL's telemetry quiet by itself
        words = [str(word) for log, folder in told.items() for word in (folder, log)]
        done = subprocess.run(
            [sys.executable, "-c", RUNS, *words], env=env, cwd=SUPPORT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-2000:]
        assert hub.calls == []
    for log, folder in told.items():
        assert {path.name for path in folder.iterdir()} == {"adapter", f"adapter.{log}"} - {"adapter."}
        assert LOGGED[log](folder / f"adapter.{log}") == [1, 2, 3]


def test_nothing_to_train_on_is_said_at_once(tmp_path):
    with pytest.raises(PushbackError, match="no records to train on"):
        run.train_adapter(TINY, [], tmp_path / "adapter")


@pytest.mark.parametrize("name", ["1.5b", "7b", "14b", "32b"])
def test_the_real_sizes_take_the_data_set_and_its_validation_split(name):
    train = run.training_records(recipe_for(name))
    assert train == load_records(DATA / "friction" / "train.jsonl")
    assert run.validation_records(recipe_for(name), train) == load_records(DATA / "friction" / "validation.jsonl")


def test_a_recipe_with_a_mixture_takes_it():
    recipe = dataclasses.replace(recipe_for("7b"), mixture=Mixture(language=5, easy=0, friction=3))
    assert run.training_records(recipe) == mixed_records(recipe.mixture, recipe.seed)
    assert len(run.training_records(recipe)) == 8


def test_tiny_takes_its_own_language_and_validates_on_what_it_was_not_trained_on():
    recipe = dataclasses.replace(TINY, examples=360, patience=3)
    train = run.training_records(recipe)
    assert len(train) == 360
    validation = run.validation_records(recipe, train)
    assert len(validation) == run.VALIDATION
    assert not {r.user_input for r in validation if not r.history} & {r.user_input for r in train if not r.history}
    words = {word.strip(".,?!").lower() for record in validation for word in record.user_input.split()}
    assert not words & {fact.entity.lower() for fact in facts(held_out=True)}


def test_without_patience_nothing_is_validated():
    assert run.validation_records(TINY, []) == []


def test_given_paths_win():
    micro = DATA / "micro.jsonl"
    assert run.training_records(recipe_for("7b"), micro) == load_records(micro)
    assert run.validation_records(recipe_for("7b"), [], micro) == load_records(micro)


def test_of_a_folder_each_split_is_found():
    folder = DATA / "friction"
    assert run.training_records(TINY, folder) == load_records(folder / "train.jsonl")
    assert run.validation_records(recipe_for("7b"), [], folder) == load_records(folder / "validation.jsonl")


LENGTHS = [(7 * at) % 50 + 10 for at in range(103)]


def order(alone=True, epoch=0, seed=7):
    made = run.EpochOrder(LENGTHS, 8, seed, alone)
    made.set_epoch(epoch)
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
    again.set_epoch(1)
    assert list(again) == list(order(epoch=1))


@pytest.mark.parametrize(
    ("model", "choices", "expected"),
    [
        ("7b", {}, {"batch": 2, "accumulation": 4, "epochs": 3, "max_length": 1024, "patience": 3}),
        ("7b", {"epochs": 5, "max_length": 512}, {"epochs": 5, "max_length": 512}),
        ("7b", {"micro_batch": 1}, {"batch": 1, "accumulation": 8}),
        ("7b", {"batch": 16}, {"batch": 2, "accumulation": 8}),
        ("7b", {"batch": 9}, {"batch": 1, "accumulation": 9}),
        ("7b", {"batch": 32, "micro_batch": 8}, {"batch": 8, "accumulation": 4}),
        ("7b", {"patience": 0, "learning_rate": 1e-4}, {"patience": 0, "learning_rate": 1e-4}),
        ("tiny", {}, {"batch": 16, "accumulation": 1, "patience": 0, "epochs": 1}),
        ("tiny", {"validation": str(DATA / "micro.jsonl")}, {"patience": 3}),
        ("tiny", {"data": str(DATA / "micro.jsonl")}, {"patience": 0}),
        ("tiny", {"data": str(DATA / "friction")}, {"patience": 3}),  # its validation split is found
    ],
)
def test_the_command_line_changes_the_recipe_and_nothing_else(tmp_path, monkeypatch, model, choices, expected):
    train = Mock(return_value=run.Training(tmp_path, (), 0.0, 0, 0))
    monkeypatch.setattr(cli, "train_adapter", train)
    options = [text for name, value in choices.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    assert cli.main(["train", "--model", model, "--out", str(tmp_path / "adapter"), *options]) == 0
    train.assert_called_once()
    recipe = train.call_args.args[0]
    assert {name: getattr(recipe, name) for name in expected} == expected
    assert dataclasses.replace(recipe, **{name: getattr(recipe_for(model), name) for name in expected}) == recipe_for(model)


@pytest.mark.parametrize("args", [["--epochs", "0"], ["--max-length", "-5"], ["--batch", "none"], ["--log", "wandb"]])
def test_a_number_that_is_none_is_refused(args):
    with pytest.raises(SystemExit):
        cli.parser().parse_args(["train", "--out", "x", *args])


def test_an_unfinished_run_is_not_thrown_away(tmp_path, capsys):
    checkpoint = work_folder(tmp_path / "adapter") / "checkpoint-50"
    checkpoint.mkdir(parents=True)
    (checkpoint / MARK).touch()
    assert cli.main(["train", "--out", str(tmp_path / "adapter")]) == 2
    assert re.search(r"unfinished run .* at step 50\. Add --resume", capsys.readouterr().err)
    assert checkpoint.is_dir()


def test_a_logger_that_is_not_installed_is_named_with_its_package(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "find_spec", lambda name: None)
    with pytest.raises(PushbackError, match="`pip install trackio`"):
        run.set_up_log("trackio", tmp_path / "adapter")


@pytest.mark.parametrize(("log", "variable"), [("tensorboard", "TENSORBOARD_LOGGING_DIR"), ("trackio", "TRACKIO_DIR")])
def test_a_log_stays_on_this_machine_beside_the_adapter(tmp_path, monkeypatch, log, variable):
    monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(run, "find_spec", lambda name: True)
    look = run.set_up_log(log, tmp_path / "adapter")
    assert os.environ.pop(variable) == str(tmp_path / f"adapter.{log}")
    assert f"adapter.{log}" in look
