"""A cache of what is expensive to make: a folder per artifact, found by its fingerprint.

An artifact is a sealed folder ``<root>/<kind>/<fingerprint>``. It is made under a lock in
``<fingerprint>.partial``, which outlives an interruption, so that the next start may go on.
"""

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import platformdirs
from filelock import AcquireReturnProxy, FileLock

from dwt_cli.base import atomic, locks
from dwt_cli.base.home import without_home

ABOUT, PARTIAL, DAMAGED, LOCK = "about.json", ".partial", ".damaged", ".lock"


class Cache:
    """The artifacts below ``root``; None: the user's cache folder. say: prints a line."""

    def __init__(self, root: str | None, say: Callable[[str], None]) -> None:
        self.root = Path(root).expanduser() if root else platformdirs.user_cache_path("dwt")
        self._say = say

    def place(self, kind: str, fingerprint: str) -> Path:
        """Return the folder where the artifact is, or would be."""
        return self.root / kind / fingerprint

    def kept_as(self, kind: str, *fingerprints: str | None) -> str:
        """Return the first fingerprint under which something is kept, or begun; else the first."""
        for fingerprint in filter(None, fingerprints):
            place = self.place(kind, fingerprint)
            if atomic.is_sealed(place) or place.with_name(f"{fingerprint}{PARTIAL}").is_dir():
                return fingerprint
        assert fingerprints[0] is not None
        return fingerprints[0]

    def get(
        self, kind: str, fingerprint: str, make: Callable[[Path], None], about: dict[str, Any]
    ) -> Path:
        """Return the artifact's folder, made by ``make(folder)`` unless it is there and whole.

        about: its options, kept beside its files as ``about.json``.
        """
        place = self.place(kind, fingerprint)
        place.parent.mkdir(parents=True, exist_ok=True)
        with self._lock(place), atomic.needing_room(place.parent):
            if self._is_whole(place):
                return place
            partial = place.with_name(f"{fingerprint}{PARTIAL}")
            partial.mkdir(exist_ok=True)
            make(partial)
            _describe(partial, kind, about)
            atomic.publish(partial, place)
        return place

    @contextlib.contextmanager
    def growing(self, kind: str, fingerprint: str, about: dict[str, Any]) -> Iterator[Path]:
        """Hold the folder of an artifact that is added to (`atomic.add`); it is whole at any time.

        It begins without any content.
        """
        place = self.place(kind, fingerprint)
        place.parent.mkdir(parents=True, exist_ok=True)
        with self._lock(place), atomic.needing_room(place.parent):
            if not self._is_whole(place, fingerprint):
                shutil.rmtree(place, ignore_errors=True)
                place.mkdir()
                _describe(place, kind, {"fingerprint": fingerprint, **about})
                atomic.seal(place)
            yield place

    def _is_whole(self, place: Path, fingerprint: str | None = None) -> bool:
        """Return whether an artifact is there; what is damaged is set aside.

        fingerprint: under which it must have been made, if that is known.
        """
        if not atomic.is_sealed(place):
            return False
        try:
            atomic.verify(place)
            made = (atomic.read_json(place / ABOUT) or {}).get("fingerprint")
            if fingerprint is not None and made != fingerprint:
                raise atomic.Damaged(f"{place} was made as {made}")
        except atomic.Damaged as damage:
            aside = place.with_name(f"{place.name}{DAMAGED}")
            shutil.rmtree(aside, ignore_errors=True)
            place.rename(aside)
            self._say(f"{place.parent.name} is made again: {damage}; set aside as {aside.name}")
            return False
        os.utime(place)  # when it was last used
        return True

    def _lock(self, place: Path) -> AcquireReturnProxy[FileLock]:
        path = place.with_name(place.name + LOCK)
        try:
            return locks.take(path)
        except locks.Held as holder:
            self._say(f"waiting for {holder}, which prepares {place.parent.name}/{place.name}")
            return locks.take(path, timeout_s=-1)


def _describe(folder: Path, kind: str, about: dict[str, Any]) -> None:
    made = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    said = without_home(about)
    atomic.write_json(folder / ABOUT, {"kind": kind, "made": made, **said})
