"""The modules through which models are called.

A wrapper is what is sharded, compiled and counted: calling parts of a model apart would bypass
DDP's reduction.

Legend: B blocks, L positions, T target rows of a block, N = B * T of all blocks, V vocabulary,
D width, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from dwt_cli.models.anatomy import anatomy_of, is_known, layers_of
from dwt_cli.models.features import NO_FEATURES, ROWS, Features, FeatureSpec, captured, runs_whole
from dwt_cli.models.target_rows import take_rows

if TYPE_CHECKING:
    from dwt_cli.models.windows import Windows


class Wrapper(nn.Module):
    """A transformers model, called in a number type; it keeps no weights of its own.

    dtype: bfloat16 computes matrix products in it (autocast), float32 leaves everything as it is.
    device: where it is called; None: where its weights are.
    """

    def __init__(
        self, model: PreTrainedModel, dtype: torch.dtype, device: torch.device | None = None
    ) -> None:
        super().__init__()
        self.model = model
        self.anatomy = anatomy_of(model) if is_known(model.config) else None
        if self.anatomy is not None:
            take_rows(model)
        self.dtype, self.device = dtype, device
        self._compiled: dict[nn.Module, Callable[..., Any] | None] = {}
        self.train(model.training)

    def train(self, mode: bool = True) -> Self:
        """Set the mode, as in torch; in bf16 also choose the faster attention.

        torch's tiled kernel has a slow backward pass on a CPU, slower than plain products; without
        a backward pass it is the faster one.
        """
        super().train(mode)
        if self.anatomy is not None and self.dtype == torch.bfloat16:
            device = self.device or next(self.model.parameters()).device
            is_slow = mode and device.type == "cpu"
            wanted = "sdpa" if self.model._supports_sdpa and not is_slow else "eager"
            if self.model.config._attn_implementation != wanted:
                self.model.set_attn_implementation(wanted)
        for layer, call in self._compiled.items():
            layer._compiled_call_impl = call if mode else None
        return self

    @property
    def is_compiled(self) -> bool:
        """Whether the layers are compiled."""
        return bool(self._compiled)

    def compile_layers(self) -> None:
        """Compile the layers of a known family by torch.compile, once for all that are alike.

        They are compiled as they train, for each shape; in eval mode they run as they are.
        """
        for layer in layers_of(self.model) if self.anatomy is not None else ():
            layer.compile(dynamic=False)
            self._compiled[layer] = layer._compiled_call_impl
        self.train(self.training)

    def _autocast(self, like: Tensor) -> torch.autocast:
        return torch.autocast(like.device.type, self.dtype, enabled=self.dtype != torch.float32)


class OutputLayer(NamedTuple):
    """The last matrix of a head over the vocabulary, the bias of its logits, and their soft cap.

    cap: logits are cap * tanh(logits / cap); None: as they are. dtype: products are computed in it;
    None: in the states' type.
    """

    weight_VD: Tensor
    bias_V: Tensor | None = None
    cap: float | None = None
    dtype: torch.dtype | None = None

    def to(self, dtype: torch.dtype, copy: bool = False) -> Self:
        """Return the layer in a float type; copy: in memory of its own, whatever it is."""
        of_bias = None if self.bias_V is None else self.bias_V.to(dtype, copy=copy)
        return self._replace(weight_VD=self.weight_VD.to(dtype, copy=copy), bias_V=of_bias)

    def __call__(self, states_ND: Tensor) -> Tensor:
        """Return logits (N, V)."""
        layer = self.to(self.dtype or states_ND.dtype)
        logits_NV = F.linear(states_ND.to(layer.weight_VD.dtype), *layer[:2])
        return logits_NV if self.cap is None else (logits_NV / self.cap).tanh() * self.cap


class Want(NamedTuple):
    """A request to a `LanguageModel`: values of the target rows that its forward pass returns.

    logits: their logits. features: those of layers. loss: called with the states that enter the
    head's last matrix (N, D) and with the matrix, while it is whole, so that not all logits need to
    be there at once; what it returns is returned. Of a head that is not known it gets the logits,
    and None. ragged: blocks may have unequal numbers of rows, and the last layer runs on all
    positions. documents_BL: int64 numbers of documents, which do not see each other, and whose
    positions count from 0; of causal models alone. None: a block is one. seen_BLL: bool, which
    positions each one sees, itself among them; it is counted by how many these are; None: all
    before it. present_BL: bool, false at padding after the blocks of a masked model; None: all.
    """

    logits: bool = True
    features: FeatureSpec = NO_FEATURES
    loss: Callable[[Tensor, OutputLayer | None], Any] | None = None
    ragged: bool = False
    documents_BL: Tensor | None = None
    seen_BLL: Tensor | None = None
    present_BL: Tensor | None = None


class Output(NamedTuple):
    """The values that a forward pass returned; None for what was not wanted."""

    logits_NV: Tensor | None = None
    features: Features | None = None
    loss: Any = None


LOGITS = Want()


class LanguageModel(Wrapper):
    """A transformers model with a head over the vocabulary, which sees the target rows only.

    So does a masked model's last layer. A family whose parts are not known here computes all its
    logits, of which the rows are taken. windows: in which it reads longer blocks; None: in none.
    """

    windows: Windows | None = None

    def forward(self, ids_BL: Tensor, rows_N: Tensor, want: Want = LOGITS) -> Output:
        """Return what is wanted of the rows ``rows_N`` (int64) of the flattened (B * L) positions.

        Rows come block after block, equally many of each unless ``want.ragged``.
        """
        if not want.features:
            return self._output(ids_BL, rows_N, want)[0]
        kept = (want.features, want.documents_BL, want.present_BL)
        with captured(self.model, *kept) as features:
            output, hidden_ND = self._output(ids_BL, rows_N, want)
        shown_ND = hidden_ND if ROWS in want.features else None
        return output._replace(features=features._replace(rows_ND=shown_ND))

    def hidden(self, ids_BL: Tensor) -> Tensor:
        """Return the backbone's last hidden states (B, L, D), for measures that train nothing."""
        with self._autocast(ids_BL):
            return self._backbone(ids_BL)

    def _output(self, ids_BL: Tensor, rows_N: Tensor, want: Want) -> tuple[Output, Tensor]:
        """Return the output without features, and the hidden states of the rows (N, D)."""
        states_ND = hidden_ND = self._hidden(ids_BL, rows_N, want._replace(logits=True, loss=None))
        if self.anatomy is not None:
            with self._autocast(ids_BL):
                states_ND = self.anatomy.transform(self.model, hidden_ND)
        head = self._output_layer()
        logits_NV = None if not want.logits else head(states_ND) if head else states_ND
        loss = want.loss(states_ND, head) if want.loss is not None else None
        return Output(logits_NV, loss=loss), hidden_ND

    def _output_layer(self) -> OutputLayer | None:
        if self.anatomy is None:
            return None
        layer: Any = self.model.get_submodule(self.anatomy.output)
        dtype = None if self.dtype == torch.float32 else self.dtype  # as autocast has it
        return OutputLayer(layer.weight, layer.bias, self.anatomy.cap(self.model.config), dtype)

    def _hidden(self, ids_BL: Tensor, rows_N: Tensor, want: Want) -> Tensor:
        """Return what enters the head (N, D); of an unknown family the logits."""
        alone = not want.ragged and len(rows_N) % len(ids_BL) == 0
        with self._autocast(ids_BL):
            if self.anatomy is None:
                known = want.features or want.seen_BLL is not None
                assert not known, "an unknown family has logits only"
                logits_BLV = self.model(input_ids=ids_BL, **_apart(want.documents_BL)).logits
                return logits_BLV.flatten(0, 1).index_select(0, rows_N)
            if alone and not runs_whole(self.model.config, want.features):
                return self._backbone(ids_BL, rows_N=rows_N).flatten(0, 1)
            more = {**_apart(want.documents_BL), **_seen(want.seen_BLL, self.dtype)}
            if want.present_BL is not None:
                more["attention_mask"] = want.present_BL.long()
            hidden_BLD = self._backbone(ids_BL, **more)
            return hidden_BLD.flatten(0, 1).index_select(0, rows_N)

    def _backbone(self, ids_BL: Tensor, **others: Any) -> Tensor:
        """Return the last hidden states; what a model does not know is handed to every layer."""
        assert self.anatomy is not None, "of an unknown family only the logits are known"
        mask = self.anatomy.mask(self.model.config, ids_BL.shape[1])
        more = {"attention_mask": mask, **self.anatomy.call, **others}
        states: Tensor = self.model.base_model(ids_BL, **more).last_hidden_state
        return states


def _apart(documents_BL: Tensor | None) -> dict[str, Any]:
    """Return arguments that keep documents apart: where positions begin anew attention does too.

    So it is, without a cache, in all causal models of the library that make their masks by its
    common functions.
    """
    if documents_BL is None:
        return {}
    places_L = torch.arange(documents_BL.shape[1], device=documents_BL.device)
    is_first_BL = documents_BL.diff(dim=1, prepend=documents_BL[:, :1] - 1) != 0
    firsts_BL = torch.where(is_first_BL, places_L, 0).cummax(1).values
    return {"position_ids": places_L - firsts_BL, "use_cache": False}


def _seen(seen_BLL: Tensor | None, dtype: torch.dtype) -> dict[str, Any]:
    """Return arguments that say which positions each one sees; the library takes them as they are.

    So do all causal models of the library that make their masks by its common functions.
    """
    if seen_BLL is None:
        return {}
    mask_BLL = torch.zeros(seen_BLL.shape, dtype=dtype, device=seen_BLL.device)
    mask_BLL.masked_fill_(~seen_BLL, torch.finfo(dtype).min)
    places_BL = seen_BLL.sum(-1) - 1
    return {"position_ids": places_BL, "attention_mask": mask_BLL[:, None], "use_cache": False}


class Classifier(Wrapper):
    """A transformers ``*ForSequenceClassification``: one row of logits per text, N = B."""

    def forward(self, named: Mapping[str, Tensor], want: Want = LOGITS) -> Output:
        """Return logits (N, C), and features of layers, at positions that are padding or not.

        named: int64 ids, mask (1 at tokens, 0 at padding) and segments (1 in a second text), which
        not every model takes, (B, L) each, by the library's names.
        """
        plain = want._replace(logits=True, features=NO_FEATURES, loss=None) == LOGITS
        assert plain and ROWS not in want.features, "a classifier has no rows"
        if getattr(self.model.config, "type_vocab_size", 0) < 2:  # positions tell two texts apart
            named = {name: each for name, each in named.items() if name != "token_type_ids"}
        if not want.features:
            return self._output(named, want)
        mask_BL = named.get("attention_mask")
        present_BL = None if mask_BL is None else mask_BL.bool()
        with captured(self.model, want.features, present_BL=present_BL) as features:
            output = self._output(named, want)
        return output._replace(features=features)

    def _output(self, named: Mapping[str, Tensor], want: Want) -> Output:
        with self._autocast(named["input_ids"]):
            logits_NC = self.model(**named).logits
        loss = want.loss(logits_NC, None) if want.loss is not None else None
        return Output(logits_NC, loss=loss)
