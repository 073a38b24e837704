"""The order of the examples: each once an epoch, batches of like length, the same after a resume."""

import pytest
import torch

from pushback_lib.train_order import EpochOrder

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
