from pathlib import Path

from dwt_cli.training.snapshots import Snapshots, place_of, snapshots_of


class Model:
    """What is saved is the step that was done."""

    step = 0

    def save(self, place: Path) -> None:
        place.mkdir()
        (place / "step").write_text(str(self.step))


def trained(folder: Path, start: int, stop: int, shares: list[float]) -> dict[str, int]:
    model = Model()
    model.step = start
    snapshots = Snapshots(model.save, snapshots_of(folder), shares)
    snapshots.resumed(start)
    for step in range(start + 1, stop + 1):
        model.step = step
        snapshots.stepped(step, step / 10, {})
    return {
        place.parent.name: int(place.read_text()) for place in snapshots_of(folder).glob("*/step")
    }


def test_each_share_has_the_model_of_its_step(tmp_path: Path) -> None:
    assert trained(tmp_path, 0, 10, [0.0, 0.25, 0.5, 1.0]) == {"0": 0, "0.25": 3, "0.5": 5}
    assert place_of(tmp_path, 0.25) == snapshots_of(tmp_path) / "0.25"
    assert place_of(tmp_path, 1.0) == tmp_path / "model"


def test_a_training_that_goes_on_keeps_what_it_has(tmp_path: Path) -> None:
    trained(tmp_path, 0, 4, [0.25, 0.5])
    assert trained(tmp_path, 4, 10, [0.25, 0.5]) == {"0.25": 3, "0.5": 5}
    assert trained(tmp_path, 0, 2, [0.25, 0.5]) == {}  # started anew


def test_a_moment_that_is_over_is_not_made_up(tmp_path: Path) -> None:
    assert trained(tmp_path, 6, 10, [0.25, 0.5, 0.8]) == {"0.8": 8}
