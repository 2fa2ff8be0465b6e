"""A batch of a task.

Legend: B blocks, L positions, N target rows (B * targets per block)."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Masked blocks and what was masked.

    ids_BL: int64 token ids with the masking applied.
    rows_N: int64 places of the targets in the flattened (B * L) positions.
    labels_N: int64 ids that stood there.
    """

    ids_BL: Tensor
    rows_N: Tensor
    labels_N: Tensor

    def to(self, device: torch.device) -> "Batch":
        """On a device; a GPU copies pinned memory while it computes."""
        tensors = [self.ids_BL, self.rows_N, self.labels_N]
        if device.type == "cuda":
            tensors = [tensor.pin_memory() for tensor in tensors]
        return Batch(*(tensor.to(device, non_blocking=True) for tensor in tensors))
