"""Every file of checkpoints and caches is cut, flipped and emptied in turn: found, and named."""

import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from dwt_cli.base import atomic
from dwt_cli.base.cache import Cache
from dwt_cli.base.errors import UserError
from dwt_cli.distill.teacher.options import CheckpointTeacher
from dwt_cli.models.checkpoint import open_model
from dwt_cli.models.options import Head
from dwt_cli.training.checkpoint import Checkpoints
from tests.faults.older import ARCHIVES, MADE

Harm = Callable[[bytes], bytes]


def flipped(content: bytes) -> bytes:
    """Turn a bit over in the middle."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


HARMS: dict[str, Harm] = {
    "cut": lambda content: content[: len(content) // 2],
    "flipped": flipped,
    "emptied": lambda content: b"",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what earlier commits have made: real runs and caches, as small as they get."""
    folder = tmp_path_factory.mktemp("damage")
    for commit in MADE:
        with tarfile.open(ARCHIVES / f"{commit}.tar.xz") as packed:
            packed.extractall(folder, filter="data")
    return folder


def files_of(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_size]


@pytest.mark.slow
@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("kind", ["corpus", "teacher", "signal"])
def test_a_damaged_cache_is_named_set_aside_and_made_again(
    place: Path, kind: str, harm: str
) -> None:
    said: list[str] = []
    cache = Cache(str(place / "cache"), said.append)
    (folder,) = (path for path in (place / "cache" / kind).iterdir() if not path.suffix)
    kept = {path.relative_to(folder): path.read_bytes() for path in files_of(folder)}
    assert len(kept) > 3

    def make(partial: Path) -> None:
        for name, content in kept.items():
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            (partial / name).write_bytes(content)

    about = json.loads(kept[Path("about.json")])
    for name, content in kept.items():
        (folder / name).write_bytes(HARMS[harm](content))
        assert cache.get(kind, folder.name, make, about) == folder
        (line,) = said
        said.clear()
        assert f"{kind} is made again: " in line and "set aside as" in line
        # a manifest that is read but is not what was written names what it does not fit
        assert name.name in line or name.name == atomic.MANIFEST
        atomic.verify(folder)


@pytest.mark.parametrize("harm", HARMS)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(place: Path, harm: str) -> None:
    (folder,) = place.glob("runs/small-*-seed0-*/checkpoints")
    said: list[str] = []
    checkpoints = Checkpoints(folder, "", 2, said.append)
    newest = folder / "step-00000006"
    names = [path.relative_to(newest) for path in files_of(newest)]
    assert {"model.safetensors", "optimizer.safetensors", "state.json"} <= set(map(str, names))
    for name in names:
        content = (newest / name).read_bytes()
        (newest / name).write_bytes(HARMS[harm](content))
        assert checkpoints._newest_whole() == "step-00000003"
        (line,) = said
        said.clear()
        assert line.startswith("checkpoint set aside: ")
        assert name.name in line or name.name == atomic.MANIFEST
        (folder / f"damaged-{newest.name}").rename(newest)
        (newest / name).write_bytes(content)
    assert checkpoints._newest_whole() == newest.name


@pytest.mark.parametrize("harm", ["cut", "emptied"])
def test_weights_that_are_not_whole_are_refused_in_one_line(place: Path, harm: str) -> None:
    """A bit that has turned over in a model of the hub's format is not: it has no sums there."""
    (folder,) = place.glob("runs/small-*-seed0-*/model")
    for name in ("model.safetensors", "config.json"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(HARMS[harm](content))
        with pytest.raises(UserError, match=r"^teacher\.path=.* cannot be opened") as error:
            open_model("teacher.path", CheckpointTeacher(path=str(folder)), Head.masked)
        assert "\n" not in str(error.value)
        (folder / name).write_bytes(content)
