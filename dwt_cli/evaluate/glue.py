"""GLUE (arXiv 1804.07461): fine-tuning on nine tasks, their dev scores, and the average."""

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dwt_cli.base.errors import UserError, not_among
from dwt_cli.base.randomness import generator, seed_for
from dwt_cli.evaluate import glue_data
from dwt_cli.evaluate.cached import Found, Piece
from dwt_cli.evaluate.finetuning import FineTuned, Outputs, fine_tune, tokenised
from dwt_cli.evaluate.glue_data import TASKS, Examples, Source, Task
from dwt_cli.evaluate.metrics import METRICS, standard_error
from dwt_cli.evaluate.options import Glue
from dwt_cli.evaluate.protocols import PROTOCOLS
from dwt_cli.evaluate.score import EvaluatedModel, Say, Score
from dwt_cli.tasks.texts import Texts
from dwt_cli.training.options import Optim

Advance = Callable[[float, str], None]
AVERAGE, WITHOUT_WNLI = "GLUE", "GLUE without WNLI"


def pieces(tested: EvaluatedModel, options: Glue, say: Say, advance: Advance) -> Iterator[Piece]:
    """Yield one piece per task and seed, task by task."""
    names = list(options.tasks or TASKS)
    for number, name in enumerate(names):
        task = _OnTask(tested, options, TASKS[name], say)
        for seed in range(options.num_seeds):
            title = f"GLUE {name} {options.protocol.name} seed {seed}"
            done = number * options.num_seeds + seed
            part = _part(advance, done, len(names) * options.num_seeds, title)
            yield Piece(title, partial(task.identity, seed), partial(task.found, seed, part))
    advance(1.0, "")


def _part(advance: Advance, done: int, total: int, title: str) -> Advance:
    def of_this(share: float, text: str) -> None:
        advance(min(0.99, (done + share) / total), f"{title}  {text}")

    return of_this


def summed_up(found: Sequence[Sequence[Score]]) -> list[Score]:
    """Return mean and standard error over the seeds of each task's scores, then the averages.

    The average is GLUE's: each task counts once, as the mean of its metrics (and of MNLI's two dev
    sets). It is there when all nine tasks are.
    """
    by_metric: dict[tuple[str, str], list[Score]] = {}
    for scores in found:
        for score in scores:
            by_metric.setdefault((score.task, score.metric), []).append(score)
    over_seeds = [_over_seeds(scores) for scores in by_metric.values()]
    return over_seeds + list(_averages(over_seeds))


def _over_seeds(scores: Sequence[Score]) -> Score:
    values = [score.value for score in scores]
    return replace(
        scores[0],
        value=statistics.fmean(values),
        stderr=_stderr_of_mean(values) if len(values) > 1 else scores[0].stderr,
        num_seeds=len(values),
        remarks=tuple(dict.fromkeys(remark for score in scores for remark in score.remarks)),
    )


def _stderr_of_mean(values: Sequence[float]) -> float:
    return statistics.stdev(values) / len(values) ** 0.5


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
                statistics.fmean(statistics.fmean(s.value for s in scores) for scores in counted),
                sum(error**2 for error in errors) ** 0.5 / len(counted),
                sum(scores[0].num_examples for scores in counted),
                min(score.num_seeds for scores in counted for score in scores),
            )


class _OnTask:
    """A model on one task: texts are read and tokenised when first needed, and then kept."""

    def __init__(self, tested: EvaluatedModel, options: Glue, task: Task, say: Say) -> None:
        self._tested, self._options, self._task, self._say = tested, options, task, say
        self._protocol = PROTOCOLS[options.protocol]

    def identity(self, seed: int) -> tuple[object, ...]:
        """Return what determines the piece of a seed, besides the model."""
        return (
            "glue",
            self._task.name,
            glue_data.provenance(self._task, self._options.path),
            self._protocol,
            self._options.max_length,
            seed,
        )

    def found(self, seed: int, advance: Advance, folder: Path) -> Found:
        """Fine-tune with one seed; of several settings the best on the dev set counts."""
        optims = self._protocol.optims
        best: FineTuned | None = None
        scores: list[Score] = []
        for number, optim in enumerate(optims):

            def share(done: float, text: str, number: int = number) -> None:
                advance((number + done) / len(optims), text)

            tuned = self._tuned(optim, seed, folder / f"setting-{number}", share)
            of_these = self._scores(tuned.outputs)
            if best is None or _mean(of_these) > _mean(scores):
                best, scores = tuned, of_these
        assert best is not None
        if len(optims) > 1:
            remark = f"{self._task.name}: best of {len(optims)} learning rates, chosen on dev"
            scores = [replace(score, remarks=(*score.remarks, remark)) for score in scores]
        return Found(scores, {"padding": best.padding})

    def _tuned(self, optim: Optim, seed: int, folder: Path, advance: Advance) -> FineTuned:
        return fine_tune(
            self._tested,
            self._train[0],
            [texts for texts, _ in self._dev],
            len(self._task.labels) or 1,
            optim,
            self._protocol.epochs,
            self._protocol.batch_size,
            seed,
            folder,
            advance,
            self._say,
        )

    def _scores(self, outputs: Sequence[Outputs]) -> list[Score]:
        scores = []
        for (texts, examples), outputs_NC in zip(self._dev, outputs, strict=True):
            predictions = self._predictions(outputs_NC)
            for name in self._task.metrics:
                value = METRICS[name](texts.labels, predictions)
                remarks = [*self._train[1].remarks, *examples.remarks]
                if not np.isfinite(value):
                    remarks.append(f"{examples.title}: constant predictions, {name} counts as 0")
                scores.append(
                    Score(
                        examples.title,
                        name,
                        value if np.isfinite(value) else 0.0,
                        standard_error(METRICS[name], texts.labels, predictions),
                        len(texts),
                        remarks=tuple(remarks),
                    )
                )
        return scores

    def _predictions(self, outputs_NC: Outputs) -> NDArray[np.int64] | NDArray[np.float32]:
        return outputs_NC.argmax(axis=1) if self._task.labels else outputs_NC[:, 0]

    @cached_property
    def _train(self) -> tuple[Texts, Examples]:
        return self._read(self._task.train, self._protocol.max_train)

    @cached_property
    def _dev(self) -> list[tuple[Texts, Examples]]:
        return [self._read(source, self._protocol.max_dev) for source in self._task.dev]

    def _read(self, source: Source, most: int | None) -> tuple[Texts, Examples]:
        examples = glue_data.read(self._task, source, self._options.path)
        if most is not None and most < len(examples.texts):
            examples = _some(examples, most, source)
        labels = np.array(examples.labels)
        texts, num_cut = tokenised(
            self._tested,
            examples.texts,
            labels.astype(np.int64) if self._task.labels else labels.astype(np.float32),
            self._options.max_length,
        )
        if num_cut:
            longest = max(map(len, texts.ids))
            cut = f"{self._task.name}/{source.file}: {num_cut:,} texts cut to {longest} tokens"
            examples = replace(examples, remarks=(*examples.remarks, cut))
        return texts, examples


def _mean(scores: Sequence[Score]) -> float:
    return statistics.fmean(score.value for score in scores)


def _some(examples: Examples, most: int, source: Source) -> Examples:
    """Return the same few examples for every model, seed and day."""
    order = generator(seed_for("glue", source.title, source.file)).permutation(len(examples.texts))
    chosen = sorted(order[:most])
    return replace(
        examples,
        texts=[examples.texts[number] for number in chosen],
        labels=[examples.labels[number] for number in chosen],
    )


def check(options: Glue) -> None:
    """Raise `UserError` for a task or a folder that there is not."""
    for name in options.tasks:
        if name not in TASKS:
            raise UserError(not_among(f"eval.glue.tasks=[{name}]", "task", name, list(TASKS)))
    if options.path is not None and not Path(options.path).expanduser().is_dir():
        raise UserError(
            f"eval.glue.path={options.path}: there is no such folder (looked in {Path.cwd()}); "
            "give the folder with CoLA, SST-2 ..., or null for the hub"
        )
