"""The stage of alpha=crossover: the step at which the stand-alone student would reach the teacher.

That student's curve is an artifact of its own, whatever teacher asks for it: that of its run on
record, here or in a study's runs.jsonl, with its own decaying rate, which is paid for; else a
calibration's, at a constant rate, which goes on for as long as a teacher needs it and is charged to
each. The step follows from the curve, the teacher's held-out loss and a margin.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dwt_cli.base import atomic
from dwt_cli.base.cache import PARTIAL, Cache
from dwt_cli.base.errors import UserError
from dwt_cli.distill.alpha import Crossover
from dwt_cli.recipe.conditions import Conditions
from dwt_cli.recipe.record import find, read_summary, recorded_as
from dwt_cli.recipe.stage import Context, Done, Stage
from dwt_cli.recipe.teacher import TeacherStage
from dwt_cli.study.kept import kept_run
from dwt_cli.track.metrics import first_at, heldout_losses, read_lines
from dwt_cli.track.summary import Facts

if TYPE_CHECKING:
    from dwt_cli.recipe.student import StudentStage

Points = Sequence[tuple[int, float]]  # (step, held-out loss)
Curve = tuple[str, Points]  # of a run, by its name

_NUM_EVALUATIONS = 8  # of a calibration, at least
_FEWEST = 4  # of them at the full rate: the law has three numbers


class _Reached(Exception):
    """A calibration has come to the loss that was asked for before its end."""


def extrapolated(points: Points, rates: Sequence[float], level: float) -> float:
    """Return the step at which a curve comes to a level beyond its end; infinity: it never does.

    By the multi-power law (arXiv 2503.12811), at a constant rate rest + gap * S ** -power, S the
    sum of the rates so far: by least squares over the points at the full rate. rates: of each
    step, as shares of their peak.
    """
    from scipy.optimize import minimize_scalar, nnls

    full = [(step, loss) for step, loss in points if step and rates[step - 1] == 1]
    steps, losses = np.array(full).T
    sums = np.cumsum(rates)[steps.astype(int) - 1]

    def fitted(power: float) -> Any:
        return nnls(np.stack([np.ones(len(sums)), (sums / sums[-1]) ** -power], 1), losses)

    power = minimize_scalar(lambda p: fitted(p)[1], bounds=(0.01, 4), options={"xatol": 1e-8}).x
    rest, gap = fitted(power)[0]
    if not level < rest + gap:
        return float(steps[-1])
    if not (gap > 0 and level > rest):
        return math.inf
    log_ratio = min(math.log(gap / (level - rest)) / power, 100.0)
    return float(steps[-1] + sums[-1] * math.expm1(log_ratio))


@dataclass(frozen=True)
class CrossingStage(Stage):
    """The step at which a teacher is left; its artifact is what is known of it, as JSON values.

    step: 0: the student is ahead from the start; the run's length: it never gets there. flops: of
    the calibration, as far as this teacher needs it. why: a line. In the cache is the curve alone.
    alone: the stand-alone student's stage. root: of the runs on record.
    """

    kind, word = "curve", "curve"
    options: Crossover
    alone: StudentStage
    teacher: TeacherStage
    root: Path
    name: str = "crossing"

    @property
    def parts(self) -> dict[str, Any]:
        """What determines the curve of a calibration."""
        return {**self.alone.parts, "calibration": self.options.calibration}

    @property
    def on_record(self) -> Curve | None:
        """The stand-alone run and its curve, if it is finished by now and has one."""
        if self.alone.shapes.conditions.eval.every is None:
            return None
        identity = recorded_as(self.root, self.alone)
        folder = find(self.root, identity)
        if folder and read_summary(folder):
            name, points = folder.name, _points(folder)
        else:
            said = kept_run(self.root, identity) or {"summary": {"name": ""}, "curve": []}
            name, points = said["summary"]["name"], said["curve"]
        return (name, points) if points else None

    def lengths(self, done: Mapping[str, Any]) -> tuple[int, int] | None:
        """Return the steps of the run and of a whole calibration; None while they are not known."""
        steps = self.alone.num_steps(done)
        return None if steps is None else (steps, math.ceil(self.options.calibration * steps))

    def _known_lengths(self, done: Mapping[str, Any]) -> tuple[int, int]:
        lengths = self.lengths(done)
        assert lengths, "without the text's length there is no curve to read"
        return lengths

    def cost(self, done: Mapping[str, Any]) -> float | None:
        """Return the FLOPs of a whole calibration; of a curve on record none."""
        lengths = (0, 0) if self.on_record else self.lengths(done)
        return lengths and lengths[1] * self.alone.shapes.step_flops

    def constant(self, steps: int, length: int) -> Conditions:
        """Return how a calibration is trained: the run's warm-up, and its peak rate from there."""
        of = self.alone.shapes.conditions.lasting(length)
        every = max(1, min(of.eval.every or length, length // _NUM_EVALUATIONS))
        return replace(
            of,
            optim=replace(of.optim, warmup=of.optim.warmup * steps / length, decay=0.0),
            train=replace(of.train, profile=False),
            eval=replace(of.eval, every=every),
        )

    def check(self, done: Mapping[str, Any]) -> None:
        """Raise `UserError` where a calibration would have too few evaluations at the full rate."""
        if (lengths := self.lengths(done)) is None or self.on_record:
            return
        (steps, length), of = lengths, self.constant(*lengths)
        seen = {length, *range(length)[:: of.eval.every]} - {0}
        num_full = sum(of.optim.lr_factor((step - 1) / length) == 1 for step in seen)
        if num_full < _FEWEST:
            raise UserError(
                f"alpha.calibration={self.options.calibration:g}: its {length} of {steps} steps "
                f"are too short, with {num_full} evaluations at the full rate of {_FEWEST}; raise "
                "it, set alpha.until=STEP, or train with teacher=none first, whose curve is taken"
            )

    def carry_out(self, done: Done, at: Context) -> dict[str, Any]:
        """Return the step, the one that an earlier start of the run has found if there was one."""
        place, teacher = at.folder / "crossing.json", done[self.teacher.name].facts
        found = at.ranks.from_first("the step on record", lambda: atomic.read_json(place))
        if found is None:
            run = at.ranks.from_first("the run on record", lambda: self.on_record)
            loss = at.ranks.from_first("the teacher's loss", lambda: teacher.loss)
            if not run:
                self.check(done)
                self._calibrate(loss + self.options.margin, done, at)
            make = lambda: self._found(loss, run, done, at.cache)  # noqa: E731
            found = at.ranks.from_first("the step", make)
            if at.ranks.is_first:
                atomic.write_json(place, found)
        at.show.say(found["why"])
        at.show.update(self.name, 1.0, f"step {found['step']}")
        return found

    def planned(self, cache: Cache) -> str:
        """Return what can be said of the step before anything is made."""
        run, teacher, flops = self.on_record, self.teacher.known_facts(cache), self.cost({})
        if teacher and self.lengths({}):
            curve = run[1] if run else _points(self._calibration(cache))
            is_reached = first_at(curve, teacher.loss + self.options.margin) is not None
            if run or is_reached or self.is_kept(cache):
                return str(self._found(teacher.loss, run, {}, cache)["why"])
        if run:
            return f"by the curve of {run[0]} on record, when the teacher is there"
        return "by calibration" + ("" if flops is None else f", {flops:.3g} FLOPs at most")

    def _calibration(self, cache: Cache) -> Path:
        """Return the folder of the calibration, which may not have come to its end."""
        place = self.place(cache)
        return place if self.is_kept(cache) else place.with_name(f"{place.name}{PARTIAL}")

    def _calibrate(self, level: float, done: Done, at: Context) -> None:
        """Train the stand-alone student on until it comes to a level, or to the whole length."""
        steps, length = self._known_lengths(done)

        def train(folder: Path) -> Facts:
            from dwt_cli.distill.loss import DistillationLoss

            of, loss = self.constant(steps, length), DistillationLoss()
            model, shapes = self.alone.start()[0], self.alone.shapes
            shapes.attach(model, self.alone.seed)
            facts = of.fit(
                self,
                of.wrapped(model, at.machine),
                loss,
                done[self.alone.corpus.name],
                at,
                purpose=self.alone.purpose,
                seed=self.alone.seed,
                folder=folder,
                compile_loss=None if shapes.tuning.freezes else loss.compile,
                enough=level,
            )
            if (facts.steps or 0) < length:
                raise _Reached  # its checkpoint stays: a better teacher goes on from it
            return facts

        with suppress(_Reached):
            at.trained(self, train, {"options": {"max_steps": length, "seed": self.alone.seed}})

    def _found(
        self, loss: float, run: Curve | None, done: Mapping[str, Any], cache: Cache
    ) -> dict[str, Any]:
        """Return the artifact. run: on record; None: it is of the calibration's curve."""
        (steps, length), level = self._known_lengths(done), loss + self.options.margin
        curve = run[1] if run else _points(self._calibration(cache))
        reached, needed, how = first_at(curve, level), 0, "its rate decaying: paid for before"
        if not run:
            needed = next((step for step, y in curve if step and y <= level), length)
            how = f"of {needed} steps at a constant rate"
            if reached is None:
                of = self.constant(steps, length)
                rates = [of.optim.lr_factor(step / length) for step in range(length)]
                reached, how = extrapolated(curve, rates, level), f"{how}, a power law beyond"
        student = f"the stand-alone student ({run[0] if run else 'calibration'}, {how})"
        reached = math.inf if reached is None else reached
        step, flops = math.ceil(min(reached, steps)), needed * self.alone.shapes.step_flops
        target = f"{level:.3f}, the teacher's loss plus {self.options.margin:g}"
        if step == 0:
            why = f"{student} begins at {target}, or below: nobody teaches; choose a better teacher"
        elif reached > steps:
            why = (
                f"{student} never comes to {target}, in {steps} steps: the weight is held to the "
                "end; alpha=strong or normal is that, remap=stack grows from the teacher"
            )
        else:
            why = (
                f"{student} comes to {target}, at step {step} of {steps}: the teacher is left there"
            )
        return {"step": step, "level": level, "flops": flops, "why": f"crossover: {why}"}


def _points(folder: Path) -> Points:
    return heldout_losses(read_lines(folder / "metrics.jsonl"))
