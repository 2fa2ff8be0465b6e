"""Blocks that the teacher writes: the tokens, the targets, and what they are to the loss."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dwt_cli.data.corpus import Corpus
from dwt_cli.distill.alpha import Linear
from dwt_cli.distill.explore import Ascend, Perturb, Rows, Sample, Writes, disagreement
from dwt_cli.distill.loss import Distillation, DistillationLoss
from dwt_cli.distill.objective.divergences import ForwardKL
from dwt_cli.distill.objective.select import Correct
from dwt_cli.distill.teacher.signal import TARGETS_ALONE, Answer, ModelSignal, Request
from dwt_cli.distill.teacher.targets import DenseLogits, HeadStates
from dwt_cli.distill.writing import Writing
from dwt_cli.models.making import make_model
from dwt_cli.models.options import Architecture
from dwt_cli.models.wrapper import LanguageModel
from dwt_cli.tasks.batches import TrainBatches
from dwt_cli.tasks.clm import NextToken
from dwt_cli.tasks.mlm import Masking
from dwt_cli.tasks.task import Batch, Place, Targets
from dwt_cli.training.protocols import Moment

SIZE, STEP = 8, 3


class Noted(ModelSignal):
    """A model that notes the batches that it is asked about."""

    def __init__(self, model: LanguageModel) -> None:
        super().__init__(model)
        self.asked: list[Batch] = []

    def __call__(self, batch: Batch, request: Request = TARGETS_ALONE) -> Answer:
        self.asked.append(batch)
        return super().__call__(batch, request)


@pytest.fixture(params=["masked", "causal"])
def targets(request: pytest.FixtureRequest, masking: Masking) -> Targets:
    return masking if request.param == "masked" else NextToken()


@pytest.fixture
def models(
    targets: Targets, tiny: Callable[..., Architecture]
) -> tuple[LanguageModel, LanguageModel]:
    """A student, and a teacher that is surer of itself, in fp64."""
    family = "modernbert" if isinstance(targets, Masking) else "qwen3"
    made = [make_model(tiny(family, n), n, "some").double() for n in (2, 1)]
    with torch.no_grad():
        for parameter in made[1].parameters():
            parameter.mul_(3)
    student, teacher = (LanguageModel(model, torch.float32) for model in made)
    return student, teacher


def writing(options: Writes, targets: Targets, corpus: Corpus, vocab_size: int = 160) -> Writing:
    allowed_V = torch.arange(vocab_size) < len(corpus.tokenizer)
    allowed_V[corpus.tokenizer.all_special_ids] = False
    options = replace(options, batch_size=SIZE)
    ratio = 1.0 if isinstance(targets, Masking) else 0.3
    return Writing(options, targets, allowed_V, ratio, seed=5)


def batches(corpus: Corpus, targets: Targets) -> TrainBatches:
    return TrainBatches(corpus.train, targets, SIZE, 0, "student")


def by_sample(batch: Batch) -> dict[int, list[list[int]]]:
    """Ids, places within the block, and labels of each block."""
    length = batch.ids_BL.shape[1]
    columns = (batch.ids_BL, batch.rows_N.view(len(batch.ids_BL), -1) % length,
               batch.labels_N.view(len(batch.ids_BL), -1))  # fmt: skip
    samples = batch.places_B3[:, 2].tolist()
    return {s: [c[n].tolist() for c in columns] for n, s in enumerate(samples)}


def test_a_batch_falls_apart_and_comes_together(corpus: Corpus, targets: Targets) -> None:
    whole = batches(corpus, targets).batch(STEP)
    some, others = whole.taken([5, 0, 2]), whole.taken([1, 3, 4, 6, 7])
    assert some.places_B3[:, 2].tolist() == [5, 0, 2]
    again = some.joined(others)
    assert by_sample(again) == by_sample(whole)
    assert torch.equal(again.rows_N.sort().values, again.rows_N)
    places = again.places_B3[:, 2]
    assert torch.equal(again.taken(places.argsort().tolist()).rows_N, whole.rows_N)


def test_with_its_labels_a_batch_is_the_text(corpus: Corpus, targets: Targets) -> None:
    batch = batches(corpus, targets).batch(STEP)
    blocks_BL = corpus.train[batch.places_B3[:, 0].numpy()]
    assert np.array_equal(targets.written(batch, batch.labels_N).numpy(), blocks_BL)


@pytest.mark.parametrize("share", [0.25, 0.4, 0.5, 0.9])
def test_written_samples_lie_evenly(share: float) -> None:
    options = Sample(share=share, batch_size=40)
    written = [options.is_written(sample) for sample in range(40)]
    assert sum(written) == options.exact_share * 40 == pytest.approx(share * 40)
    parts = [sum(written[start : start + 10]) for start in range(0, 40, 10)]
    assert max(parts) - min(parts) <= 1


def test_without_noise_a_block_is_the_teachers_reading(
    corpus: Corpus, targets: Targets, models: tuple[LanguageModel, LanguageModel]
) -> None:
    work = writing(Perturb(share=0.25, sigma=0.0), targets, corpus)
    batch, signal = batches(corpus, targets).batch(STEP), Noted(models[1])
    work = replace(work, ratio=1.0)
    found, real = work(batch, signal, models[0])
    assert real.places_B3[:, 2].tolist() == [0, 1, 2, 4, 5, 6]
    assert found.places_B3[6:, 2].tolist() == [3, 7]
    assert by_sample(batch.taken([0, 1, 2, 4, 5, 6])) == by_sample(found.taken(range(6)))
    for number, sample in ((6, 3), (7, 7)):
        one = batch.taken([sample])
        block_L = corpus.train[one.places_B3[:, 0].numpy()][0].copy()
        logits_TV = models[1](one.ids_BL, one.rows_N).logits_NV
        shift = int(isinstance(targets, NextToken))
        for row, logits_V in zip(one.rows_N.tolist(), logits_TV, strict=True):
            if not work.allowed_V[block_L[row + shift]]:
                continue  # a document's mark stays
            best = max(work.allowed_V.nonzero().flatten().tolist(), key=lambda v: logits_V[v])
            block_L[row + shift] = best
        written = found.taken([number])
        assert np.array_equal(targets.written(written, written.labels_N)[0].numpy(), block_L)


def test_a_decoders_blocks_are_written_in_part(
    corpus: Corpus, tiny: Callable[..., Architecture]
) -> None:
    teacher = LanguageModel(make_model(tiny("qwen3", 1), 1, "some"), torch.float32)
    targets = NextToken()
    batch = batches(corpus, targets).batch(STEP)
    found, _ = writing(Sample(share=0.9), targets, corpus)(batch, Noted(teacher), teacher)
    text = {s: corpus.train[np.array([b])][0] for b, _, s in batch.places_B3.tolist()}
    changed = [np.mean(np.array(ids) != text[s]) for s, (ids, *_) in by_sample(found).items()]
    assert 0.15 < np.mean(sorted(changed)[1:]) < 0.35


@pytest.mark.parametrize("options", [Sample(share=0.5), Perturb(share=0.5), Ascend(share=0.5)])
def test_the_same_is_written_in_any_parts(
    options: Writes,
    corpus: Corpus,
    targets: Targets,
    models: tuple[LanguageModel, LanguageModel],
) -> None:
    student, teacher = models
    work, source = writing(options, targets, corpus), batches(corpus, targets)
    found = {}
    for num_parts in (1, 2, 4):
        parts = [source.batch(STEP, part, num_parts) for part in range(num_parts)]
        each = [by_sample(work(part, Noted(teacher), student)[0]) for part in parts]
        found[num_parts] = {s: block for part in each for s, block in part.items()}
    assert found[1] == found[2] == found[4]
    plain, other = by_sample(source.batch(STEP)), by_sample(source.batch(STEP + 1))
    assert {s for s in plain if found[1][s] != plain[s]} == {1, 3, 5, 7}
    assert by_sample(work(source.batch(STEP + 1), Noted(teacher), student)[0])[1] != other[1]


def head(seed: int = 0) -> tuple[HeadStates, Tensor]:
    """States of three rows with a head of 11 tokens, and a student's logits, in fp64."""
    draw = torch.Generator().manual_seed(seed)
    sizes = [(3, 5), (11, 5), (11,), (3, 11)]
    states, weight, bias, student = (
        torch.randn(size, generator=draw, dtype=torch.float64) for size in sizes
    )
    return HeadStates(states, weight, bias), student


def test_ascent_goes_where_they_disagree_more() -> None:
    targets, student_TV = head()

    def kl(states_TD: Tensor) -> Tensor:
        log_t = F.linear(states_TD, targets.weight_VD, targets.bias_V).log_softmax(-1)
        return (log_t.exp() * (log_t - student_TV.log_softmax(-1))).sum(-1)

    log_t = targets.dense().log_softmax(-1)
    apart = log_t - student_TV.log_softmax(-1)
    in_logits = log_t.exp() * (apart - kl(targets.states_ND)[:, None])
    found = disagreement(targets, student_TV)
    torch.testing.assert_close(found, in_logits @ targets.weight_VD)
    assert (kl(targets.states_ND + 1e-3 * found) > kl(targets.states_ND)).all()


def test_sampled_tokens_are_as_frequent_as_the_teacher_expects() -> None:
    num, probabilities = 20_000, torch.tensor([0.5, 0.3, 0.15, 0.05, 0.0])
    logits_TV = (probabilities + 1e-30).log().repeat(num, 1)
    allowed_V = torch.tensor([True, True, False, True, True])
    draws = Place(0, 1, 2).generator(3)
    tokens_T = Sample().read(Rows(DenseLogits(logits_TV), draws, allowed_V))
    shares = torch.bincount(tokens_T, minlength=5) / num
    expected = torch.where(allowed_V, probabilities, 0.0)
    torch.testing.assert_close(shares, expected / expected.sum(), atol=0.015, rtol=0)
    assert shares[2] == 0 and shares[4] == 0


def losses(
    work: Writing | None, student: LanguageModel, teacher: LanguageModel, **more: object
) -> DistillationLoss:
    schedule = Linear(hard=0.7, soft=2.0, soft_end=0.0, until=0.5)
    compared = (schedule, {"logits": ForwardKL(temperature=2.0)})
    settings = Distillation(ModelSignal(teacher), *compared, writing=work)
    return DistillationLoss(replace(settings, **more))  # type: ignore[arg-type]


def test_written_rows_have_the_soft_loss_alone(
    corpus: Corpus, targets: Targets, models: tuple[LanguageModel, LanguageModel]
) -> None:
    student, teacher = models
    work = writing(Sample(share=0.25), targets, corpus)
    batch = batches(corpus, targets).batch(STEP)
    loss = losses(work, student, teacher, select=Correct())(student, batch, Moment(0.1))
    loss.total.backward()
    gradients = [p.grad.clone() for p in student.parameters() if p.grad is not None]
    student.zero_grad()

    found, real = work(batch, ModelSignal(teacher), student)
    ours = student(*found.inputs).logits_NV
    with torch.no_grad():
        theirs = teacher(*found.inputs).logits_NV
    cut = len(real.labels_N)
    hard = F.cross_entropy(ours[:cut], found.labels_N[:cut], reduction="sum")
    log_t, log_p = ((logits / 2).log_softmax(-1) for logits in (theirs, ours))
    soft_N = (log_t.exp() * (log_t - log_p)).sum(-1)
    is_right_N = theirs.argmax(-1) == found.labels_N
    is_right_N[cut:] = True  # what the teacher writes is not selected from
    soft = soft_N[is_right_N].sum()
    weight = 2.0 * (1 - 0.1 / 0.5)
    total = 0.7 * hard + weight * soft
    total.backward()
    torch.testing.assert_close(loss.total.double(), total, rtol=1e-5, atol=1e-5)
    expected = [p.grad for p in student.parameters() if p.grad is not None]
    for ours_, theirs_ in zip(gradients, expected, strict=True):
        torch.testing.assert_close(ours_, theirs_, rtol=1e-4, atol=1e-5)
    num_targets, hard, soft = len(found.labels_N), hard.detach(), soft.detach()
    assert float(loss.sums["hard_loss"]) / num_targets == pytest.approx(float(hard) / cut, rel=1e-5)
    assert float(loss.sums["soft_loss"]) == pytest.approx(float(soft), rel=1e-5)
    teachers = F.cross_entropy(theirs[:cut], found.labels_N[:cut])
    assert float(loss.sums["teacher_loss"]) / num_targets == pytest.approx(
        float(teachers), rel=1e-5
    )


def test_parts_of_a_batch_add_up(
    corpus: Corpus, targets: Targets, models: tuple[LanguageModel, LanguageModel]
) -> None:
    """As micro-batches and ranks have them, one that nothing is written in among them."""
    student, teacher = models
    work, source = writing(Ascend(share=0.25), targets, corpus), batches(corpus, targets)
    loss = losses(work, student, teacher)
    sums = []
    for num_parts in (1, 4):
        parts = [source.batch(STEP, part, num_parts) for part in range(num_parts)]
        each = [loss(student, part, Moment(0.1)) for part in parts]
        sums.append(
            [
                sum(float(e.total) for e in each),
                *(sum(float(e.sums[name]) for e in each) for name in each[0].sums),
            ]
        )
    assert sums[0] == pytest.approx(sums[1], rel=1e-5)


def test_nothing_is_written_once_the_teacher_is_gone(
    corpus: Corpus, targets: Targets, models: tuple[LanguageModel, LanguageModel]
) -> None:
    student, teacher = models
    work = writing(Sample(share=0.5), targets, corpus)
    batch, late = batches(corpus, targets).batch(STEP), Moment(0.6)
    plain = losses(None, student, teacher)(student, batch, late)
    found = losses(work, student, teacher)(student, batch, late)
    assert torch.equal(plain.total, found.total) and plain.sums.keys() == found.sums.keys()
