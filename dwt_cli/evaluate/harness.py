"""Any task of lm-evaluation-harness, an optional package, by causal models.

A task's data come from where it says: the hub, or files of one's own (``dataset_path: json``). As
they are not known here, nothing that is measured is kept for another time.
"""

import contextlib
import io
import os
from collections.abc import Iterator
from difflib import get_close_matches
from functools import cache as once
from importlib.util import find_spec
from math import isfinite
from pathlib import Path
from traceback import extract_tb
from typing import Any

import torch

from dwt_cli.base.errors import UserError, first_line
from dwt_cli.evaluate.measurement import EvaluatedModel, Score
from dwt_cli.evaluate.options import Harness
from dwt_cli.models.anatomy import num_positions

_NUM_RESAMPLES = 1000  # for the standard errors that the harness has no formula for
_SEED = 1234  # the harness's own, of what is shown in a prompt of several examples


def check(options: Harness) -> None:
    """Raise `UserError` for what is not there: the package, a folder, a task, its data."""
    if find_spec("lm_eval") is None or find_spec("accelerate") is None:
        raise UserError(
            "eval.measures=[harness]: lm-evaluation-harness is not installed; "
            "pip install 'dwt-cli[harness]'"
        )
    if not options.tasks:
        raise UserError(
            "eval.harness.tasks=[]: name at least one of lm-evaluation-harness's, as in "
            "[lambada_openai,arc_easy]"
        )
    if options.include_path and not Path(options.include_path).expanduser().is_dir():
        raise UserError(
            f"eval.harness.include_path={options.include_path}: there is no such folder; give "
            "the folder with the tasks' YAML files"
        )
    _loaded(options)


def scores(tested: EvaluatedModel, options: Harness) -> list[Score]:
    """Return what the harness says of a model; in detail where a task is one of a group's."""
    with quiet(), _as_a_mistake(options):
        from lm_eval import evaluate
        from lm_eval.models.huggingface import HFLM

        model = HFLM(
            pretrained=tested.language_model.model,
            tokenizer=tested.tokenizer,
            max_length=num_positions(tested.model.config),
            batch_size=options.batch_size,
            softmax_dtype=torch.float32,
            mixed_precision_dtype=None if tested.dtype == torch.float32 else tested.dtype,
        )
        found = evaluate(
            model,
            _loaded(options),
            limit=options.limit,
            log_samples=False,
            bootstrap_iters=_NUM_RESAMPLES,
        )
    summed_up = found.get("groups", {})
    parts = {name for group in summed_up for name in found["group_subtasks"][group]}
    return [
        score
        for task, values in {**summed_up, **found["results"]}.items()
        for score in _scores(task, values, task in parts)
    ]


def _scores(task: str, values: dict[str, Any], is_detail: bool) -> Iterator[Score]:
    """Yield a score for each "metric,filter", whose error is at "metric_stderr,filter"."""
    for key, value in values.items():
        metric, _, kind = key.partition(",")
        if kind and not metric.endswith("_stderr") and isinstance(value, float):
            error = values.get(f"{metric}_stderr,{kind}")
            name = metric if kind == "none" else f"{metric} ({kind})"
            known = isinstance(error, float) and isfinite(error)
            count = values["sample_len"]
            yield Score(task, name, value, error if known else None, count, is_detail=is_detail)


def _loaded(options: Harness) -> Any:
    """Return the tasks with their data, as `lm_eval.evaluate` takes them."""
    with quiet(), _as_a_mistake(options):
        folder = options.include_path and str(Path(options.include_path).expanduser())
        tasks = _tasks(folder, include_defaults=False)
        if not {*options.tasks} <= {*tasks.all_tasks}:
            tasks = _tasks(folder, include_defaults=True)
        for name in options.tasks:
            if name not in tasks.all_tasks:
                near = get_close_matches(name, tasks.all_tasks, n=1)
                hint = f", did you mean {near[0]}?" if near else ""
                raise UserError(
                    f"eval.harness.tasks=[{name}]: lm-evaluation-harness has no such task{hint} "
                    "(`lm-eval ls tasks` lists them)"
                )
        loaded = tasks.load(list(options.tasks))
        for task in loaded["tasks"].values():
            if options.num_fewshot is not None or task.get_config("num_fewshot") is None:
                task.set_config("num_fewshot", options.num_fewshot or 0)
            task.set_fewshot_seed(_SEED)
        return loaded


@once
def _tasks(folder: str | None, include_defaults: bool) -> Any:
    """Return the index of the tasks; that of the harness's own takes ten seconds."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=folder, include_defaults=include_defaults)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Let the harness print nothing, and start no processes for its standard errors."""
    os.environ.setdefault("DISABLE_MULTIPROC", "1")
    nowhere = io.StringIO()
    with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        yield


@contextlib.contextmanager
def _as_a_mistake(options: Harness) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # tasks are others' code and data
        line = extract_tb(error.__traceback__)[-1].line  # all that a plain assert has to say
        raise UserError(
            f"eval.harness.tasks=[{','.join(options.tasks)}]: {type(error).__name__}, "
            f"{first_line(error) if str(error) else line}"
        ) from error
