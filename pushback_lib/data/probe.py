"""The shortcut probe: a classifier that sees words, letters and marks, and understands nothing.

What it can tell about a request, a model can learn to tell by its look. TF-IDF and logistic regression (scikit-learn), after
the partial-input baselines of Gururangan et al. 2018 (arXiv:1803.02324) and Poliak et al. 2018 (arXiv:1805.01042).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ..core.common import PushbackError
from ..core.stats import Rate, wilson

if TYPE_CHECKING:
    import numpy as np

FOLDS, SEED = 3, 0
LENGTHS = (4, 8, 12, 17, 25, 40, 60, 100)  # words; a text's length is one more word for the probe
_TOKEN = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]|\n")


@dataclass(frozen=True)
class Probe:
    """A fitted probe; `labels` in alphabetical order."""

    labels: tuple[str, ...]
    pipeline: Any

    def predict(self, texts: Sequence[str]) -> list[str]:
        """The likeliest label of each text."""
        return [str(label) for label in self.pipeline.predict(list(texts))]

    def shares(self, texts: Sequence[str]) -> np.ndarray:
        """Probabilities of shape (texts, labels)."""
        return self.pipeline.predict_proba(list(texts))

    def within_pairs(self, pairs: Sequence[tuple[str, str]], label: str) -> Rate:
        """In how many pairs the first text looks more like the label than the second; half, where the look says nothing."""
        column = self.shares([text for pair in pairs for text in pair])[:, self._place(label)]
        return wilson(int((column[::2] > column[1::2]).sum()), len(pairs))

    def favourites(self, label: str, n: int = 10) -> list[str]:
        """The words, marks and lengths (`<9-12 words>`) that speak most for a label, the strongest first.

        Raises PushbackError for a label that it was not trained on.
        """
        at = self._place(label)
        names, weights = self.pipeline[0].get_feature_names_out(), self.pipeline[1].coef_
        row = weights[at] if len(weights) > 1 else weights[0] * (1 if at else -1)
        order = (names[place].removeprefix("words__") for place in row.argsort()[::-1] if names[place].startswith("words__"))
        return [name for name, _ in zip(order, range(n), strict=False)]

    def _place(self, label: str) -> int:
        if label not in self.labels:
            raise PushbackError(f"The probe knows no {label!r}. Its labels are {', '.join(self.labels)}.")
        return self.labels.index(label)


def fit_probe(texts: Sequence[str], labels: Sequence[str]) -> Probe:
    """A probe for these labels. Raises PushbackError unless there are two kinds of them."""
    if len(set(labels)) < 2:
        raise PushbackError(
            f"A probe tells labels apart, and all {len(labels)} texts have the same. Give it two kinds or more."
        )
    pipeline = _pipeline().fit(list(texts), list(labels))
    return Probe(tuple(map(str, pipeline.classes_)), pipeline)


def held_out_shares(texts: Sequence[str], labels: Sequence[str], groups: Sequence[str]) -> tuple[tuple[str, ...], np.ndarray]:
    """Labels and probabilities (texts, labels), each text's from a probe that saw no text of its group (three folds)."""
    return tuple(sorted(set(labels))), _held_out(tuple(texts), tuple(labels), tuple(groups))


@lru_cache(maxsize=8)  # a data set is checked again after an answer was mended, which no probe sees
def _held_out(texts: tuple[str, ...], labels: tuple[str, ...], groups: tuple[str, ...]) -> np.ndarray:
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict

    folds = StratifiedGroupKFold(min(FOLDS, len(set(groups))), shuffle=True, random_state=SEED)
    return cross_val_predict(_pipeline(), list(texts), list(labels), groups=list(groups), cv=folds, method="predict_proba")


def _pipeline() -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import FeatureUnion, make_pipeline

    words = TfidfVectorizer(analyzer=_words, sublinear_tf=True, min_df=2, max_features=10_000)
    letters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True, min_df=3, max_features=6_000)
    features = FeatureUnion([("words", words), ("letters", letters)])
    return make_pipeline(features, LogisticRegression(C=10, max_iter=500, class_weight="balanced"))


def _words(text: str) -> list[str]:
    """Words and marks, pairs of them, and the length."""
    found = [token.lower() for token in _TOKEN.findall(text)]
    count = len(text.split())
    low = max((edge for edge in LENGTHS if edge < count), default=0)
    high = next((edge for edge in LENGTHS if edge >= count), None)
    length = f"<{low + 1}-{high} words>" if high else f"<over {low} words>"
    return [*found, *map(" ".join, itertools.pairwise(found)), length]
