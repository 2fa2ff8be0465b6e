"""GLUE's metrics against their formulas, written out in fp64."""

import math
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from dwt_cli.evaluate.metrics import METRICS, standard_error

Numbers = Sequence[float]


def accuracy(labels: Numbers, found: Numbers) -> float:
    return sum(a == b for a, b in zip(labels, found, strict=True)) / len(labels)


def f1(labels: Numbers, found: Numbers) -> float:
    pairs = Counter(zip(labels, found, strict=True))
    wrong = pairs[0, 1] + pairs[1, 0]
    return 2 * pairs[1, 1] / (2 * pairs[1, 1] + wrong) if pairs[1, 1] + wrong else 0.0


def matthews(labels: Numbers, found: Numbers) -> float:
    """The correlation of the two as numbers; 0 where one of them is constant."""
    value = pearson(labels, found)
    return 0.0 if math.isnan(value) else value


def pearson(x: Numbers, y: Numbers) -> float:
    x_mean, y_mean = math.fsum(x) / len(x), math.fsum(y) / len(y)
    xs, ys = [a - x_mean for a in x], [b - y_mean for b in y]
    squares = math.fsum(a * a for a in xs) * math.fsum(b * b for b in ys)
    products = math.fsum(a * b for a, b in zip(xs, ys, strict=True))
    return products / math.sqrt(squares) if squares else math.nan


def spearman(x: Numbers, y: Numbers) -> float:
    def ranks(values: Numbers) -> list[float]:  # ties share the mean of their places
        return [
            sum(other < value for other in values) + (sum(v == value for v in values) + 1) / 2
            for value in values
        ]

    return pearson(ranks(x), ranks(y))


WRITTEN_OUT: dict[str, Callable[[Numbers, Numbers], float]] = {
    f.__name__: f for f in (accuracy, f1, matthews, pearson, spearman)
}
CONTINUOUS = ("pearson", "spearman")


def drawn(name: str, kind: str) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(7)
    labels = draw.integers(2, size=101)
    found = np.where(draw.random(101) < 0.3, 1 - labels, labels)
    if name in CONTINUOUS:
        labels = draw.random(101) * 5
        found = labels + draw.normal(size=101)
    if kind == "ties":
        labels, found = labels.round(), found.round()
    elif kind == "constant":
        found = np.ones_like(found)
    elif kind == "none":
        found = np.zeros_like(found)
    return labels, found


def test_every_metric_is_written_out() -> None:
    assert WRITTEN_OUT.keys() == METRICS.keys()


@pytest.mark.parametrize("kind", ["random", "ties", "constant", "none"])
@pytest.mark.parametrize("name", METRICS)
def test_against_the_formula(name: str, kind: str) -> None:
    labels, found = drawn(name, kind)
    wanted = WRITTEN_OUT[name](labels.tolist(), found.tolist())
    assert METRICS[name](labels, found) == pytest.approx(wanted, abs=1e-9, nan_ok=True)
    assert math.isnan(wanted) == (name in CONTINUOUS and kind in ("constant", "none"))


def test_the_standard_error_of_an_accuracy_is_the_binomial_one() -> None:
    labels, found = drawn("accuracy", "random")
    share = (labels == found).mean()
    error = standard_error(METRICS["accuracy"], labels, found)
    assert error == pytest.approx(math.sqrt(share * (1 - share) / len(labels)), rel=0.15)
    assert error == standard_error(METRICS["accuracy"], labels, found)
