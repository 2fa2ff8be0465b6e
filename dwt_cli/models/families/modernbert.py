"""ModernBERT (arXiv 2412.13663)."""

from typing import Any

from torch import Tensor
from transformers import ModernBertConfig, PreTrainedConfig

from dwt_cli.models.families.parts import CLS_ID, PAD_ID, SEP_ID, Anatomy, LastLayer, settings


def _after_mixing(layer: Any, mixed_BTD: Tensor, entered_BTD: Tensor) -> Tensor:
    attended_BTD = entered_BTD + layer.attn.out_drop(layer.attn.Wo(mixed_BTD))
    left_BTD: Tensor = attended_BTD + layer.mlp(layer.mlp_norm(attended_BTD))
    return left_BTD


def _mask(config: PreTrainedConfig, length: int) -> Any:
    """Return no mask for the windows of layers, where they cover the block."""
    covered = config.sliding_window >= length
    return dict.fromkeys(("full_attention", "sliding_attention")) if covered else None


ANATOMY = Anatomy(
    "model.layers",
    transform=lambda model, hidden_ND: model.head(hidden_ND),
    output="decoder",
    projections=("attn.Wqkv",),
    embeddings="model.embeddings",
    last_layer=LastLayer("attn", "attention_dropout", _after_mixing, norm="attn_norm"),
    pre_norm=True,
    # its first layer reads the normalised embeddings as they are
    optional={"attn_norm.weight": "model.embeddings.norm.weight"},
    same=("hidden_activation", "classifier_activation", "tie_word_embeddings"),
    axes={
        "model.embeddings.tok_embeddings": ". D",
        "model.embeddings.norm": "D",
        "attn_norm": "D",
        "attn.Wqkv": "3H d",
        "attn.Wo": "D h",
        "mlp_norm": "D",
        "mlp.Wi": "2M d",
        "mlp.Wo": "D m",
        "model.final_norm": "D",
        "head.dense": "D d",
        "head.norm": "d",
        "decoder": ". D",
    },
    mask=_mask,
    configure=lambda options: ModernBertConfig(
        **settings(options, ("attention_dropout", "mlp_dropout", "embedding_dropout")),
        # every layer attends to the whole block: layers stay interchangeable for remapping
        layer_types=["full_attention"] * options.num_layers,
        pad_token_id=PAD_ID,
        cls_token_id=CLS_ID,
        sep_token_id=SEP_ID,
        bos_token_id=CLS_ID,
        eos_token_id=SEP_ID,
    ),
)
