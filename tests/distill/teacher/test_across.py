"""A teacher that reads its own tokens, against one block at a time, without padding."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from dwt_cli.data.pack import pack
from dwt_cli.data.surfaces import Surfaces
from dwt_cli.data.tokenizer import ids_of
from dwt_cli.distill.alpha import Constant
from dwt_cli.distill.loss import Distillation, DistillationLoss
from dwt_cli.distill.objective.chunks import Alm, ChunkObjective, Chunks, Uld
from dwt_cli.distill.objective.features import parts_for
from dwt_cli.distill.objective.hidden import Distance, Hidden
from dwt_cli.distill.teacher.across import SpanSignal
from dwt_cli.distill.teacher.signal import Request
from dwt_cli.models.making import make_model
from dwt_cli.models.options import Head
from dwt_cli.models.wrapper import LanguageModel
from dwt_cli.tasks.options import CausalLM, MaskedLM, Task
from dwt_cli.tasks.task import Batch, Place
from dwt_cli.training.protocols import Moment
from tests.conftest import tiny_architecture
from tests.vocabularies import TEXTS, byte_level, masked_bytes, metaspace, pieces

LENGTH = 40
ASKED = Request(features=frozenset({("hidden", 0), ("hidden", -1)}), chunks=True, places=True)


def batch_of(task: Task, tokenizer: PreTrainedTokenizerFast, num_blocks: int = 3) -> Batch:
    """Blocks of real text, with marks in them."""
    texts = pack(ids_of(tokenizer, TEXTS), LENGTH, *task.frame.ids(tokenizer))
    blocks_BL = np.array([next(texts) for _ in range(num_blocks)])
    places = [Place(number, 0, number) for number in range(num_blocks)]
    return task.targets(tokenizer).batch(blocks_BL, 0, places)


def model_of(family: str, tokenizer: PreTrainedTokenizerFast, length: int = 128) -> LanguageModel:
    options = tiny_architecture(family, vocab_size=len(tokenizer), max_length=length)
    model = make_model(options, 0, "teacher")
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return LanguageModel(model.eval(), torch.float32)


def signal_of(
    family: str, ours: PreTrainedTokenizerFast, theirs: PreTrainedTokenizerFast, length: int = 128
) -> SpanSignal:
    head = Head.masked if family in ("bert", "modernbert") else Head.causal
    return SpanSignal.of(model_of(family, theirs, length), Surfaces(ours), Surfaces(theirs), head)


def by_itself(signal: SpanSignal, ids: Any) -> Any:
    """What the library says of one block: logits (T, W) and hidden states."""
    assert signal.model is not None
    with torch.no_grad():
        return signal.model.model(torch.as_tensor(ids)[None], output_hidden_states=True)


CAUSAL = [("qwen3", pieces), ("gpt2", lambda: byte_level(280)), ("llama", metaspace)]


@pytest.mark.parametrize(("family", "theirs"), CAUSAL)
def test_what_a_decoder_says_of_text_it_reads_in_other_tokens(family: str, theirs: Any) -> None:
    ours, batch = byte_level(), batch_of(CausalLM(), byte_level())
    signal = signal_of(family, ours, theirs())
    answer, readings = signal(batch, ASKED), signal.read(batch)
    found, features = answer.chunks, answer.features
    assert found and features and features.taught_BL is not None
    log_p, chunk_of, rows, states = [], {}, [], {}
    for block, each in enumerate(readings):
        output = by_itself(signal, each.ids_T)
        scores = output.logits[0].log_softmax(-1)
        for place, (i, j) in enumerate(zip(each.ours_A, each.theirs_A, strict=True)):
            states[block, int(i)] = output.hidden_states[1][0, j]
            if i < LENGTH - 1:
                rows.append((block * (LENGTH - 1) + i, scores[j].exp().sort(descending=True)[0]))
            if place:
                before_i, before_j = each.ours_A[place - 1], each.theirs_A[place - 1]
                chunk_of |= {(block, k): len(log_p) for k in range(before_i + 1, i + 1)}
                tokens = range(before_j + 1, j + 1)
                log_p.append(sum(scores[k - 1, each.ids_T[k]] for k in tokens))
    torch.testing.assert_close(found.log_p_C, torch.stack(log_p), rtol=1e-4, atol=1e-4)
    expected = [chunk_of.get((b, k), len(log_p)) for b in range(3) for k in range(1, LENGTH)]
    assert found.chunks_N.tolist() == expected
    assert found.rows_A.tolist() == [row for row, _ in rows]
    torch.testing.assert_close(found.sorted_AW, torch.stack([p for _, p in rows]))
    taught = {(int(b), int(i)) for b, i in features.taught_BL.nonzero()}
    assert taught == states.keys()
    for (block, place), state in states.items():
        torch.testing.assert_close(features.hidden[0][block, place], state, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_an_encoder_reads_masks_where_the_student_does(family: str) -> None:
    batch = batch_of(MaskedLM(), masked_bytes())
    signal, mask_id = signal_of(family, masked_bytes(), pieces()), pieces().mask_token_id
    features, readings = (
        signal(batch, Request(features=ASKED.features)).features,
        signal.read(batch),
    )
    assert features and features.taught_BL is not None
    lengths = {len(each.ids_T) for each in readings}
    assert len(lengths) > 1, "some blocks are padded"
    for block, each in enumerate(readings):
        assert 2 <= (each.ids_T == mask_id).sum() < len(each.ids_T) / 2
        output = by_itself(signal, each.ids_T)
        for i, j in zip(each.ours_A, each.theirs_A, strict=True):
            expected = output.hidden_states[1][0, j]
            torch.testing.assert_close(features.hidden[0][block, i], expected, rtol=1e-4, atol=1e-4)
        assert int(features.taught_BL[block].sum()) == len(each.ours_A) > LENGTH / 3


def test_documents_are_apart_for_the_teacher_too() -> None:
    task = CausalLM(separate_documents=True)
    batch, signal = batch_of(task, byte_level()), signal_of("qwen3", byte_level(), pieces())
    features = signal(batch, Request(features=ASKED.features)).features
    assert features is not None
    (each, *_) = signal.read(batch)
    (_, second, *_) = each.special_T.nonzero()[0]
    alone = by_itself(signal, each.ids_T[second:]).hidden_states[1][0]
    for i, j in zip(each.ours_A, each.theirs_A, strict=True):
        if second <= j < second + 5:
            found = features.hidden[0][0, i]
            torch.testing.assert_close(found, alone[j - second], rtol=1e-4, atol=1e-4)


def test_a_short_teacher_says_nothing_of_the_rest() -> None:
    batch, signal = batch_of(CausalLM(), byte_level()), signal_of("gpt2", byte_level(), pieces(), 8)
    assert signal.model is not None and signal.model.model.config.n_positions == 8
    assert all(len(each.ids_T) == 8 for each in signal.read(batch))
    found = signal(batch, ASKED)
    assert found.chunks and found.features and found.features.taught_BL is not None
    assert 0 < found.features.taught_BL.sum() <= 24
    assert (found.chunks.chunks_N == len(found.chunks.log_p_C)).float().mean() > 0.5


# ------------------------------------------------------------------------------- objectives


def made_up() -> tuple[Tensor, Tensor, Chunks]:
    draw = torch.Generator().manual_seed(0)
    student_NV = torch.randn(7, 11, generator=draw).requires_grad_()
    labels_N = torch.randint(11, (7,), generator=draw)
    log_p_C = torch.tensor([-0.5, -7.0, -30.0])
    sorted_AW = torch.randn(2, 13, generator=draw).softmax(-1).sort(descending=True).values
    chunks_N = torch.tensor([3, 0, 0, 1, 2, 2, 3])
    return student_NV, labels_N, Chunks(chunks_N, log_p_C, torch.tensor([1, 5]), sorted_AW)


def slow_alm(student_NV: Tensor, labels_N: Tensor, chunks: Chunks, tau: float) -> Tensor:
    total = torch.zeros(())
    scores_NV = student_NV.log_softmax(-1)
    for number, log_t in enumerate(chunks.log_p_C):
        rows = [row for row, chunk in enumerate(chunks.chunks_N) if chunk == number]
        p = torch.stack([scores_NV[row, labels_N[row]] for row in rows]).sum().div(tau).exp()
        t = (log_t / tau).exp()
        total = total + t * (t / p).log() + (1 - t) * ((1 - t) / (1 - p)).log()
    return tau * total


def slow_uld(student_NV: Tensor, labels_N: Tensor, chunks: Chunks) -> Tensor:
    total = torch.zeros(())
    for row, q in zip(chunks.rows_A, chunks.sorted_AW, strict=True):
        p = sorted(student_NV[row].softmax(-1), key=lambda each: each.item(), reverse=True)
        more = max(len(p), len(q))
        for i in range(more):
            mine = p[i] if i < len(p) else torch.zeros(())
            total = total + (mine - (q[i] if i < len(q) else 0)).abs()
    return total


@pytest.mark.parametrize("objective", [Alm(temperature=1.0), Alm(temperature=10.0), Uld()])
@pytest.mark.parametrize("is_wider", [False, True])
def test_objectives_of_text(objective: ChunkObjective, is_wider: bool) -> None:
    student_NV, labels_N, chunks = made_up()
    if is_wider:
        chunks = chunks._replace(sorted_AW=chunks.sorted_AW[:, :9])
    found = objective.compare(student_NV, labels_N, chunks)
    (gradient,) = torch.autograd.grad(found, student_NV)
    if isinstance(objective, Alm):
        expected = slow_alm(student_NV, labels_N, chunks, objective.temperature)
    else:
        expected = slow_uld(student_NV, labels_N, chunks)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    (slowly,) = torch.autograd.grad(expected, student_NV)
    torch.testing.assert_close(gradient, slowly, rtol=1e-3, atol=1e-5)
    assert gradient.abs().max() > 0.01


def test_a_certain_text_has_a_finite_gradient() -> None:
    student_NV, labels_N, chunks = made_up()
    certain_NV = torch.nn.functional.one_hot(labels_N, 11).mul(100.0).requires_grad_()
    for log_p_C in (chunks.log_p_C, torch.zeros(3)):
        for each in (certain_NV, student_NV):
            found = Alm().compare(each, labels_N, chunks._replace(log_p_C=log_p_C))
            (gradient,) = torch.autograd.grad(found, each)
            assert found.isfinite() and gradient.isfinite().all()


@pytest.mark.parametrize("distance", Distance)
def test_states_are_compared_where_tokens_end_together(distance: Distance) -> None:
    batch, signal = batch_of(CausalLM(), byte_level()), signal_of("qwen3", byte_level(), pieces())
    student, objective = model_of("qwen3", byte_level()), Hidden(pairs=[[0, -1]], distance=distance)
    assert signal.model is not None
    objectives = {"hidden": objective}
    parts = parts_for(objectives, student.model.config, signal.model.model.config)
    loss = DistillationLoss(Distillation(signal, Constant(hard=0.0, soft=2.0), objectives, parts))
    found = loss(student, batch, Moment(0.0))
    states = student.model(batch.ids_BL, output_hidden_states=True).hidden_states[1]
    total = torch.zeros(())
    for block, each in enumerate(signal.read(batch)):
        captured = signal(batch, Request(features=frozenset({("hidden", -1)}))).features
        assert captured is not None
        for i in each.ours_A:
            ours, theirs = parts["hidden"]([states[block, i]])[0], captured.hidden[-1][block, i]
            if distance is Distance.cosine:
                total = total + 1 - torch.cosine_similarity(ours, theirs, dim=0)
            else:
                total = total + (ours - theirs).square().mean()
    expected = 2 * total / batch.ids_BL.numel() * len(batch.labels_N)
    torch.testing.assert_close(found.total, expected, rtol=1e-4, atol=1e-4)
    ours = torch.autograd.grad(found.total, student.model.get_input_embeddings().weight)
    slowly = torch.autograd.grad(expected, student.model.get_input_embeddings().weight)
    torch.testing.assert_close(ours, slowly, rtol=1e-3, atol=1e-4)
    assert "teacher_loss" not in found.sums and loss.remember({}, {"soft_loss": 1.0})["num_taught"]


def test_any_split_of_a_batch_gives_the_same() -> None:
    """With likelihoods of text beside the labels; a step's loss is that of its parts."""
    signal, student = signal_of("llama", byte_level(), metaspace()), model_of("qwen3", byte_level())
    whole = batch_of(CausalLM(), byte_level(), 4)
    settings = Distillation(signal, Constant(hard=1.0, soft=0.5), {"alm": Alm(), "uld": Uld()})
    loss = DistillationLoss(settings)
    found = loss(student, whole, Moment(0.0))
    parts = []
    for first in (0, 1):
        rows = slice(2 * first * (LENGTH - 1), 2 * (first + 1) * (LENGTH - 1))
        blocks = slice(2 * first, 2 * first + 2)
        rows_N = whole.rows_N[rows] - 2 * first * LENGTH
        part = Batch(whole.ids_BL[blocks], rows_N, whole.labels_N[rows], whole.places_B3[blocks])
        parts.append(loss(student, part, Moment(0.0)))
    total = parts[0].total + parts[1].total
    torch.testing.assert_close(found.total, total, rtol=1e-5, atol=1e-4)
    for name in ("hard_loss", "teacher_loss", "soft_alm", "soft_uld", "soft_loss"):
        sums = parts[0].sums[name] + parts[1].sums[name]
        torch.testing.assert_close(found.sums[name], sums, rtol=1e-4, atol=1e-4)
    soft = found.sums["soft_alm"] + found.sums["soft_uld"]
    torch.testing.assert_close(found.total, found.sums["hard_loss"] + 0.5 * soft, rtol=1e-5, atol=0)


def test_beside_the_same_tokens_each_is_a_text_of_its_own() -> None:
    signal, batch = (
        signal_of("qwen3", byte_level(), byte_level()),
        batch_of(CausalLM(), byte_level()),
    )
    answer = signal(batch, Request(chunks=True))
    assert answer.chunks and answer.chunks.chunks_N.tolist() == list(range(3 * (LENGTH - 1)))
    assert signal.model is not None
    logits_NV = signal.model(*batch.inputs).logits_NV
    expected = -torch.nn.functional.cross_entropy(logits_NV, batch.labels_N, reduction="none")
    torch.testing.assert_close(answer.chunks.log_p_C, expected, rtol=1e-4, atol=1e-4)
    found = Alm().compare(logits_NV, batch.labels_N, answer.chunks)
    torch.testing.assert_close(found, torch.zeros(()), atol=1e-5, rtol=0)


def test_a_chunk_that_the_teacher_cannot_read_is_left_out() -> None:
    """Its word pieces have an unknown token for what it has never seen."""
    ours, theirs = byte_level(), pieces()
    signal = signal_of("qwen3", ours, theirs)
    text = [*ids_of(ours, ["bark \U0001f600 belin elin ossa bark"])[0]]
    ids_BL = torch.tensor([[ours.bos_token_id, *text]])
    batch = CausalLM().targets(ours).batch(ids_BL.numpy(), 0, [Place(0, 0, 0)])
    (reading,) = signal.read(batch)
    unknown = np.flatnonzero(reading.ids_T == theirs.unk_token_id)
    assert len(unknown) == 1
    chunks = signal(batch, Request(chunks=True)).chunks
    assert chunks
    pairs = enumerate(itertools.pairwise(reading.theirs_A))
    within = [number for number, (before, last) in pairs if before < unknown[0] <= last]
    assert len(within) == 1 and within[0] not in chunks.chunks_N.tolist()
    others = {*range(len(reading.ours_A) - 1)} - {*within}
    assert others == {*chunks.chunks_N.tolist()} - {len(reading.ours_A) - 1}
    assert chunks.log_p_C[within[0]] == 0
    assert signal.counted(batch) == (
        len(reading.ours_A), len(reading.ids_T), len(reading.ours_A) - 1, 1, 0,
    )  # fmt: skip
    student_NV = torch.randn(len(batch.labels_N), len(ours), requires_grad=True)
    (gradient,) = torch.autograd.grad(Alm().compare(student_NV, batch.labels_N, chunks), student_NV)
    start, end = reading.ours_A[within[0]], reading.ours_A[within[0] + 1]
    assert not gradient[start:end].any() and gradient[end:].any() and gradient[:start].any()
