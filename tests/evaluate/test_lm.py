import math
from collections.abc import Callable

import pytest
import torch

from dwt_cli.data.corpus import Corpus
from dwt_cli.distill.alpha import Weights
from dwt_cli.distill.objective.fused import Comparison, DistillationSums
from dwt_cli.evaluate.lm import (
    _over_blocks,
    _targets,
    calibration_error,
    copying,
    heldout_metrics,
    metrics_of,
    repeated,
)
from dwt_cli.evaluate.measurement import EvaluatedModel
from dwt_cli.models.making import make_model
from dwt_cli.models.options import Architecture
from dwt_cli.models.wrapper import LanguageModel
from dwt_cli.tasks.batches import HeldoutBatches
from dwt_cli.tasks.mlm import Masking
from dwt_cli.tasks.options import CausalLM
from tests.evaluate.test_blimp import sharp
from tests.evaluate.test_zero_shot import a_tokenizer

CPU = torch.device("cpu")


@pytest.mark.parametrize("batch_size", [1, 5, 100])
def test_against_the_full_forward_target_by_target(
    tiny: Callable[..., Architecture], corpus: Corpus, masking: Masking, batch_size: int
) -> None:
    model = make_model(tiny(dropout=0.5), 0, "student")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)
    wrapped = LanguageModel(model, torch.float32).train()
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
    found = heldout_metrics(LanguageModel(model, torch.float32), heldout, CPU)
    assert found["loss"] == pytest.approx(math.log(160), rel=1e-6)
    assert found["perplexity"] == pytest.approx(160, rel=1e-5)
    assert found["accuracy"] == 1  # no logit is above the label's


def test_ties_count_as_in_training(corpus: Corpus, masking: Masking) -> None:
    """Logits of few values, so that the label's is often the highest beside others."""
    draw = torch.Generator().manual_seed(0)
    heldout = HeldoutBatches(corpus.heldout, masking, 12, 100)
    (batch,) = heldout
    logits_NV = torch.randint(3, (len(batch.labels_N), 160), generator=draw).float()
    found = metrics_of(lambda _: logits_NV, heldout, CPU)["accuracy"]
    alone = (None, batch.labels_N, Weights(1.0, 0.0), Comparison({}))
    in_training = DistillationSums(*alone)(logits_NV).correct / len(batch.labels_N)
    assert found == pytest.approx(in_training.item())
    assert 0.2 < found < 0.5


def test_the_error_is_that_of_blocks_whatever_their_number_of_targets() -> None:
    draw = torch.Generator().manual_seed(0)
    values_BT = torch.randn(30, 5, generator=draw, dtype=torch.float64)
    blocks_BT = torch.arange(30)[:, None].expand(30, 5)
    mean, error = _over_blocks(values_BT.flatten(), blocks_BT.flatten())
    assert mean == pytest.approx(values_BT.mean().item())
    assert error == pytest.approx(values_BT.mean(1).std().item() / 30**0.5)

    kept_BT = torch.rand(30, 5, generator=draw) < 0.6
    values_N, blocks_N = values_BT[kept_BT], blocks_BT[kept_BT]
    mean, error = _over_blocks(values_N, blocks_N)
    assert mean == pytest.approx(values_N.mean().item())
    left_out = []
    for block in range(30):  # the jackknife: each block left out once
        left_out.append(values_N[blocks_N != block].mean().item())
    spread = sum((each - sum(left_out) / 30) ** 2 for each in left_out) * 29 / 30
    assert error == pytest.approx(spread**0.5, rel=0.1)
    assert math.isnan(_over_blocks(values_N[:2], blocks_N[:2] * 0)[1])


def test_the_calibration_error_against_bins_one_by_one() -> None:
    draw = torch.Generator().manual_seed(0)
    confidences_N = torch.rand(400, generator=draw).double() ** 2
    correct_N = (torch.rand(400, generator=draw) < confidences_N**0.5).double()
    confidences_N[:3] = torch.tensor([1 / 15, 1.0, 0.0])  # on the edges
    expected = 0.0
    for number in range(15):
        low, high = number / 15, (number + 1) / 15
        chosen = (confidences_N > low) & (confidences_N <= high)
        if number == 0:
            chosen |= confidences_N == 0
        if chosen.any():
            gap = correct_N[chosen].mean() - confidences_N[chosen].mean()
            expected += abs(gap.item()) * chosen.sum().item() / 400
    assert calibration_error(confidences_N, correct_N) == pytest.approx(expected, rel=1e-9)
    assert expected > 0.05


def test_what_a_model_is_sure_of_is_the_probability_of_its_likeliest_token(
    corpus: Corpus, masking: Masking
) -> None:
    draw = torch.Generator().manual_seed(0)
    heldout = HeldoutBatches(corpus.heldout, masking, 12, 100)
    (batch,) = heldout
    logits_NV = torch.randn(len(batch.labels_N), 160, generator=draw) * 3
    *_, found = _targets(lambda _: logits_NV, heldout, CPU)
    torch.testing.assert_close(found, logits_NV.double().softmax(-1).amax(-1), rtol=1e-5, atol=0)


@pytest.mark.parametrize("family", ["qwen3", "gpt2"])
def test_copying_against_one_token_after_the_other(
    tiny: Callable[..., Architecture], corpus: Corpus, family: str
) -> None:
    tokenizer = a_tokenizer(adds_bos=False)
    model = sharp(make_model(tiny(family, vocab_size=len(tokenizer)), 0, "student")).eval()
    tested = EvaluatedModel(model, tokenizer, CausalLM(), "tiny", CPU, torch.float32)
    ids_SL = repeated(tested, 5)
    assert ids_SL.shape == (64, 11) and torch.equal(ids_SL[:, 1:6], ids_SL[:, 6:])
    assert ids_SL[:, 0].unique().tolist() == [0] and ids_SL[:, 1:].min() > 1
    saved = []
    for ids in ids_SL.tolist():
        losses = []
        for place in (2, 3, 4, 5, 7, 8, 9, 10):
            with torch.no_grad():
                logits_V = model(torch.tensor([ids[:place]])).logits[0, -1].double()
            losses.append(-logits_V.log_softmax(-1)[ids[place]].item())
        saved.append((sum(losses[:4]) - sum(losses[4:])) / 4)
    found = copying(tested, 12)
    assert found.value == pytest.approx(sum(saved) / 64, rel=1e-4, abs=1e-5)
    assert abs(found.value) > 0.001 and found.num_examples == 64
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert copying(tested, 12).value == pytest.approx(0, abs=1e-6)
