"""Servers of others that hang, refuse, or drip, during a training: it ends with the same model.

    python -m tests.faults hung 3

W&B's is good until a step that is drawn by the number; the hub, of which a teacher is in the cache,
is so from the first call on, and tried once. The training has to end in time, with the bits of one
that asks nobody, and for W&B with a line that says what has not been sent.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dwt_cli.track.metrics import newest
from tests.faults.kills import content, fresh
from tests.faults.phases import TRAIN, prepare, teacher
from tests.faults.trials import Trial, kept
from tests.track.server import Server

NUM_STEPS = 600
"""So many that W&B's process is there before the last."""

HELD_UP_S = 60
"""Seconds, by the clock, that servers may hold a training up."""

MOODS = ("hanging", "gone", "dripping")
PLACES = {
    f"{of}, {mood}": (of, mood) for of in ("W&B", "hub") for mood in MOODS
}  # fmt: skip
"""Whose server it is, and how it treats who asks."""

NAME, COMMIT = "some/model", "0123456789abcdef0123456789abcdef01234567"
_PROXIES = {f"{kind}_proxy" for kind in ("http", "https", "all")}
_PROXIES |= {name.upper() for name in _PROXIES}
_KEY = "0123456789abcdef0123456789abcdef01234567"
_LONG = (f"scale.max_steps={NUM_STEPS}", "train.checkpoint_every=200", "scale.eval_every=200")
_TRACKED = [*(word for word in TRAIN if word != "tracker=none"), "tracker=wandb", *_LONG]
_OPENED = [*TRAIN, "teacher=checkpoint", f"teacher.path={NAME}"]


class _Typed:
    """A command in an interpreter of its own: libraries read what they are told as they load."""

    def __init__(self, words: list[str], place: Path, **environment: str) -> None:
        self._log = place.parent / "output.txt"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "dwt_cli.cli", *words[1:]],
                cwd=place,
                env={name: each for name, each in os.environ.items() if name not in _PROXIES}
                | environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def is_at_work(self) -> bool:
        return self._process.poll() is None

    @property
    def output(self) -> str:
        return self._log.read_text(errors="replace")

    def ended(self, seconds: float) -> int | None:
        """Return the exit code; None: it took longer than that, and was killed."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            return None


@contextmanager
def _at_work(server: Server) -> Iterator[Server]:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.closing.set()
        if server.mood != "gone":
            server.shutdown()
            server.server_close()


def _in_hub_cache(model: Path, home: Path) -> None:
    """Lay a model into the hub's cache as its client does."""
    folder = home / "hub" / f"models--{NAME.replace('/', '--')}"
    shutil.copytree(model, folder / "snapshots" / COMMIT)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMIT)


def answers(num_each: int, into: Path) -> Iterator[Trial]:
    """Yield so many trials of each of `PLACES`, those on record first."""
    wanted = [
        (name, number)
        for number in range(num_each)
        for name, (of, _) in PLACES.items()
        if of == "W&B" or not number
    ]
    with tempfile.TemporaryDirectory(prefix="hung-") as folder:
        source, place = Path(folder, "source"), Path(folder, "place")
        undisturbed: dict[str, tuple[float, dict[str, Any]]] = {}

        def ask(name: str, number: int) -> Trial:
            of, mood = PLACES[name]
            if not source.exists():
                source.mkdir()
                place.mkdir()
                prepare(source)
                (model,) = source.glob("runs/small-*/model")
                _in_hub_cache(model, Path(folder, "huggingface"))
            if of not in undisturbed:
                undisturbed[of] = _alone(of, source, place)
            return _TRIED[of](name, number, mood, source, place, undisturbed[of])

        yield from kept(into / "hung.jsonl", wanted, ask, Trial)


def _environment(place: Path, **more: str) -> dict[str, str]:
    return {
        "HOME": str(place.parent / "home"),
        "HF_HOME": str(place.parent / "huggingface"),
        **more,
    }


def _alone(of: str, source: Path, place: Path) -> tuple[float, dict[str, Any]]:
    fresh(teacher, source, place)
    begun = time.monotonic()
    words = _TRACKED if of == "W&B" else _OPENED
    environment = _environment(place, HF_HUB_OFFLINE="1", WANDB_MODE="disabled")
    started = _Typed(words, place, **environment)
    assert started.ended(400) == 0, started.output
    return time.monotonic() - begun, content(place)


def _of_tracker(
    name: str, number: int, mood: str, source: Path, place: Path,
    undisturbed: tuple[float, dict[str, Any]],
) -> Trial:  # fmt: skip
    at = random.Random(number).randrange(1, NUM_STEPS - 1)
    with _at_work(Server("good")) as server:

        def spoil() -> None:
            server.leave() if mood == "gone" else setattr(server, "mood", mood)

        told = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": _KEY, "WANDB_MODE": "online"}
        said, wrong, seconds = _harmed(_TRACKED, at, spoil, source, place, undisturbed, told)
        was_open = "it had its run" if server.run else "it had not been asked"
    lines = [line for line in said if "W&B" in line]
    if not lines:
        wrong.append(f"nothing is said: {said[-3:]}")
    return Trial(name, number, seconds, f"step {at}, {was_open}: {' '.join(lines)}", wrong)


def _of_hub(
    name: str, number: int, mood: str, source: Path, place: Path,
    undisturbed: tuple[float, dict[str, Any]],
) -> Trial:  # fmt: skip
    with _at_work(Server(mood)) as server:
        if mood == "gone":
            server.leave()
        told = {"HF_ENDPOINT": server.url, "HF_HUB_OFFLINE": "0"}
        _, wrong, seconds = _harmed(_OPENED, None, lambda: None, source, place, undisturbed, told)
    return Trial(name, number, seconds, f"{seconds - undisturbed[0]:.0f} s more", wrong)


_TRIED = {"W&B": _of_tracker, "hub": _of_hub}


def _harmed(
    words: list[str], at: int | None, spoil: Callable[[], None], source: Path, place: Path,
    undisturbed: tuple[float, dict[str, Any]], told: dict[str, str],
) -> tuple[list[str], list[str], float]:  # fmt: skip
    """Carry out a command, and spoil its server at a step.

    Returns the lines that it has printed, what was wrong, and how long it took, in seconds.
    """
    fresh(teacher, source, place)
    begun, (alone_s, theirs) = time.monotonic(), undisturbed
    started = _Typed(words, place, **_environment(place, **told))
    while at is not None and started.is_at_work:
        logs = list(place.glob("runs/*/metrics.jsonl"))
        if logs and (newest(logs[0])[0] or 0) >= at:
            spoil()
            break
        time.sleep(0.01)
    code = started.ended(max(0, begun + 2 * alone_s + HELD_UP_S - time.monotonic()))
    wrong = [f"at work {HELD_UP_S} s after twice its own time"] if code is None else []
    wrong += [f"exit code {code}: {started.output[-400:]}"] if code else []
    if "Traceback" in started.output:
        wrong.append("a traceback")
    ours = {name: each for name, each in content(place).items() if "/wandb/" not in name}
    wrong += [name for name in sorted(ours.keys() | theirs) if ours.get(name) != theirs.get(name)]
    return started.output.splitlines(), wrong, round(time.monotonic() - begun, 1)
