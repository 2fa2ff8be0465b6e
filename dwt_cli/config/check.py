"""What the settings alone say is wrong or idle: every check across fields, in one place.

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
from dwt_cli.config.run import DISTILLATION, Mode, Run, RunOptions, each_teacher
from dwt_cli.data.options import Data
from dwt_cli.distill.objective.options import (
    ConfidenceMix,
    Confident,
    Distributions,
    Hidden,
    JensenShannon,
    LabelRevision,
    MiniLM,
    MiniLMv2,
    Revise,
    Select,
    TopK,
)
from dwt_cli.distill.remap.options import FromTeacher, Ligo
from dwt_cli.distill.teacher.options import (
    BUDGETS,
    MadeTeacher,
    ModelTeacher,
    SeveralTeachers,
    Teacher,
    VirtualTeacher,
    Weighting,
)
from dwt_cli.models.options import Architecture, CheckpointStudent, MadeStudent
from dwt_cli.training.options import Ddp

_LARGEST_SIZE, _MOST_LAYERS = 1 << 16, 1000


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
        yield from _problems_of_model("student", run.student, run)
    for setting, teacher in each_teacher(run):
        yield from _problems_of_teacher(setting, teacher, run)
    if isinstance(run.teacher, SeveralTeachers):
        yield from _problems_of_members(run.teacher, run)
    yield from _problems_of_remap(run)
    yield from _problems_of_objective(run)
    yield from _problems_of_training(run)


def warnings(run: Run) -> Iterator[str]:
    """Settings that have no effect, one line each."""
    keys = {override.lstrip("+~").partition("=")[0] for override in run.overrides}
    said = {re.split(r"[.@]", key)[0] for key in keys}
    if type(run.teacher) is Teacher:
        for group in sorted(said.intersection(DISTILLATION) - {"remap"}):
            yield f"{group} has no effect with teacher=none: the student stands alone"
    elif "objective" in said and not any(
        value for name, value in vars(run.alpha).items() if name.startswith("soft")
    ):
        yield "objective has no effect with a soft weight of 0: the teacher is not listened to"
    made = [teacher for _, teacher in each_teacher(run) if isinstance(teacher, MadeTeacher)]
    if all(teacher.budget == 0 for teacher in made):
        for key in sorted(keys & {"scale.teacher_steps", "teacher.max_steps"}):
            yield f"{key} has no effect: no teacher is trained here"
        if any(teacher.data is not None for teacher in made):
            yield "teacher.data has no effect: no teacher is trained here"
    if "remap.width" in keys:
        models = [model for model in (run.teacher, run.student) if isinstance(model, Architecture)]
        if len(models) == 2 and len({(model.width, model.mlp_width) for model in models}) == 1:
            yield "remap.width has no effect: the teacher is as wide as the student"
    compared = {n: o for n, o in run.objective.items() if isinstance(o, Distributions)}
    for name, objective in compared.items():
        if objective.tau_squared and objective.temperature == objective.temperature_at(1) == 1:
            yield (f"objective.{name}.tau_squared has no effect at objective.{name}.temperature=1")
    for group, unlike in (("revise", Revise), ("select", Select)):
        if not compared and type(getattr(run, group)) is not unlike:
            yield f"{group} has no effect: no objective compares distributions"
    if run.run.mode is not Mode.plan:
        about_plans = {"run.train_tokens", "run.peak_tflops", "run.mfu", "run.device_gb"}
        for name in sorted(keys & about_plans):
            yield f"{name} has no effect without run.plan=true"
    if run.parallel != Ddp() and run.launch.ranks is None and "parallel" in said:
        yield "parallel has no effect with launch=local: choose launch=torchrun"
    elif "parallel.shard_teacher" in keys and not any(
        isinstance(teacher, ModelTeacher) for _, teacher in each_teacher(run)
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


def _at_least(setting: str, value: float, least: float) -> Iterator[str]:
    if value < least:
        yield f"{setting}={value}: it is at least {least}"


def _between(setting: str, value: float, low: float, high: float) -> Iterator[str]:
    if not low <= value <= high:
        yield f"{setting}={value}: it lies between {low} and {high}"


def _problems_of_model(role: str, model: Architecture, run: Run) -> Iterator[str]:
    if model.vocab_size != run.data.vocab_size:
        yield (
            f"{role}.vocab_size={model.vocab_size} and data.vocab_size={run.data.vocab_size}: "
            "they are one vocabulary; set scale.vocab_size"
        )
    if model.max_length < run.data.block_length:
        yield (
            f"{role}.max_length={model.max_length} is shorter than data.block_length="
            f"{run.data.block_length}: raise the one or lower the other"
        )


def _problems_of_teacher(setting: str, teacher: Teacher, run: Run) -> Iterator[str]:
    if isinstance(teacher, ModelTeacher):
        yield from _temperature(f"{setting}.temperature", teacher.temperature)
    if isinstance(teacher, VirtualTeacher):
        even = 1 / run.data.vocab_size
        if not even < teacher.confidence < 1:
            yield (
                f"{setting}.confidence={teacher.confidence}: it lies above {even:.2g} (every "
                "entry of the vocabulary alike) and below 1; Tf-KD uses 0.99"
            )
    if not isinstance(teacher, MadeTeacher):
        return
    yield from _problems_of_model(setting, teacher, run)
    yield from _at_least(f"{setting}.max_steps", teacher.max_steps, 1)
    yield from _at_least(f"{setting}.seed", teacher.seed, 0)
    if teacher.budget not in BUDGETS:
        yield (
            f"{setting}.budget={teacher.budget}: a teacher is kept at these shares of its "
            f"training: {', '.join(f'{budget:g}' for budget in BUDGETS)}; choose one of them"
        )
    if teacher.data is not None:
        yield from _problems_of_teachers_text(f"{setting}.data", teacher.data, run)


def _problems_of_teachers_text(setting: str, text: Data, run: Run) -> Iterator[str]:
    if text.tokenizer is not None:
        yield (
            f"{setting}.tokenizer={text.tokenizer}: the teacher's text is in the tokens of the "
            "student's; set data.tokenizer"
        )
    for name in ("block_length", "vocab_size"):
        theirs, ours = getattr(text, name), getattr(run.data, name)
        if theirs != ours:
            yield (
                f"{setting}.{name}={theirs} and data.{name}={ours}: they are one; set scale.{name}"
            )


def _problems_of_members(several: SeveralTeachers, run: Run) -> Iterator[str]:
    members = several.members
    if len(members) < 2:
        yield (
            f"teacher.members={members}: several are two at least, as in "
            "teacher.members=[small,very_weak]"
        )
    for name, member in zip(members, several.teachers, strict=True):
        if type(member) in (Teacher, SeveralTeachers):
            yield f"teacher.members: {name} is not one teacher; leave it out"
    for setting in ("weights", "temperatures"):
        values = getattr(several, setting)
        if values and len(values) != len(members):
            yield (
                f"teacher.{setting}={values} and teacher.members={members}: give "
                f"{len(members)}, one for each, or none"
            )
    for weight in several.weights:
        if weight <= 0:
            yield f"teacher.weights={weight}: a member has a weight above 0; leave the member out"
    for temperature in several.temperatures:
        yield from _temperature("teacher.temperatures", temperature)
    micro = run.train.micro_batch_size
    if several.weighting is Weighting.batch and micro not in (None, run.train.batch_size):
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
    elif type(teacher) is Teacher:
        yield (
            f"remap.depth={rule} with teacher=none: there are no weights to start "
            "from; choose a teacher (alpha=off remaps without listening) or remap=random"
        )
    elif not isinstance(teacher, ModelTeacher):
        yield (
            f"remap.depth={rule} with teacher={run.choices.get('teacher', '')}: the weights of one "
            "model are needed to start from; choose another teacher or remap=random"
        )


def _temperature(setting: str, temperature: float) -> Iterator[str]:
    if temperature <= 0:
        yield f"{setting}={temperature}: a temperature is above 0; the paper uses 1"


def _problems_of_objective(run: Run) -> Iterator[str]:
    looking = [n for n, o in run.objective.items() if isinstance(o, MiniLM | Hidden)]
    if looking and type(run.teacher) is not Teacher and not isinstance(run.teacher, ModelTeacher):
        yield (
            f"objective={looking[0]} with teacher={run.choices.get('teacher', '')}: it looks "
            "inside one model; choose another teacher, or compare logits"
        )
    if not run.objective:
        yield "objective=[]: name at least one; teacher=none or alpha=off listens to nobody"
    for name, objective in run.objective.items():
        setting = f"objective.{name}"
        if objective.weight <= 0:
            yield f"{setting}.weight={objective.weight}: it is above 0; else leave {name} out"
        if isinstance(objective, Distributions):
            for key in ("temperature", "temperature_end"):
                value = getattr(objective, key)
                if value is not None and value <= 0:
                    yield f"{setting}.{key}={value}: a temperature is above 0; the paper uses 1"
        if isinstance(objective, JensenShannon):
            yield from _between(f"{setting}.beta", objective.beta, 0.01, 0.99)
        if isinstance(objective, TopK):
            yield from _between(f"{setting}.k", objective.k, 1, run.data.vocab_size - 1)
        if isinstance(objective, MiniLMv2) and objective.num_relation_heads is not None:
            yield from _at_least(f"{setting}.num_relation_heads", objective.num_relation_heads, 1)
        if isinstance(objective, Hidden):
            if not objective.pairs:
                yield f"{setting}.pairs=[]: name at least one pair, as in [[-1,-1]]"
            for pair in objective.pairs:
                if len(pair) != 2:
                    yield f"{setting}.pairs: {pair} is no pair [student layer, teacher layer]"
    if isinstance(run.revise, LabelRevision) and not 0 < run.revise.eta < 1:
        yield f"revise.eta={run.revise.eta}: it lies between 0 and 1, without them"
    if isinstance(run.revise, ConfidenceMix):
        yield from _between("revise.most", run.revise.most, 0.0, 1.0)
        yield from _between("revise.warmup", run.revise.warmup, 0.0, 1.0)
    if isinstance(run.select, Confident):
        yield from _between("select.threshold", run.select.threshold, 0.0, 1.0)


def _problems_of_training(run: Run) -> Iterator[str]:
    train = run.train
    if train.compile and run.parallel != Ddp():
        yield (
            "train.compile=true with parallel=fsdp: a sharded model is not compiled here; set "
            "train.compile=false, or parallel=ddp"
        )
    if train.compile and any(isinstance(o, MiniLM | Hidden) for o in run.objective.values()):
        yield (
            f"train.compile=true with objective={'+'.join(run.objective)}: what looks inside a "
            "model is not compiled; set train.compile=false, or compare logits alone"
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
