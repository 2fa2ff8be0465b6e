"""Folders that are either whole or not there: built aside, sealed, moved into place, verified.

A sealed folder has a ``manifest.json`` with the sha256 sum of every file. It is written last, so
it is the commit mark; a folder without it does not count.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path

MANIFEST = "manifest.json"


class Damaged(Exception):
    """A sealed folder that is not what was sealed. The message names folder and file."""


def write_text(path: Path, text: str) -> None:
    """Write a small file in one piece: readers see the old content or the new, never half."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with aside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)


def write_json(path: Path, content: object) -> None:
    write_text(path, json.dumps(content, indent=2) + "\n")


def seal(folder: Path) -> None:
    """Sum every file of ``folder`` and write the manifest, flushed to the disk."""
    sums = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != MANIFEST:
            with path.open("rb") as file:
                sums[path.relative_to(folder).as_posix()] = hashlib.file_digest(
                    file, "sha256"
                ).hexdigest()
                os.fsync(file.fileno())
    write_json(folder / MANIFEST, sums)


def publish(folder: Path, place: Path) -> None:
    """Seal ``folder`` and move it to ``place``, which is replaced if it is there."""
    seal(folder)
    if place.exists():
        shutil.rmtree(place)
    place.parent.mkdir(parents=True, exist_ok=True)
    os.replace(folder, place)


def is_sealed(folder: Path) -> bool:
    return (folder / MANIFEST).is_file()


def verify(folder: Path) -> None:
    """Raise `Damaged` unless every file is what the manifest says."""
    try:
        sums = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise Damaged(f"{folder} has no readable {MANIFEST}") from error
    for name, expected in sums.items():
        path = folder / name
        if not path.is_file():
            raise Damaged(f"{folder} lacks {name}")
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != expected:
                raise Damaged(f"{path} has changed since it was written")
