"""GLUE (arXiv 1804.07461): fine-tuning on nine tasks, their dev scores, and the average."""

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from math import isfinite
from pathlib import Path
from typing import ClassVar

from dwt_cli.base.errors import UserError, not_among
from dwt_cli.data.glue import TASKS, GlueSet, Task
from dwt_cli.evaluate.finetuning import protocol_of
from dwt_cli.evaluate.measurement import Found, Measurement, Score
from dwt_cli.evaluate.options import Glue, TunedBy
from dwt_cli.tasks.labelled import GlueTask

Advance = Callable[[float, str], None]
AVERAGE, WITHOUT_WNLI = "GLUE", "GLUE without WNLI"
_SETTING = "eval.glue.path"


def scores(asked: Measurement) -> list[Score]:
    """Return the scores of the tasks over the seeds, and the averages.

    A piece of work is one task with one seed; one that fails does not stop the others.
    """
    options = asked.options.glue
    tasks = [TASKS[name] for name in options.tasks or TASKS]
    pieces = [(task, seed) for task in tasks for seed in range(options.num_seeds)]
    on_task = {task: _OnTask(asked, task) for task in tasks}
    found = []
    for number, (task, seed) in enumerate(pieces):
        by = f" {options.tuning.name}" if options.tuning is not TunedBy.full else ""
        title = f"GLUE {task.name} {options.protocol.name}{by} seed {seed}"

        def advance(share: float, text: str, number: int = number, title: str = title) -> None:
            asked.advance("glue", min(0.99, (number + share) / len(pieces)), f"{title}  {text}")

        work = on_task[task]
        try:
            found += asked.kept(title, work.identity(seed), partial(work.found, seed, advance))
        except UserError as error:
            asked.problems.append(str(error))
    asked.advance("glue", 1.0, "")
    return summed_up(found)


def summed_up(found: Sequence[Score]) -> list[Score]:
    """Return mean and standard error over the seeds of each task's scores, then the averages.

    The average is GLUE's: each task counts once, as the mean of its metrics (and of MNLI's two dev
    sets). It is there when all nine tasks are.
    """
    by_metric: dict[tuple[str, str], list[Score]] = {}
    for score in found:
        by_metric.setdefault((score.task, score.metric), []).append(score)
    over_seeds = [_over_seeds(scores) for scores in by_metric.values()]
    return over_seeds + list(_averages(over_seeds))


def _over_seeds(scores: Sequence[Score]) -> Score:
    values = [score.value for score in scores]
    several = len(values) > 1
    return replace(
        scores[0],
        value=statistics.fmean(values),
        stderr=statistics.stdev(values) / len(values) ** 0.5 if several else scores[0].stderr,
        num_seeds=len(values),
        remarks=tuple(dict.fromkeys(remark for score in scores for remark in score.remarks)),
    )


def _averages(scores: Sequence[Score]) -> Iterator[Score]:
    by_task = {
        name: [score for score in scores if score.task in {dev.title for dev in task.dev}]
        for name, task in TASKS.items()
    }
    for title, left_out in ((AVERAGE, ()), (WITHOUT_WNLI, ("WNLI",))):
        counted = [by_task[name] for name in TASKS if name not in left_out]
        if all(counted):
            # tasks are fine-tuned independently; metrics of one task are not
            errors = [statistics.fmean(s.stderr or 0.0 for s in scores) for scores in counted]
            yield Score(
                title,
                "average",
                statistics.fmean(map(_mean, counted)),
                sum(error**2 for error in errors) ** 0.5 / len(counted),
                sum(scores[0].num_examples for scores in counted),
                min(score.num_seeds for scores in counted for score in scores),
            )


def _mean(scores: Sequence[Score]) -> float:
    return statistics.fmean(score.value for score in scores)


@dataclass
class EvaluatedTask(GlueTask):
    """A task as it is measured: of few examples where the protocol says so; see `GlueSet`."""

    with_errors: ClassVar[bool] = True
    max_train: int | None = None
    max_dev: int | None = None

    @cached_property
    def source(self) -> GlueSet:
        return GlueSet(self.task, self.path, _SETTING, self.max_train, self.max_dev)

    @property
    def metrics(self) -> tuple[str, ...]:
        return self.task.metrics


class _OnTask:
    """A model on one task: texts are read and tokenised when first needed, and then kept."""

    def __init__(self, asked: Measurement, task: Task) -> None:
        options = asked.options.glue
        self._task, self._protocol = task, protocol_of(options)
        most = (self._protocol.max_train, self._protocol.max_dev)
        evaluated = EvaluatedTask(
            name=task.name, path=options.path, max_train=most[0], max_dev=most[1]
        )
        self._tunings = asked.tunings(evaluated, self._protocol, options.max_length)

    def identity(self, seed: int) -> tuple[object, ...]:
        """Return what determines the scores of a seed."""
        return "glue", [self._tunings.identity(each, seed) for each in self._protocol.optims]

    def found(self, seed: int, advance: Advance, folder: Path) -> Found:
        """Fine-tune with one seed; of several settings the best on the dev set counts."""
        tried, padding, count = [], 0.0, len(self._protocol.optims)
        for number, optim in enumerate(self._protocol.optims):

            def share(done: float, text: str, number: int = number) -> None:
                advance((number + done) / count, text)

            work = folder / f"setting-{number}"
            metrics, padding = self._tunings.carry_out(optim, seed, work, share)
            tried.append(list(self._scores(metrics)))
        best = max(tried, key=_mean)
        if count > 1:
            remark = f"{self._task.name}: best of {count} learning rates, chosen on dev"
            best = [replace(score, remarks=(*score.remarks, remark)) for score in best]
        return best, {"padding": padding}

    def _scores(self, metrics: Mapping[str, float]) -> Iterator[Score]:
        cut = self._tunings.cut
        told = [*self._tunings.remarks, *([f"{self._task.name}: {cut}"] if cut else [])]
        if (tuning := self._protocol.tuning).freezes:
            told.append(
                f"{self._task.name}: fine-tuned by {type(tuning).__name__.lower()}, not in full"
            )
        parts = zip(self._task.dev, self._tunings.sizes.items(), strict=True)
        for split, (part, size) in parts:
            end = f"_{part}" if part else ""
            for name in self._task.metrics:
                value, error = metrics[f"{name}{end}"], metrics[f"{name}_error{end}"]
                remarks = list(told)
                if not isfinite(value):
                    value = 0.0
                    remarks.append(f"{split.title}: constant predictions, {name} counts as 0")
                yield Score(split.title, name, value, error, size, remarks=tuple(remarks))


def check(options: Glue) -> None:
    """Raise `UserError` for a task or a folder that there is not."""
    for name in options.tasks:
        if name not in TASKS:
            raise UserError(not_among(f"eval.glue.tasks=[{name}]", "task", name, list(TASKS)))
    if options.path is not None and not Path(options.path).expanduser().is_dir():
        raise UserError(
            f"{_SETTING}={options.path}: there is no such folder (looked in {Path.cwd()}); "
            "give the folder with CoLA, SST-2 ..., or null for the hub"
        )
