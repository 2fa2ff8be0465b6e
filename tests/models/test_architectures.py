"""Architectures of others at their real sizes but for the number of layers, with random weights."""

from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
)

from dwt_cli.distill.alpha import Constant
from dwt_cli.distill.loss import Distillation, DistillationLoss
from dwt_cli.distill.objective.divergences import ForwardKL
from dwt_cli.distill.remap.options import FromTeacher
from dwt_cli.distill.teacher.signal import ModelSignal
from dwt_cli.models.making import config_of, make_model
from dwt_cli.models.options import Architecture, Family
from dwt_cli.models.wrapper import LanguageModel
from dwt_cli.tasks.clm import NextToken
from dwt_cli.tasks.task import Place
from dwt_cli.training.protocols import Moment

L = 32


def _sizes(*numbers: int) -> dict[str, int]:
    names = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")
    return dict(zip((*names, "vocab_size", "max_position_embeddings"), numbers, strict=True))


ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "SmolLM2-135M": (
        "llama",
        _sizes(576, 1536, 9, 3, 49152, 8192)
        | {"rope_theta": 100000, "rms_norm_eps": 1e-5, "tie_word_embeddings": True}
        | {"bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.041666666666666664},
    ),
    "Qwen2.5-0.5B": (
        "qwen2",
        _sizes(896, 4864, 14, 2, 151936, 32768)
        | {"rope_theta": 1000000.0, "rms_norm_eps": 1e-6, "tie_word_embeddings": True}
        | {"use_sliding_window": False, "sliding_window": 32768, "max_window_layers": 24},
    ),
    "OLMo-2-0425-1B": (
        "olmo2",
        _sizes(2048, 8192, 16, 16, 100352, 4096)
        | {"rope_theta": 500000, "rms_norm_eps": 1e-6, "tie_word_embeddings": False}
        | {"eos_token_id": 100257, "pad_token_id": 100277},
    ),
}


def _random(config: PreTrainedConfig) -> PreTrainedModel:
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight") or name.endswith("bias"):
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_it_teaches_and_grows(name: str) -> None:
    family, settings = ARCHITECTURES[name]
    teacher = _random(AutoConfig.for_model(family, **settings, num_hidden_layers=2)).eval()
    options = Architecture(
        3,
        family=Family[family],
        width=settings["hidden_size"],
        num_heads=settings["num_attention_heads"],
        num_kv_heads=settings["num_key_value_heads"],
        mlp_width=settings["intermediate_size"],
        vocab_size=settings["vocab_size"],
        max_length=L,
    )
    config, rule = config_of(options), FromTeacher("zero_init")
    rule.adopt(config, teacher.config)
    student = make_model(options, 0, "student", config)
    account = rule.start(student, teacher)
    assert account.layers == {0: {0: 1.0}, 1: {0: 1.0}, 2: {1: 1.0}}
    assert account.silent == [1]
    ids_BL = torch.randint(0, settings["vocab_size"], (2, L), generator=torch.manual_seed(1))
    batch = NextToken().batch(ids_BL.numpy(), 0, [Place(n, 0, n) for n in range(2)])
    with torch.no_grad():
        expected_BLV = teacher(ids_BL).logits
        torch.testing.assert_close(student(ids_BL).logits, expected_BLV, rtol=1e-4, atol=1e-4)
        log_p_NV = expected_BLV[:, :-1].flatten(0, 1).log_softmax(-1)
    signal = ModelSignal(LanguageModel(teacher, torch.float32))
    setup = Distillation(signal, Constant(hard=1.0, soft=1.0), {"logits": ForwardKL()})
    wrapped = LanguageModel(student, torch.float32).train()
    found = DistillationLoss(setup)(wrapped, batch, Moment(0.0))
    hard = torch.nn.functional.nll_loss(log_p_NV, batch.labels_N, reduction="sum")
    assert found.sums["hard_loss"].item() == pytest.approx(hard.item(), rel=1e-5)
    assert found.sums["teacher_loss"].item() == pytest.approx(hard.item(), rel=1e-5)
    assert abs(found.sums["soft_loss"].item()) < 1e-3 * len(batch.labels_N), "it is its teacher"
    found.total.backward()
    learning = {n for n, p in student.named_parameters() if p.grad is not None and p.grad.any()}
    assert set(account.reset) <= learning
