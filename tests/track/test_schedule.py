"""The picture of a schedule is drawn by the real command, and nothing else is done."""

from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

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
