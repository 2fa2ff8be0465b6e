"""A vocabulary's rows, made of those of another one: what a new token starts from.

Legend: V our rows, W theirs, P pieces of all our tokens, one after the other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain

import torch
from torch import Tensor
from transformers import PreTrainedModel

from dwt_cli.data.surfaces import Surfaces
from dwt_cli.models.anatomy import anatomy_of

KINDS = ("copied", "pieces", "bytes", "special", "mean_of_all")
"""Kinds of a row's start; see `Transfer`."""


@dataclass(frozen=True)
class Transfer:
    """A start for each row of our vocabulary: the mean of some rows of theirs.

    pieces: the ids of these tokens of theirs, by row of ours; empty: the mean of all. kinds: how
    many rows there are of each kind: ``copied`` stand for the same bytes, ``pieces`` for those of
    several tokens, ``bytes`` for those of parts of characters, ``special`` have the same role, and
    ``mean_of_all`` have nothing of their own, as rows without a token.
    """

    pieces: Sequence[Sequence[int]]
    kinds: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of_shapes(cls, num_rows: int) -> "Transfer":
        """Return one of so many rows, for models without numbers."""
        return cls([[]] * num_rows)

    @cached_property
    def _places(self) -> tuple[Tensor, Tensor, Tensor]:
        """Their ids (P,), our rows (P,) and the number of pieces of each row (V,)."""
        counts_V = torch.tensor([len(of_row) for of_row in self.pieces])
        rows_P = torch.arange(len(counts_V)).repeat_interleave(counts_V)
        ids_P = torch.tensor([*chain(*self.pieces)], dtype=torch.long)
        return ids_P, rows_P, counts_V

    def __call__(self, tensor_W: Tensor) -> Tensor:
        """Return our rows (V, ...) of their embeddings, head or bias (W, ...), where these are."""
        ids_P, rows_P, counts_V = (each.to(tensor_W.device) for each in self._places)
        made_V = tensor_W.new_zeros(len(counts_V), *tensor_W.shape[1:])
        made_V.index_add_(0, rows_P, tensor_W[ids_P])
        counts_V = counts_V.view(-1, *[1] * (tensor_W.ndim - 1))
        return torch.where(counts_V > 0, made_V / counts_V.clamp_min(1), tensor_W.mean(0))


def transfer(ours: Surfaces, theirs: Surfaces, num_rows: int) -> Transfer:
    """Return what each of our ``num_rows`` rows starts from, by what its token stands for.

    As fast vocabulary transfer (Gee et al. 2022, 2402.09977): equal strings are copied, a new
    one is the mean of its pieces in their tokenizer. Strings are compared as bytes, special tokens
    by their roles.
    """
    special = ours.by_role(theirs)
    kinds, pieces = dict.fromkeys(KINDS, 0), []
    for number in range(num_rows):
        surface = ours.bytes_of.get(number)
        found = special.get(number, []) if surface is None else theirs.pieces(surface)
        kinds[_kind(surface, found, theirs)] += 1
        pieces.append(found)
    return Transfer(pieces, kinds)


def _kind(surface: bytes | None, found: Sequence[int], known: Surfaces) -> str:
    if not found:
        return "mean_of_all"
    if surface is None:
        return "special"
    if known.ids.get(surface) == found[0]:
        return "copied"
    return "pieces" if all(_is_text(known.bytes_of[each]) for each in found) else "bytes"


def _is_text(surface: bytes) -> bool:
    return surface.decode(errors="ignore").encode() == surface


def rows_of_vocabulary(model: PreTrainedModel) -> set[str]:
    """Return the names of a model's tensors that have a row for each token."""
    embeddings, output = model.get_input_embeddings(), anatomy_of(model).output
    inputs = next(name for name, module in model.named_modules() if module is embeddings)
    around = output.rpartition(".")[0]  # which has the bias, if it is not the matrix's
    rows = {f"{inputs}.weight", f"{output}.weight", f"{output}.bias", f"{around}.bias"}
    return rows & model.state_dict().keys()
