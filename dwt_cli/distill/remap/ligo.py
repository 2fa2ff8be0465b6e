"""LiGO (arXiv 2303.00980): the maps from the teacher's weights to the student's are learned.

Every tensor of the student is a linear function of the teacher's: layers are mixed, then rows and
columns are mapped, W_new = B (sum_l w_l W_l) A^T. The one loop trains w, B and A on the corpus for
about a hundred steps; then they are applied for good, and the student is one like any other.

Legend: S student layers, T teacher layers, N target rows, V vocabulary.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers import PreTrainedModel

from dwt_cli.distill.remap import width
from dwt_cli.distill.remap.options import Ligo
from dwt_cli.distill.remap.remap import (
    Account,
    Donor,
    axes_by_letter,
    counted,
    fused,
    sources_of,
    stored,
    unfused,
)
from dwt_cli.distill.remap.vocabulary import Transfer
from dwt_cli.distill.remap.width import Axis, Piece
from dwt_cli.models.wrapper import LOGITS, LanguageModel, Output, Want


class Growing(LanguageModel):
    """A student whose weights are functions of its teacher's; the maps alone are trained.

    widths: B and A, one map (new, old) for each letter of `Anatomy.axes`, shared by all
    tensors; B and A are apart, unlike in LiGO, so that they can begin as the width rule's.
    depths: w, one (S, T) for each tensor of a layer, which begins as the depth rule's choice.
    """

    def __init__(
        self,
        student: PreTrainedModel,
        teacher: PreTrainedModel,
        options: Ligo,
        dtype: torch.dtype,
        tokens: Transfer | None = None,
    ) -> None:
        super().__init__(student.requires_grad_(False), dtype)
        self._bare = [LanguageModel(student, dtype)]  # in a list: the student is registered once
        self._donor, self._kinds = Donor.of(teacher, tokens), tokens.kinds if tokens else {}
        like = next(student.parameters())
        chosen = sources_of(student.config, teacher.config, options)
        start_ST = torch.eye(self._donor.num_layers)[chosen].to(like)
        axes = axes_by_letter(student.config, teacher.config)
        names = [name for name, _ in student.named_parameters()]
        axes_of = self._donor.anatomy.axes_of
        used = {letter[-1] for letters in map(axes_of, names) for letter in letters}
        self.widths = nn.ParameterDict(
            {
                letter: nn.Parameter(_start(axis, options).to(like))
                for letter, axis in axes.items()
                if axis.new > axis.old and letter in used
            }
        )
        self.depths = nn.ParameterDict()
        self._teacher: dict[str, Tensor] = {}  # of a layer's tensor those of all layers, (T, ...)
        for name in names:
            number, inside = self._donor.anatomy.place_of(name)
            tensors = [
                counted(self._donor.tensors[origin].to(like), origin, teacher.config)
                for origin in self._origins(name)
            ]
            self._teacher[name] = tensors[0] if number is None else torch.stack(tensors)
            if number is not None and _key(inside) not in self.depths:
                self.depths[_key(inside)] = nn.Parameter(start_ST.clone())

    def forward(self, ids_BL: Tensor, rows_N: Tensor, want: Want = LOGITS) -> Output:
        """Return what is wanted of the student that the maps make."""
        made = {f"model.{name}": self._made(name) for name in self._teacher}
        output: Output = functional_call(self._bare[0], made, (ids_BL, rows_N, want))
        return output

    def maps(self) -> dict[str, Tensor]:
        """Return what is learned, by name."""
        learned = (*self.widths.named_parameters("widths"), *self.depths.named_parameters("depths"))
        return {name: parameter.detach() for name, parameter in learned}

    @torch.no_grad()
    def fold(self, maps: Mapping[str, Tensor]) -> Account:
        """Write what the maps make into the student, which is an ordinary one from here on."""
        assert maps.keys() == self.maps().keys()
        for name, learned in maps.items():
            self.get_parameter(name).copy_(learned)
        for name in self._teacher:
            self.model.get_parameter(name).copy_(self._made(name))
        self.model.requires_grad_(True)
        mean_ST = torch.stack(list(self.depths.values())).mean(0)
        return Account(
            grown={name: self._origins(name) for name in self.model.state_dict()},
            layers={s: dict(enumerate(shares)) for s, shares in enumerate(mean_ST.tolist())},
            tokens=dict(self._kinds),
        )

    def _made(self, name: str) -> Tensor:
        number, inside = self._donor.anatomy.place_of(name)
        made = self._teacher[name]
        if number is not None:
            made = torch.tensordot(self.depths[_key(inside)][number], made, 1)
        letters = self._donor.anatomy.axes_of(name)
        made, single = unfused(made, letters)
        for dim, letter in enumerate(single):
            if letter in self.widths:
                made = torch.tensordot(self.widths[letter], made, ([1], [dim])).movedim(0, dim)
        return stored(fused(made, letters), name, self.model.config)

    def _origins(self, name: str) -> list[str]:
        return self._donor.names(name, range(self._donor.num_layers))


def _key(inside: str) -> str:
    """Return a name as `nn.ParameterDict` takes it."""
    return inside.replace(".", "/")


def _start(axis: Axis, options: Ligo) -> Tensor:
    """Return what the width rule does along an axis, as a matrix (new, old)."""
    assert options.width is not None, "remap() asks for a rule where sizes differ"
    eye = torch.eye(axis.old, dtype=torch.float64)  # shares such as 1/3 are rounded once
    fixed = Axis(axis.old, axis.old)
    return width.RULES[options.width](Piece(eye, eye, eye.new_zeros(()), (axis, fixed)))
