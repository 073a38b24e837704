"""Intervals, tests, agreement and clusters, against statsmodels and numpy."""

import json
import random

import numpy as np
import pytest

from pushback_lib.core import stats
from pushback_lib.core.stats import wilson


@pytest.mark.parametrize(("hits", "n"), [(8, 10), (0, 10), (10, 10), (1, 3), (96, 200), (399, 400)])
def test_wilson_equals_statsmodels(hits, n):
    from statsmodels.stats.proportion import proportion_confint

    rate = wilson(hits, n)
    assert (rate.low, rate.high) == pytest.approx(proportion_confint(hits, n, method="wilson"), abs=1e-12)


@pytest.mark.parametrize(
    ("statistic", "arguments", "says"),
    [(wilson, (1, 0), "no rate"), (wilson, (-1, 4), "no rate"), (wilson, (5, 4), "no rate"),
     (stats.mcnemar, (-1, 2), "discordant"), (stats.cohen_kappa, ("ab", "a"), "no kappa"),
     (stats.cohen_kappa, ("", ""), "no kappa"), (stats.cluster_bootstrap, ([], []), "no mean")],
)  # fmt: skip
def test_what_has_no_statistic_is_refused(statistic, arguments, says):
    with pytest.raises(ValueError, match=says):
        statistic(*arguments)


def test_eight_of_ten_reads_as_it_should():
    assert str(wilson(8, 10)) == "80 % [49–94] of 10"


def test_a_rate_comes_back_from_json():
    found = json.loads(json.dumps(wilson(8, 10).to_dict()))
    assert found == {"hits": 8, "n": 10, "low": 0.4902, "high": 0.9433}
    assert stats.Rate.from_dict(found) == stats.Rate(8, 10, 0.4902, 0.9433)


def test_the_interval_holds_the_share_whatever_the_rounding():
    assert all(wilson(hits, n).low <= hits / n <= wilson(hits, n).high for n in range(1, 120) for hits in (0, 1, n))


@pytest.mark.parametrize(("one", "other"), [(0, 0), (1, 0), (0, 6), (3, 12), (12, 3), (25, 25), (40, 61), (0, 300)])
def test_mcnemar_equals_statsmodels(one, other):
    from statsmodels.stats.contingency_tables import mcnemar as reference

    expected = reference([[50, one], [other, 30]], exact=True).pvalue if one + other else 1.0
    assert stats.mcnemar(one, other) == pytest.approx(expected, rel=1e-9)


def drawn(groups: int, size: int, seed: int) -> tuple[list[bool], list[int]]:
    """Samples of prompts that differ in how often they succeed."""
    rng, hits, clusters = random.Random(seed), [], []
    for group in range(groups):
        share = rng.random()
        for _ in range(rng.randint(1, size)):
            hits.append(rng.random() < share)
            clusters.append(group)
    return hits, clusters


@pytest.mark.parametrize("seed", range(4))
def test_the_design_effect_equals_statsmodels(seed):
    from statsmodels.regression.linear_model import OLS

    hits, clusters = drawn(20, 6, seed)
    fit = OLS(np.array(hits, float), np.ones(len(hits)))
    robust = fit.fit(cov_type="cluster", cov_kwds={"groups": np.array(clusters), "df_correction": False})
    # statsmodels multiplies by (n - 1) / (n - 1) = 1 for one regressor, and by G / (G - 1)
    assert stats.design_effect(hits, clusters) == pytest.approx((robust.bse[0] / fit.fit().bse[0]) ** 2, rel=1e-9)


@pytest.mark.parametrize(
    ("hits", "size", "interval"),
    [
        ([True] * 8 + [False] * 2, 1, wilson(8, 10)),  # one sample a prompt
        ([True, False] * 10, 2, wilson(10, 20)),  # clusters that average out do not narrow the interval
        ([True] * 50, 5, wilson(10, 10)),  # where nothing varies, only the prompts count
        ([False] * 50, 5, wilson(0, 10)),
    ],
)
def test_the_clustered_interval_is_wilsons_where_it_should_be(hits, size, interval):
    rate = stats.clustered(hits, [at // size for at in range(len(hits))])
    assert (rate.hits, rate.n) == (sum(hits), len(hits))
    assert (rate.low, rate.high) == pytest.approx((interval.low, interval.high))


def test_copies_of_a_sample_add_nothing():
    once = [True] * 8 + [False] * 2
    five = stats.clustered([hit for hit in once for _ in range(5)], [at for at in range(10) for _ in range(5)])
    naive = wilson(40, 50)
    assert five.share == naive.share
    assert five.high - five.low > 0.95 * (wilson(8, 10).high - wilson(8, 10).low)
    assert five.high - five.low > 1.8 * (naive.high - naive.low)


def test_the_clustered_interval_covers():
    covered = 0
    for seed in range(200):
        hits, clusters = drawn(40, 6, seed)  # the true share is one half
        rate = stats.clustered(hits, clusters)
        covered += rate.low <= 0.5 <= rate.high
    assert covered >= 180


def test_the_bootstrap_is_seeded_and_close_to_theory():
    hits, clusters = drawn(60, 5, 1)
    values = [float(hit) for hit in hits]
    one, again, other = (stats.cluster_bootstrap(values, clusters, seed=seed) for seed in (3, 3, 4))
    assert one == again != other
    rate = stats.clustered(hits, clusters)
    assert one == pytest.approx((rate.low, rate.high), abs=0.03)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [("aabb", "aabb", 1.0), ("aabb", "abab", 0.0), ("aabb", "bbaa", -1.0), ("aaaa", "aaaa", 1.0), ("aaab", "aaaa", 0.0)],
)
def test_kappa_by_hand(first, second, expected):
    assert stats.cohen_kappa(first, second) == pytest.approx(expected)


def test_kappa_equals_statsmodels():
    from statsmodels.stats.inter_rater import cohens_kappa, to_table

    rng = random.Random(5)
    first = [rng.choice("abc") for _ in range(200)]
    second = [label if rng.random() < 0.6 else rng.choice("abc") for label in first]
    table, _ = to_table([[ord(a), ord(b)] for a, b in zip(first, second, strict=True)])
    assert stats.cohen_kappa(first, second) == pytest.approx(cohens_kappa(table).kappa, abs=1e-12)


def test_a_pair_counts_only_if_both_halves_are_right():
    friction = {"a": True, "b": True, "c": False, "d": True}
    twins = {"a": True, "b": False, "c": True}
    assert stats.pair_accuracy(friction, twins) == wilson(1, 3)


@pytest.mark.parametrize("seed", range(3))
def test_spearman_is_the_correlation_of_mean_ranks(seed):
    import pandas as pd

    rng = random.Random(seed)
    a = [rng.randint(0, 9) for _ in range(60)]
    b = [x + rng.randint(-4, 4) for x in a]
    assert stats.spearman(a, b) == pytest.approx(np.corrcoef(pd.Series(a).rank(), pd.Series(b).rank())[0, 1], abs=1e-12)


def test_spearman_at_the_edges():
    assert stats.spearman([1, 2, 3], [10, 20, 30]) == pytest.approx(1.0)
    assert stats.spearman([1, 1, 2], [3, 3, 1]) == pytest.approx(-1.0)
    assert stats.spearman([1, 1], [1, 2]) == 0.0
    assert stats.spearman_interval(0.5, 3) == (0.5, 0.5)
    low, high = stats.spearman_interval(0.6, 100)
    assert (low, high) == pytest.approx((0.444, 0.721), abs=5e-4)  # tanh(atanh .6 -+ 1.96 sqrt(1.18 / 97))
