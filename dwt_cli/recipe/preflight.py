"""What can be known to go wrong before any expensive work: sizes, room, vocabularies.

`dwt_cli.config.check` checks what the settings alone say; here files are opened.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from transformers import PreTrainedModel

from dwt_cli.base.errors import UserError
from dwt_cli.base.machine import Machine
from dwt_cli.config.places import nearest_existing
from dwt_cli.config.run import Run, checkpoints
from dwt_cli.data import corpus as corpora
from dwt_cli.distill.objective.features import inside_objectives
from dwt_cli.distill.remap.options import FromTeacher
from dwt_cli.distill.remap.remap import remap
from dwt_cli.distill.teacher.options import MadeTeacher
from dwt_cli.models.anatomy import is_known, num_positions
from dwt_cli.models.checkpoint import located, open_config, open_model
from dwt_cli.models.flops import num_parameters
from dwt_cli.models.making import outline
from dwt_cli.models.options import Checkpoint, MadeStudent
from dwt_cli.models.wrapper import MaskedLM
from dwt_cli.recipe.memory import state
from dwt_cli.recipe.shapes import student_outline
from dwt_cli.training.options import Fsdp

_CHECKPOINT_BYTES = 8  # per parameter, at least: fp32 weight and one moment


def check(run: Run, machine: Machine, num_ranks: int = 1) -> None:
    """Open what is small and compare sizes; `UserError` with the first problem."""
    student = student_outline(run)
    _check_memory(run, machine, num_ranks)
    _check_room(run, num_parameters(student))
    opened = {setting: _opened(setting, each, run) for setting, each in checkpoints(run)}
    _check_tokenizers(run)
    if num_ranks > 1 and isinstance(run.parallel, Fsdp) and run.parallel.shard_teacher:
        _check_layers_are_known(opened)
    teacher = opened.get("teacher.path")
    if isinstance(run.teacher, MadeTeacher):
        teacher = outline(run.teacher)
    if teacher is not None:
        inside_objectives(run.objective, student.config, teacher.config)
    if isinstance(run.remap, FromTeacher):
        assert teacher is not None, "problems.check asks for one model"
        remap(student, teacher, run.remap)  # shapes alone


def _check_layers_are_known(teachers: Mapping[str, PreTrainedModel]) -> None:
    for setting, teacher in teachers.items():
        if not is_known(teacher.config):
            raise UserError(
                f"parallel.shard_teacher=true with {setting}: the layers of a "
                f"{teacher.config.model_type} are not known here, by which it would be shared; set "
                "parallel.shard_teacher=false"
            )


def tokenizer_path(run: Run) -> str | None:
    """The tokenizer that is opened: the one that is set, or a checkpoint's; None trains one."""
    if run.data.tokenizer is not None:
        return located("data.tokenizer", run.data.tokenizer)
    for setting, checkpoint in checkpoints(run):
        return located(setting, checkpoint.path)
    return None


def _check_tokenizers(run: Run) -> None:
    """One fits the models' vocabulary; those of checkpoints number its entries as it does."""
    path = tokenizer_path(run)
    if path is None:
        return
    vocabulary = corpora.open_tokenizer(path, run.task.special_tokens).get_vocab()
    size = len(vocabulary)
    if size > run.data.vocab_size:
        raise UserError(
            f"tokenizer {path} has {size} entries, the models scale.vocab_size="
            f"{run.data.vocab_size}: set scale.vocab_size={size} or more"
        )
    for setting, checkpoint in checkpoints(run):
        try:
            theirs = corpora.open_tokenizer(
                located(setting, checkpoint.path), run.task.special_tokens
            ).get_vocab()
        except UserError:  # it has none: that its ids mean the same cannot be seen
            continue
        differing = sum(theirs.get(entry) != number for entry, number in vocabulary.items())
        if differing:
            raise UserError(
                f"{setting}={checkpoint.path} and tokenizer {path}: {differing} of {size} entries "
                "are others or have another number, and teacher and student share one "
                "vocabulary; choose models with the same tokenizer"
            )


def _opened(setting: str, checkpoint: Checkpoint, run: Run) -> PreTrainedModel:
    said = f"{setting}={checkpoint.path}"
    config = open_config(setting, checkpoint, any_family=setting != "student.path")
    if config.vocab_size != run.data.vocab_size:
        raise UserError(
            f"{said} has a vocabulary of {config.vocab_size}, the text one of "
            f"{run.data.vocab_size}: they must share one; set "
            f"scale.vocab_size={config.vocab_size}"
        )
    if is_known(config) and (positions := num_positions(config)) < run.data.block_length:
        raise UserError(
            f"{said} reads {positions} positions, "
            f"data.block_length={run.data.block_length}: set scale.block_length="
            f"{positions} or less"
        )
    model = open_model(setting, checkpoint)
    if not is_known(config):
        _try_out(said, model, run)
    return model


def _try_out(said: str, model: PreTrainedModel, run: Run) -> None:
    """A family whose parts are not known here is asked once."""
    length, vocab_size = run.data.block_length, run.data.vocab_size
    ids_BL = torch.zeros((1, length), dtype=torch.int64)
    try:
        with torch.no_grad():
            logits_NV = MaskedLM(model, torch.float32).eval()(ids_BL, torch.tensor([length - 1]))
        reason = None if logits_NV.shape == (1, vocab_size) else f"shape {tuple(logits_NV.shape)}"
    except Exception as error:  # whatever the code of a family says to a batch it cannot read
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:80]}"
    if reason is not None:
        raise UserError(
            f"{said}, a {model.config.model_type}, does not answer a block of {length} tokens "
            f"with logits over {vocab_size} ({reason}); lower scale.block_length, or choose "
            "another model"
        )


def _check_memory(run: Run, machine: Machine, num_ranks: int) -> None:
    needed, there = state(run, machine, num_ranks).total, machine.memory_bytes
    if needed > there:
        said, remedy = f"student.path={getattr(run.student, 'path', '')}", "choose a smaller model"
        if isinstance(run.student, MadeStudent):
            said = (
                f"scale={run.choices.get('scale', '')} with student.num_layers="
                f"{run.student.num_layers}"
            )
            remedy = "lower scale.width, scale.vocab_size or student.num_layers"
        if num_ranks > 1 and not isinstance(run.parallel, Fsdp):
            remedy += ", or share it among the ranks with parallel=fsdp"
        raise UserError(
            f"out of memory: {said} takes {_gb(needed)} on each rank for weights, gradients and "
            f"optimiser alone, the {machine.device.type} has {_gb(there)}; {remedy}"
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
