"""The student after remapping, tensor by tensor."""

from collections.abc import Callable

import pytest
import torch
from transformers import ModernBertConfig, ModernBertForMaskedLM, PreTrainedModel

from dwt_cli.config import Architecture
from dwt_cli.errors import UserError
from dwt_cli.models.anatomy import anatomy_of
from dwt_cli.models.making import make_model
from dwt_cli.remap.remapping import remap
from dwt_cli.remap.rules import RULES, paper

Tiny = Callable[..., Architecture]


def test_the_paper_s_rule() -> None:
    """Section 3.3: layers 1 to 4 are the teacher's, 5 and 6 its last one."""
    assert RULES["paper"] is paper
    assert [paper(layer, 6, 4) for layer in range(6)] == [0, 1, 2, 3, 3, 3]
    assert [paper(layer, 6, 1) for layer in range(6)] == [0] * 6
    assert [paper(layer, 2, 4) for layer in range(2)] == [0, 1]


def layer_of(model: PreTrainedModel, number: int) -> dict[str, torch.Tensor]:
    return model.get_submodule(f"{anatomy_of(model).layers}.{number}").state_dict()


def pair(tiny: Tiny, family: str, num_teacher: int) -> tuple[PreTrainedModel, PreTrainedModel]:
    student = make_model(tiny(family, num_layers=6), 0, "student")
    teacher = make_model(tiny(family, num_layers=num_teacher), 0, "teacher")
    with torch.no_grad():
        for parameter in teacher.parameters():  # norms and biases that differ too
            parameter.add_(torch.randn_like(parameter))
    return student, teacher


@pytest.mark.parametrize("family", ["bert", "modernbert"])
@pytest.mark.parametrize("num_teacher", [4, 1])
def test_copies_are_exact_and_every_tensor_is_accounted_for(
    tiny: Tiny, family: str, num_teacher: int
) -> None:
    student, teacher = pair(tiny, family, num_teacher)
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    account = remap(student, teacher, "paper")
    chosen = {layer: min(layer, num_teacher - 1) for layer in range(6)}
    assert account.layers == chosen
    after, source = student.state_dict(), teacher.state_dict()
    assert account.copied.keys() | account.reset.keys() == after.keys()
    assert not account.copied.keys() & account.reset.keys()
    for name, origin in account.copied.items():
        assert torch.equal(after[name], source[origin]), name
    for name in account.reset:
        assert torch.equal(after[name], before[name]), name

    for layer, origin in chosen.items():
        ours, theirs = layer_of(student, layer), layer_of(teacher, origin)
        fresh = ours.keys() - theirs.keys()
        assert fresh == (
            {"attn_norm.weight"} if family == "modernbert" and layer > 0 == origin else set()
        )
        for name in ours.keys() & theirs.keys():
            assert torch.equal(ours[name], theirs[name])
    layers = anatomy_of(student).layers
    outside = [name for name in after if not name.startswith(f"{layers}.")]
    assert any("embeddings" in name for name in outside)
    assert any("decoder" in name for name in outside)
    assert all(account.copied[name] == name for name in outside)


def test_layers_that_came_from_one_are_not_shared(tiny: Tiny) -> None:
    student, teacher = pair(tiny, "bert", 1)
    remap(student, teacher, "paper")
    with torch.no_grad():
        next(student.get_submodule("bert.encoder.layer.3").parameters()).zero_()
    four, five = layer_of(student, 4), layer_of(teacher, 0)
    assert all(torch.equal(four[name], five[name]) for name in four)


def test_a_rule_may_leave_layers_as_they_were_made(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RULES, "odd", lambda layer, ours, theirs: 0 if layer % 2 else None)
    student, teacher = pair(tiny, "modernbert", 1)
    before = {
        number: {k: v.clone() for k, v in layer_of(student, number).items()} for number in range(6)
    }
    account = remap(student, teacher, "odd")
    assert account.layers == {1: 0, 3: 0, 5: 0}
    for number, tensors in before.items():
        unchanged = all(torch.equal(tensors[k], v) for k, v in layer_of(student, number).items())
        assert unchanged == (number % 2 == 0)


def test_a_model_remapped_to_its_own_depth_computes_the_same(tiny: Tiny) -> None:
    student, teacher = pair(tiny, "modernbert", 6)
    remap(student, teacher, "paper")
    ids_BL = torch.randint(5, 160, (2, 20))
    with torch.no_grad():
        assert torch.equal(student.eval()(ids_BL).logits, teacher.eval()(ids_BL).logits)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"family": "modernbert"}, "family=modernbert or remap=random"),
        ({"width": 32}, "student.width=16"),
        ({"num_heads": 4}, "student.num_heads=2"),
        ({"mlp_width": 48}, "student.mlp_width=24"),
        ({"vocab_size": 161}, r"word_embeddings.weight is \(160, 16\)"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(
    tiny: Tiny, changes: dict[str, object], expected: str
) -> None:
    student = make_model(tiny("bert"), 0, "student")
    teacher = make_model(tiny(**{"family": "bert", **changes}), 0, "teacher")
    with pytest.raises(UserError, match=expected) as caught:
        remap(student, teacher, "paper")
    assert "\n" not in str(caught.value)


def test_layers_of_different_kinds_are_refused(tiny: Tiny) -> None:
    student = make_model(tiny("modernbert", num_layers=6), 0, "student")
    teacher = ModernBertForMaskedLM(
        ModernBertConfig(
            vocab_size=160,
            hidden_size=16,
            num_hidden_layers=4,
            num_attention_heads=2,
            intermediate_size=24,
            pad_token_id=0,
        )
    )
    with pytest.raises(UserError, match="kinds full_attention, sliding_attention"):
        remap(student, teacher, "paper")


def test_an_unknown_rule_is_refused(tiny: Tiny) -> None:
    model = make_model(tiny(), 0, "student")
    with pytest.raises(UserError, match=r"remap\.rule=fancy is not known: use paper, random"):
        remap(model, model, "fancy")
