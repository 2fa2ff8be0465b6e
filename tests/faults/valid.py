"""Random command lines that are right: each trains two steps, and leaves a model.

    python -m tests.faults valid 200

Words come from `tests.faults.mixtures`, by a number that is their seed; kinds take turns. What the
front door refuses, in a line and before any work, is not right: it is counted, and drawn again. Of
the others each run has to end with exit code 0, two steps, a loss that is a number, and a model
whose weights are. Answers are written down: typed again, it asks for what is missing or was wrong.
"""

import json
import math
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import chdir
from dataclasses import dataclass, field
from pathlib import Path

from safetensors.torch import load_file

from dwt_cli.config.compose import runs_of
from tests.data.miniature_glue import write_glue
from tests.evaluate.test_zero_shot import SETS
from tests.faults.fuzz import judged
from tests.faults.mixtures import DECODER, MASKED, STEPS, drawn, kind_of
from tests.faults.trials import Trial, kept
from tests.miniature import dwt_train, options, write_text
from tests.record import carry_out

MOST_DRAWN = 60
MOST_SECONDS = 400
"""By the clock, for a command and all that it starts."""


@dataclass(frozen=True)
class Trained(Trial):
    """A command that trained. said: its words. refused: what was drawn before, and the lines."""

    refused: list[str] = field(default_factory=list)


def prepare(place: Path) -> None:
    """Write texts, labelled and not, and train the two models that commands open."""
    write_text(place / "text", num_documents=30)
    write_glue(place / "glue")
    texts = [(place / "text" / f"{n:03d}.txt").read_text().split("\n\n")[0] for n in range(24)]
    for name, labels in (("classes", ["a", "b"]), ("numbers", [0.5, 2.5])):
        rows = [{"text": text, "label": labels[n % 2]} for n, text in enumerate(texts)]
        (place / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, items in SETS.items():
        (place / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in items))
    sizes = [*options(place), "scale.num_layers=2", "teacher=none", "scale.block_length=33"]
    for name, words in ((MASKED, []), (DECODER, ["task=clm", "scale.vocab_size=300"])):
        (run,), _ = runs_of([*sizes, *words])
        shutil.move(carry_out(run).folder / "model", place / name)
    shutil.rmtree(place / "runs")
    shutil.rmtree(place / "cache")


def answers(num_commands: int, into: Path) -> Iterator[Trained]:
    """Yield so many commands that trained, those on record first."""
    with tempfile.TemporaryDirectory(prefix="valid-") as folder:
        source = Path(folder, "source")

        def ask(name: str, number: int) -> Trained:
            if not source.exists():
                source.mkdir()
                prepare(source)
            return trained(number, source)

        wanted = [(kind_of(number), number) for number in range(num_commands)]
        yield from kept(into / "valid.jsonl", wanted, ask, Trained)


def trained(number: int, source: Path) -> Trained:
    """Draw commands by a number until one is not refused, and judge what came of it."""
    begun, refused = time.monotonic(), list[str]()
    for attempt in range(MOST_DRAWN):
        with chdir(source):
            words = drawn(number, attempt)
        with tempfile.TemporaryDirectory(dir=source.parent) as folder:
            place = Path(shutil.copytree(source, Path(folder, "place")))
            command = shlex.join(["dwt-train", *words])
            try:
                done = dwt_train(*words, cwd=place, timeout=MOST_SECONDS, HOME=folder)
            except subprocess.TimeoutExpired:
                wrong = [f"at work after {MOST_SECONDS} s"]
                break
            if line := _refusal(done, place):
                refused.append(f"{command}\n{line}")
                continue
            said = judged(done.returncode, 0, done.stderr)
            said = said or ("refused after work had begun" if done.returncode else "")
            wrong = (
                [f"{said}: {done.stderr[-2000:]}"] if said else list(lacks(place, _steps(words)))
            )
            break
    else:
        wrong = [f"{MOST_DRAWN} commands in a row were refused"]
    seconds = round(time.monotonic() - begun, 1)
    return Trained(kind_of(number), number, seconds, command, wrong, refused=refused)


def _refusal(done: "subprocess.CompletedProcess[str]", place: Path) -> str | None:
    """Return the line by which a command was refused, before any work; None: it was not.

    A study says it of each of its runs, among what it prints.
    """
    of_runs = [line for line in done.stdout.splitlines() if line.startswith("failed: ")]
    has_begun = any((place / "runs").glob("*/metrics.jsonl" if of_runs else "*"))
    if done.returncode != 2 or has_begun:
        return None
    if of_runs:
        return of_runs[0]
    return None if judged(2, 0, done.stderr) else done.stderr.splitlines()[-1]


def lacks(place: Path, steps: Collection[int]) -> Iterator[str]:
    """Yield what the runs of a place lack. steps: that each may have taken."""
    runs = [each.parent for each in (place / "runs").glob("*/summary.json")]
    if not runs:
        yield "no run"
    for run in runs:
        yield from (f"{run.name}: {lack}" for lack in lacks_of(run, steps))


def lacks_of(run: Path, steps: Collection[int]) -> Iterator[str]:
    """Yield what one run lacks."""
    student = json.loads((run / "summary.json").read_text())["student"]
    if student["steps"] not in steps:
        yield f"{student['steps']} steps"
    if not math.isfinite(student["heldout"]["loss"]):
        yield f"a loss of {student['heldout']['loss']}"
    files = list((run / "model").glob("*.safetensors"))
    if not files:
        yield "no model"
    for file in files:
        weights = load_file(file)
        if odd := [name for name, weight in weights.items() if not weight.isfinite().all()]:
            yield f"weights that are no numbers: {', '.join(odd)}"


def _steps(words: Sequence[str]) -> set[int]:
    """Return how many steps the runs of a command take."""
    return {STEPS, 1, 4 * STEPS - 1} if "chain.alone=true" in words else {STEPS}


def table(commands: Sequence[Trained]) -> str:
    """Return how many commands of each kind trained, as Markdown."""
    lines = [
        "| kind | commands | trained | refused, and drawn again | wrong |",
        "|---|---|---|---|---|",
    ]
    of_kind: dict[str, list[Trained]] = {"all": list(commands)}
    for each in commands:
        of_kind.setdefault(each.name, []).append(each)
    of_kind["all"] = of_kind.pop("all")
    for kind, of in of_kind.items():
        wrong = sum(bool(each.wrong) for each in of)
        refused = sum(len(each.refused) for each in of)
        lines.append(f"| {kind} | {len(of)} | {len(of) - wrong} | {refused} | {wrong} |")
    return "\n".join(lines)
