"""RoBERTa (arXiv 1907.11692): BERT's layers, other names around them."""

from transformers import PreTrainedConfig

from dwt_cli.models.families import bert
from dwt_cli.models.families.parts import Anatomy


def _num_positions(config: PreTrainedConfig) -> int:
    # they are counted from the one after that of padding
    positions: int = config.max_position_embeddings - config.pad_token_id - 1
    return positions


ANATOMY = Anatomy(
    "roberta",
    "roberta.encoder.layer",
    lambda model, hidden_ND: model.lm_head(hidden_ND),
    output="lm_head.decoder",
    projections=bert.PROJECTIONS,
    embeddings="roberta.embeddings",
    attention="attention.self",
    attention_dropout="attention_probs_dropout_prob",
    after_mixing=bert.after_mixing,
    same=("hidden_act", "tie_word_embeddings"),
    num_positions=_num_positions,
)
