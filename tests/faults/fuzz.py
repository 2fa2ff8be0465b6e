"""Random command lines, up to where work would begin: none ends in a traceback, none hangs.

    python -m tests.faults.fuzz 2000
    python -m tests.faults.fuzz 200 --of advice     # dwt-advise

Words come from `tests.faults.words`, in batches of `BATCH` by a seed each, so that anyone draws the
same ones. Each is a fork of a process that has torch loaded, in a folder with a text and a model.
An answer is right if it is one line with exit code 2, or exit code 0, or if work would now begin.
Answers are written down as they come: typed again, it asks for what is missing or was wrong.
"""

import argparse
import json
import os
import re
import resource
import shlex
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import NoReturn
from unittest.mock import patch

from hypothesis import HealthCheck, Phase, given, seed, settings

from dwt_cli.base.machine import commit
from dwt_cli.launch.process import QUIETLY
from tests.faults.words import Words, advice, commands
from tests.miniature import dwt_train, options, write_text
from tests.processes import PROGRAMS

BATCH = 20
SECONDS, MOST_SECONDS = 10, 60
"""Of processor time, and by the clock: what a command may take until it answers."""

REACHED = 77
WORK = (
    *("dwt_cli.recipe.worker.train", "dwt_cli.recipe.worker.measure"),
    *("dwt_cli.launch.sweep.carry_out", "dwt_cli.launch.chain.carry_out"),
    *("dwt_cli.launch.slurm.start", "dwt_cli.launch.dispatch.start_ranks"),
    *("dwt_cli.launch.clone.go_on", "dwt_cli.recipe.trace._products"),
)
"""Where a command has been found right, and what takes long begins."""


@dataclass(frozen=True)
class Answer:
    """What a command came to.

    wrong: what is wrong with that, or an empty text. commit: at which it was asked.
    """

    seed: int
    command: str
    code: int
    seconds: float
    wrong: str
    errors: str
    commit: str = ""


class _Reached(BaseException):
    """Work would now begin."""


def _reach(*_: object, **__: object) -> NoReturn:
    raise _Reached


def ask(words: Words, place: Path, number: int) -> Answer:
    """Let a fork of this process answer a command in a folder; judge the answer."""
    logs = place.parent / "out", place.parent / "err"
    begun, child = time.monotonic(), os.fork()
    if not child:
        _answer(words, place, *logs)
    while not (ended := os.wait4(child, os.WNOHANG))[0]:
        if time.monotonic() - begun > MOST_SECONDS:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.005)
    code, seconds = os.waitstatus_to_exitcode(ended[1]), ended[2].ru_utime + ended[2].ru_stime
    errors = logs[1].read_text(errors="replace")
    wrong = judged(code, seconds, errors)
    return Answer(number, shlex.join(words), code, round(seconds, 2), wrong, errors, commit())


def judged(code: int, seconds: float, errors: str) -> str:
    """Return what is wrong with an answer; an empty text if it is as it should be."""
    said = re.compile(r"warning: |\S+=\S+ is taken from ")  # what a refusal may come after
    lines = [line for line in errors.splitlines() if not said.match(line)]
    if "Traceback" in errors:
        return "a traceback"
    if code < 0:
        return f"ended by signal {-code}"
    if code not in (0, 2, REACHED):
        return f"exit code {code}"
    if seconds > SECONDS:
        return f"{seconds:.0f} s"
    if code == 2 and not (lines and lines[-1].startswith("dwt-")):
        return "no reason"
    if code == 2 and not lines[0].startswith("usage: ") and len(lines) > 1:
        return f"{len(lines)} lines"
    return ""


def _answer(words: Words, place: Path, *logs: Path) -> NoReturn:
    """Be the command. A working folder is its own, so that no command sees another's traces."""
    os.setsid()
    resource.setrlimit(resource.RLIMIT_CPU, (3 * SECONDS, 3 * SECONDS))
    for number, log in enumerate(logs, 1):
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")  # a test's own are elsewhere
    code = 1
    try:
        for target in WORK:
            patch(target, _reach).start()
        patch("huggingface_hub.constants.HF_HUB_OFFLINE", True).start()
        module, function = PROGRAMS[words[0]]
        main: Callable[[], int | None] = getattr(import_module(module), function)
        with tempfile.TemporaryDirectory(dir=place.parent) as folder:
            own = Path(shutil.copytree(place, Path(folder, "here")))
            with chdir(own), patch.object(sys, "argv", words):
                code = main() or 0
    except SystemExit as leave:
        code = leave.code if isinstance(leave.code, int) else 1
    except _Reached:
        code = REACHED
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


@cache  # hypothesis also draws what it finds in modules that are loaded, and commands load more
def drawn(number: int, of: str = "commands") -> list[Words]:
    """Return commands of one of `OF`, no two of them equal; number: the seed of their batch."""
    found: dict[str, Words] = {}

    @seed(number)
    @settings(
        max_examples=5 * BATCH,  # it likes to repeat itself
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(OF[of]())
    def draw(words: Words) -> None:
        found.setdefault(shlex.join(words), words)

    draw()
    return list(found.values())[:BATCH]


OF = {"commands": commands, "advice": advice}
"""The strategies of which commands are drawn, by name."""


@contextmanager
def prepared() -> Iterator[Path]:
    """Load what commands need, and yield a folder: ``text``, ``model``, and a file in the way.

    HOME and the caches are beside it from then on.
    """
    for name in (
        *WORK,
        "dwt_cli.launch.advice.carry_out",
        "dwt_cli.recipe.finished.show_again",
        "dwt_cli.track.curves.draw_curves",
    ):
        import_module(name.rpartition(".")[0])
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        home = Path(folder, "home")
        own = {"HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache"), "WANDB_MODE": "offline"}
        with patch.dict(os.environ, QUIETLY | own):
            place = home / "place"
            write_text(place / "text")
            done = dwt_train(*options(place), "teacher=none", "train.max_steps=2", cwd=place)
            assert done.returncode == 0, done.stderr
            (run,) = (place / "runs").glob("*/model")
            shutil.copytree(run, place / "model")
            shutil.rmtree(place / "runs")
            (place / "a_file").write_text("in the way\n")
            yield place


def answers(num_commands: int, into: Path, of: str = "commands") -> Iterator[Answer]:
    """Yield the answers to so many commands, those on record first; write the others down."""
    record = into / "answers.jsonl"
    lines = [Answer(**json.loads(line)) for line in record.open()] if record.exists() else []
    right = {(each.seed, each.command): each for each in lines if not each.wrong}
    batches = ((number, drawn(number, of)) for number in range(-(-num_commands // BATCH)))
    every = [(number, words) for number, batch in batches for words in batch][:num_commands]
    with prepared() as place:
        for number, words in every:
            answer = right.get((number, shlex.join(words)))
            if answer is None:
                answer = ask(words, place, number)
                with record.open("a") as file:
                    print(json.dumps(asdict(answer)), file=file)
            yield answer


def main() -> int:
    """Ask, and print the table; return 1 if an answer is wrong."""
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("num_commands", type=int, nargs="?", default=2000)
    parser.add_argument(
        "--into", type=Path, default=Path("runs/faults"), help="where answers are kept"
    )
    parser.add_argument("--of", choices=OF, default="commands", help="what is drawn")
    asked = parser.parse_args()
    asked.into.mkdir(parents=True, exist_ok=True)
    of_program: dict[str, Counter[str]] = {}
    commits = Counter[str]()
    slowest, wrong = 0.0, 0
    for answer in answers(asked.num_commands, asked.into, asked.of):
        commits[answer.commit or "not noted"] += 1
        kind = {0: "answered", 2: "refused", REACHED: "work begins"}.get(answer.code, "")
        of_program.setdefault(answer.command.split()[0], Counter())[
            "wrong" if answer.wrong else kind
        ] += 1
        slowest = max(slowest, answer.seconds)
        if answer.wrong:
            wrong += 1
            print(f"{answer.wrong}: {answer.command}\n{answer.errors}", flush=True)
    kinds = ("refused", "answered", "work begins", "wrong")
    print(f"| program | commands | {' | '.join(kinds)} |\n|{' --- |' * 6}")
    for program, counts in sorted(of_program.items()):
        several = " | ".join(str(counts[kind]) for kind in kinds)
        print(f"| {program} | {counts.total()} | {several} |")
    print(f"\nslowest answer: {slowest:.1f} s of processor time; seeds 0 to {answer.seed}")
    print(f"asked at {', '.join(f'{name}: {number}' for name, number in commits.items())}")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
