"""A batch of which a share is written by the teacher; see `.explore`.

Legend: B blocks, L positions, T target rows of a block, N of all blocks, V vocabulary.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dwt_cli.base.randomness import seed_for
from dwt_cli.distill.alpha import Weights
from dwt_cli.distill.explore import Rows, Writes
from dwt_cli.distill.objective.fused import Comparison, DistillationSums, Sums
from dwt_cli.distill.teacher.signal import TeacherSignal
from dwt_cli.distill.teacher.targets import SoftTargets
from dwt_cli.models.wrapper import OutputLayer, Want
from dwt_cli.tasks.task import Batch, Place, Targets


@dataclass(frozen=True)
class Writing:
    """A teacher at work on batches. ratio: of a block's target rows that it writes.

    allowed_V: bool, the tokens that may be written: ordinary ones. All that is drawn follows from
    the seed and a block's place, and the tokens from the teacher's answer, to rounding.
    """

    options: Writes
    targets: Targets
    allowed_V: Tensor
    ratio: float
    seed: int

    @torch.no_grad()
    def __call__(
        self, batch: Batch, signal: TeacherSignal, student: nn.Module
    ) -> tuple[Batch, Batch]:
        """Return the batch with its written blocks last, and that without them."""
        samples = batch.places_B3[:, 2].tolist()
        written = [number for number, each in enumerate(samples) if self.options.is_written(each)]
        real = batch.taken(sorted(set(range(len(samples))) - set(written)))
        if not written:
            return batch, batch
        blocks_BL, places = self._blocks(batch.taken(written), signal, student)
        seed = seed_for(self.seed, "explore", "targets")
        anew = self.targets.batch(blocks_BL.cpu().numpy(), seed, places)
        return real.joined(anew.to(batch.ids_BL.device)), real

    def _blocks(
        self, batch: Batch, signal: TeacherSignal, student: nn.Module
    ) -> tuple[Tensor, list[Place]]:
        """Return blocks (B, L) with what the teacher has written, and their places."""
        answer = signal(batch).targets
        logits_NV = None
        if self.options.asks_student:
            want = Want(False, loss=_logits, documents_BL=batch.documents_BL)
            logits_NV = student(*batch.inputs, want).loss
        places = [Place(*each) for each in batch.places_B3.tolist()]
        allowed_V = self.allowed_V.to(batch.ids_BL.device)
        labels_BT = batch.labels_N.view(len(places), -1)
        tokens = []
        for number, (place, labels_T) in enumerate(zip(places, labels_BT, strict=True)):
            rows = slice(number * len(labels_T), (number + 1) * len(labels_T))
            draws = place.generator(seed_for(self.seed, "explore", "draws"))
            takes_T = torch.from_numpy(draws.random(len(labels_T)) < self.ratio)
            takes_T = takes_T.to(labels_T.device) & allowed_V[labels_T]  # no mark of a document
            student_TV = None if logits_NV is None else logits_NV[rows]
            read_T = self.options.read(Rows(answer.rows(rows), draws, allowed_V, student_TV))
            tokens.append(torch.where(takes_T, read_T, labels_T))
        return self.targets.written(batch, torch.cat(tokens)), places


class PartlyWritten:
    """Eq. 3 over the first ``num_real`` rows, which have labels, and the soft loss over the rest.

    On what the teacher has written every row counts, and its targets as they are.
    """

    def __init__(
        self,
        targets: SoftTargets | None,
        labels_N: Tensor,
        weights: Weights,
        comparison: Comparison,
        num_real: int,
        *,
        compiled: bool,
    ) -> None:
        assert targets is not None, "a teacher has written them"
        self._real, self._written = slice(num_real), slice(num_real, None)
        alone = Comparison(comparison.objectives, progress=comparison.progress)
        self._of_real, self._of_written = (
            DistillationSums(targets.rows(rows), labels_N[rows], *how, compiled=compiled)
            for rows, how in (
                (self._real, (weights, comparison)),
                (self._written, (Weights(0.0, weights.soft), alone)),
            )
        )

    def __call__(self, states_ND: Tensor, head: OutputLayer | None = None) -> Sums:
        """Return the sums of the student with these states and this head."""
        real = self._of_real(states_ND[self._real], head)
        written = self._of_written(states_ND[self._written], head)
        soft = {name: value + written.soft[name] for name, value in real.soft.items()}
        return real._replace(total=real.total + written.total, soft=soft)


def _logits(states_ND: Tensor, head: OutputLayer | None) -> Tensor:
    """Return the student's logits in fp32, while its head is whole."""
    return (states_ND if head is None else head(states_ND)).float()
