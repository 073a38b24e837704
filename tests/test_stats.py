import pytest

from pushback_lib.stats import wilson

CASES = [(8, 10), (0, 10), (10, 10), (1, 3), (96, 200), (399, 400)]


@pytest.mark.parametrize(("hits", "n"), CASES)
def test_wilson_equals_statsmodels(hits, n):
    from statsmodels.stats.proportion import proportion_confint

    rate = wilson(hits, n)
    assert (rate.low, rate.high) == pytest.approx(proportion_confint(hits, n, method="wilson"), abs=1e-12)


@pytest.mark.parametrize(("hits", "n"), [(1, 0), (-1, 4), (5, 4)])
def test_impossible_counts_are_refused(hits, n):
    with pytest.raises(ValueError, match="no rate"):
        wilson(hits, n)


def test_eight_of_ten_reads_as_it_should():
    assert str(wilson(8, 10)) == "80 % [49–94] of 10"


def test_the_interval_holds_the_share_whatever_the_rounding():
    assert all(wilson(hits, n).low <= hits / n <= wilson(hits, n).high for n in range(1, 120) for hits in (0, 1, n))
