"""What can be known to go wrong before any expensive work: sizes, room, vocabularies.

`dwt_cli.config.check` checks what the settings alone say; here files are opened.
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from transformers import PreTrainedModel

from dwt_cli.base.errors import UserError
from dwt_cli.base.machine import Machine
from dwt_cli.config.check import nearest_existing
from dwt_cli.data import corpus as corpora
from dwt_cli.distill.objective.features import parts_for
from dwt_cli.models.anatomy import is_known, num_positions
from dwt_cli.models.checkpoint import located, open_config, open_model
from dwt_cli.models.flops import num_parameters
from dwt_cli.models.options import STUDENT_PATH, Checkpoint, MadeStudent
from dwt_cli.models.wrapper import LanguageModel
from dwt_cli.recipe.memory import state
from dwt_cli.recipe.recipe import Recipe
from dwt_cli.recipe.shapes import Conditions, Shapes

_CHECKPOINT_BYTES = 8  # per parameter, at least: fp32 weight and one moment


def check(
    recipe: Recipe, machine: Machine, num_ranks: int = 1, root: str = "runs", scale: str = ""
) -> None:
    """Open what is small and compare sizes; `UserError` with the first problem.

    root, scale: the settings ``run.root`` and ``scale``.
    """
    shapes, remapped = recipe.shapes, recipe.student.remap
    conditions, student = shapes.conditions, shapes.student_model
    _check_memory(shapes, machine, num_ranks, scale)
    _check_room(root, num_parameters(student))
    opened = {setting: _opened(setting, each, conditions) for setting, each in shapes.checkpoints}
    _check_tokenizers(recipe.corpus.tokenizer(), shapes.checkpoints, conditions)
    sharding = conditions.parallel.sharding(num_ranks)
    if sharding and sharding.shard_teacher:
        _check_layers_are_known(opened)
    teacher = opened.get("teacher.path", shapes.teacher_models.get("teacher"))
    if teacher is not None:
        parts_for(shapes.objectives, student.config, teacher.config)
    if remapped.needs_teacher:
        assert teacher is not None, "config.check asks for one model"
        remapped.start(student, teacher)  # shapes alone


def _check_layers_are_known(teachers: Mapping[str, PreTrainedModel]) -> None:
    for setting, teacher in teachers.items():
        if not is_known(teacher.config):
            raise UserError(
                f"parallel.shard_teacher=true with {setting}: the layers of a "
                f"{teacher.config.model_type} are not known here, by which it would be shared; set "
                "parallel.shard_teacher=false"
            )


def _check_tokenizers(
    path: str | None, opened: Sequence[tuple[str, Checkpoint]], conditions: Conditions
) -> None:
    """Check that one fits the models' vocabulary, and those of checkpoints number it alike."""
    if path is None:
        return
    roles = conditions.task.special_tokens
    vocabulary = corpora.open_tokenizer(path, roles).get_vocab()
    size = len(vocabulary)
    if size > conditions.data.vocab_size:
        raise UserError(
            f"tokenizer {path} has {size} entries, the models scale.vocab_size="
            f"{conditions.data.vocab_size}: set scale.vocab_size={size} or more"
        )
    for setting, checkpoint in opened:
        try:
            theirs = corpora.open_tokenizer(located(setting, checkpoint.path), roles).get_vocab()
        except UserError:  # it has none: that its ids mean the same cannot be seen
            continue
        differing = sum(theirs.get(entry) != number for entry, number in vocabulary.items())
        if differing:
            raise UserError(
                f"{setting}={checkpoint.path} and tokenizer {path}: {differing} of {size} entries "
                "are others or have another number, and teacher and student share one "
                "vocabulary; choose models with the same tokenizer"
            )


def _opened(setting: str, checkpoint: Checkpoint, conditions: Conditions) -> PreTrainedModel:
    named = f"{setting}={checkpoint.path}"
    vocab_size, length = conditions.data.vocab_size, conditions.data.block_length
    head = conditions.task.head
    config = open_config(setting, checkpoint, head, any_family=setting != STUDENT_PATH)
    if config.vocab_size != vocab_size:
        raise UserError(
            f"{named} has a vocabulary of {config.vocab_size}, the text one of {vocab_size}: "
            f"they must share one; set scale.vocab_size={config.vocab_size}"
        )
    if is_known(config) and (positions := num_positions(config)) < length:
        raise UserError(
            f"{named} reads {positions} positions, data.block_length={length}: set "
            f"scale.block_length={positions} or less"
        )
    model = open_model(setting, checkpoint, head)
    if not is_known(config):
        _try_out(named, model, length, vocab_size)
    return model


def _try_out(named: str, model: PreTrainedModel, length: int, vocab_size: int) -> None:
    """Ask a model whose parts are not known here once; `UserError` where it cannot answer."""
    ids_BL = torch.zeros((1, length), dtype=torch.int64)
    try:
        with torch.no_grad():
            wrapped = LanguageModel(model, torch.float32).eval()
            logits_NV = wrapped(ids_BL, torch.tensor([length - 1])).logits_NV
        reason = None if logits_NV.shape == (1, vocab_size) else f"shape {tuple(logits_NV.shape)}"
    except Exception as error:  # whatever the code of a family says to a batch it cannot read
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:80]}"
    if reason is not None:
        raise UserError(
            f"{named}, a {model.config.model_type}, does not answer a block of {length} tokens "
            f"with logits over {vocab_size} ({reason}); lower scale.block_length, or choose "
            "another model"
        )


def _check_memory(shapes: Shapes, machine: Machine, num_ranks: int, scale: str) -> None:
    needed, there = state(shapes, machine, num_ranks).total, machine.memory_bytes
    if needed > there:
        student = shapes.student
        named, remedy = f"student.path={getattr(student, 'path', '')}", "choose a smaller model"
        if isinstance(student, MadeStudent):
            named = f"scale={scale} with student.num_layers={student.num_layers}"
            remedy = "lower scale.width, scale.vocab_size or student.num_layers"
        if num_ranks > 1 and not shapes.conditions.parallel.sharding(num_ranks):
            remedy += ", or share it among the ranks with parallel=fsdp"
        raise UserError(
            f"out of memory: {named} takes {_gb(needed)} on each rank for weights, gradients and "
            f"optimiser alone, the {machine.device.type} has {_gb(there)}; {remedy}"
        )


def _check_room(root: str, parameters: int) -> None:
    needed = parameters * _CHECKPOINT_BYTES
    there = shutil.disk_usage(nearest_existing(Path(root).expanduser())).free
    if needed > there:
        raise UserError(
            f"run.root={root} has {_gb(there)} left, one checkpoint takes {_gb(needed)}; "
            "free some room, or set run.root to a folder on another disk"
        )


def _gb(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.2g} GB" if num_bytes < 1e10 else f"{num_bytes / 1e9:,.0f} GB"
