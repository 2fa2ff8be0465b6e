"""A teacher that learns beside the student, against plain autograd of one joint loss."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from transformers.pytorch_utils import Conv1D

from dwt_cli.data.corpus import Corpus
from dwt_cli.distill.alpha import Constant
from dwt_cli.distill.loss import Distillation, DistillationLoss
from dwt_cli.distill.objective.divergences import ForwardKL
from dwt_cli.distill.teacher.online import HEAD, OnlineSignal
from dwt_cli.distill.teacher.options import ModelTeacher, Online
from dwt_cli.distill.teacher.signal import ModelSignal
from dwt_cli.models.anatomy import layers_of
from dwt_cli.models.features import NO_FEATURES
from dwt_cli.models.flops import forward_flops
from dwt_cli.models.making import make_model
from dwt_cli.models.options import Architecture, Head
from dwt_cli.models.wrapper import LanguageModel
from dwt_cli.tasks.batches import TrainBatches
from dwt_cli.tasks.clm import NextToken
from dwt_cli.tasks.mlm import Masking
from dwt_cli.tasks.task import Batch
from dwt_cli.training.protocols import Moment
from tests.conftest import VOCAB_SIZE

START = Moment(0.0)
KINDS = [Online.head, Online.lora]


@pytest.fixture
def made(
    tiny: Callable[..., Architecture], corpus: Corpus, masking: Masking
) -> Callable[..., tuple[LanguageModel, LanguageModel, Batch]]:
    """A student, a teacher with an opinion, and a batch of their family's task; fp64."""

    def make(family: str) -> tuple[LanguageModel, LanguageModel, Batch]:
        options = [tiny(family, num_layers) for num_layers in (2, 1)]
        student, teacher = (
            LanguageModel(make_model(each, 0, role), torch.float32).double()
            for each, role in zip(options, ("student", "teacher"), strict=True)
        )
        with torch.no_grad():
            for parameter in teacher.parameters():
                parameter.mul_(3)
        targets: Any = NextToken() if options[0].family.predicts is Head.causal else masking
        return student, teacher, TrainBatches(corpus.train, targets, 4, 0, "student").batch(0)

    return make


def stirred(signal: OnlineSignal) -> dict[str, nn.Parameter]:
    """Its parts' parameters, no longer at their beginning."""
    draw = torch.Generator().manual_seed(0)
    found = {}
    for name, part in signal.parts.items():
        for path, parameter in part.double().named_parameters():
            parameter.data += 0.2 * torch.randn(parameter.shape, generator=draw)
            found[f"{name}.{path}"] = parameter
    return found


def matrices(part: Any) -> tuple[Tensor, Tensor]:
    """A module's two, the first one first."""
    return part[0].weight, part[-1].weight


def slow_logits(model: LanguageModel, signal: OnlineSignal, batch: Batch) -> Tensor:
    """The changed teacher's: the head by its formula, in layers by changed weights."""
    if signal.options.online is Online.head:
        targets: Any = ModelSignal(copy.deepcopy(model))(batch).targets
        first, last = matrices(signal.parts[HEAD])
        rows = [h + last @ (first @ h).clamp_min(0) for h in targets.states_ND]
        logits_NV = torch.stack(rows) @ targets.weight_VD.T
        return logits_NV if targets.bias_V is None else logits_NV + targets.bias_V
    changed: dict[str, Tensor] = dict(model.model.named_parameters())
    modules = {module: name for name, module in model.model.named_modules()}
    for number, layer in enumerate(layers_of(model.model)):
        for path, module in layer.named_modules():
            kind = path.rpartition(".")[2]
            change = {}
            for place in "qv":
                first, last = matrices(signal.parts[f"{HEAD}_{number}_{place}"])
                change[place] = last @ first
            name = f"{modules[module]}.weight"
            if kind in ("Wqkv", "c_attn"):
                nothing = torch.zeros_like(change["q"])
                whole = torch.cat([change["q"], nothing, change["v"]])
                changed[name] = changed[name] + (whole.T if isinstance(module, Conv1D) else whole)
            elif kind in ("query", "q_proj", "value", "v_proj"):
                changed[name] = changed[name] + change[kind[0]]
    logits_BLV = functional_call(model.model, changed, (batch.ids_BL,)).logits
    return logits_BLV.flatten(0, 1)[batch.rows_N]


@pytest.mark.parametrize(
    ("family", "online", "agreement"),
    [
        ("bert", Online.head, 1.0),
        ("bert", Online.lora, 0.3),
        ("modernbert", Online.lora, 1.0),
        ("qwen3", Online.head, 0.0),
        ("qwen3", Online.lora, 0.3),
        ("gpt2", Online.lora, 1.0),
    ],
)
def test_both_learn_what_one_joint_loss_teaches(
    made: Any, family: str, online: Online, agreement: float
) -> None:
    """CE(student) + CE(t) + KL(t || student), by autograd; the KL's weights differ on two sides."""
    student, teacher, batch = made(family)
    options = ModelTeacher(temperature=1.5, online=online, rank=3, agreement=agreement)
    signal = OnlineSignal(teacher, options)
    parameters = stirred(signal)
    loss = DistillationLoss(Distillation(signal, Constant(1.0, 0.7), {"logits": ForwardKL()}))
    found = loss(student, batch, START)
    found.total.backward()

    teacher_NV = slow_logits(teacher, signal, batch) / 1.5
    student_NV = student(batch.ids_BL, batch.rows_N).logits_NV
    hard = F.cross_entropy(student_NV, batch.labels_N, reduction="sum")
    own = F.cross_entropy(teacher_NV, batch.labels_N, reduction="sum")

    def kl(t_NV: Tensor, p_NV: Tensor) -> Tensor:
        t_NV, p_NV = t_NV.log_softmax(-1), p_NV.log_softmax(-1)
        return (t_NV.exp() * (t_NV - p_NV)).sum()

    soft = kl(teacher_NV.detach(), student_NV)
    agreed = kl(teacher_NV, student_NV.detach())
    torch.testing.assert_close(found.sums["soft_loss"].double(), soft, rtol=1e-5, atol=1e-5)
    own = own + agreement * agreed
    torch.testing.assert_close(found.sums["signal_loss"].double(), own, rtol=1e-5, atol=1e-5)
    slow = torch.autograd.grad(
        hard + 0.7 * soft + own, [*student.parameters(), *parameters.values()]
    )
    ours = [*student.parameters(), *parameters.values()]
    for parameter, expected in zip(ours, slow, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-4, atol=2e-5)
    assert all(parameter.grad is None for parameter in teacher.parameters())


@pytest.mark.parametrize("online", KINDS)
def test_it_begins_as_the_frozen_teacher(made: Any, online: Online) -> None:
    student, teacher, batch = made("modernbert")
    student, teacher = student.float(), teacher.float()
    signal = OnlineSignal(teacher, ModelTeacher(online=online))
    objectives = {"logits": ForwardKL()}
    first, plain = (
        DistillationLoss(Distillation(each, Constant(), objectives))(student, batch, START)
        for each in (signal, ModelSignal(teacher))
    )
    torch.testing.assert_close(first.sums["soft_loss"], plain.sums["soft_loss"])
    with torch.no_grad():  # as it is evaluated: nothing is kept for a backward pass
        assert not signal(batch).targets.dense().requires_grad


@pytest.mark.parametrize("online", KINDS)
def test_what_learning_takes(tiny: Any, masking: Masking, corpus: Corpus, online: Online) -> None:
    """The operations that torch counts, but for those of the modules' few numbers."""
    wide = tiny("modernbert", 4, width=64, mlp_width=256)
    student, teacher = (LanguageModel(make_model(wide, 0, "it"), torch.float32) for _ in range(2))
    batch = TrainBatches(corpus.train, masking, 4, 0, "student").batch(0)
    options = ModelTeacher(online=online, rank=1)

    def counted(each: ModelTeacher) -> float:
        signal = each.signal(teacher, VOCAB_SIZE)
        loss = DistillationLoss(Distillation(signal, Constant(), {"logits": ForwardKL()}))
        with FlopCounterMode(display=False) as counter:
            loss(student, batch, START).total.backward()
        return float(counter.get_total_flops())

    num_blocks, length = batch.ids_BL.shape
    size = (num_blocks, length, len(batch.labels_N) // num_blocks)
    rows, asked = (
        forward_flops(teacher.model, *size, each) for each in (NO_FEATURES, options.shown)
    )
    head = 2 * len(batch.labels_N) * VOCAB_SIZE * 64
    expected = asked - rows + options.learning_flops(asked, head, head)
    assert counted(options) - counted(ModelTeacher()) == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("family", ["bert", "qwen3"])
@pytest.mark.parametrize("kind", KINDS)
def test_in_bf16_it_learns_too(made: Callable[..., Any], family: str, kind: Online) -> None:
    """Though a state in fp32 is rounded for the head."""
    _, teacher, batch = made(family)
    model = LanguageModel(teacher.model.float(), torch.bfloat16)
    signal = OnlineSignal(model, ModelTeacher(online=kind, rank=2))
    answer = signal(batch)
    signal.own_loss(answer.targets, answer.targets.detached(), batch, START)[0].backward()
    for part in signal.parts.values():
        assert part[-1].weight.grad is not None and part[-1].weight.grad.abs().max() > 0
