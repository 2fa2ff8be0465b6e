import math
from collections.abc import Callable

import pytest
import torch

from dwt_cli.data.corpus import Corpus
from dwt_cli.evaluate.lm import heldout_metrics
from dwt_cli.models.making import make_model
from dwt_cli.models.options import Architecture
from dwt_cli.models.wrapper import MaskedLM
from dwt_cli.tasks.batches import HeldoutBatches
from dwt_cli.tasks.mlm import Masking

CPU = torch.device("cpu")


@pytest.mark.parametrize("batch_size", [1, 5, 100])
def test_against_the_full_forward_target_by_target(
    tiny: Callable[..., Architecture], corpus: Corpus, masking: Masking, batch_size: int
) -> None:
    model = make_model(tiny(dropout=0.5), 0, "student")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)
    wrapped = MaskedLM(model, torch.float32).train()
    found = heldout_metrics(wrapped, HeldoutBatches(corpus.heldout, masking, 12, batch_size), CPU)
    (batch,) = HeldoutBatches(corpus.heldout, masking, 12, 100)
    with torch.no_grad():
        logits_NV = model.eval()(batch.ids_BL).logits.flatten(0, 1).double()
    losses, hits = [], []
    for row, label in zip(batch.rows_N.tolist(), batch.labels_N.tolist(), strict=True):
        p = logits_NV[row].softmax(-1)
        losses.append(-math.log(p[label]))
        hits.append(p.argmax() == label)
    assert found["loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(found["loss"]))
    assert found["accuracy"] == pytest.approx(sum(hits) / len(hits))


def test_a_model_that_knows_nothing_has_the_entropy_of_the_vocabulary(
    tiny: Callable[..., Architecture], corpus: Corpus, masking: Masking
) -> None:
    model = make_model(tiny(), 0, "student")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    heldout = HeldoutBatches(corpus.heldout, masking, 12, 4)
    found = heldout_metrics(MaskedLM(model, torch.float32), heldout, CPU)
    assert found["loss"] == pytest.approx(math.log(160), rel=1e-6)
    assert found["perplexity"] == pytest.approx(160, rel=1e-5)
