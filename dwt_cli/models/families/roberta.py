"""RoBERTa (arXiv 1907.11692): BERT's layers, other names around them."""

from dataclasses import replace
from typing import Any

from torch import Tensor
from torch.nn.functional import gelu

from dwt_cli.models.families import bert


def _transform(model: Any, hidden_ND: Tensor) -> Tensor:
    read_ND: Tensor = model.lm_head.layer_norm(gelu(model.lm_head.dense(hidden_ND)))
    return read_ND


ANATOMY = replace(
    bert.ANATOMY,
    layers="roberta.encoder.layer",
    transform=_transform,
    output="lm_head.decoder",
    embeddings="roberta.embeddings",
    # they are counted from the one after that of padding
    num_positions=lambda config: config.max_position_embeddings - config.pad_token_id - 1,
    axes={},
    configure=None,
)
