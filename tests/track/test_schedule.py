"""A schedule's curves are the formulas; the real command draws them, and nothing else is done."""

import math
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from dwt_cli.distill.alpha import Constant, Wsd
from dwt_cli.distill.objective.divergences import ForwardKL
from dwt_cli.distill.objective.relations import MiniLM
from dwt_cli.track.schedule import RATE, schedule_curves
from dwt_cli.training.options import Falling, Optim
from tests.miniature import dwt_train, options


@pytest.mark.parametrize("words", [["alpha=decay"], ["alpha=overtake", "objective=minilm"]])
def test_a_picture_and_no_training(tmp_path: Path, words: list[str]) -> None:
    done = dwt_train(*options(tmp_path), *words, "run.schedule=true", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (picture,) = (tmp_path / "runs").iterdir()
    assert str(picture) in done.stdout
    pixels = (matplotlib.image.imread(picture)[..., :3] * 255).round().astype(int)
    blue, orange = ((np.abs(pixels - c).max(-1) <= 4) for c in ((0, 114, 178), (213, 94, 0)))
    assert blue.any()
    columns = np.nonzero(orange.any(0))[0]
    first, last = (orange[:, column].argmax() for column in (columns[3], columns[-4]))
    assert (last - first > pixels.shape[0] // 4) == (words == ["alpha=decay"])


def test_the_learning_rate_falls_as_it_is_configured() -> None:
    optim = Optim(warmup=0.25, decay=0.5, falling=Falling.cosine)
    progress, curves = schedule_curves(Wsd(soft=4.0), optim, {}, num_points=8)
    cosine = [(1 + math.cos(math.pi * done)) / 2 for done in (0, 0.25, 0.5, 0.75)]
    assert progress == [0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875]
    assert curves[RATE] == pytest.approx([0, 0.5, 1, 1, *cosine])
    assert curves["alpha_soft"] == pytest.approx([4 * factor for factor in curves[RATE]])
    assert curves["alpha_hard"] == [1.0] * 8


def test_temperatures_are_those_of_the_objectives_that_have_one() -> None:
    objectives = {"kl": ForwardKL(temperature=1.0, temperature_end=3.0), "minilm": MiniLM()}
    _, curves = schedule_curves(Constant(), Optim(), objectives, num_points=4)
    assert list(curves) == ["alpha_hard", "alpha_soft", RATE, "temperature of kl"]
    assert curves["temperature of kl"] == [1.0, 1.5, 2.0, 2.5]
