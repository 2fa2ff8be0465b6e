"""GLUE (arXiv 1804.07461): fine-tuning on nine tasks, their dev scores, and the average."""

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from dwt_cli.base.errors import UserError, not_among
from dwt_cli.base.randomness import generator, seed_for
from dwt_cli.data import glue as glue_data
from dwt_cli.data.glue import TASKS, Split, Task
from dwt_cli.evaluate.finetuning import PROTOCOLS, fine_tune
from dwt_cli.evaluate.measurement import EvaluatedModel, Found, Measurement, Say, Score
from dwt_cli.evaluate.options import Glue
from dwt_cli.models.anatomy import num_positions
from dwt_cli.tasks.classification import Outputs
from dwt_cli.tasks.texts import Texts

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
    on_task = {task: _OnTask(asked.tested, options, task, asked.say) for task in tasks}
    found = []
    for number, (task, seed) in enumerate(pieces):
        title = f"GLUE {task.name} {options.protocol.name} seed {seed}"

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


class _OnTask:
    """A model on one task: texts are read and tokenised when first needed, and then kept."""

    def __init__(self, tested: EvaluatedModel, options: Glue, task: Task, say: Say) -> None:
        self._tested, self._options, self._task, self._say = tested, options, task, say
        self._protocol = PROTOCOLS[options.protocol]

    def identity(self, seed: int) -> tuple[object, ...]:
        """Return what determines the scores of a seed, besides the model."""
        data = glue_data.provenance(self._task, self._options.path, _SETTING)
        return "glue", self._task.name, data, self._protocol, self._options.max_length, seed

    def found(self, seed: int, advance: Advance, folder: Path) -> Found:
        """Fine-tune with one seed; of several settings the best on the dev set counts."""
        protocol, num_outputs = self._protocol, len(self._task.labels) or 1
        tried, padding, count = [], 0.0, len(protocol.optims)
        for number, optim in enumerate(protocol.optims):

            def share(done: float, text: str, number: int = number) -> None:
                advance((number + done) / count, text)

            outputs, padding = fine_tune(
                self._tested,
                self._train[0],
                [texts for texts, _ in self._dev],
                num_outputs,
                optim,
                protocol,
                seed,
                folder / f"setting-{number}",
                share,
                self._say,
            )
            tried.append(self._scores(outputs))
        best = max(tried, key=_mean)
        if count > 1:
            remark = f"{self._task.name}: best of {count} learning rates, chosen on dev"
            best = [replace(score, remarks=(*score.remarks, remark)) for score in best]
        return best, {"padding": padding}

    def _scores(self, outputs: Sequence[Outputs]) -> list[Score]:
        from dwt_cli.evaluate.metrics import METRICS, standard_error  # here: it takes 1.6 s

        task, scores = self._task, []
        for split, (texts, about), outputs_NC in zip(task.dev, self._dev, outputs, strict=True):
            predictions = outputs_NC.argmax(axis=1) if task.labels else outputs_NC[:, 0]
            for name in task.metrics:
                value = float(METRICS[name](texts.labels, predictions))
                remarks = [*self._train[1], *about]
                if not np.isfinite(value):
                    value = 0.0
                    remarks.append(f"{split.title}: constant predictions, {name} counts as 0")
                error = standard_error(METRICS[name], texts.labels, predictions)
                told = tuple(remarks)
                scores.append(Score(split.title, name, value, error, len(texts), remarks=told))
        return scores

    @cached_property
    def _train(self) -> tuple[Texts, list[str]]:
        return self._read(self._task.train, self._protocol.max_train)

    @cached_property
    def _dev(self) -> list[tuple[Texts, list[str]]]:
        return [self._read(split, self._protocol.max_dev) for split in self._task.dev]

    def _read(self, split: Split, most: int | None) -> tuple[Texts, list[str]]:
        """Return a split, or the same few texts of it for every model, seed and day; and remarks.

        most: texts; None: all.
        """
        examples = glue_data.read(self._task, split, self._options.path, _SETTING)
        numbers = list(range(len(examples.texts)))
        if most is not None and most < len(numbers):
            order = generator(seed_for("glue", split.title, split.file)).permutation(len(numbers))
            numbers = sorted(order[:most].tolist())
        labels = np.array(examples.labels)[numbers]
        texts, num_cut = Texts.tokenised(
            self._tested.tokenizer,
            [examples.texts[number] for number in numbers],
            labels.astype(np.int64) if self._task.labels else labels.astype(np.float32),
            min(self._options.max_length, num_positions(self._tested.model.config)),
        )
        if num_cut:
            cut = f"{num_cut:,} texts cut to {max(texts.lengths)} tokens"
            examples.remarks.append(f"{self._task.name}/{split.file}: {cut}")
        return texts, examples.remarks


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
