"""Texts that a decoder goes on writing: what a reader sees of it at once.

Legend: L positions.
"""

import numpy as np
import torch
from transformers import PreTrainedModel

from dwt_cli.base.randomness import seed_for
from dwt_cli.data.corpus import Corpus
from dwt_cli.models.anatomy import num_positions

_NUM, _PROMPT, _WRITTEN = 3, 8, 40  # texts; tokens of each that are given, and that follow at most
_TOP = 40  # tokens are drawn from so many of the likeliest


@torch.no_grad()
def samples(model: PreTrainedModel, corpus: Corpus) -> list[str]:
    """Return beginnings of held-out blocks as a model goes on with them; " | " is where it begins.

    Beginnings and draws are the same for every model.
    """
    positions, was_training = num_positions(model.config), model.training
    length = min(_PROMPT, positions // 2)
    numbers = np.unique(np.linspace(0, len(corpus.heldout) - 1, _NUM).astype(np.int64))
    device, decode = next(model.parameters()).device, corpus.tokenizer.decode
    found = []
    model.eval()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for("samples"))
        for block_L in corpus.heldout[numbers]:
            ids_L = torch.from_numpy(block_L[:length]).to(device)
            for _ in range(min(_WRITTEN, positions - length)):
                logits_V = model(ids_L[None], use_cache=False).logits[0, -1].float().cpu()
                top = logits_V.topk(min(_TOP, len(corpus.tokenizer)))
                drawn = top.indices[torch.multinomial(top.values.softmax(-1), 1)]
                if drawn == corpus.tokenizer.eos_token_id:
                    break
                ids_L = torch.cat([ids_L, drawn.to(device)])
            given, written = (decode(part) for part in (ids_L[1:length], ids_L[length:]))
            found.append(f"{given} | {written}")
    model.train(was_training)
    return found
