"""A cache of what is expensive to make: a folder per artifact, found by its fingerprint.

An artifact is a sealed folder ``<root>/<kind>/<fingerprint>``. It is made under a lock in
``<fingerprint>.partial``, which outlives an interruption, so that the next start may go on.
"""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import platformdirs
from filelock import AcquireReturnProxy, FileLock

from dwt_cli.base import atomic, locks

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
            if atomic.is_sealed(place):
                try:
                    atomic.verify(place)
                except atomic.Damaged as damage:
                    aside = place.with_name(f"{fingerprint}{DAMAGED}")
                    shutil.rmtree(aside, ignore_errors=True)
                    place.rename(aside)
                    self._say(f"{kind} is made again: {damage}; set aside as {aside.name}")
                else:
                    os.utime(place)  # when it was last used
                    return place
            partial = place.with_name(f"{fingerprint}{PARTIAL}")
            partial.mkdir(exist_ok=True)
            make(partial)
            atomic.write_json(
                partial / ABOUT,
                {"kind": kind, "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **about},
            )
            atomic.publish(partial, place)
        return place

    def _lock(self, place: Path) -> AcquireReturnProxy[FileLock]:
        path = place.with_name(place.name + LOCK)
        try:
            return locks.take(path)
        except locks.Held as holder:
            self._say(f"waiting for {holder}, which prepares {place.parent.name}/{place.name}")
            return locks.take(path, timeout_s=-1)
