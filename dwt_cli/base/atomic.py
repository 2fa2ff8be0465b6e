"""Atomic folders and files: built aside, sealed, moved into place, verified when opened.

A sealed folder has a ``manifest.json`` with the sha256 sum of every file. It is written last, so
it is the commit mark; a folder without it does not count.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from dwt_cli.base.errors import UserError

MANIFEST = "manifest.json"
SUMS = "SHA256SUMS"

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Damaged(Exception):
    """Raised for a sealed folder whose files have changed. The message names folder and file."""


def no_room(place: object, number: int) -> str:
    """Return the line for a place that has none left; number: the system's."""
    return (
        f"{place} cannot be written to ({os.strerror(number).lower()}); what was there, "
        "earlier checkpoints too, is kept: make room, and the same command goes on"
    )


@contextlib.contextmanager
def needing_room(folder: Path) -> Iterator[None]:
    """Turn the error of a full disk, while ``folder`` is written to, into a `UserError`."""
    try:
        yield
    except Exception as error:
        text = str(error)
        in_rust = re.search(r"os error (\d+)", text)  # exceptions of libraries written in Rust
        number = int(in_rust.group(1)) if in_rust else getattr(error, "errno", None)
        if number is None and re.search(r"\d+ requested and \d+ written", text):  # numpy's
            number = errno.ENOSPC
        if number in NO_ROOM and not is_stdout_full():
            raise UserError(no_room(folder, number)) from error
        raise


def is_stdout_full() -> bool:
    """Return whether there is no room where stdout goes; asked by an empty line."""
    try:
        print(flush=True)
    except OSError:
        return True
    return False


def write_text(path: Path, text: str) -> None:
    """Write a small file in one piece: readers see the old content or the new, never half."""
    _write(path, text.encode())


def write_summed(path: Path, content: bytes) -> None:
    """Write what is not finished in one piece, with its sum, so that a later start may go on."""
    _write(path, hashlib.sha256(content).digest() + content)


def read_summed(path: Path) -> bytes | None:
    """Return the content of a file of `write_summed`; None when it is missing or damaged."""
    try:
        whole = path.read_bytes()
    except OSError:
        return None
    length = hashlib.sha256().digest_size
    content = whole[length:]
    return content if hashlib.sha256(content).digest() == whole[:length] else None


def _write(path: Path, content: bytes) -> None:
    aside = path.with_name(f".{path.name}.writing")
    try:
        with aside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        error.filename = str(path)  # what fails halfway names none
        raise


def write_json(path: Path, content: object) -> None:
    """Write a JSON file in one piece."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def seal(folder: Path) -> None:
    """Write the manifest with the sum of every file of ``folder``, flushed to the disk."""
    sums = {}
    open_up(folder)
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path != folder / MANIFEST:
            sums[path.relative_to(folder).as_posix()] = file_sum(path)
            _flush(path)
    write_json(folder / MANIFEST, sums)
    _flush(folder)


def open_up(folder: Path) -> None:
    """Let those read and write each file who may its folder, as the umask says.

    The safetensors library keeps its files from all but their owner. What is another user's, or
    lies where modes cannot be set, stays as it is.
    """
    for path in filter(Path.is_file, folder.rglob("*")):
        now = path.stat().st_mode
        wanted = now | (path.parent.stat().st_mode & 0o666)
        if wanted != now and not path.is_symlink():
            with contextlib.suppress(OSError):
                path.chmod(wanted)


def leaves(name: str) -> bool:
    """Return whether a name of a file in a folder is that of one outside of it."""
    return Path(name).is_absolute() or ".." in Path(name).parts


def add(folder: Path, names: Iterable[str]) -> None:
    """Name new files of a sealed folder in its manifest; until then they do not count."""
    sums = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    for name in names:
        sums[name] = file_sum(folder / name)
        _flush(folder / name)
    write_json(folder / MANIFEST, sums)
    _flush(folder)


def publish(folder: Path, place: Path) -> None:
    """Seal ``folder`` and move it to ``place``, replacing what is there."""
    seal(folder)
    if place.exists():
        shutil.rmtree(place)
    place.parent.mkdir(parents=True, exist_ok=True)
    os.replace(folder, place)
    _flush(place.parent)


def file_sum(path: Path) -> str:
    """Return the sha256 sum of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_sealed(folder: Path) -> bool:
    """Whether a folder was written to its end."""
    return (folder / MANIFEST).is_file()


def verify(folder: Path) -> None:
    """Raise `Damaged` unless every file is what the manifest says."""
    try:
        sums = {
            str(k): v for k, v in dict(json.loads((folder / MANIFEST).read_text("utf-8"))).items()
        }
    except (OSError, ValueError, TypeError) as error:
        raise Damaged(f"{folder} has no readable {MANIFEST}") from error
    for name, expected in sums.items():
        if leaves(str(name)):
            raise Damaged(f"{folder} names {name}, which is outside of it,")
        path = folder / str(name)
        if not path.is_file():
            raise Damaged(f"{folder} lacks {name}")
        if file_sum(path) != expected:
            raise Damaged(f"{path} has changed since it was written")


def write_sums(folder: Path, *but: str) -> None:
    """Write SHA256SUMS, as ``sha256sum -c`` reads it, of a folder's files but hidden and some."""
    files = (path for path in sorted(folder.glob("[!.]*")) if path.is_file())
    names = [path.name for path in files if path.name not in (SUMS, *but)]
    write_text(folder / SUMS, "".join(f"{file_sum(folder / name)}  {name}\n" for name in names))


def changed(folder: Path, but: tuple[str, ...] = ()) -> str | None:
    """Return a file that is not what SHA256SUMS says, or that itself; None: all are, or none is.

    but: how the names of files end that are not looked at.
    """
    if not (folder / SUMS).is_file():
        return None
    text = (folder / SUMS).read_bytes().decode(errors="replace")
    form = r"([0-9a-f]{64}) [ *](?:\./)?([^\x00-\x1f]+)"
    *lines, last = [re.fullmatch(form, line) for line in text.split("\n")]
    if not lines or None in lines or last or not text.endswith("\n"):
        return SUMS
    sums = {line[2]: line[1] for line in lines if line and not line[2].endswith(but)}
    if any(map(leaves, sums)):
        return SUMS
    return next(
        (
            name
            for name, expected in sums.items()
            if not (folder / name).is_file() or file_sum(folder / name) != expected
        ),
        None,
    )


def told(name: str, of: str = "") -> str:
    """Return the words for a file that `changed` has named; of: what follows the name."""
    by = "" if name == SUMS else f", by {SUMS} beside it (or that is the damaged one)"
    return f"{name}{of} is not as it was written{by}"


def _flush(path: Path) -> None:
    """Write a file's content to the disk, or a folder's names: a power cut undoes no move."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_json(path: Path) -> dict[str, Any] | None:
    """Return a JSON file's content; None when it is missing or unreadable."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content
