"""Every file of what is kept is cut, flipped and emptied in turn: found, and named.

    python -m tests.faults damage

Damaged are a corpus, a teacher and a signal in a cache, a checkpoint, a model in the hub's format,
and the record of a finished run. Of the first four the last good one is taken, or it is made again;
a model is refused; a run's own command makes its record whole, or says what is wrong with it.
"""

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from dwt_cli.base import atomic
from dwt_cli.base.cache import Cache
from dwt_cli.base.errors import UserError
from dwt_cli.distill.teacher.options import CheckpointTeacher
from dwt_cli.models.checkpoint import open_model
from dwt_cli.models.options import Head
from dwt_cli.training.checkpoint import Checkpoints
from tests.faults.kills import timeless
from tests.faults.phases import CACHED, TRAIN
from tests.faults.trials import Trial, kept
from tests.miniature import write_text
from tests.processes import Started

Harm = Callable[[bytes], bytes]
WORDS = [*TRAIN, *CACHED]
MADE_WHOLE, NOT_NOTICED = "made whole", "shown as it is"


def flipped(old: bytes) -> bytes:
    """Turn a bit over in the middle."""
    middle = len(old) // 2
    return old[:middle] + bytes([old[middle] ^ 1]) + old[middle + 1 :]


HARMS: dict[str, Harm] = {
    "cut": lambda old: old[: len(old) // 2],
    "flipped": flipped,
    "emptied": lambda old: b"",
}


def make(place: Path) -> None:
    """Carry out what is damaged: a run with a cached signal, its text and its teacher."""
    write_text(place / "text")
    started = Started(WORDS, place)
    assert started.ended() == 0, started.output


def artifacts(place: Path) -> dict[str, Path]:
    """Return the folders that are damaged, by kind."""
    run = min(place.glob("runs/small-*seed0-*"))
    found = {kind: min(place.glob(f"cache/{kind}/*/")) for kind in ("corpus", "teacher", "signal")}
    newest = max((run / "checkpoints").glob("step-*"))
    return found | {"checkpoint": newest, "model": run / "model", "run": run}


def files_of(kind: str, folder: Path) -> list[str]:
    """Return the names of the files that are damaged; of a run its record alone."""
    found = folder.glob("*") if kind == "run" else folder.rglob("*")
    files = (path for path in sorted(found) if path.is_file() and path.stat().st_size)
    names = [path.relative_to(folder).as_posix() for path in files]
    return [name for name in names if not name.endswith((".lock", "README.md"))]


def damaged(place: Path, kind: str, folder: Path, name: str, harm: str) -> tuple[str, list[str]]:
    """Damage a file, ask for what it is of, and make it whole; return the answer, and its faults.

    The answer is a line that names the file, `MADE_WHOLE` or `NOT_NOTICED`.
    """
    with tempfile.TemporaryDirectory() as aside:
        whole = Path(shutil.copytree(folder, Path(aside, "whole")))
        (folder / name).write_bytes(HARMS[harm]((whole / name).read_bytes()))
        try:
            return _ASKED[kind](place, whole, folder, Path(name))
        finally:
            shutil.rmtree(folder)
            shutil.copytree(whole, folder)


def _names(line: str, name: Path) -> list[str]:
    # a manifest that is read but is not what was written names what it does not fit
    is_named = name.name in line or name.name in (atomic.MANIFEST, atomic.SUMS)
    return [] if is_named else [f"{name} is not named: {line}"]


def _cached(place: Path, whole: Path, folder: Path, name: Path) -> tuple[str, list[str]]:
    said: list[str] = []
    cache = Cache(str(place / "cache"), said.append)
    about = json.loads((whole / "about.json").read_text())

    def again(partial: Path) -> None:
        shutil.copytree(whole, partial, dirs_exist_ok=True)

    cache.get(folder.parent.name, folder.name, again, about)
    atomic.verify(folder)
    (line,) = said
    is_set_aside = "is made again: " in line and "set aside as" in line
    return line, _names(line, name) + ([] if is_set_aside else ["it is not set aside"])


def _checkpoint(place: Path, whole: Path, folder: Path, name: Path) -> tuple[str, list[str]]:
    said: list[str] = []
    before = sorted(each.name for each in folder.parent.glob("step-*"))[-2]
    taken = Checkpoints(folder.parent, "", 2, said.append)._newest_whole()
    (folder.parent / f"damaged-{folder.name}").rename(folder)
    (line,) = said
    return line, _names(line, name) + ([] if taken == before else [f"{taken} is taken"])


def _model(place: Path, whole: Path, folder: Path, name: Path) -> tuple[str, list[str]]:
    try:
        open_model("teacher.path", CheckpointTeacher(path=str(folder)), Head.masked)
    except UserError as error:
        line = str(error)
        return line, _names(line, name) + (["several lines"] if "\n" in line else [])
    return NOT_NOTICED, [f"{name} is opened"]


def _record(place: Path, whole: Path, folder: Path, name: Path) -> tuple[str, list[str]]:
    started = Started(WORDS, place)
    code, output = started.ended(), started.output
    lines = [line for line in output.splitlines() if line.startswith("dwt-")]
    wrong = ["a traceback"] if "Traceback" in output else []
    if code:
        one = code == 2 and len(lines) == 1
        return " ".join(lines), wrong + ([] if one else [f"exit code {code}: {output[-300:]}"])
    sums = name.name == atomic.SUMS  # a wrong sum is that of another file
    said = f"warning: {'' if sums else name}"
    marks = [line for line in output.splitlines() if said in line and "not as it was" in line]
    if marks:
        return marks[0], wrong
    old, new = ((each / name).read_bytes() for each in (whole, folder))
    if name.suffix == ".json" and old != new:
        old, new = (timeless(json.loads(each)) for each in (old, new))
    return (MADE_WHOLE, wrong) if old == new else (NOT_NOTICED, [*wrong, f"{name} is not noticed"])


_ASKED = {
    **dict.fromkeys(("corpus", "teacher", "signal"), _cached),
    **{"checkpoint": _checkpoint, "model": _model, "run": _record},
}


def answers(num_each: int, into: Path) -> Iterator[Trial]:
    """Yield a trial of every file and harm, those on record first. num_each: at most, of a kind."""
    with tempfile.TemporaryDirectory(prefix="damage-") as temporary:
        place = Path(temporary)
        make(place)
        folders = artifacts(place)
        every = {
            f"{kind}, {harm}": [(kind, name, harm) for name in files_of(kind, folder)][:num_each]
            for kind, folder in folders.items()
            for harm in HARMS
        }
        wanted = [(what, number) for what, files in every.items() for number in range(len(files))]

        def ask(what: str, number: int) -> Trial:
            kind, name, harm = every[what][number]
            begun = time.monotonic()
            said, wrong = damaged(place, kind, folders[kind], name, harm)
            said = f"{name}: {said}".replace(str(place), "")
            return Trial(what, number, round(time.monotonic() - begun, 2), said, wrong)

        yield from kept(into / "damage.jsonl", wanted, ask, Trial)
