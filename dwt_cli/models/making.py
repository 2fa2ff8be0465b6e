"""From an architecture's options to a randomly initialised model of the transformers library."""

import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    PreTrainedModel,
)
from transformers.initialization import no_init_weights

from dwt_cli.base.randomness import seed_for
from dwt_cli.data.tokenizer import SPECIAL_TOKENS
from dwt_cli.models.options import Architecture, Family


def _bert(options: Architecture) -> PreTrainedModel:
    return BertForMaskedLM(
        BertConfig(
            vocab_size=options.vocab_size,
            hidden_size=options.width,
            num_hidden_layers=options.num_layers,
            num_attention_heads=options.num_heads,
            intermediate_size=options.mlp_width,
            max_position_embeddings=max(512, options.max_length),
            hidden_dropout_prob=options.dropout,
            attention_probs_dropout_prob=options.dropout,
            pad_token_id=SPECIAL_TOKENS.index("[PAD]"),
        )
    )


def _modernbert(options: Architecture) -> PreTrainedModel:
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
            pad_token_id=SPECIAL_TOKENS.index("[PAD]"),
            cls_token_id=SPECIAL_TOKENS.index("[CLS]"),
            sep_token_id=SPECIAL_TOKENS.index("[SEP]"),
            bos_token_id=SPECIAL_TOKENS.index("[CLS]"),
            eos_token_id=SPECIAL_TOKENS.index("[SEP]"),
        )
    )


_MAKERS = {Family.bert: _bert, Family.modernbert: _modernbert}


def make_model(options: Architecture, seed: int, purpose: str) -> PreTrainedModel:
    """A model in fp32 whose weights depend on (seed, purpose) alone, not on what ran before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(seed, purpose, "weights"))
        return _MAKERS[options.family](options)


def outline(options: Architecture, device: torch.device | str = "meta") -> PreTrainedModel:
    """The model on the meta device (or, of fake tensors, on any): shapes without memory."""
    with torch.device(device), no_init_weights():
        model = _MAKERS[options.family](options)
    model.tie_weights()  # what initialising would have done
    return model
