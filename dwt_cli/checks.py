"""What can be known to go wrong before any expensive work: sizes, room, vocabularies.

`dwt_cli.config` checks what the settings alone say; here files are opened and models outlined.
"""

import shutil
from pathlib import Path

from transformers import PreTrainedModel

from dwt_cli.config import CheckpointTeacher, FromTeacher, MadeTeacher, Run
from dwt_cli.corpus import corpus as corpora
from dwt_cli.errors import UserError
from dwt_cli.machine import Machine
from dwt_cli.models.anatomy import num_positions
from dwt_cli.models.flops import num_parameters
from dwt_cli.models.making import outline
from dwt_cli.models.opening import located, open_config, open_model
from dwt_cli.objective.inside import inside_objectives
from dwt_cli.places import nearest_existing
from dwt_cli.remap.remapping import remap

_TRAINING_BYTES = 12  # per parameter, at least: fp32 weight, gradient and one moment
_CHECKPOINT_BYTES = 8  # per parameter, at least: fp32 weight and one moment


def check(run: Run, machine: Machine) -> None:
    """Open what is small and compare sizes; `UserError` with the first problem."""
    student = outline(run.student)
    _check_memory(run, machine, num_parameters(student))
    _check_room(run, num_parameters(student))
    teacher = None
    if isinstance(run.teacher, CheckpointTeacher):
        teacher = _opened(run.teacher, run)
    elif isinstance(run.teacher, MadeTeacher):
        teacher = outline(run.teacher)
    _check_tokenizer(run)
    if teacher is not None:
        inside_objectives(run.objective, student.config, teacher.config)
    if isinstance(run.remap, FromTeacher):
        assert teacher is not None, "config.check asks for a teacher"
        remap(student, teacher, run.remap)  # shapes alone


def tokenizer_path(run: Run) -> str | None:
    """The tokenizer that is opened: the one that is set, or the checkpoint's; None trains one."""
    if run.data.tokenizer is not None:
        return located("data.tokenizer", run.data.tokenizer)
    if isinstance(run.teacher, CheckpointTeacher):
        return located("teacher.path", run.teacher.path)
    return None


def _check_tokenizer(run: Run) -> None:
    path = tokenizer_path(run)
    if path is None:
        return
    size = len(corpora.open_tokenizer(path))
    if size > run.data.vocab_size:
        raise UserError(
            f"tokenizer {path} has {size} entries, the models scale.vocab_size="
            f"{run.data.vocab_size}: set scale.vocab_size={size} or more"
        )


def _opened(teacher: CheckpointTeacher, run: Run) -> PreTrainedModel:
    theirs = open_config(teacher)
    if theirs.vocab_size != run.student.vocab_size:
        raise UserError(
            f"teacher.path={teacher.path} has a vocabulary of {theirs.vocab_size}, the "
            f"student one of {run.student.vocab_size}: they must share one; set "
            f"scale.vocab_size={theirs.vocab_size}"
        )
    positions = num_positions(theirs)
    if positions < run.data.block_length:
        raise UserError(
            f"teacher.path={teacher.path} reads {positions} positions, "
            f"data.block_length={run.data.block_length}: set scale.block_length="
            f"{positions} or less"
        )
    return open_model(teacher)


def _check_memory(run: Run, machine: Machine, parameters: int) -> None:
    needed, there = parameters * _TRAINING_BYTES, machine.memory_bytes()
    if needed > there:
        raise UserError(
            f"out of memory: scale={run.choices.get('scale', '')} with student.num_layers="
            f"{run.student.num_layers} takes {_gb(needed)} for weights, gradients and "
            f"optimiser alone, the {machine.device.type} has {_gb(there)}; lower "
            "scale.width, scale.vocab_size or student.num_layers"
        )


def _check_room(run: Run, parameters: int) -> None:
    root = run.run.root
    needed = parameters * _CHECKPOINT_BYTES
    there = shutil.disk_usage(nearest_existing(Path(root).expanduser())).free
    if needed > there:
        raise UserError(
            f"run.root={root} has {_gb(there)} left, one checkpoint takes {_gb(needed)}; "
            "free some room, or set run.root to a folder on another disk"
        )


def _gb(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.2g} GB" if num_bytes < 1e10 else f"{num_bytes / 1e9:,.0f} GB"
