import json
import subprocess
from pathlib import Path

import pytest

from dwt_cli.base import atomic
from dwt_cli.config import explain


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "aside"
    (made / "inner").mkdir(parents=True)
    (made / "a.bin").write_bytes(bytes(range(256)))
    (made / "inner" / "manifest.json").write_text("{}")
    atomic.publish(made, tmp_path / "deep" / "place")
    assert not made.exists()
    return tmp_path / "deep" / "place"


def test_what_was_published_is_whole(folder: Path) -> None:
    assert atomic.is_sealed(folder)
    atomic.verify(folder)
    sums = json.loads((folder / atomic.MANIFEST).read_text())
    assert sums.keys() == {"a.bin", "inner/manifest.json"}


@pytest.mark.parametrize("name", ["a.bin", "inner/manifest.json"])
def test_a_changed_file_is_named(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(atomic.Damaged, match=f"{folder / name} has changed"):
        atomic.verify(folder)


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "a.bin").unlink()
    with pytest.raises(atomic.Damaged, match=r"lacks a\.bin"):
        atomic.verify(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe{}", None])
def test_a_manifest_that_cannot_be_read_is_damage(folder: Path, content: bytes | None) -> None:
    (folder / atomic.MANIFEST).unlink()
    if content is not None:
        (folder / atomic.MANIFEST).write_bytes(content)
    with pytest.raises(atomic.Damaged, match="no readable"):
        atomic.verify(folder)


def test_publishing_again_replaces_all_of_the_old_folder(folder: Path, tmp_path: Path) -> None:
    newer = tmp_path / "newer"
    newer.mkdir()
    (newer / "b.txt").write_text("b")
    atomic.publish(newer, folder)
    atomic.verify(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["b.txt", "manifest.json"]


def test_a_write_that_fails_leaves_the_old_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "status.json"
    atomic.write_json(path, {"state": "running"})

    def no_space(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic.os, "fsync", no_space)
    with pytest.raises(OSError, match="No space") as error:
        atomic.write_json(path, {"state": "finished"})
    assert explain.answer(error.value) == (
        f"{path} cannot be written to (no space left on device); what was there, earlier "
        "checkpoints too, is kept: make room, and the same command goes on"
    )
    assert json.loads(path.read_text()) == {"state": "running"}
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_not_finished_counts_only_if_it_is_whole(tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    assert atomic.read_summed(begun) is None
    atomic.write_summed(begun, b"half of it")
    assert atomic.read_summed(begun) == b"half of it"
    whole = begun.read_bytes()
    for damaged in (b"", whole[:-1], whole[:10], whole[:-1] + b"x", b"x" + whole[1:]):
        begun.write_bytes(damaged)
        assert atomic.read_summed(begun) is None
    assert [path.name for path in tmp_path.iterdir()] == ["begun"]


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("a.bin", b"other", "a.bin"),
        ("a.bin", None, "a.bin"),
        (atomic.SUMS, b"", atomic.SUMS),
        (atomic.SUMS, b"\xff  a.bin\n", atomic.SUMS),
        ("README.md", b"edited", None),
        ("later", b"new", None),
    ],
)
def test_sums_name_what_has_changed(
    tmp_path: Path, name: str, content: bytes | None, found: str | None
) -> None:
    for each in ("README.md", "a.bin", "b.json", ".lock"):
        (tmp_path / each).write_text(each)
    assert atomic.changed(tmp_path) is None, "where there are none nothing is said"
    atomic.write_sums(tmp_path, "README.md")
    assert atomic.changed(tmp_path) is None
    done = subprocess.run(["sha256sum", "-c", atomic.SUMS], cwd=tmp_path, capture_output=True)
    assert done.stdout == b"a.bin: OK\nb.json: OK\n"
    (tmp_path / name).unlink(missing_ok=True)
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert atomic.changed(tmp_path) == found


def test_sums_of_folders_that_are_below_are_read_and_leave_no_folder(tmp_path: Path) -> None:
    folder, inner = tmp_path / "model", tmp_path / "model" / "onnx" / "model.onnx"
    inner.parent.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (tmp_path / "secret").write_text("of another")
    inner.write_text("weights")
    files = "config.json ./onnx/model.onnx"
    subprocess.run(f"sha256sum {files} > {atomic.SUMS}", cwd=folder, shell=True, check=True)
    assert atomic.changed(folder) is None
    inner.write_text("other ones")
    assert atomic.changed(folder) == "onnx/model.onnx"
    assert atomic.changed(folder, (".onnx",)) is None
    inner.unlink()
    assert atomic.changed(folder) == "onnx/model.onnx"
    for name in ("../secret", str(tmp_path / "secret")):
        (folder / atomic.SUMS).write_text(f"{atomic.file_sum(tmp_path / 'secret')}  {name}\n")
        assert atomic.changed(folder) == atomic.SUMS


@pytest.mark.parametrize("place", range(200))
def test_a_bit_of_the_sums_that_turned_over_is_found(tmp_path: Path, place: int) -> None:
    for each in ("a.bin", "b.json", "c"):
        (tmp_path / each).write_text(each)
    atomic.write_sums(tmp_path)
    content = (tmp_path / atomic.SUMS).read_bytes()
    place %= len(content)
    turned = bytes([content[place] ^ 1])
    (tmp_path / atomic.SUMS).write_bytes(content[:place] + turned + content[place + 1 :])
    assert atomic.changed(tmp_path)
