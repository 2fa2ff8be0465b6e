"""GLUE's metrics, from scikit-learn and scipy, and the standard error of any of them.

Both libraries are imported where they are used: a run that evaluates nothing starts 1.6 s sooner.
"""

import warnings
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from dwt_cli.base.randomness import generator, seed_for

Values = NDArray[np.int64] | NDArray[np.float32]
Metric = Callable[[Values, Values], float]
"""A number from labels and predictions, both (examples,); nan where it is not defined."""

_NUM_RESAMPLES = 200


def accuracy(labels: Values, predictions: Values) -> float:
    from sklearn import metrics

    return float(metrics.accuracy_score(labels, predictions))


def f1(labels: Values, predictions: Values) -> float:
    """Return F1 of class 1; 0 when neither labels nor predictions have any."""
    from sklearn import metrics

    return float(metrics.f1_score(labels, predictions, zero_division=0.0))


def matthews(labels: Values, predictions: Values) -> float:
    """Return Matthews' correlation; 0 when either side has one class only."""
    from sklearn import metrics

    return float(metrics.matthews_corrcoef(labels, predictions))


def pearson(labels: Values, predictions: Values) -> float:
    return _correlation("pearsonr", labels, predictions)


def spearman(labels: Values, predictions: Values) -> float:
    return _correlation("spearmanr", labels, predictions)


def _correlation(name: str, x: Values, y: Values) -> float:
    from scipy import stats

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.ConstantInputWarning)
        warnings.simplefilter("ignore", stats.NearConstantInputWarning)
        return float(getattr(stats, name)(x.astype(np.float64), y.astype(np.float64))[0])


METRICS: dict[str, Metric] = {
    metric.__name__: metric for metric in (accuracy, f1, matthews, pearson, spearman)
}


def standard_error(metric: Metric, labels: Values, predictions: Values) -> float:
    """Return the spread of the metric on 200 resamples with replacement, always the same.

    A resample on which the metric is not defined is left out.
    """
    draw = generator(seed_for("standard error"))
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a resample may lack a class
        for _ in range(_NUM_RESAMPLES):
            chosen = draw.integers(len(labels), size=len(labels))
            found.append(metric(labels[chosen], predictions[chosen]))
    return float(np.nanstd(found)) if np.isfinite(found).any() else float("nan")
