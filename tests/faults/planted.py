"""Numbers that are none, and tokens that there are not, at random steps of a training.

    python -m tests.faults planted 3

Each of `PLACES` with each answer to it, so many times: the step is drawn by the number. By
``train.non_finite`` a step that is no number stops the run in one line, is left out, or is gone
back from. What stopped goes on by the same command, and ends as it does undisturbed.
"""

import dataclasses
import itertools
import json
import math
import random
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from dwt_cli.data.pack import Blocks
from dwt_cli.distill.loss import DistillationLoss
from dwt_cli.distill.teacher.signal import ModelSignal
from dwt_cli.distill.teacher.targets import DenseLogits
from dwt_cli.training.protocols import LossSum
from tests.faults.kills import content, differences, fresh
from tests.faults.phases import CACHED, TRAIN, prepare, teacher
from tests.faults.trials import Trial, kept
from tests.processes import Started

NUM_STEPS = 24
TOKEN = 60_000
ANSWERS = ("stop", "skip", "rollback")
PLACES = {
    f"{place}, {answer}": (place, answer)
    for place, answer in [
        *itertools.product(("loss", "gradient", "teacher"), ANSWERS),
        *(("cached row", "stop"), ("cached row", "skip")),  # no other text is cached
        *(("answer to be cached", "stop"), ("token", "stop")),
    ]
}
"""Where something is planted, and what train.non_finite says."""

_SIGNS = {
    "answer to be cached": "dwt-train: signal: of some text the teacher answers what is no number",
    "token": f"the text has a token {TOKEN}",
}
"""What the line says that ends a run, beside ``step N: loss nan`` and the like."""


def plant(place: str, at: int) -> None:
    """Have this process meet something that is no number, once, in step ``at``, counted from 0."""
    of_loss, of_teacher, of_blocks = (
        DistillationLoss.__call__,
        ModelSignal.__call__,
        Blocks.__getitem__,
    )
    counted, struck = itertools.count(), False

    def loss(self: Any, model: Any, batch: Any, moment: Any) -> LossSum:
        nonlocal struck
        of_teachers = not self._is_distilled  # its teacher's training has steps of its own
        if struck or of_teachers or round(moment.progress * NUM_STEPS) != at:
            return of_loss(self, model, batch, moment)
        struck = True
        if place == "cached row":
            ids, weights, *rest = batch.beside
            weights = weights.clone()
            weights[0, 0] = math.nan
            batch = dataclasses.replace(batch, beside=(ids, weights, *rest))
        if place == "teacher":
            ModelSignal.__call__ = spoilt  # type: ignore[assignment, method-assign]
        found = of_loss(self, model, batch, moment)
        ModelSignal.__call__ = of_teacher  # type: ignore[method-assign]
        if place == "loss":
            return found._replace(total=found.total * math.nan)
        if place == "gradient":
            found.total.register_hook(lambda gradient: gradient * math.nan)
        return found

    def spoilt(self: Any, *arguments: Any) -> Any:
        answer = of_teacher(self, *arguments)
        nothing = torch.full_like(answer.targets.dense(), math.nan)
        return answer._replace(targets=DenseLogits(nothing))

    def asked(self: Any, *arguments: Any) -> Any:
        return (spoilt if next(counted) == at else of_teacher)(self, *arguments)

    def text(self: Any, numbers_B: Any) -> Any:
        if self.folder.name == "train" and next(counted) == at:
            self._shards = [np.array(shard) for shard in self._shards]
            self._shards[0][self.number_of(int(numbers_B[0])), 0] = TOKEN
        return of_blocks(self, numbers_B)

    DistillationLoss.__call__ = loss  # type: ignore[method-assign]
    if place == "answer to be cached":
        ModelSignal.__call__ = asked  # type: ignore[assignment, method-assign]
    if place == "token":
        Blocks.__getitem__ = text  # type: ignore[method-assign]


def answers(num_each: int, into: Path) -> Iterator[Trial]:
    """Yield so many trials of each of `PLACES`, those on record first."""
    wanted = [(name, number) for number in range(num_each) for name in PLACES]
    with tempfile.TemporaryDirectory(prefix="planted-") as folder:
        source, place = Path(folder, "source"), Path(folder, "place")
        source.mkdir()
        place.mkdir()
        prepare(source)
        undisturbed: dict[bool, dict[str, Any]] = {}

        def ask(name: str, number: int) -> Trial:
            begun = time.monotonic()
            where, answer = PLACES[name]
            words = [*TRAIN, f"train.non_finite={answer}"]
            words += ["train.rollback_steps=4"] if answer == "rollback" else []
            is_cached = where in ("cached row", "answer to be cached")
            words += CACHED if is_cached else []
            if answer == "stop" and is_cached not in undisturbed:
                fresh(teacher, source, place)
                alone = Started(words, place, logs=place.parent)
                assert alone.ended() == 0, alone.output
                undisturbed[is_cached] = content(place)
            fresh(teacher, source, place)
            at = random.Random(number).randrange(1, NUM_STEPS - 1)
            started = Started(words, place, logs=place.parent, before=partial(plant, where, at))
            code = started.ended()
            said, wrong = _JUDGES[answer](where, at, code, started.output, place)
            if answer == "stop":
                again = Started(words, place, logs=place.parent)
                if code := again.ended():
                    wrong.append(f"exit code {code}: {again.output[-300:]}")
                else:
                    wrong += differences(place, undisturbed[is_cached])
            if "Traceback" in started.output:
                wrong.append("a traceback")
            return Trial(name, number, round(time.monotonic() - begun, 1), said, wrong)

        yield from kept(into / "planted.jsonl", wanted, ask, Trial)


def _stopped(
    where: str, at: int, code: int, output: str, place: Path
) -> tuple[str, list[str]]:  # fmt: skip
    lines = [line for line in output.splitlines() if line.startswith("dwt-train: ")]
    sign = _SIGNS.get(where, f"dwt-train: step {at + 1}: loss ")
    if code != 2 or len(lines) != 1 or sign not in lines[0]:
        return " ".join(lines), [f"exit code {code}: {output[-400:]}"]
    return lines[0], []


def _skipped(where: str, at: int, code: int, output: str, place: Path) -> tuple[str, list[str]]:
    if code:
        return "", [f"exit code {code}: {output[-400:]}"]
    (run,) = place.glob("runs/small-*")
    skipped = [line["num_skipped"] for line in _lines(run) if "num_skipped" in line]
    wanted = [int(step >= at) for step in range(NUM_STEPS)]
    wrong = [] if skipped == wanted else [f"steps left out: {skipped}"]
    return f"step {at + 1} is left out", wrong + _not_finite(run)


def _rolled_back(
    where: str, at: int, code: int, output: str, place: Path
) -> tuple[str, list[str]]:  # fmt: skip
    if code:
        return "", [f"exit code {code}: {output[-400:]}"]
    (run,) = place.glob("runs/small-*")
    record = run / "checkpoints" / "rollbacks.json"
    found = json.loads(record.read_text()) if record.exists() else []
    said = next((line for line in output.splitlines() if "rolled back to step" in line), "")
    wrong = [] if [each["failed"] for each in found] == [at + 1] else [f"rollbacks: {found}"]
    return said, wrong + _not_finite(run)


_JUDGES = {"stop": _stopped, "skip": _skipped, "rollback": _rolled_back}


def _lines(run: Path) -> list[dict[str, Any]]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [{k.removeprefix("train/"): v for k, v in json.loads(each).items()} for each in lines]


def _not_finite(run: Path) -> list[str]:
    """Return the weights and moments of a run that are no numbers."""
    files = [*run.rglob("*.safetensors")]
    assert files
    return [
        f"{file.name}: {name}"
        for file in files
        for name, tensor in load_file(file).items()
        if not tensor.isfinite().all()
    ]
