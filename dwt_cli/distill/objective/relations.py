"""Relations between positions inside one layer: MiniLM and MiniLMv2.

Only the chosen layer's queries, keys and values are looked at. Losses are means over blocks,
heads and positions, in nats. Legend: B blocks, L positions, H heads, E width of a head,
R relation heads, F width of a relation head.
"""

from torch import Tensor, nn

from dwt_cli.distill.objective.options import MiniLM, MiniLMv2
from dwt_cli.models.features import Features, Heads


class MiniLMRelations(nn.Module):
    """KL of the attention distributions plus KL of the value relations (arXiv 2002.10957, 3.1-3.2).

    The heads are compared one by one, so there are equally many on both sides.
    """

    def __init__(self, options: MiniLM) -> None:
        super().__init__()
        self._options = options
        self.student = Features(heads_layers=frozenset({options.student_layer}))
        self.teacher = Features(heads_layers=frozenset({options.teacher_layer}))

    def forward(self, student: Features, teacher: Features) -> Tensor:
        ours = student.heads[self._options.student_layer]
        theirs = teacher.heads[self._options.teacher_layer]
        attention = _kl(
            _relation(theirs.queries_BHLE, theirs.keys_BHLE),
            _relation(ours.queries_BHLE, ours.keys_BHLE),
        )
        values = _kl(
            _relation(theirs.values_BHLE, theirs.values_BHLE),
            _relation(ours.values_BHLE, ours.values_BHLE),
        )
        return attention + values


class MiniLMv2Relations(nn.Module):
    """Mean KL of the q-q, k-k and v-v relations (arXiv 2012.15828, section 3).

    Heads are joined and cut anew into relation heads, so head counts and widths may differ.
    """

    def __init__(self, options: MiniLMv2, num_relation_heads: int) -> None:
        super().__init__()
        self._options, self._num_heads = options, num_relation_heads
        self.student = Features(heads_layers=frozenset({options.student_layer}))
        self.teacher = Features(heads_layers=frozenset({options.teacher_layer}))

    def forward(self, student: Features, teacher: Features) -> Tensor:
        ours: Heads = student.heads[self._options.student_layer]
        theirs: Heads = teacher.heads[self._options.teacher_layer]
        losses = [
            _kl(_relation(t_BRLF, t_BRLF), _relation(s_BRLF, s_BRLF))
            for s_BRLF, t_BRLF in zip(map(self._cut, ours), map(self._cut, theirs), strict=True)
        ]
        return sum(losses[1:], losses[0]) / len(losses)

    def _cut(self, part_BHLE: Tensor) -> Tensor:
        joined_BLD = part_BHLE.transpose(1, 2).flatten(2)
        return joined_BLD.unflatten(-1, (self._num_heads, -1)).transpose(1, 2)


def _relation(left_BHLE: Tensor, right_BHLE: Tensor) -> Tensor:
    """Log-softmax of the scaled products of positions, (B, H, L, L), fp32."""
    left_BHLE, right_BHLE = left_BHLE.float(), right_BHLE.float()
    products = left_BHLE @ right_BHLE.transpose(-1, -2) / left_BHLE.shape[-1] ** 0.5
    return products.log_softmax(-1)


def _kl(teacher: Tensor, student: Tensor) -> Tensor:
    """KL(teacher || student) of log-probabilities over the last axis, mean over the others."""
    return (teacher.exp() * (teacher - student)).sum(-1).mean()
