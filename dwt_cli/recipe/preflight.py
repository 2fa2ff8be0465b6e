"""What can be known to go wrong before any expensive work: sizes, room, vocabularies.

`dwt_cli.config.check` checks what the settings alone say; here files are opened.
"""

import shutil
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import torch
from transformers import PreTrainedModel

from dwt_cli.base.errors import UserError
from dwt_cli.base.machine import Machine
from dwt_cli.config.check import nearest_existing
from dwt_cli.data import corpus as corpora
from dwt_cli.data.surfaces import Surfaces
from dwt_cli.data.tokenizer import numbered_otherwise
from dwt_cli.distill.objective.base import divergences
from dwt_cli.distill.objective.chunks import over_chunks
from dwt_cli.distill.objective.features import over_features
from dwt_cli.distill.remap.vocabulary import Transfer
from dwt_cli.models.anatomy import anatomy_of, is_known, num_positions
from dwt_cli.models.checkpoint import open_config, open_model
from dwt_cli.models.flops import num_parameters, num_trained
from dwt_cli.models.options import STUDENT_PATH, Checkpoint, Head, located
from dwt_cli.models.wrapper import LanguageModel, Want
from dwt_cli.recipe.conditions import Conditions
from dwt_cli.recipe.memory import memory, state
from dwt_cli.recipe.shapes import Shapes
from dwt_cli.recipe.student import StudentStage
from dwt_cli.training.protocols import Moment

_CHECKPOINT_BYTES = 4  # of each parameter, and of one moment at least where it is trained


def check(
    student: StudentStage, machine: Machine, num_ranks: int = 1, root: str = "runs", scale: str = ""
) -> None:
    """Open what is small and compare sizes; `UserError` with the first problem.

    root, scale: the settings ``run.root`` and ``scale``.
    """
    shapes, remapped = student.shapes, student.shapes.remap
    conditions = shapes.conditions
    if conditions.task.labelled:
        size, compared = conditions.task.labelled.head.num_outputs, shapes.objectives
        over = [each.problems_over(name, size) for name, each in shapes.teachers.items()]
        over += [each.problems_over(f"objective.{name}", size) for name, each in compared.items()]
        for problem in chain.from_iterable(over):
            raise UserError(problem)
    model = shapes.student_model
    vocab_size = conditions.data.vocab_size
    for name, each in shapes.teacher_models.items():
        teacher = shapes.teachers[name]
        for problem in teacher.problems_with(name, each.config, vocab_size):
            raise UserError(problem)
    for problem in student.corpus.problems(conditions):
        raise UserError(problem)
    for name, each in shapes.teacher_models.items() if conditions.task.labelled else ():
        length = conditions.data.block_length
        most = num_positions(each.config) if is_known(each.config) else length
        if (reads := getattr(shapes.teachers[name], "window", None) or most) < length:
            raise UserError(
                f"{name}: it reads {reads} positions, scale.block_length={length}: a labelled text "
                f"is read whole; set scale.block_length={reads} or less, and no {name}.window"
            )
    _check_memory(shapes, machine, num_ranks, scale)
    is_capped = is_known(model.config) and anatomy_of(model).cap(model.config) is not None
    if is_capped and student.cached and student.cached.options.num_shared:
        raise UserError(
            f"signal.num_centroids={student.cached.options.num_shared}: the student's logits are "
            "capped, and shares of centroids need what is not; set signal.num_centroids=0"
        )
    needed = (num_parameters(model) + num_trained(model)) * _CHECKPOINT_BYTES
    there = shutil.disk_usage(nearest_existing(Path(root).expanduser())).free
    if needed > there:
        raise UserError(
            f"run.root={root} has {_gb(there)} left, one checkpoint takes {_gb(needed)}; "
            "free some room, or set run.root to a folder on another disk"
        )
    sharding = conditions.parallel.sharding(num_ranks)
    is_shared = sharding is not None and sharding.shard_teacher
    speaks = (
        bool(divergences(shapes.objectives) or over_chunks(shapes.objectives))
        or len(shapes.teachers) > 1
    )
    speaks |= remapped.needs_teacher and getattr(remapped, "head", False)
    speaks |= any(teacher.learns for teacher in shapes.teachers.values())
    speaks |= student.alpha.reacts or student.crossing is not None  # to the teacher's loss
    speaks |= bool(student.scores)
    checkpoints = [*shapes.checkpoints]
    if student.scores and student.order.scored:
        checkpoints += student.order.scored.checkpoints()
    is_frozen = shapes.tuning.freezes and not conditions.task.labelled
    rows = [
        _check_model(*each, conditions, is_shared, speaks and each[0] != STUDENT_PATH, is_frozen)
        for each in checkpoints
    ]
    alike, others = _check_tokenizers(student, checkpoints)
    for (setting, checkpoint), theirs in zip(checkpoints, rows, strict=True):
        if setting in others:
            continue
        # a teacher may have other rows if its tokenizer is known to number the text's tokens alike
        num_tokens = alike.get(setting) if setting != STUDENT_PATH else None
        if theirs != vocab_size and not (num_tokens and theirs >= num_tokens):
            raise UserError(
                f"{setting}={checkpoint.path} has a vocabulary of {theirs}, the text one of "
                f"{vocab_size}: they must share one; set scale.vocab_size={theirs}"
            )
    if student.crossing:
        student.crossing.check({})
    if (writes := student.explore.writes) and writes.moves:
        for each in shapes.teacher_models.values():
            _check_head(each, vocab_size)
    _check_windows(shapes, bool(others))
    check_together(shapes, remapped.tokens(vocab_size) if others else None)


def _check_windows(shapes: Shapes, reads_others: bool) -> None:
    """Check that what is compared can be asked for in windows. reads_others: other tokens."""
    for name, windows in shapes.windows.items():
        why = f"{name}: it reads windows of {windows.length} positions of a block"
        of_heads = {kind for kind, _ in shapes.features[1]} & {"heads"}
        if of_heads:
            compared = "+".join(over_features(shapes.objectives))
            raise UserError(
                f"objective={compared} with {why}, and relations between two are not known; "
                "choose objective=logits or hidden, or lower scale.block_length"
            )
        if over_chunks(shapes.objectives) and not reads_others:
            compared = "+".join(over_chunks(shapes.objectives))
            raise UserError(
                f"objective={compared} with {why}: choose objective=logits, which is for a "
                "teacher with the text's tokens, or lower scale.block_length"
            )


def _check_head(teacher: PreTrainedModel, vocab_size: int) -> None:
    """Check that a teacher's states can be moved before its head, which has the text's rows."""
    size, kind = teacher.config.vocab_size, teacher.config.model_type
    if not is_known(teacher.config) or size != vocab_size:
        why = f"a vocabulary of {size}, the text {vocab_size}" if is_known(teacher.config) else kind
        raise UserError(
            f"explore=perturb or ascend with such a teacher ({why}): they move the states before "
            "its head, which is not known here; choose explore=sample"
        )


def check_together(shapes: Shapes, tokens: Transfer | None = None) -> None:
    """Compare the student's shapes with its teacher's: features, and weights to start from.

    tokens: where the teacher reads others.
    """
    model, teacher = shapes.student_model, shapes.teacher_models.get("teacher")
    _ = shapes.features  # raises where they cannot be compared
    if shapes.remap.needs_teacher:
        assert teacher is not None, "config.check asks for one model"
        shapes.remap.start(model, teacher, tokens)  # shapes alone


def _check_tokenizers(
    student: StudentStage, checkpoints: Sequence[tuple[str, Checkpoint]]
) -> tuple[dict[str, int], set[str]]:
    """Check that the text's fits the models' vocabulary, and that teachers with others may teach.

    Returns its number of entries by the setting of each checkpoint that numbers them alike, and
    the settings of teachers that read other tokens.
    """
    path, conditions = student.corpus.tokenizer(), student.shapes.conditions
    roles, ours = conditions.task.special_tokens, {}
    alike: dict[str, int] = {}
    others: set[str] = set()
    if path is not None:
        ours = corpora.open_tokenizer(path, roles).get_vocab()
        if len(ours) > conditions.data.vocab_size:
            raise UserError(
                f"tokenizer {path} has {len(ours)} entries, the models scale.vocab_size="
                f"{conditions.data.vocab_size}: set scale.vocab_size={len(ours)} or more"
            )
    elif conditions.data.tokenizer is None:
        return alike, others
    for setting, checkpoint in checkpoints:
        named = f"{setting}={checkpoint.path}"
        try:
            opened = corpora.open_tokenizer(located(setting, checkpoint.path), roles)
        except UserError:  # it has none: that its ids mean the same cannot be seen
            if path is None:
                raise
            continue
        if path is None:
            why = f"data.tokenizer={conditions.data.tokenizer} with {named}: it reads other tokens"
        elif differing := numbered_otherwise(ours, theirs := opened.get_vocab()):
            first = min(differing)
            there = next((entry for entry, number in theirs.items() if number == first), None)
            why = (
                f"{named} and tokenizer {path}: {len(differing)} of {len(ours)} "
                f"entries are others or have another number (id {first} is {differing[first]!r}, "
                f"and {there!r} among its {len(theirs)})"
            )
        else:
            alike[setting] = len(ours)
            continue
        for problem in _problems_between_tokens(student, setting):
            raise UserError(f"{why}, and {problem}, or choose models with the same tokenizer")
        Surfaces(opened, named)  # raises where what they stand for is not known
        others.add(setting)
    return alike, others


def _problems_between_tokens(student: StudentStage, setting: str) -> Iterator[str]:
    """Yield what cannot be with a model that reads other tokens, each with a remedy."""
    if student.corpus.task.labelled:
        yield "a text is in one model's tokens; choose a teacher of the student's family"
    remapped, alpha = student.shapes.remap, student.alpha
    if setting == STUDENT_PATH:
        yield "a student has the text's; leave data.tokenizer out"
    if student.scores:
        yield "its losses are compared token by token; choose order=all or random"
    if setting != "teacher.path":
        yield "several teachers share one vocabulary; choose teacher=checkpoint"
    if remapped.shares_rows:
        yield "a row of embeddings is of one token; set remap.vocabulary=transfer"
    if alpha.reacts or student.crossing:
        yield "what this alpha looks at is a loss per token; choose another alpha"
    deaf = [name for name, each in student.shapes.objectives.items() if not each.across]
    if deaf and not alpha.soft_is_over(Moment(0.0)):
        is_causal = student.corpus.task.head is Head.causal
        others = "objective=alm, hidden" if is_causal else "objective=hidden"
        yield f"objective={'+'.join(deaf)} compares token by token; choose {others} or alpha=off"


def _check_model(
    setting: str,
    checkpoint: Checkpoint,
    conditions: Conditions,
    is_shared: bool,
    needs_head: bool,
    is_frozen: bool,
) -> int:
    """Check that a model reads the blocks; return its rows.

    is_shared: among the ranks. needs_head: its logits count, or their weights. is_frozen: the
    student's head is.
    """
    named = f"{setting}={checkpoint.path}"
    length, head = checkpoint.reads(conditions.data.block_length), conditions.task.head
    config = open_config(setting, checkpoint, head, any_family=setting != STUDENT_PATH)
    is_whole = setting == STUDENT_PATH or conditions.task.labelled
    if is_whole and is_known(config) and (positions := num_positions(config)) < length:
        raise UserError(
            f"{named} reads {positions} positions, data.block_length={length}: set "
            f"scale.block_length={positions} or less"
        )
    model, fresh = open_model(setting, checkpoint, head, needs_head=needs_head)
    if fresh and is_frozen and setting == STUDENT_PATH:
        raise UserError(
            f"{named} lacks the weights {', '.join(fresh[:3])}, and the tuning trains no such; "
            "choose tuning=full, or a model that was saved with its head"
        )
    if not is_known(config):
        if is_shared:
            raise UserError(
                f"parallel.shard_teacher=true with {setting}: the layers of a {config.model_type} "
                "are not known here, by which it would be shared; set parallel.shard_teacher=false"
            )
        _try_out(named, model, length, getattr(conditions.task, "separate_documents", False))
    return model.config.vocab_size


def _try_out(named: str, model: PreTrainedModel, length: int, apart: bool) -> None:
    """Ask a model whose parts are not known here once; `UserError` where it cannot answer.

    apart: it is to keep documents apart.
    """
    vocab_size, place_L = model.config.vocab_size, torch.arange(length)
    documents_L = 2 * place_L // length
    ids_BL = torch.stack([0 * place_L, 1 - documents_L])  # the first document is another
    want = Want(documents_BL=documents_L.expand(2, -1) if apart else None)
    try:
        with torch.no_grad():
            wrapped = LanguageModel(model, torch.float32).eval()
            logits_NV = wrapped(ids_BL, torch.tensor([length - 1, 2 * length - 1]), want).logits_NV
        reason = None if logits_NV.shape == (2, vocab_size) else f"shape {tuple(logits_NV.shape)}"
        if apart and not torch.allclose(logits_NV[0], logits_NV[1], 1e-5, 1e-5):
            reason = "task.separate_documents=true: it sees one document from another"
    except Exception as error:  # whatever the code of a family says to a batch it cannot read
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:80]}"
    if reason is not None:
        raise UserError(
            f"{named}, a {model.config.model_type}, does not answer a block of {length} tokens "
            f"with logits over {vocab_size} ({reason}); lower scale.block_length, set "
            "teacher.window to what it reads, or choose another model"
        )


def _check_memory(shapes: Shapes, machine: Machine, num_ranks: int, scale: str) -> None:
    least, there = state(shapes, machine, num_ranks).total, machine.memory_bytes
    if least > there:
        if opened := dict(shapes.checkpoints).get(STUDENT_PATH):
            named, remedy = f"{STUDENT_PATH}={opened.path}", "choose a smaller model"
        else:
            depth = shapes.student_model.config.num_hidden_layers
            named = f"scale={scale} with student.num_layers={depth}"
            remedy = "lower scale.width, scale.vocab_size or student.num_layers"
        if num_ranks > 1 and not shapes.conditions.parallel.sharding(num_ranks):
            remedy += ", or share it among the ranks with parallel=fsdp"
        raise UserError(
            f"out of memory: {named} takes {_gb(least)} on each rank for weights, gradients and "
            f"optimiser alone, the {machine.device.type} has {_gb(there)}; {remedy}"
        )
    train = shapes.conditions.train
    num_blocks = train.num_blocks(num_ranks)
    # a token takes less room than the weights do: the smallest batches need no account
    if least * (1 + num_blocks * shapes.conditions.data.block_length) <= there:
        return
    needed = memory(shapes, machine, num_ranks).total
    if needed > there:
        remedy, fits = "choose a smaller scale", (there - least) * num_blocks // (needed - least)
        if fits:
            remedy = f"set train.micro_batch_size={fits} (the result stays the same, to rounding)"
        raise UserError(
            f"out of memory: train.batch_size={train.batch_size} takes {_gb(needed)} on each rank "
            f"with {num_blocks} sequences at a time, the {machine.device.type} has {_gb(there)}; "
            f"{remedy}"
        )


def _gb(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.2g} GB" if num_bytes < 1e10 else f"{num_bytes / 1e9:,.0f} GB"
