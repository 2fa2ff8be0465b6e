from collections.abc import Callable

import pytest
import torch
from torch import nn
from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

from dwt_cli.models.making import make_model
from dwt_cli.models.options import Architecture
from dwt_cli.models.wrapper import LanguageModel
from dwt_cli.training.optim import Optimizer
from dwt_cli.training.options import AdamW, Falling, Muon, Optim

Tiny = Callable[..., Architecture]


def wrapped(tiny: Tiny, family: str) -> LanguageModel:
    return LanguageModel(make_model(tiny(family, num_layers=1), 0, "student"), torch.float32)


SCHEDULES = {
    Falling.linear: get_linear_schedule_with_warmup,
    Falling.cosine: get_cosine_schedule_with_warmup,
}


@pytest.mark.parametrize("falling", Falling)
@pytest.mark.parametrize(("num_steps", "num_warmup"), [(100, 5), (40, 0), (20, 20), (7, 3)])
def test_warmup_and_decay_as_in_transformers(
    num_steps: int, num_warmup: int, falling: Falling
) -> None:
    theirs = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = SCHEDULES[falling](theirs, num_warmup, num_steps)
    warmup = num_warmup / num_steps
    for step in range(num_steps):
        assert AdamW(warmup=warmup, decay=1 - warmup, falling=falling).lr_factor(
            step / num_steps
        ) == pytest.approx(schedule.get_last_lr()[0], abs=1e-12), step
        theirs.step()
        schedule.step()


def test_a_plateau_between_warmup_and_decay() -> None:
    factors = [AdamW(warmup=0.2, decay=0.4).lr_factor(p / 10) for p in range(11)]
    assert factors == pytest.approx([0, 0.5, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0], abs=1e-12)
    assert [AdamW(warmup=0, decay=0).lr_factor(p / 10) for p in range(11)] == [1] * 11


MUONS = {
    "bert": {
        *(
            f"model.bert.encoder.layer.0.{name}.weight"
            for name in (
                "attention.self.query",
                "attention.self.key",
                "attention.self.value",
                "attention.output.dense",
                "intermediate.dense",
                "output.dense",
            )
        ),
        "model.cls.predictions.transform.dense.weight",
    },
    "modernbert": {
        *(
            f"model.model.layers.0.{name}.weight"
            for name in ("attn.Wqkv", "attn.Wo", "mlp.Wi", "mlp.Wo")
        ),
        "model.head.dense.weight",
    },
}


@pytest.mark.parametrize("family", MUONS)
def test_muon_has_exactly_the_hidden_matrices(tiny: Tiny, family: str) -> None:
    model = wrapped(tiny, family)
    adamw, muon = Optimizer(model, Muon(weight_decay=0.3)).parts
    assert isinstance(muon, torch.optim.Muon)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert {names[id(p)] for group in muon.param_groups for p in group["params"]} == MUONS[family]
    every = [
        id(p) for part in (adamw, muon) for group in part.param_groups for p in group["params"]
    ]
    assert sorted(every) == sorted(names)


def test_muon_leaves_an_output_matrix_that_is_not_tied(tiny: Tiny) -> None:
    model = wrapped(tiny, "bert")
    decoder = model.get_submodule("model.cls.predictions.decoder")
    decoder.weight = torch.nn.Parameter(decoder.weight.detach().clone())
    adamw, muon = Optimizer(model, Muon()).parts
    assert any(p is decoder.weight for p in adamw.param_groups[0]["params"])
    assert len(muon.param_groups[0]["params"]) == len(MUONS["bert"])


@pytest.mark.parametrize("family", MUONS)
def test_adamw_decays_matrices_alone(tiny: Tiny, family: str) -> None:
    model = wrapped(tiny, family)
    (adamw,) = Optimizer(model, AdamW(weight_decay=0.3)).parts
    assert sorted(id(p) for group in adamw.param_groups for p in group["params"]) == sorted(
        map(id, model.parameters())
    )
    for group in adamw.param_groups:
        for parameter in group["params"]:
            assert group["weight_decay"] == (0.3 if parameter.ndim >= 2 else 0.0)
        assert (group["betas"], group["eps"]) == ((0.9, 0.98), 1e-6)


def test_all_rates_move_together_each_from_its_own_peak(tiny: Tiny) -> None:
    optimizer = Optimizer(wrapped(tiny, "bert"), Muon(lr=0.1, hidden_lr=0.4, warmup=0.5, decay=0.5))
    for progress, factor in ((0.25, 0.5), (0.5, 1.0), (0.75, 0.5), (0.0, 0.0), (0.5, 1.0)):
        assert optimizer.set_lr(progress) == pytest.approx(factor)
        rates = [[g["lr"] for g in part.param_groups] for part in optimizer.parts]
        assert rates == [pytest.approx([0.1 * factor] * 2), pytest.approx([0.4 * factor])]


@pytest.mark.parametrize("options", [AdamW(lr=0.1), Muon(lr=0.1, hidden_lr=0.1)])
def test_a_step_moves_every_parameter_and_its_gradient_is_gone(tiny: Tiny, options: Optim) -> None:
    model = wrapped(tiny, "bert")
    optimizer = Optimizer(model, options)
    before = [p.detach().clone() for p in model.parameters()]
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.set_lr(0.5)
    optimizer.step()
    optimizer.zero_grad()
    assert all(not torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
    assert all(p.grad is None for p in model.parameters())


def test_a_module_beside_the_model_has_its_own_peak_rate(tiny: Tiny) -> None:
    aux = nn.ModuleDict({"plain": nn.Linear(3, 3), "fast": nn.Linear(3, 3)})
    aux["fast"].lr_scale = 10.0
    optimizer = Optimizer(wrapped(tiny, "bert"), AdamW(lr=1e-3, warmup=0.5, decay=0.0), aux)
    for progress in (0.25, 1.0):
        factor = optimizer.set_lr(progress)
        rates = {
            p: g["lr"] for part in optimizer.parts for g in part.param_groups for p in g["params"]
        }
        assert {rates[p] for p in aux["plain"].parameters()} == {1e-3 * factor}
        assert {rates[p] for p in aux["fast"].parameters()} == {1e-2 * factor}
    decays = {p: g["weight_decay"] for g in optimizer.parts[0].param_groups for p in g["params"]}
    assert [decays[p] for p in aux["fast"].parameters()] == [0.01, 0.0], "its bias does not decay"
