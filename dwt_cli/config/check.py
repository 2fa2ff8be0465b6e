"""Problems and idle settings that can be seen in the settings alone.

`dwt_cli.recipe.preflight` goes on with what has to be opened to be seen.
"""

import dataclasses
import math
import re
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dwt_cli.base.cache import Cache
from dwt_cli.base.errors import UserError
from dwt_cli.base.options import Range, dotted, leaves, nodes
from dwt_cli.config.run import DISTILLATION, Mode, Run, RunOptions
from dwt_cli.data.options import Data
from dwt_cli.distill.objective.base import divergences
from dwt_cli.distill.objective.features import over_features
from dwt_cli.distill.objective.revise import NoRevision
from dwt_cli.distill.objective.select import AllRows
from dwt_cli.distill.remap.options import FromTeacher, Ligo
from dwt_cli.distill.teacher.options import (
    MadeTeacher,
    ModelTeacher,
    NoTeacher,
    SeveralTeachers,
    Weighting,
)
from dwt_cli.models.options import Architecture, CheckpointStudent, MadeStudent
from dwt_cli.training.moment import Moment
from dwt_cli.training.options import Ddp, Train


def check(run: Run) -> None:
    """Raise `UserError` with the first problem of a run's settings, before any work."""
    for problem in problems(run):
        raise UserError(problem)


def check_folders(options: RunOptions) -> None:
    """Raise `UserError` unless folders can be made below ``run.root`` and ``run.cache``."""
    _check_writable("run.root", Path(options.root).expanduser())
    _check_writable("run.cache", Cache(options.cache, print).root)


def _check_writable(setting: str, folder: Path) -> None:
    try:
        existing = nearest_existing(folder)
        if not existing.is_dir():
            raise UserError(f"{setting}={folder}: {existing} is a file; set {setting} to a folder")
        with TemporaryDirectory(prefix=".dwt-", dir=existing):
            pass
    except OSError as error:
        raise UserError(
            f"{setting}={folder} cannot be written ({error.strerror}); set {setting} to another "
            "folder"
        ) from error


def nearest_existing(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that is there."""
    absolute = folder.absolute()
    return next(place for place in (absolute, *absolute.parents) if place.exists())


def problems(run: Run) -> Iterator[str]:
    """Yield what is wrong with a run's settings, one line each: setting, value, remedy.

    First each value by itself; if all are within their ranges, each class of options by itself,
    then the rules across rooms.
    """
    # what a scale sets, other groups refer to
    every = sorted(nodes(run), key=lambda node: node[0] != "scale")
    outside = [line for setting, options in every for line in _outside(setting, options)]
    yield from outside or _combined(every, run)


def _outside(setting: str, options: Any) -> Iterator[str]:
    """Yield the lines for single values that are empty, not finite or out of their ranges."""
    for f in dataclasses.fields(options):
        bounds: Range | None = f.metadata.get("range")
        for name, value in leaves(getattr(options, f.name), dotted(setting, f.name)):
            if isinstance(value, str) and not value.strip():
                yield f"{name}={value!r}: it is empty; give a value, or leave the setting out"
            elif isinstance(value, float) and not (
                math.isfinite(value) or (bounds and bounds.infinite and value > 0)
            ):
                yield f"{name}={value}: a finite number is needed"
            elif bounds and (line := bounds.problem(name, value)):
                yield line


def _combined(every: list[tuple[str, Any]], run: Run) -> Iterator[str]:
    for setting, options in every:
        if own := getattr(options, "problems", None):
            yield from own(setting)
    if isinstance(run.student, MadeStudent):
        yield from _problems_of_model("student", run.student, run.data)
    for setting, teacher in run.teacher.each():
        if isinstance(teacher, MadeTeacher):
            yield from _problems_of_model(setting, teacher, run.data)
            if teacher.data is not None:
                yield from _problems_of_teachers_text(f"{setting}.data", teacher.data, run.data)
    if isinstance(run.teacher, SeveralTeachers):
        yield from _problems_of_weighting(run.teacher.weighting, run.train)
    yield from _problems_of_remap(run)
    yield from _problems_of_objective(run)
    yield from _problems_of_training(run)


def warnings(run: Run) -> Iterator[str]:
    """Yield the settings that have no effect, one line each."""
    keys = {override.lstrip("+~").partition("=")[0] for override in run.overrides}
    groups = {re.split(r"[.@]", key)[0] for key in keys}
    if isinstance(run.teacher, NoTeacher):
        for group in sorted(groups.intersection(DISTILLATION) - {"remap"}):
            yield f"{group} has no effect with teacher=none: the student stands alone"
    elif "objective" in groups and run.alpha.soft_is_over(Moment(0.0)):
        yield "objective has no effect with a soft weight of 0: there is no soft loss"
    made = [teacher for _, teacher in run.teacher.each() if isinstance(teacher, MadeTeacher)]
    if all(teacher.budget == 0 for teacher in made):
        for key in sorted(keys & {"scale.teacher_steps", "teacher.max_steps"}):
            yield f"{key} has no effect: no teacher is trained here"
        if any(teacher.data is not None for teacher in made):
            yield "teacher.data has no effect: no teacher is trained here"
    if "remap.width" in keys:
        models = [model for model in (run.teacher, run.student) if isinstance(model, Architecture)]
        if len(models) == 2 and len({(model.width, model.mlp_width) for model in models}) == 1:
            yield "remap.width has no effect: the teacher is as wide as the student"
    compared = divergences(run.objective)
    for name, objective in compared.items():
        if objective.tau_squared and objective.temperature == objective.temperature_at(1) == 1:
            yield (f"objective.{name}.tau_squared has no effect at objective.{name}.temperature=1")
    for group, nothing in (("revise", NoRevision), ("select", AllRows)):
        if not compared and not isinstance(getattr(run, group), nothing):
            yield f"{group} has no effect: no objective compares distributions"
    if run.run.mode is not Mode.plan:
        about_plans = {"run.train_tokens", "run.peak_tflops", "run.mfu", "run.device_gb"}
        for name in sorted(keys & about_plans):
            yield f"{name} has no effect without run.plan=true"
    if run.parallel != Ddp() and run.launch.ranks is None and "parallel" in groups:
        yield "parallel has no effect with launch=local: choose launch=torchrun"
    elif "parallel.shard_teacher" in keys and not any(
        isinstance(teacher, ModelTeacher) for _, teacher in run.teacher.each()
    ):
        yield "parallel.shard_teacher has no effect: no model teaches"
    if run.train.micro_batch_size == run.train.batch_size:
        yield (
            f"train.micro_batch_size={run.train.micro_batch_size} has no effect: it is all of "
            "train.batch_size"
        )
    if run.eval.num_blocks > run.data.max_heldout_blocks:
        yield (
            f"eval.num_blocks={run.eval.num_blocks} has no effect above "
            f"data.max_heldout_blocks={run.data.max_heldout_blocks}"
        )
    for name in sorted({key.split(".")[1] for key in keys if key.startswith("eval.")}):
        if dataclasses.is_dataclass(getattr(run.eval, name)) and name not in run.eval.measures:
            yield f"eval.{name} has no effect with eval.measures=[{','.join(run.eval.measures)}]"
    if run.evaluation and (idle := sorted(keys & {"eval.at", "eval.every"})):
        yield f"{idle[0]} has no effect here: it is about a training"
    if run.train.max_minutes is not None:
        yield (
            "train.max_minutes makes the learning rate follow the clock: "
            "such a run is not reproducible step for step"
        )


def _problems_of_model(role: str, model: Architecture, data: Data) -> Iterator[str]:
    if model.vocab_size != data.vocab_size:
        yield (
            f"{role}.vocab_size={model.vocab_size} and data.vocab_size={data.vocab_size}: "
            "they are one vocabulary; set scale.vocab_size"
        )
    if model.max_length < data.block_length:
        yield (
            f"{role}.max_length={model.max_length} is shorter than data.block_length="
            f"{data.block_length}: raise the one or lower the other"
        )


def _problems_of_teachers_text(setting: str, text: Data, data: Data) -> Iterator[str]:
    if text.tokenizer is not None:
        yield (
            f"{setting}.tokenizer={text.tokenizer}: the teacher's text is in the tokens of the "
            "student's; set data.tokenizer"
        )
    for name in ("block_length", "vocab_size"):
        theirs, ours = getattr(text, name), getattr(data, name)
        if theirs != ours:
            yield (
                f"{setting}.{name}={theirs} and data.{name}={ours}: they are one; set scale.{name}"
            )


def _problems_of_weighting(weighting: Weighting, train: Train) -> Iterator[str]:
    micro = train.micro_batch_size
    if weighting is Weighting.batch and micro not in (None, train.batch_size):
        yield (
            f"teacher.weighting=batch with train.micro_batch_size={micro}: the weights follow the "
            "whole batch; use teacher.weighting=token, or train.micro_batch_size=null"
        )


def _problems_of_remap(run: Run) -> Iterator[str]:
    teacher = run.teacher
    if not isinstance(run.remap, FromTeacher):
        return
    rule = run.remap.depth
    if isinstance(run.student, CheckpointStudent):
        yield (
            f"remap.depth={rule} with student.path={run.student.path}: such a student starts from "
            "its own weights; choose remap=random"
        )
    elif isinstance(teacher, NoTeacher):
        yield (
            f"remap.depth={rule} with teacher=none: there are no weights to start "
            "from; choose a teacher (alpha=off remaps without listening) or remap=random"
        )
    elif not teacher.is_model:
        yield (
            f"remap.depth={rule} with teacher={run.choices.get('teacher', '')}: the weights of one "
            "model are needed to start from; choose another teacher or remap=random"
        )


def _problems_of_objective(run: Run) -> Iterator[str]:
    needing = list(over_features(run.objective))
    if needing and not isinstance(run.teacher, NoTeacher) and not run.teacher.is_model:
        yield (
            f"objective={needing[0]} with teacher={run.choices.get('teacher', '')}: it compares "
            "features of one model; choose another teacher, or compare logits"
        )
    if not run.objective:
        yield "objective=[]: name at least one; teacher=none or alpha=off has no soft loss"
    for name, objective in run.objective.items():
        yield from objective.problems_over(f"objective.{name}", run.data.vocab_size)
    for setting, teacher in run.teacher.each():
        yield from teacher.problems_over(setting, run.data.vocab_size)


def _problems_of_training(run: Run) -> Iterator[str]:
    train = run.train
    if train.compile and run.parallel != Ddp():
        yield (
            "train.compile=true with parallel=fsdp: a sharded model is not compiled here; set "
            "train.compile=false, or parallel=ddp"
        )
    if train.compile and over_features(run.objective):
        yield (
            f"train.compile=true with objective={'+'.join(run.objective)}: features are captured "
            "by hooks, which are not compiled; set train.compile=false, or compare logits alone"
        )
    if isinstance(run.remap, Ligo) and run.parallel != Ddp():
        yield (
            "remap=ligo with parallel=fsdp: its maps are not sharded; choose parallel=ddp, or "
            "another remap"
        )
    try:
        train.num_parts(run.launch.num_ranks)
    except UserError as problem:
        yield str(problem)
