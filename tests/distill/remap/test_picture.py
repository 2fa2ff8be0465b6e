"""The picture has a dark cell where a layer came from, and none elsewhere."""

from pathlib import Path

import matplotlib.image
import numpy as np

from dwt_cli.distill.remap.picture import draw_origins
from dwt_cli.distill.remap.remap import Account


def dark(folder: Path, layers: dict[int, dict[int, float]], silent: list[int]) -> int:
    draw_origins(Account(layers=layers, silent=silent), 3, 2, folder / "remap.png")
    pixels = matplotlib.image.imread(folder / "remap.png")[..., :3] * 255
    # inside the axes, left of the colour bar, in the colour of a whole share
    brown = np.abs(pixels - (0x7F, 0x3B, 0x08)).max(-1) <= 4
    return int(brown[:, : brown.shape[1] * 3 // 5].sum())


def test_a_cell_for_each_origin(tmp_path: Path) -> None:
    three = dark(tmp_path, {0: {0: 1.0}, 1: {1: 1.0}, 2: {1: 1.0}}, [])
    two = dark(tmp_path, {0: {0: 1.0}, 2: {1: 1.0}}, [])
    assert 0 < two < three * 0.8
    assert dark(tmp_path, {0: {0: 0.5, 1: 0.5}}, []) == 0
    assert dark(tmp_path, {}, []) == 0


def test_what_a_layer_is_stands_beside_it(tmp_path: Path) -> None:
    account = Account(layers={0: {0: 1.0}, 1: {0: 1.0}}, silent=[1])
    figure = draw_origins(account, 3, 2, tmp_path / "remap.png")
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["0", "1 (identity at first)", "2 (fresh)"]
