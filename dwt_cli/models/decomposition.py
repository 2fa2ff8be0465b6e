"""The places of a sparse part beside a low-rank one, by what a matrix is.

Legend: D outputs, C inputs of a matrix, R rows of its low-rank part, K places.
"""

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from dwt_cli.base.randomness import generator
from dwt_cli.models.tuning import Dsee, Places

_ROUNDS, _ROWS, _SMALLEST = 100, 5, 0.01


def greedy(weight_DC: Tensor, start_C: Tensor, rank: int) -> Tensor:
    """Return W - U V (D, C) of W ~ U V + S, a greedy bilateral decomposition (arXiv 2111.00160).

    S is what is left of W - U V at 0.01 and above. V begins with the row ``start_C`` and grows by
    five, first rows of R in Q R = W - U V - S, until it has ``rank`` of them or after 100 rounds;
    in each, U and V follow W - S twice, from S = 0 on. Reconstructed: the rank at which it ends.
    """
    low_RC, round_number = start_C[None], 0
    while True:
        sparse_DC = torch.zeros_like(weight_DC)
        for _ in range(2):
            left_DC = weight_DC - sparse_DC
            up_DR = torch.linalg.qr(left_DC @ low_RC.mT).Q
            low_RC = up_DR.mT @ left_DC
            rest_DC = weight_DC - up_DR @ low_RC
            sparse_DC = torch.where(rest_DC.abs() < _SMALLEST, 0.0, rest_DC)
        round_number += 1
        more = min(_ROWS, rank - len(low_RC))
        if more <= 0 or round_number == _ROUNDS:
            return rest_DC
        rows_RC = torch.linalg.qr(rest_DC - sparse_DC).R[:more]
        low_RC = torch.cat([low_RC, rows_RC])


def places_of(options: Dsee, weight_DC: Tensor, seed: int) -> Tensor:
    """Return the flat places (K,) of a matrix's sparse part, int64, the same for a seed.

    Of a matrix without numbers they are no places.
    """
    number, draws = options.num_sparse, generator(seed)
    if not has_numbers(weight_DC):
        return torch.zeros(number, dtype=torch.int64, device=weight_DC.device)
    if options.places is Places.random:
        return torch.from_numpy(np.sort(draws.choice(weight_DC.numel(), number, replace=False)))
    sizes = weight_DC.detach().float()
    if options.places is Places.decomposed:
        start_C = torch.from_numpy(draws.standard_normal(weight_DC.shape[1])).to(sizes)
        sizes = greedy(sizes, start_C, options.rank)
    return sizes.abs().flatten().topk(number).indices.sort().values


def has_numbers(tensor: Tensor) -> bool:
    """Return whether a tensor has any: neither on the meta device nor fake."""
    return not tensor.is_meta and not isinstance(tensor, FakeTensor)
