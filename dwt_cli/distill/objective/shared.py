"""Rows that are a share of a centroid and a few entries: the share's part of eq. 3.

A share s of a centroid q adds -s q to the gradient of a row's scores. Through the head these are
products with M centroids instead of N rows, so that they cost next to nothing.
Legend: N target rows, C of one tile, M centroids, V vocabulary, D width.
"""

import torch
from torch import Tensor

from dwt_cli.distill.objective.base import EntryRows
from dwt_cli.models.wrapper import OutputLayer


class Shares:
    """The centroids seen through a student's head. head: None: its states are its scores."""

    def __init__(self, centroids_MV: Tensor, head: OutputLayer | None) -> None:
        self._centroids_MV, offsets_M = centroids_MV, centroids_MV.new_zeros(len(centroids_MV))
        through_MD = centroids_MV
        if head is not None:
            assert head.cap is None, "what is capped is no product of states and head"
            through_MD = centroids_MV @ head.weight_VD.float()
            if head.bias_V is not None:
                offsets_M = centroids_MV @ head.bias_V.float()
        self._through_MD, self._offsets_M1 = through_MD, offsets_M[:, None]
        self._sums_MD, self._sums_M = torch.zeros_like(through_MD), torch.zeros_like(offsets_M)

    def scored(self, rows: EntryRows, states_CD: Tensor) -> EntryRows:
        """Return rows with the student's mean score by their centroids."""
        at_C = _numbers(rows)
        scores_C1 = (states_CD * self._through_MD[at_C]).sum(-1, keepdim=True)
        return rows._replace(scores_C1=scores_C1 + self._offsets_M1[at_C])

    def subtract(
        self, rows: EntryRows, slopes_C1: Tensor, states_CD: Tensor, gradient_CD: Tensor | None
    ) -> None:
        """Take the shares from the gradient of states; keep those of the head's for the end.

        slopes_C1: of the total by the scores, times the share.
        """
        at_C = _numbers(rows)
        if gradient_CD is not None:
            gradient_CD -= slopes_C1 * self._through_MD[at_C]
        self._sums_MD.index_add_(0, at_C, slopes_C1 * states_CD)
        self._sums_M.index_add_(0, at_C, slopes_C1[:, 0])

    def subtract_from_head(self, weight_VD: Tensor | None, bias_V: Tensor | None) -> None:
        """Take the shares of all rows from the gradients of the head, in fp32."""
        if weight_VD is not None:
            weight_VD.addmm_(self._centroids_MV.T, self._sums_MD, alpha=-1)
        if bias_V is not None:
            bias_V.addmv_(self._centroids_MV.T, self._sums_M, alpha=-1)


def _numbers(rows: EntryRows) -> Tensor:
    assert rows.centroids_C1 is not None, "where there are centroids each row has one"
    return rows.centroids_C1[:, 0]
