import json
import os
import threading
from pathlib import Path

import pytest

from dwt_cli.base import atomic
from dwt_cli.base.cache import ABOUT, Cache


class Maker:
    """Writes a file and counts how often it was asked to."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, folder: Path) -> None:
        self.calls += 1
        (folder / "content").write_text("made")


@pytest.fixture
def messages() -> list[str]:
    return []


@pytest.fixture
def cache(tmp_path: Path, messages: list[str]) -> Cache:
    return Cache(str(tmp_path / "cache"), messages.append)


def test_made_once_and_found_afterwards(cache: Cache, messages: list[str]) -> None:
    make = Maker()
    place = cache.get("corpus", "abc", make, {"options": {"x": 1}})
    os.utime(place, (0, 0))
    assert cache.get("corpus", "abc", make, {}) == place == cache.place("corpus", "abc")
    assert (make.calls, messages) == (1, [])
    assert (place / "content").read_text() == "made"
    about = json.loads((place / ABOUT).read_text())
    assert (about["kind"], about["options"]) == ("corpus", {"x": 1})
    assert place.stat().st_mtime > 1e9, "the time of the last use"


def test_another_fingerprint_or_kind_is_another_artifact(cache: Cache) -> None:
    make = Maker()
    places = {cache.get(kind, name, make, {}) for kind in ("corpus", "teacher") for name in "ab"}
    assert make.calls == len(places) == 4


def test_damage_is_reported_and_made_good(cache: Cache, messages: list[str]) -> None:
    make = Maker()
    place = cache.get("teacher", "abc", make, {})
    (place / "content").write_text("edited")
    cache.get("teacher", "abc", make, {})
    assert make.calls == 2
    assert (place / "content").read_text() == "made"
    assert len(messages) == 1
    assert f"teacher is made again: {place / 'content'} has changed" in messages[0]
    atomic.verify(place)


def test_an_interrupted_making_goes_on_in_its_folder(cache: Cache) -> None:
    def interrupted(folder: Path) -> None:
        (folder / "half").write_text("so far")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.get("teacher", "abc", interrupted, {})
    assert not cache.place("teacher", "abc").exists()

    def go_on(folder: Path) -> None:
        (folder / "whole").write_text((folder / "half").read_text() + ", and the rest")

    place = cache.get("teacher", "abc", go_on, {})
    assert (place / "whole").read_text() == "so far, and the rest"


def test_two_at_once_make_it_once(tmp_path: Path) -> None:
    messages: list[str] = []
    make, started, may_end = Maker(), threading.Event(), threading.Event()

    def slow(folder: Path) -> None:
        started.set()
        assert may_end.wait(10)
        make(folder)

    first, second = (Cache(str(tmp_path), messages.append) for _ in range(2))
    one = threading.Thread(target=first.get, args=("corpus", "abc", slow, {}))
    one.start()
    assert started.wait(10)
    two = threading.Thread(target=second.get, args=("corpus", "abc", make, {}))
    two.start()
    two.join(1.5)
    assert two.is_alive(), "it waits"
    may_end.set()
    one.join(10)
    two.join(10)
    assert make.calls == 1
    assert len(messages) == 1
    assert messages[0].startswith("waiting for ")
    assert str(os.getpid()) in messages[0]
    assert "corpus/abc" in messages[0]
