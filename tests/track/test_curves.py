"""The figure has the lines it should have: their colours are looked for in its pixels."""

import json
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from dwt_cli.track.curves import draw_curves

BLUE, ORANGE, GREEN, GREY = (
    (0x00, 0x72, 0xB2),
    (0xD5, 0x5E, 0x00),
    (0x00, 0x9E, 0x73),
    (0x77, 0x77, 0x77),
)


def drawn(
    folder: Path, lines: list[dict[str, float]], references: dict[str, float]
) -> "tuple[np.ndarray, dict[tuple[int, int, int], int]]":
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    draw_curves(
        folder / "metrics.jsonl", folder / "curves.png", "a title", references, "masked token"
    )
    pixels = (matplotlib.image.imread(folder / "curves.png")[..., :3] * 255).round().astype(int)
    return pixels, {
        colour: int((np.abs(pixels - colour).max(-1) <= 4).sum())
        for colour in (BLUE, ORANGE, GREEN, GREY)
    }


def lines(with_teacher: bool) -> list[dict[str, float]]:
    found: list[dict[str, float]] = []
    for step in range(1, 21):
        line = {"step": step, "train/hard_loss": 8 - step / 5, "train/alpha_hard": 1.0}
        if with_teacher:
            line |= {
                "train/soft_loss": 3 - step / 10,
                "train/teacher_loss": 5.0 + step % 2,
                "train/alpha_soft": 4 - step / 10,
            }
        found.append(line)
        if step % 5 == 0:
            found.append({"step": step, "heldout/loss": 8 - step / 6})
    return found


@pytest.mark.slow
def test_a_student_with_a_teacher(tmp_path: Path) -> None:
    pixels, counts = drawn(tmp_path, lines(True), {"stand-alone": 5.0, "teacher": 6.0})
    assert all(count > 100 for count in counts.values()), counts
    _, few = drawn(tmp_path, lines(True), {})
    assert few[GREEN] == 0
    assert 0 < few[ORANGE] < counts[ORANGE]
    for key, colour in (
        ("train/hard_loss", BLUE),
        ("train/soft_loss", ORANGE),
        ("train/teacher_loss", GREY),
        ("train/alpha_hard", BLUE),
        ("heldout/loss", BLUE),
    ):
        _, fewer = drawn(
            tmp_path, [{k: v for k, v in line.items() if k != key} for line in lines(True)], {}
        )
        assert fewer[colour] < few[colour] - 50, key
    thirds = np.array_split(pixels, 3, axis=1)
    assert all((third < 250).any() for third in thirds)


def test_a_stand_alone_student(tmp_path: Path) -> None:
    _, counts = drawn(tmp_path, lines(False), {})
    assert counts[BLUE] > 100
    assert counts[ORANGE] == counts[GREEN] == 0


@pytest.mark.parametrize("content", [[], [{"step": 1, "train/hard_loss": float("nan")}]])
def test_little_to_draw_is_no_error(tmp_path: Path, content: list[dict[str, float]]) -> None:
    pixels, _ = drawn(tmp_path, content, {})
    assert (pixels < 100).any(), "axes and title"
