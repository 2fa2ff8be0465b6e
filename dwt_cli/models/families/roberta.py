"""RoBERTa (arXiv 1907.11692): BERT's layers, other names around them."""

from dataclasses import replace

from dwt_cli.models.families import bert

ANATOMY = replace(
    bert.ANATOMY,
    layers="roberta.encoder.layer",
    head=lambda model, hidden_ND: model.lm_head(hidden_ND),
    output="lm_head.decoder",
    embeddings="roberta.embeddings",
    # they are counted from the one after that of padding
    num_positions=lambda config: config.max_position_embeddings - config.pad_token_id - 1,
    axes={},
    configure=None,
)
