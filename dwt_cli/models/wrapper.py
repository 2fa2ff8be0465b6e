"""The one way in which a model is called.

A wrapper is what is sharded, compiled and counted: calling parts of a model apart would bypass
DDP's reduction.

Legend: B blocks, L positions, T target rows of a block, N = B * T of all blocks, V vocabulary,
D width, C classes.
"""

import contextlib
from typing import Self

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from dwt_cli.models.anatomy import anatomy_of, is_known
from dwt_cli.models.features import Features, watching
from dwt_cli.models.target_rows import take_rows


class Wrapper(nn.Module):
    """A transformers model, called in a number type; it keeps no weights of its own.

    dtype: bfloat16 computes matrix products in it (autocast), float32 leaves everything as it is.
    compiled: by torch.compile, once per shape; shapes are static but for the last batch of the
    held-out text.
    """

    def __init__(self, model: PreTrainedModel, dtype: torch.dtype, compiled: bool = False) -> None:
        super().__init__()
        self.model = model
        self.anatomy = anatomy_of(model) if is_known(model.config) else None
        self._dtype = dtype
        self.train(model.training)
        if compiled:
            self.compile(dynamic=False)

    def train(self, mode: bool = True) -> Self:
        """As in torch; on a CPU in bf16 it also chooses the faster attention.

        torch's tiled kernel has a slow backward pass there, slower than plain products; without a
        backward pass it is the faster one.
        """
        super().train(mode)
        on_cpu = next(self.model.parameters()).device.type == "cpu"
        if self.anatomy is not None and self._dtype == torch.bfloat16 and on_cpu:
            wanted = "eager" if mode else "sdpa"
            if self.model.config._attn_implementation != wanted:
                self.model.set_attn_implementation(wanted)
        return self

    def _autocast(self, ids_BL: Tensor) -> torch.autocast:
        return torch.autocast(ids_BL.device.type, self._dtype, enabled=self._dtype != torch.float32)


class MaskedLM(Wrapper):
    """A transformers ``*ForMaskedLM`` whose head and last layer see the target rows only.

    A family whose parts are not known here computes all its logits, of which the rows are taken.
    """

    def __init__(self, model: PreTrainedModel, dtype: torch.dtype, compiled: bool = False) -> None:
        super().__init__(model, dtype, compiled)
        if self.anatomy is not None:
            take_rows(model)

    def forward(self, ids_BL: Tensor, rows_N: Tensor, features: Features | None = None) -> Tensor:
        """Logits (N, V) of the rows ``rows_N`` of the flattened (B * L) positions.

        The rows are as many in each block, block after block. ``features`` is filled with what it
        asks for.
        """
        assert len(rows_N) % len(ids_BL) == 0, "a block has as many target rows as any other"
        watched = contextlib.nullcontext() if features is None else watching(self.model, features)
        with self._autocast(ids_BL), watched:
            if self.anatomy is None:
                logits_BLV = self.model(input_ids=ids_BL).logits
                return logits_BLV.flatten(0, 1).index_select(0, rows_N)
            if features is not None and features.ask_for_last(self.model.config):
                hidden_ND = self._backbone(ids_BL).flatten(0, 1).index_select(0, rows_N)
            else:
                hidden_ND = self._backbone(ids_BL, rows_N=rows_N).flatten(0, 1)
            return self.anatomy.head(self.model, hidden_ND)

    def hidden(self, ids_BL: Tensor) -> Tensor:
        """The backbone's last hidden states (B, L, D), for measures that train nothing."""
        with self._autocast(ids_BL):
            return self._backbone(ids_BL)

    def _backbone(self, ids_BL: Tensor, **of_layers: Tensor) -> Tensor:
        """The last hidden states; ``of_layers`` is handed to every layer."""
        assert self.anatomy is not None, "what is not known cannot be looked into"
        backbone = getattr(self.model, self.anatomy.backbone)
        states: Tensor = backbone(
            ids_BL, attention_mask=self._mask(ids_BL), **of_layers
        ).last_hidden_state
        return states

    def _mask(self, ids_BL: Tensor) -> dict[str, None] | None:
        """Blocks have no padding; a window that covers the block needs no mask either."""
        config = self.model.config
        if config.model_type == "modernbert" and config.sliding_window >= ids_BL.shape[1]:
            return {"full_attention": None, "sliding_attention": None}
        return None


class Classifier(Wrapper):
    """A transformers ``*ForSequenceClassification``: one row of logits per text."""

    def forward(self, ids_BL: Tensor, mask_BL: Tensor, segments_BL: Tensor | None) -> Tensor:
        """Logits (B, C). mask_BL: 1 at tokens, 0 at padding. segments_BL: 1 in a second text."""
        segments = {} if segments_BL is None else {"token_type_ids": segments_BL}
        with self._autocast(ids_BL):
            logits_BC: Tensor = self.model(ids_BL, attention_mask=mask_BL, **segments).logits
        return logits_BC
