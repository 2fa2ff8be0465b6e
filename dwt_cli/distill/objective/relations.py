"""Relations between positions inside one layer: MiniLM and MiniLMv2.

Losses are means over blocks, heads and positions, in nats. Legend: B blocks, L positions, H heads,
E width of a head, R relation heads, F width of a relation head.
"""

from torch import Tensor

from dwt_cli.distill.objective.feature_losses import FeatureLoss
from dwt_cli.models.features import Features, FeatureSpec, Heads


class _Relations(FeatureLoss):
    """Compares queries, keys and values of one layer of each model."""

    def __init__(self, student_layer: int, teacher_layer: int) -> None:
        super().__init__(
            FeatureSpec(heads_layers=frozenset({student_layer})),
            FeatureSpec(heads_layers=frozenset({teacher_layer})),
        )
        self._layers = student_layer, teacher_layer

    def forward(self, student: Features, teacher: Features) -> Tensor:
        student_layer, teacher_layer = self._layers
        return self._compare(student.heads[student_layer], teacher.heads[teacher_layer])

    def _compare(self, student: Heads, teacher: Heads) -> Tensor:
        raise NotImplementedError


class MiniLMRelations(_Relations):
    """KL of the attention distributions plus KL of the value relations (arXiv 2002.10957, 3.1-3.2).

    The heads are compared one by one, so there are equally many on both sides.
    """

    def _compare(self, student: Heads, teacher: Heads) -> Tensor:
        attention = _kl(
            _relation(teacher.queries_BHLE, teacher.keys_BHLE),
            _relation(student.queries_BHLE, student.keys_BHLE),
        )
        values = _kl(
            _relation(teacher.values_BHLE, teacher.values_BHLE),
            _relation(student.values_BHLE, student.values_BHLE),
        )
        return attention + values


class MiniLMv2Relations(_Relations):
    """Mean KL of the q-q, k-k and v-v relations (arXiv 2012.15828, section 3).

    Heads are joined and cut anew into relation heads, so head counts and widths may differ.
    """

    def __init__(self, student_layer: int, teacher_layer: int, num_relation_heads: int) -> None:
        super().__init__(student_layer, teacher_layer)
        self._num_heads = num_relation_heads

    def _compare(self, student: Heads, teacher: Heads) -> Tensor:
        losses = [
            _kl(_relation(t_BRLF, t_BRLF), _relation(s_BRLF, s_BRLF))
            for s_BRLF, t_BRLF in zip(map(self._cut, student), map(self._cut, teacher), strict=True)
        ]
        return sum(losses[1:], losses[0]) / len(losses)

    def _cut(self, part_BHLE: Tensor) -> Tensor:
        joined_BLD = part_BHLE.transpose(1, 2).flatten(2)
        return joined_BLD.unflatten(-1, (self._num_heads, -1)).transpose(1, 2)


def _relation(left_BHLE: Tensor, right_BHLE: Tensor) -> Tensor:
    """Return the log-softmax of the scaled products of positions, (B, H, L, L), fp32."""
    left_BHLE, right_BHLE = left_BHLE.float(), right_BHLE.float()
    products = left_BHLE @ right_BHLE.transpose(-1, -2) / left_BHLE.shape[-1] ** 0.5
    return products.log_softmax(-1)


def _kl(teacher: Tensor, student: Tensor) -> Tensor:
    """Return KL(teacher || student) of log-probabilities over the last axis, mean over the rest."""
    return (teacher.exp() * (teacher - student)).sum(-1).mean()
