"""The stage of a model's losses on every block of the text, by which blocks are chosen.

They belong to a model, a text and its masks, whoever asks: runs of all seeds, batch sizes and
numbers of ranks find them in the cache.

Legend: B blocks of the text, N target rows of some of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dwt_cli.base import atomic
from dwt_cli.base.identity import plain
from dwt_cli.base.randomness import generator, seed_for
from dwt_cli.recipe.stage import Context, Done, Stage
from dwt_cli.recipe.teacher import Prepared, TeacherStage, recorded, teacher_stage
from dwt_cli.track.summary import Facts

if TYPE_CHECKING:
    from torch import Tensor

    from dwt_cli.data.corpus import Corpus
    from dwt_cli.distill.order import Numbers
    from dwt_cli.distill.teacher.targets import SoftTargets
    from dwt_cli.recipe.student import StudentStage

_VERSION = 1  # raise it when the same would give other losses
_TOKENS = 2048  # of the blocks that are read at once: not a batch's, or sums are rounded otherwise
_ROWS = 256  # whose tables over the vocabulary are there at a time
_SAVED_EVERY = 200  # times that all ranks have read some
_LOSSES, _BEGUN = "losses.npy", "begun"


@dataclass(frozen=True)
class ScoresStage(Stage):
    """A model's losses (B, 2), fp64, in nats; they are its artifact, see `Chosen.choose`.

    model: the stage of who reads the text; it is carried out if nobody has asked for it before.
    """

    kind, word = "scores", "scores"
    name: str
    model: TeacherStage
    num_patterns: int
    student: StudentStage

    @property
    def parts(self) -> dict[str, Any]:
        of = self.model.conditions
        return {
            "version": _VERSION,
            "text": self.model.corpus.identity,
            "task": of.task,
            "model": self.model.options.frozen("window", "overlap"),
            "models": self.model.identities,
            "vocab_size": of.data.vocab_size,
            "precision": of.train.precision,
            "num_patterns": self.num_patterns,
        }

    @cached_property
    def block_flops(self) -> float:
        """The FLOPs of reading a block once."""
        from dwt_cli.models.making import outline

        of, shapes = self.model.conditions, self.student.shapes
        if self.model is self.student.teacher:
            flops: float = sum(map(shapes.answer_flops, shapes.teacher_models))
        else:
            config = self.model.options.config("teacher", of.task.head)
            assert config is not None, "a model reads the text"
            flops = of.step_flops(outline(config, of.task.head))
        return flops * self.num_patterns / of.train.batch_size

    def cost(self, done: Mapping[str, Any]) -> float | None:
        """Return the FLOPs of reading all of the text."""
        tokens = num_tokens(self.student, done)
        length = self.model.conditions.data.block_length
        return None if tokens is None else tokens // length * self.block_flops

    def carry_out(self, done: Done, at: Context) -> Numbers:
        """Return the losses, found or made by all ranks together."""
        about = {"options": plain(self.model.options)}
        place = at.trained(self, lambda folder: self._read(folder, done, at), about)
        losses: Numbers = np.load(place / _LOSSES)
        at.show.update(self.name, 1.0, f"{len(losses):,} blocks, {losses[:, 0].mean():.3f} nats")
        return losses

    def _read(self, folder: Path, done: Done, at: Context) -> Facts:
        import torch

        done = dict(done)  # who is made for this alone is gone after it
        for stage in (*self.model.members, self.model):
            if stage.name not in done:
                done[stage.name] = stage.carry_out(done, at)
        model: Prepared = done[self.model.name]
        assert model.tokens is None, "the text's stage has refused a model that reads others"
        of, ranks, blocks = self.model.conditions, at.ranks, done[self.model.corpus.name].train
        size = max(1, _TOKENS // of.data.block_length)
        starts = range(0, len(blocks), size)
        found, begun = torch.zeros(len(blocks), 2, dtype=torch.float64), folder / _BEGUN
        num_read = ranks.from_first("the scores so far", lambda: _take_up(begun, found))
        for first in range(num_read, len(starts), ranks.size):
            # all are asked together, as sharded ones must be: who has run out reads the first again
            counts = first + ranks.rank < len(starts)
            start = starts[first + ranks.rank if counts else 0]
            numbers = range(start, min(start + size, len(blocks)))
            losses = [self._losses(numbers, pattern, model, done, at) for pattern in self._patterns]
            if counts:
                each = (np.concatenate(of_block) for of_block in zip(*losses, strict=True))
                table = [(own.mean(), np.median(own)) for own in each]
                found[numbers.start : numbers.stop] = torch.tensor(table)
            at.show.update(self.name, first / len(starts), "scoring the text")
            if (first - num_read) // ranks.size % _SAVED_EVERY == _SAVED_EVERY - 1:
                so_far = ranks.sum(found.clone())
                if ranks.is_first:
                    read = np.array([first + ranks.size], np.float64)
                    atomic.write_summed(begun, read.tobytes() + so_far.numpy().tobytes())
        found = ranks.sum(found)
        if ranks.is_first:
            np.save(folder / _LOSSES, found.numpy())
            begun.unlink(missing_ok=True)
        flops = len(blocks) * self.block_flops
        return Facts(model.facts.parameters, model.facts.heldout, flops=flops)

    @property
    def _patterns(self) -> range:
        return range(self.num_patterns)

    def _losses(
        self, numbers: range, pattern: int, model: Prepared, done: Done, at: Context
    ) -> list[Numbers]:
        """Return the losses of a model on each target of some blocks, block by block."""
        import torch

        from dwt_cli.tasks.task import Place

        corpus = done[self.model.corpus.name]
        targets = self.model.conditions.task.targets(corpus.tokenizer)
        places = [Place(number, pattern, number) for number in numbers]
        seed = seed_for("order", "targets")
        batch = targets.batch(corpus.train[np.array(numbers)], seed, places).to(at.machine.device)
        with torch.no_grad():  # of a teacher, too, that will learn
            answer, labels_N = model.signal(batch).targets, batch.labels_N
        losses_N = np.concatenate(
            [each.double().cpu().numpy() for each in _cross_entropies(answer, labels_N)]
        )
        blocks_N = (batch.rows_N // batch.ids_BL.shape[1]).cpu().numpy()
        ends = np.bincount(blocks_N, minlength=len(numbers)).cumsum()[:-1]
        return np.split(losses_N, ends)


def _take_up(begun: Path, found: Tensor) -> int:
    """Write the losses of an earlier start into ``found``; return how many parts had been read."""
    so_far = np.frombuffer(atomic.read_summed(begun) or b"")
    if len(so_far) != 1 + found.numel():
        return 0
    found.numpy()[:] = so_far[1:].reshape(found.shape)
    return int(so_far[0])


def _cross_entropies(answer: SoftTargets, labels_N: Tensor) -> Iterator[Tensor]:
    """Yield those of answers with the labels, a few rows at a time."""
    import torch
    from torch.nn import functional as F

    with torch.no_grad():
        for start in range(0, len(labels_N), _ROWS):
            rows = slice(start, start + _ROWS)
            yield F.cross_entropy(answer.dense(rows).float(), labels_N[rows], reduction="none")


def scores_for(student: StudentStage) -> list[ScoresStage]:
    """Return the stages of the losses by which a student's blocks are chosen."""
    scored, teacher = student.order.scored, student.teacher
    if not (scored and teacher):
        return []
    found = [ScoresStage("scores", teacher, scored.num_patterns, student)]
    if reference := scored.reference_to(teacher.options):
        made = teacher_stage(reference, student.corpus, student.shapes.conditions)
        assert made is not None
        model = replace(made, name="reference")
        found.append(ScoresStage("reference", model, scored.num_patterns, student))
    return found


def num_tokens(student: StudentStage, done: Mapping[str, Any]) -> int | None:
    """Return the length of a student's text; None while it is not known."""
    corpus = done.get(student.corpus.name)
    return corpus.report["train_tokens"] if corpus else student.train_tokens


def text_for(student: StudentStage, done: Mapping[str, Any]) -> Corpus:
    """Return the text with the blocks that a student reads: all, if nobody chooses among them."""
    return _parted(student, done)[0]


def probe_for(student: StudentStage, done: Mapping[str, Any]) -> Corpus:
    """Return the text with the blocks that are set apart, for what a policy looks at."""
    return _parted(student, done)[1]


def _parted(student: StudentStage, done: Mapping[str, Any]) -> tuple[Corpus, Corpus]:
    corpus: Corpus = done[student.corpus.name]
    chosen, mixture = student.order.chosen, student.shapes.mixture
    num_probe = mixture.num_probe if mixture else 0
    if not (student.teacher and (chosen or num_probe)):
        return corpus, corpus
    blocks = corpus.train
    if chosen:
        losses = [done[stage.name] for stage in student.scores]
        blocks = blocks.part(chosen.choose(losses, len(blocks), student.seed))
    drawn = generator(seed_for("order", "probe")).permutation(len(blocks))
    read, apart = np.sort(drawn[num_probe:]), np.sort(drawn[:num_probe])
    return replace(corpus, train=blocks.part(read)), replace(corpus, train=blocks.part(apart))


def account_of(
    student: StudentStage, corpus: Corpus, done: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Return what is known of a text that is read in part; None: all is. corpus: of `text_for`."""
    whole: Corpus = done[student.corpus.name]
    if corpus is whole:
        return None
    flops = sum(stage.cost(done) or 0.0 for stage in student.scores)
    account: dict[str, Any] = {"blocks": len(whole.train), "chosen": len(corpus.train)}
    account["flops"] = flops
    if student.order.scored:  # an earlier teacher is a part of the teacher's own pre-training
        for _, reference in student.order.scored.checkpoints():
            account["reference_flops"] = recorded(reference.path).get("flops")
    return account
