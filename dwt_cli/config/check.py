"""Problems and idle settings that can be seen in the settings alone.

`dwt_cli.recipe.preflight` goes on with what has to be opened to be seen.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from dwt_cli.base.cache import Cache
from dwt_cli.base.errors import UserError
from dwt_cli.base.options import Range, walk
from dwt_cli.config import labelled, signals, teaching
from dwt_cli.config.run import DISTILLATION, Mode, Run, RunOptions
from dwt_cli.data.options import OWN, Data
from dwt_cli.distill.objective.base import divergences
from dwt_cli.distill.objective.features import over_features
from dwt_cli.distill.objective.revise import NoRevision
from dwt_cli.distill.objective.select import AllRows
from dwt_cli.distill.remap.options import FromTeacher, Ligo
from dwt_cli.distill.teacher.options import MadeTeacher, ModelTeacher, NoTeacher
from dwt_cli.distill.teacher.several import Weighting
from dwt_cli.models.options import Architecture, CheckpointStudent, Family, Head
from dwt_cli.training.options import Ddp, NonFinite
from dwt_cli.training.protocols import Moment

_SMALLEST, _LARGEST = 1e-12, 1e12
"""Bounds of every number with a point: the product of three can be computed in fp32."""

_LARGEST_INT = (1 << 63) - 1

OF_MATRICES = {"optim.hidden_lr", "optim.momentum", "optim.hidden_weight_decay"}
"""Settings of Muon's own matrices, which are frozen where little is trained."""


def check(run: Run) -> None:
    """Raise `UserError` with the first problem of a run's settings, before any work."""
    for problem in problems(run):
        raise UserError(problem)


def check_folders(options: RunOptions) -> None:
    """Raise `UserError` unless folders can be made below ``run.root`` and ``run.cache``."""
    root, cache = Path(options.root).expanduser(), Cache(options.cache, print).root
    for setting, folder in (("run.root", root), ("run.cache", cache)):
        try:
            existing = nearest_existing(folder)
            TemporaryFile(dir=existing).close()  # it has no name, so that nothing stays
        except NotADirectoryError as error:
            line = f"{setting}={folder}: {existing} is a file; set {setting} to a folder"
            raise UserError(line) from error
        except OSError as error:
            raise UserError(
                f"{setting}={folder} cannot be written ({error.strerror}); set {setting} to "
                "another folder"
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
    outside = list(outside_ranges(run))
    yield from outside
    if outside:
        return
    yield from problems_inside(run)
    if run.task.labelled:
        yield from labelled.problems(run)
    for setting, teacher in run.teacher.each():
        if not run.task.labelled:  # its classes may stand in files alone: `recipe.preflight`
            yield from teacher.problems_over(setting, run.data.vocab_size)
        if isinstance(teacher, MadeTeacher) and teacher.data is not None:
            if teacher.data.tokenizer is not None:
                yield (
                    f"{setting}.data.tokenizer={teacher.data.tokenizer}: the teacher's text is in "
                    "the tokens of the student's; set data.tokenizer"
                )
            text = f"{setting}.data"
            yield from _differences(text, teacher.data, run.data, "block_length", "vocab_size")
    kind = run.data.tokenizer_kind
    if lacking := [r for r in run.task.special_tokens if r not in kind.special_tokens]:
        yield (
            f"data.tokenizer_kind={kind.name} has no {lacking[0]}, which the task needs: leave it "
            "out"
        )
    for setting, model in [("student", run.student), *run.teacher.each()]:
        if isinstance(model, Architecture):
            family, head = model.family, run.task.head
            if family.predicts is not head:
                others = ", ".join(each.name for each in Family if each.predicts is head)
                yield (
                    f"{setting}.family={family.name} is of {family.predicts.name} language models, "
                    f"and the task trains {head.name} ones: set scale.family to one of {others}"
                )
            yield from _differences(setting, model, run.data, "vocab_size")
            if model.max_length < run.data.block_length:
                yield (
                    f"{setting}.max_length={model.max_length} is shorter than data.block_length="
                    f"{run.data.block_length}: raise the one or lower the other"
                )
    for name, objective in run.objective.items() if not run.task.labelled else ():
        yield from objective.problems_over(f"objective.{name}", run.data.vocab_size)
    teacher_named = f"teacher={run.choices.get('teacher', '')}"
    if isinstance(run.remap, FromTeacher):
        named, why = teacher_named, ""
        if isinstance(run.student, CheckpointStudent):
            named = f"student.path={run.student.path}"
            why = "such a student starts from its own weights"
        elif isinstance(run.teacher, NoTeacher):
            named, why = "teacher=none", "there are no weights to start from; choose a teacher"
        elif not run.teacher.is_model:
            why = "the weights of one model are needed to start from; choose another teacher"
        if why:
            yield f"remap.depth={run.remap.depth} with {named}: {why}, or choose remap=random"
    yield from _problems_together(run, teacher_named)


def outside_ranges(options: Any, setting: str = "") -> Iterator[str]:
    """Yield a line for each value of a tree of options that is empty or out of its range."""
    yield from filter(None, (_outside(*each) for each in _every(options, setting)))


def problems_inside(options: Any, setting: str = "") -> Iterator[str]:
    """Yield what the classes of a tree of options find wrong with themselves, one line each."""
    for named, each, _ in _every(options, setting):
        if own := getattr(each, "problems", None):
            yield from own(named)


def _every(options: Any, setting: str) -> list[tuple[str, Any, Range | None]]:
    """Return `walk`; what a scale sets comes first, for other groups refer to it."""
    return sorted(walk(options, setting), key=lambda each: not each[0].startswith("scale"))


def _outside(setting: str, value: Any, bounds: Range | None) -> str | None:
    """Return the line for a single value that is empty, not finite or out of its range."""
    if isinstance(value, str) and not value.strip():
        return f"{setting}={value!r}: it is empty; give a value, or leave the setting out"
    may_be_infinite = bounds is not None and bounds.infinite
    is_float = isinstance(value, float)
    if is_float and not math.isfinite(value) and not (may_be_infinite and value > 0):
        return f"{setting}={value}: a finite number is needed"
    if bounds and (problem := bounds.problem(setting, value)):
        return problem
    if is_float and value and not may_be_infinite and not _SMALLEST <= abs(value) <= _LARGEST:
        return f"{setting}={value}: it is 0, or between {_SMALLEST:g} and {_LARGEST:g}"
    if isinstance(value, int) and value > _LARGEST_INT:
        return f"{setting}={value}: it is at most {_LARGEST_INT}"
    return None


def warnings(run: Run) -> Iterator[str]:
    """Yield the settings that have no effect, one line each."""
    typed = set()
    for override in run.overrides:
        for key in override.lstrip("+~").partition("=")[0].split("@"):
            names = key.split(".")
            typed |= {".".join(names[:end]) for end in range(1, len(names) + 1)}
    teachers = [teacher for _, teacher in run.teacher.each()]
    cached = run.signal.cached
    is_deaf = not any(teacher.is_model for teacher in teachers)
    made = [teacher for teacher in teachers if isinstance(teacher, MadeTeacher)]
    length, asked = run.data.block_length, [t for t in teachers if isinstance(t, ModelTeacher)]
    # how much a checkpoint reads is seen when it is opened
    whole = [t for t in asked if (t.window or (length if t.made else 0)) >= length]
    is_alone, compared = isinstance(run.teacher, NoTeacher), divergences(run.objective)
    is_silent = not is_alone and run.alpha.soft_is_over(Moment(0.0))
    learns = any(teacher.learns for teacher in teachers)
    of_learning = {"teacher.rank", "teacher.agreement", "teacher.lr_scale"}
    several = run.teacher.combined
    chooses = several is not None and several.weighting is Weighting.reinforced
    of_masks = {"eval.mask_ratio", "objective.masked_hidden.only_masked", "order.num_patterns"}
    models = [model for model in (run.teacher, run.student) if isinstance(model, Architecture)]
    sizes = [(model.width, model.mlp_width) for model in models]
    measured = run.eval.measures
    others = {name for name, inner in vars(run.eval).items() if dataclasses.is_dataclass(inner)}
    idle = {f"eval.{name}" for name in others.difference(measured)}
    is_whole = (run.train.micro_batch_size or 0) >= run.train.batch_size
    of_plans = {"run.train_tokens", "run.peak_tflops", "run.mfu", "run.device_gb"}
    of_teachers = {"scale.teacher_steps", "teacher.max_steps", "teacher.data", "teacher.optim"}
    in_vain = [
        (is_alone, {*DISTILLATION} - {"remap"}, " with teacher=none: the student stands alone"),
        (
            is_silent,
            {"objective", "signal", "explore"},
            " with a soft weight of 0: there is no soft loss",
        ),
        (getattr(run.order, "reference", None), {"order.budget"}, " with order.reference"),
        (getattr(run.task, "dev_path", None), {"task.dev_share"}, " with task.dev_path"),
        (run.task.head is Head.masked, {"explore.ratio"}, ": all targets of a block are written"),
        (
            run.train.non_finite is not NonFinite.rollback,
            {"train.max_rollbacks", "train.rollback_steps"},
            " without train.non_finite=rollback",
        ),
        (not learns, of_learning, " with teacher.online=none: the teacher is frozen"),
        (
            whole == asked or bool(run.task.labelled),
            {"teacher.window", "teacher.overlap"},
            ": it reads blocks as they are",
        ),
        (not (several and several.num_probe), {"teacher.probe"}, " without teacher.reward=probe"),
        (
            run.data.tokenizer == OWN and any(True for _ in run.teacher.checkpoints()),
            {"teacher.overlap"},
            " with data.tokenizer=own: the teacher reads other tokens, and a block's beginning",
        ),
        (not chooses, {"teacher.reward", "teacher.episode"}, ": no policy chooses among teachers"),
        (learns and is_silent, {"teacher.online", *of_learning}, " with a soft weight of 0"),
        (learns and not compared, {"teacher.online"}, ": no objective compares distributions"),
        (not run.alpha.crossing, {"alpha.margin", "alpha.calibration"}, ": no step is looked for"),
        (all(each.budget == 0 for each in made), of_teachers, ": no teacher is trained here"),
        (len({*sizes}) < len(sizes), {"remap.width"}, ": the teacher is as wide as the student"),
        (run.run.mode is not Mode.plan, of_plans, " without run.plan=true"),
        (is_deaf, {"parallel.shard_teacher"}, ": no model teaches"),
        (bool(cached and not cached.num_uniforms), {"signal.seed"}, ": nothing is drawn"),
        (bool(cached), {"parallel.shard_teacher"}, ": who is asked once is whole there"),
        (bool(run.evaluation), {"eval.at", "eval.every"}, " here: it is about a training"),
        (is_whole, {"train.micro_batch_size"}, ": it is all of train.batch_size"),
        ((run.train.max_steps or 10) < 10, {"train.profile"}, ": it is about steps 8 to 10"),
        (run.task.head is Head.causal, of_masks, ": the task masks nothing"),
        (
            run.data.tokenizer not in (None, OWN),
            {"data.tokenizer_kind", "task.tokenizer"},
            " with data.tokenizer, which is opened",
        ),
        (
            not any(True for _ in run.teacher.checkpoints()),
            {"remap.vocabulary"} | ({"data.tokenizer"} if run.data.tokenizer == OWN else set()),
            ": no teacher comes with a tokenizer of its own",
        ),
        (bool(run.task.labelled), labelled.IDLE, ": the task's texts are no blocks of data"),
        (getattr(run.tuning, "prune", None) == 0, {"tuning.prune_by"}, " with tuning.prune=0"),
        (
            run.tuning.removes_at is None,
            {"tuning.remove_at"},
            ": tuning.prune and tuning.heads are 0",
        ),
        (getattr(run.tuning, "num_sparse", 1) == 0, {"tuning.places"}, " with tuning.num_sparse=0"),
        (run.tuning.freezes and not run.task.labelled, OF_MATRICES, ": AdamW trains what is added"),
        (True, idle, f" with eval.measures=[{','.join(measured)}]"),
    ]
    for is_so, settings, reason in in_vain:
        yield from (f"{name} has no effect{reason}" for name in sorted(typed & settings) if is_so)
    if "parallel" in typed and run.parallel != Ddp() and not run.launch.ranks:
        yield "parallel has no effect with launch=local: choose launch=torchrun"
    for name, objective in compared.items():
        if objective.tau_squared and objective.is_plain:
            yield f"objective.{name}.tau_squared has no effect at objective.{name}.temperature=1"
    for group, nothing in (("revise", NoRevision()), ("select", AllRows())):
        if not compared and getattr(run, group) != nothing:
            yield f"{group} has no effect: no objective compares distributions"
    micro, of_rank = run.train.micro_batch_size, run.train.batch_size // run.launch.num_ranks
    if "train.micro_batch_size" in typed and micro and micro < of_rank and of_rank % micro:
        at_once = run.train.num_blocks(run.launch.num_ranks)
        yield (
            f"train.micro_batch_size={micro} is {at_once} at once: "
            f"the most up to it that divides the {of_rank} blocks of a rank"
        )
    if (num_blocks := run.eval.num_blocks) > (most := run.data.max_heldout_blocks):
        yield f"eval.num_blocks={num_blocks} has no effect above data.max_heldout_blocks={most}"
    if run.alpha.crossing and run.remap.needs_teacher:
        yield (
            "alpha=crossover finds the step for a student that begins at random, and one that is "
            "grown from its teacher is as good long before; alpha=overtake looks at the student"
        )
    if run.train.max_minutes is not None:
        yield (
            "train.max_minutes makes the learning rate follow the clock: "
            "such a run is not reproducible step for step"
        )


def repeated(words: Sequence[str]) -> Iterator[str]:
    """Yield a line for each word of a command that a later one takes back."""
    last = {word.partition("=")[0]: word for word in words}
    for word in dict.fromkeys(words):
        if (later := last[word.partition("=")[0]]) != word:
            yield f"{word} has no effect: {later} comes after it"


def _differences(setting: str, theirs: Any, ours: Data, *names: str) -> Iterator[str]:
    """Yield a line for each field of these names that is not as the text's."""
    for name in names:
        their, our = getattr(theirs, name), getattr(ours, name)
        if their != our:
            yield f"{setting}.{name}={their} and data.{name}={our}: they are one; set scale.{name}"


def _problems_together(run: Run, teacher: str) -> Iterator[str]:
    train, is_sharded = run.train, run.parallel != Ddp()
    objectives, on_features = "+".join(run.objective), bool(over_features(run.objective))
    yield from teaching.problems(run, teacher)
    if not run.objective:
        yield "objective=[]: name at least one; teacher=none or alpha=off has no soft loss"
    if train.compile is True and is_sharded:
        yield (
            "train.compile=true with parallel=fsdp: a sharded model is not compiled here; set "
            "train.compile=false, or parallel=ddp"
        )
    if train.compile is True and on_features:
        yield (
            f"train.compile=true with objective={objectives}: features are captured by hooks, "
            "which are not compiled; set train.compile=false, or compare logits alone"
        )
    if isinstance(run.remap, Ligo) and is_sharded:
        yield (
            "remap=ligo with parallel=fsdp: its maps are not sharded; choose parallel=ddp, or "
            "another remap"
        )
    yield from signals.problems(run)
    yield from _of_tuning(run, f"tuning={run.choices.get('tuning', '')}")
    try:
        train.num_parts(run.launch.num_ranks)
    except UserError as problem:
        yield str(problem)


def _of_tuning(run: Run, tuning: str) -> Iterator[str]:
    """Yield what cannot be with a student of which little is trained."""
    if not run.tuning.freezes:
        return
    is_sharded = run.parallel != Ddp()
    if not any(True for _ in run.student.checkpoints()):
        yield (
            f"{tuning} with student={run.choices.get('student', '')}: it is made fresh, and there "
            "is nothing to tune; set student=checkpoint student.path=DIR"
        )
    if run.train.compile is True:
        yield (
            f"train.compile=true with {tuning}: weights that are computed are not compiled; set "
            "train.compile=false"
        )
    if run.tuning.removes_at is not None and run.alpha.crossing:
        yield (
            f"{tuning} with alpha={run.choices.get('alpha', '')}: on its curve nothing is removed; "
            "set tuning.prune=0 tuning.heads=0, or choose another alpha"
        )
    if run.tuning.removes_at is not None and is_sharded:
        yield (
            f"{tuning} with parallel=fsdp: what is removed is found among whole matrices; set "
            "tuning.prune=0 tuning.heads=0, or parallel=ddp"
        )
