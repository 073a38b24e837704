"""Other libraries' progress bars: hidden where asked, and back afterwards."""

import pytest
from datasets.utils import logging as of_datasets
from transformers.utils import logging as of_transformers

from pushback_lib.bars import bars

BOTH = pytest.mark.parametrize("logging", [of_datasets, of_transformers])


@BOTH
@pytest.mark.parametrize("wanted", [True, False])
@pytest.mark.parametrize("before", [True, False])
def test_bars_are_as_wanted_within_and_as_before_afterwards(logging, wanted, before):
    with bars(logging, before):
        was = logging.is_progress_bar_enabled()
        with bars(logging, wanted):
            assert logging.is_progress_bar_enabled() == (was and wanted)
        assert logging.is_progress_bar_enabled() == was


@BOTH
def test_bars_come_back_after_an_error(logging):
    before = logging.is_progress_bar_enabled()
    with pytest.raises(ZeroDivisionError), bars(logging, False):
        raise ZeroDivisionError
    assert logging.is_progress_bar_enabled() == before
