"""GPT-2 (Radford et al. 2019): learned positions, biases, matrices that are stored transposed."""

from transformers import GPT2Config

from dwt_cli.models.families.parts import MARK_ID, Anatomy
from dwt_cli.models.options import Head

ANATOMY = Anatomy(
    "transformer.h",
    projections=("attn.c_attn",),
    embeddings="transformer.w",
    pre_norm=True,
    same=(
        *("activation_function", "tie_word_embeddings", "layer_norm_epsilon"),
        *("scale_attn_weights", "scale_attn_by_inverse_layer_idx"),
    ),
    axes={
        "transformer.wte": ". D",
        "transformer.wpe": ". D",
        "ln_1": "D",
        "attn.c_attn": "d 3H",
        "attn.c_proj": "h D",
        "ln_2": "D",
        "mlp.c_fc": "d M",
        "mlp.c_proj": "m D",
        "transformer.ln_f": "d",
        "lm_head": ". D",
    },
    predicts=Head.causal,
    call={"use_cache": False},
    mlp_width=lambda config: config.n_inner or 4 * config.n_embd,
    configure=lambda options: GPT2Config(
        vocab_size=options.vocab_size,
        n_embd=options.width,
        n_layer=options.num_layers,
        n_head=options.num_heads,
        n_inner=options.mlp_width,
        n_positions=options.max_length,
        resid_pdrop=options.dropout,
        embd_pdrop=options.dropout,
        attn_pdrop=options.dropout,
        bos_token_id=MARK_ID,
        eos_token_id=MARK_ID,
    ),
)
