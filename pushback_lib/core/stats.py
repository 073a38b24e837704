"""Rates with Wilson intervals, paired tests and agreement."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import atanh, sqrt, tanh
from typing import Any

Z95 = 1.959963984540054  # 97.5 % point of the standard normal distribution


@dataclass(frozen=True)
class Rate:
    """`hits` out of `n`, with the Wilson 95 % interval `[low, high]`, all as shares from 0 to 1."""

    hits: int
    n: int
    low: float
    high: float

    @property
    def share(self) -> float:
        return self.hits / self.n

    def __str__(self) -> str:
        return f"{100 * self.share:.0f} % [{100 * self.low:.0f}–{100 * self.high:.0f}] of {self.n}"

    def to_dict(self) -> dict[str, Any]:
        """The rate for JSON, its interval rounded to four digits."""
        return asdict(self) | {"low": round(self.low, 4), "high": round(self.high, 4)}

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Rate:
        """The rate that `to_dict` wrote. Raises KeyError where a field is missing."""
        return cls(*(found[name] for name in ("hits", "n", "low", "high")))


def wilson(hits: int, n: int, z: float = Z95) -> Rate:
    """Wilson's score interval for a binomial rate.

    Raises ValueError unless 0 <= hits <= n and n > 0.
    Source: E. B. Wilson, Probable inference, the law of succession, and statistical inference, JASA 22 (1927).
    """
    if not 0 <= hits <= n or n == 0:
        raise ValueError(f"no rate of {hits} out of {n}")
    return Rate(hits, n, *_score_interval(hits / n, n, z))


def _score_interval(share: float, n: float, z: float) -> tuple[float, float]:
    z2 = z * z
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = z / (1 + z2 / n) * sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half))  # rounding must not leave the share outside


def clustered(hits: Sequence[bool], clusters: Sequence[object]) -> Rate:
    """A rate whose observations come in clusters (several samples of one prompt): Wilson at the effective sample size.

    The design effect is the cluster-robust variance of the mean (CR1) over the variance of independent draws; the
    effective size is n over it, at most n, and the number of clusters where nothing varies. One observation a cluster
    gives Wilson's interval. Source: Korn and Graubard, Confidence intervals for proportions with small expected number of
    positive counts estimated from survey data, Survey Methodology 24 (1998), with Wilson's interval for theirs.
    """
    n, count = len(hits), sum(hits)
    plain = wilson(count, n)
    groups = len(set(clusters))
    if groups == n:
        return plain
    effective = float(groups) if groups == 1 or count in (0, n) else n / max(1.0, design_effect(hits, clusters))
    low, high = _score_interval(count / n, effective, Z95)
    return Rate(count, n, low, high)


def design_effect(hits: Sequence[bool], clusters: Sequence[object]) -> float:
    """Cluster-robust variance of the mean (CR1) over that of independent draws; needs two clusters and both outcomes."""
    n, mean = len(hits), sum(hits) / len(hits)
    sums: dict[object, float] = defaultdict(float)
    for hit, cluster in zip(hits, clusters, strict=True):
        sums[cluster] += hit - mean
    robust = len(sums) / (len(sums) - 1) * sum(total * total for total in sums.values()) / n**2
    return robust / (mean * (1 - mean) / (n - 1))


def cluster_bootstrap(
    values: Sequence[float], clusters: Sequence[object], *, draws: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Percentile 95 % interval of a mean, clusters drawn with replacement; the same for the same seed.

    For means that are not rates, such as the difference of two voices on the same prompts. Raises ValueError for no values.
    """
    if not values:
        raise ValueError("no mean of no values")
    grouped: dict[object, list[float]] = defaultdict(list)
    for value, cluster in zip(values, clusters, strict=True):
        grouped[cluster].append(value)
    parts = [(sum(group), len(group)) for group in grouped.values()]
    rng, means = random.Random(seed), []
    for _ in range(draws):
        drawn = rng.choices(parts, k=len(parts))
        means.append(sum(total for total, _ in drawn) / sum(size for _, size in drawn))
    means.sort()
    return means[int(0.025 * draws)], means[int(0.975 * draws) - 1]


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact two-sided p of McNemar's test from the two discordant counts: a binomial test of one half; 1 without any.

    Source: Q. McNemar, Note on the sampling error of the difference between correlated proportions, Psychometrika 12 (1947).
    """
    if only_first < 0 or only_second < 0:
        raise ValueError(f"no test of {only_first} against {only_second} discordant items")
    from scipy.stats import binomtest

    n = only_first + only_second
    return float(binomtest(only_first, n).pvalue) if n else 1.0


def cohen_kappa(first: Sequence[Hashable], second: Sequence[Hashable]) -> float:
    """Agreement of two raters beyond what their marginals give by chance; 1 where both give one and the same label.

    Source: J. Cohen, A coefficient of agreement for nominal scales, Educational and Psychological Measurement 20 (1960).
    """
    if len(first) != len(second) or not first:
        raise ValueError(f"no kappa of {len(first)} against {len(second)} labels")
    n, left, right = len(first), Counter(first), Counter(second)
    observed = sum(a == b for a, b in zip(first, second, strict=True)) / n
    chance = sum(left[label] * right[label] for label in left) / n**2
    return (observed - chance) / (1 - chance) if chance < 1 else 1.0


def pair_accuracy(friction: Mapping[str, bool], twins: Mapping[str, bool]) -> Rate:
    """How often both halves of a contrast pair are right: pushes back on the one and helps with the other.

    Keys name the pairs; a pair of which one half is missing does not count.
    """
    both = [friction[pair] and twins[pair] for pair in friction if pair in twins]
    return wilson(sum(both), len(both))


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """Rank correlation, ties at their mean rank; 0 where one side does not vary."""
    if min(len(set(a)), len(set(b))) < 2:
        return 0.0
    from scipy.stats import spearmanr

    return float(spearmanr(a, b).statistic)


def spearman_interval(rho: float, n: int) -> tuple[float, float]:
    """Fisher's z at 95 % with the variance of Bonett and Wright, Psychometrika 65 (2000), for rank correlation."""
    if n < 4 or abs(rho) >= 1:
        return rho, rho
    z, half = atanh(rho), Z95 * sqrt((1 + rho**2 / 2) / (n - 3))
    return tanh(z - half), tanh(z + half)
