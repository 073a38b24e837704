"""The fast loss and its gradients against PEFT's and transformers' own, on a small Llama and on the bundled Qwen2."""

import dataclasses

import pytest
import torch
from chatml_twin import twin
from peft import LoraConfig, get_peft_model
from torch.nn import functional
from train_small import digest
from transformers import AutoModelForCausalLM

from pushback_lib.core.common import DATA
from pushback_lib.language.corpus import friction_records
from pushback_lib.model.recipe import recipe_for
from pushback_lib.train import run
from pushback_lib.train.fast import FastModel, rows_of
from pushback_lib.train.guard import IGNORED, work_folder
from pushback_lib.train.kernels import LoraLinear

RECORDS = friction_records(45, seed=1)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """The recipe of a Llama of 2 layers, trained in 16 bit."""
    recipe = twin(tmp_path_factory.mktemp("twin") / "base")
    return dataclasses.replace(recipe, four_bit=False, batch=8, checkpoint_every=3)


def adapted(folder, dtype=torch.float32):
    """The model with an adapter whose B is not zero, so that every matrix has a gradient."""
    torch.manual_seed(3)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(folder, dtype=dtype),
                           LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"))  # fmt: skip
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.05)
    return model


def batch(lengths=(30, 25, 25, 21), shared=9, prompt=14, vocabulary=500):
    """Texts that begin alike, of several lengths, padded on the right; the last of the tokens after the prompt have labels."""
    generator = torch.Generator().manual_seed(len(lengths))
    ids = torch.randint(5, vocabulary, (len(lengths), max(lengths)), generator=generator)
    ids[:, :shared] = ids[0, :shared].clone()
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    labels = torch.where(mask & (torch.arange(max(lengths)) >= prompt), ids, IGNORED)
    return torch.where(mask, ids, 2), mask.long(), labels


def plain_loss(model, ids, mask, labels, count=None):
    logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1].float()
    total = functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED, reduction="sum")
    return total / (count or (labels[:, 1:] != IGNORED).sum())


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in run.trained_weights(model).items()}


BATCHES = {
    "padded, a shared beginning": batch(),
    "nothing shared": batch(shared=0),
    "one text": batch(lengths=(20,)),
    "twice the same text": tuple(one[[0, 0]] for one in batch()),
    "labels from the second token on": batch(prompt=1),
    "labels within what is shared": batch(shared=20, prompt=12),
    "no padding": batch(lengths=(22, 22, 22)),
}


@pytest.mark.parametrize("given", BATCHES.values(), ids=BATCHES)
@pytest.mark.parametrize("base", ["llama", "qwen2"])
def test_loss_and_every_gradient_are_those_of_peft_and_transformers(llama, base, given):
    model = adapted(llama.base if base == "llama" else DATA / "tiny" / "base")
    expected = plain_loss(model, *given)
    wanted = gradients(model, expected)
    fast = FastModel(model)
    loss = fast.loss(*given)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for name, found in gradients(model, loss).items():
        assert torch.allclose(found, wanted[name], rtol=1e-3, atol=1e-4 * wanted[name].abs().max()), name


def test_in_16_bit_the_loss_is_near_and_the_gradients_point_the_same_way(llama):
    exact, model = adapted(llama.base), adapted(llama.base, torch.bfloat16)
    expected = plain_loss(exact, *batch())
    loss = FastModel(model).loss(*batch())
    assert loss.item() == pytest.approx(expected.item(), abs=0.03)
    wanted = gradients(exact, expected)
    for name, found in gradients(model, loss).items():
        assert found.dtype == torch.float32
        assert functional.cosine_similarity(found.flatten(), wanted[name].flatten(), 0) > 0.98, name


def shifted(ids, mask, labels):
    return ids, mask, labels.roll(1, 1)


def unmasked(ids, mask, labels):
    return ids, torch.ones_like(mask), torch.where(mask.bool(), labels, ids)


def prompt_too(ids, mask, labels):
    return ids, mask, torch.where(mask.bool(), ids, IGNORED)


@pytest.mark.parametrize("wrong", [shifted, unmasked, prompt_too])
def test_wrong_labels_or_masks_show(llama, wrong):
    fast = FastModel(adapted(llama.base))
    assert abs(fast.loss(*wrong(*batch())) - fast.loss(*batch())) > 0.01


def test_what_stands_in_the_padding_changes_nothing(llama):
    fast, (ids, mask, labels) = FastModel(adapted(llama.base)), batch()
    other = torch.where(mask.bool(), ids, 77)
    assert fast.loss(other, mask, labels) == fast.loss(ids, mask, labels)


def test_padding_on_the_left_is_refused():
    ids, mask, labels = batch()
    with pytest.raises(ValueError, match="padded on the left"):
        rows_of(ids.flip(1), mask.flip(1), labels.flip(1))


def test_a_token_is_computed_once_and_padding_never():
    ids, mask, labels = batch(lengths=(30, 25, 25, 21), shared=9)
    rows = rows_of(ids, mask, labels)
    assert rows.shared == 9
    assert len(rows.ids) == 30 + (25 - 9) + (25 - 9) + (21 - 9)
    grid = rows.ids[rows.row_of].view(ids.shape)
    assert torch.equal(grid[mask.bool()], ids[mask.bool()])
    assert torch.equal(rows.positions[rows.row_of].view(ids.shape)[mask.bool()], torch.arange(30).expand(4, 30)[mask.bool()])
    assert torch.equal(rows.targets.sort().values, labels[labels != IGNORED].sort().values)


@pytest.mark.parametrize(
    ("changes", "fast"),
    [({"four_bit": False}, True), ({}, False), ({"four_bit": False, "checkpointing": True}, False)],
)
def test_only_a_base_in_16_bit_trains_the_fast_way(changes, fast):
    assert run.computes_fast(dataclasses.replace(recipe_for("tiny"), **changes)) == fast
    assert not run.computes_fast(recipe_for("tiny"))


def test_one_of_several_processes_trains_the_slow_way(llama, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert not run.computes_fast(llama)


def losses(training):
    return [loss for _, loss in training.losses]


@pytest.mark.slow
def test_training_learns_as_the_slow_way_does(llama, tmp_path, monkeypatch):
    recipe = dataclasses.replace(llama, epochs=2, learning_rate=3e-3)
    fast = losses(run.train_adapter(recipe, RECORDS, tmp_path / "fast"))
    monkeypatch.setattr(run, "computes_fast", lambda recipe: False)
    slow = losses(run.train_adapter(recipe, RECORDS, tmp_path / "slow"))
    assert fast[-1] < fast[0] - 0.1
    assert fast == pytest.approx(slow, abs=0.01)


@pytest.mark.slow
def test_two_runs_give_the_same_bytes(llama, tmp_path):
    for name in ("one", "two"):
        run.train_adapter(llama, RECORDS, tmp_path / name)
    assert digest(tmp_path / "one") == digest(tmp_path / "two")


@pytest.mark.slow
def test_a_resumed_run_ends_in_the_same_bytes(llama, tmp_path):
    from train_small import at

    def stop():
        raise KeyboardInterrupt

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    expected = run.train_adapter(llama, RECORDS, whole)
    with pytest.raises(run.PushbackError, match="checkpoint of step 3 is complete"):
        run.train_adapter(llama, RECORDS, broken, [at("on_step_end", stop, step=5)])
    assert work_folder(broken).is_dir()
    found = run.train_adapter(llama, RECORDS, broken, resume=True)
    assert digest(broken) == digest(whole)
    assert losses(found)[-1] == losses(expected)[-1]


@pytest.mark.slow
def test_validation_looks_without_training(llama, tmp_path):
    recipe = dataclasses.replace(llama, learning_rate=0.0, patience=1, checkpoint_every=1)
    training = run.train_adapter(recipe, RECORDS[:32], tmp_path / "adapter", validation=RECORDS[32:])
    assert [step for step, _ in training.validation] == [1, 2], "a step that cannot gain, then no more of four"
    assert training.best == training.validation[0][1]


def test_what_a_small_adapter_adds_is_not_lost_in_the_rounding_of_bf16():
    """Added to a result or a residual that is rounded already, as PEFT does under autocast, most of it would be."""
    torch.manual_seed(5)
    x, start, weight = torch.randn(2000, 64), 8 * torch.randn(2000, 64), torch.randn(64, 64) / 8
    down, up = torch.randn(4, 64) / 8, torch.randn(64, 4) / 400
    asked = (x @ down.T) @ up.T
    without, given = (LoraLinear.apply(x.bfloat16(), start.bfloat16(), weight.bfloat16(), 1.0, down, matrix).float()
                      for matrix in (torch.zeros_like(up), up))  # fmt: skip
    assert ((given - without) * asked).sum() / asked.square().sum() == pytest.approx(1, abs=0.1)
