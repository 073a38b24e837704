"""Other libraries' progress bars: hidden where asked, and back afterwards."""

import datasets
import pytest
from transformers.utils import logging

from pushback_lib.bars import bars


def shown():
    return logging.is_progress_bar_enabled(), not datasets.are_progress_bars_disabled()


@pytest.mark.parametrize("wanted", [True, False])
def test_bars_are_as_wanted_within_and_as_before_afterwards(wanted):
    before = shown()
    with bars(wanted):
        assert shown() == (before if wanted else (False, False))
    assert shown() == before


def test_bars_come_back_after_an_error():
    before = shown()
    with pytest.raises(ZeroDivisionError), bars(False):
        raise ZeroDivisionError
    assert shown() == before
