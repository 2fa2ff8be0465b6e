"""GLUE's metrics, from scikit-learn and scipy, and the standard error of any of them.

They take labels and predictions, both (examples,), and return nan where they are not defined. A
module that many need imports this one where it uses it: both libraries take 1.6 s.
"""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn import metrics

from dwt_cli.base.randomness import generator, seed_for

Values = NDArray[np.int64] | NDArray[np.float32]
Metric = Callable[[Values, Values], float]

_NUM_RESAMPLES = 200


def _correlation(of: Callable[..., Any], x: Values, y: Values) -> float:
    with warnings.catch_warnings():
        for constant in (stats.ConstantInputWarning, stats.NearConstantInputWarning):
            warnings.simplefilter("ignore", constant)  # of such values there is no correlation
        return float(of(x.astype(np.float64), y.astype(np.float64))[0])


METRICS: dict[str, Metric] = {
    "accuracy": metrics.accuracy_score,
    # of class 1; 0 when neither labels nor predictions have any
    "f1": partial(metrics.f1_score, zero_division=0.0),
    # 0 when either side has one class only
    "matthews": metrics.matthews_corrcoef,
    "pearson": partial(_correlation, stats.pearsonr),
    "spearman": partial(_correlation, stats.spearmanr),
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
