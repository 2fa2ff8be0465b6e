"""ModernBERT (arXiv 2412.13663)."""

from typing import Any

from torch import Tensor
from transformers import ModernBertConfig, ModernBertForMaskedLM, PreTrainedModel

from dwt_cli.models.families.parts import CLS_ID, PAD_ID, SEP_ID, Anatomy
from dwt_cli.models.options import Architecture


def _make(options: Architecture) -> PreTrainedModel:
    return ModernBertForMaskedLM(
        ModernBertConfig(
            vocab_size=options.vocab_size,
            hidden_size=options.width,
            num_hidden_layers=options.num_layers,
            num_attention_heads=options.num_heads,
            intermediate_size=options.mlp_width,
            max_position_embeddings=max(512, options.max_length),
            # every layer attends to the whole block: layers stay interchangeable for remapping
            layer_types=["full_attention"] * options.num_layers,
            attention_dropout=options.dropout,
            mlp_dropout=options.dropout,
            embedding_dropout=options.dropout,
            pad_token_id=PAD_ID,
            cls_token_id=CLS_ID,
            sep_token_id=SEP_ID,
            bos_token_id=CLS_ID,
            eos_token_id=SEP_ID,
        )
    )


def _head(model: Any, hidden_ND: Tensor) -> Tensor:
    logits_NV: Tensor = model.decoder(model.head(hidden_ND))
    return logits_NV


def _after_mixing(layer: Any, mixed_BTD: Tensor, entered_BTD: Tensor) -> Tensor:
    attended_BTD = entered_BTD + layer.attn.out_drop(layer.attn.Wo(mixed_BTD))
    left_BTD: Tensor = attended_BTD + layer.mlp(layer.mlp_norm(attended_BTD))
    return left_BTD


_AXES = {
    "model.embeddings.tok_embeddings.weight": ". D",
    "model.embeddings.norm.weight": "D",
    "attn_norm.weight": "D",
    "attn.Wqkv.weight": "3H d",
    "attn.Wo.weight": "D h",
    "mlp_norm.weight": "D",
    "mlp.Wi.weight": "2M d",
    "mlp.Wo.weight": "D m",
    "model.final_norm.weight": "D",
    "head.dense.weight": "D d",
    "head.norm.weight": "d",
    "decoder.weight": ". D",
    "decoder.bias": ".",
}
ANATOMY = Anatomy(
    "model",
    "model.layers",
    _head,
    output="decoder",
    projections=("attn.Wqkv",),
    rotary="attn",
    embeddings="model.embeddings",
    attention="attn",
    attention_dropout="attention_dropout",
    after_mixing=_after_mixing,
    norm="attn_norm",
    pre_norm=True,
    # its first layer reads the normalised embeddings as they are
    optional={"attn_norm.weight": "model.embeddings.norm.weight"},
    same=("hidden_activation", "classifier_activation", "tie_word_embeddings"),
    axes=_AXES,
    make=_make,
)
