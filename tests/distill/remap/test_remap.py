"""The student after remapping, tensor by tensor, and whether it computes what its teacher does."""

import itertools
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    ModernBertConfig,
    ModernBertForMaskedLM,
    Olmo2Config,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    RobertaConfig,
    RobertaForMaskedLM,
)

from dwt_cli.base.errors import UserError
from dwt_cli.distill.remap import depth, width
from dwt_cli.distill.remap.options import FromTeacher, Ligo
from dwt_cli.distill.remap.remap import remap
from dwt_cli.models.anatomy import anatomy_of
from dwt_cli.models.making import config_of, make_model
from dwt_cli.models.options import Architecture
from tests.conftest import outlined
from tests.distill.remap.conftest import WIDER, Pair, logits

Tiny = Callable[..., Architecture]
DECODERS = ["qwen3", "llama", "gpt2", "qwen2", "olmo2", "gemma2", "gemma3_text"]
PRE_NORM = ["modernbert", *DECODERS]
FAMILIES = ["bert", *PRE_NORM]
EMBEDDINGS_NORM = "model.embeddings.norm.weight"


def layer_of(model: PreTrainedModel, number: int) -> dict[str, torch.Tensor]:
    return model.get_submodule(f"{anatomy_of(model).layers}.{number}").state_dict()


# ------------------------------------------------------------------------------------ accounts


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("num_teacher", [4, 1])
def test_copies_are_exact_and_every_tensor_is_accounted_for(
    pair: Pair, family: str, num_teacher: int
) -> None:
    student, teacher = pair(family, num_teacher)
    account = remap(student, teacher, FromTeacher("paper"))
    chosen = {layer: min(layer, num_teacher - 1) for layer in range(6)}
    assert account.layers == {layer: {origin: 1.0} for layer, origin in chosen.items()}
    after, source = student.state_dict(), teacher.state_dict()
    assert account.copied.keys() == after.keys()
    assert not account.grown and not account.reset
    for name, origin in account.copied.items():
        assert torch.equal(after[name], source[origin]), name
    for layer, origin in chosen.items():
        ours, theirs = layer_of(student, layer), layer_of(teacher, origin)
        for name in ours.keys() & theirs.keys():
            assert torch.equal(ours[name], theirs[name])
    layers = anatomy_of(student).layers
    outside = [name for name in after if not name.startswith(f"{layers}.")]
    assert all(account.copied[name] == name for name in outside)


def test_a_first_layer_further_up_reads_as_it_did_below(pair: Pair) -> None:
    """ModernBERT's first layer has no norm of its own: the embeddings' norm did that work."""
    student, teacher = pair("modernbert", 4)
    account = remap(student, teacher, FromTeacher("stack"))
    assert account.copied["model.layers.4.attn_norm.weight"] == EMBEDDINGS_NORM
    assert account.copied["model.layers.5.attn_norm.weight"] == "model.layers.1.attn_norm.weight"
    expected = teacher.get_parameter(EMBEDDINGS_NORM)
    assert torch.equal(layer_of(student, 4)["attn_norm.weight"], expected)


def test_layers_that_came_from_one_are_not_shared(pair: Pair) -> None:
    student, teacher = pair("bert", 1)
    remap(student, teacher, FromTeacher("paper"))
    with torch.no_grad():
        next(student.get_submodule("bert.encoder.layer.3").parameters()).zero_()
    four, five = layer_of(student, 4), layer_of(teacher, 0)
    assert all(torch.equal(four[name], five[name]) for name in four)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("changes", [{}, WIDER], ids=["alike", "wider"])
def test_embeddings_alone(pair: Pair, family: str, changes: dict[str, int]) -> None:
    student, teacher = pair(family, 4, **changes)
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    account = remap(student, teacher, FromTeacher("fresh", "net2net", head=False))
    taken = account.grown if changes else account.copied
    anatomy, after = anatomy_of(student), student.state_dict()
    assert taken.keys() == {
        name
        for name in after
        if name.startswith(anatomy.embeddings) or name == f"{anatomy.output}.weight"
    }
    assert taken.keys() | account.reset.keys() == after.keys()
    assert all(torch.equal(after[name], before[name]) for name in account.reset)
    assert not any(torch.equal(after[name], before[name]) for name in taken)
    assert account.layers == {}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rule", width.RULES)
def test_of_a_wider_student_every_tensor_is_accounted_for(
    pair: Pair, family: str, rule: str
) -> None:
    student, teacher = pair(family, 4, **WIDER)
    account = remap(student, teacher, FromTeacher("stack", rule))
    names = student.state_dict().keys()
    assert account.copied.keys() | account.grown.keys() == names
    as_wide = ("decoder.bias", "predictions.bias", "q_norm.weight", "k_norm.weight")
    assert all(name.endswith(as_wide) for name in account.copied)
    two = {name for name, origins in account.grown.items() if len(origins) == 2}
    if rule != "aki":
        assert not two
    else:
        last = f"{anatomy_of(student).layers}.3."  # of the teacher's last layer nothing follows
        inside = {name for name in names if name.startswith(anatomy_of(student).layers)}
        assert two == {name for name in inside if not name.startswith(last)} - account.copied.keys()
        assert account.layers[0] == {0: 0.5, 1: 0.5}


# ----------------------------------------------------------------------- the function is kept


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rule", ["paper", "stack", "interpolate"])
def test_at_the_teacher_s_depth_and_width_nothing_changes(
    pair: Pair, family: str, rule: str
) -> None:
    student, teacher = pair(family, 6)
    remap(student, teacher, FromTeacher(rule))
    assert torch.equal(logits(student), logits(teacher))


KEPT = ["net2net", "lemon", "decorrelated"]
EXACT = [
    *itertools.product(FAMILIES, ["stack"], [4], KEPT),
    *itertools.product(PRE_NORM, ["zero_init"], [4, 6, 9], [None, *KEPT]),
]


@pytest.mark.parametrize(("family", "rule", "num_student", "wider"), EXACT)
def test_logits_are_the_teacher_s(
    pair: Pair, family: str, rule: str, num_student: int, wider: str | None
) -> None:
    student, teacher = pair(family, 4, num_student, **(WIDER if wider else {}))
    untouched = (logits(student) - logits(teacher)).abs().max()
    remap(student, teacher, FromTeacher(rule, wider))
    difference = (logits(student) - logits(teacher)).abs().max()
    in_fp32 = wider and family in DECODERS and family != "gpt2"  # transformers' RMSNorm, always
    assert difference < (1e-5 if in_fp32 else 1e-11) < 1 < untouched


@pytest.mark.parametrize("family", ["qwen3", "llama"])
def test_heads_that_share_keys_and_values_are_taken_over_in_groups(tiny: Tiny, family: str) -> None:
    shared = {"num_heads": 4, "num_kv_heads": 2, "width": 32}
    teacher = make_model(tiny(family, **shared), 0, "teacher").double()
    wide = {"num_heads": 8, "width": 64, "mlp_width": 48}
    student = make_model(tiny(family, 4, **wide, num_kv_heads=4), 0, "student").double()
    remap(student, teacher, FromTeacher("zero_init", "lemon"))
    assert (logits(student) - logits(teacher)).abs().max() < 1e-5
    other = outlined(tiny(family, **wide, num_kv_heads=2))
    with pytest.raises(UserError, match=r"8 heads to 2 of keys.*4 to 2.*student.num_kv_heads=4"):
        remap(other, teacher, FromTeacher("stack", "net2net"))


def test_what_claims_nothing_changes_the_function(pair: Pair) -> None:
    """Or the tests above would pass whatever a rule does."""
    for rule, wider in (("paper", "net2net"), ("stack", "aki"), ("zero_init", "tile")):
        student, teacher = pair("modernbert", 4, **WIDER)
        remap(student, teacher, FromTeacher(rule, wider))
        assert (logits(student) - logits(teacher)).abs().max() > 0.1


def test_silent_layers_can_learn(pair: Pair) -> None:
    student, teacher = pair("modernbert", 4)
    account = remap(student, teacher, FromTeacher("zero_init"))
    assert account.silent == [1, 4]
    assert set(account.reset) == {
        f"model.layers.{layer}.{name}.weight" for layer in (1, 4) for name in ("attn.Wo", "mlp.Wo")
    }
    student(torch.arange(20).unsqueeze(0), labels=torch.arange(20).unsqueeze(0)).loss.backward()
    for name in account.reset:
        assert not student.get_parameter(name).any()
        assert student.get_parameter(name).grad.abs().max() > 0


@pytest.mark.parametrize("family", ["olmo2", "gemma2", "gemma3_text"])
def test_behind_a_norm_silent_layers_learn_at_the_pace_of_others(pair: Pair, family: str) -> None:
    """The norm of zeros is zero, but it would multiply gradients by 1 / sqrt(eps)."""
    student, teacher = pair(family, 4)
    account = remap(student, teacher, FromTeacher("zero_init"))
    norms = ("post_attention_layernorm", "post_feedforward_layernorm")
    silent = {f"model.layers.{layer}.{norm}.weight" for layer in (1, 4) for norm in norms}
    assert account.reset.keys() == silent
    ids_BL = torch.arange(20).unsqueeze(0)
    student(ids_BL, labels=ids_BL).loss.backward()
    sizes = {name: p.grad.norm().item() for name, p in student.named_parameters()}
    others = max(size for name, size in sizes.items() if name not in silent)
    assert all(0 < sizes[name] < 2 * others for name in silent)


def _exists(family: str) -> PreTrainedModel:
    """A model as others make them: other constants than those of the models that are made here."""
    common: dict[str, Any] = {
        "vocab_size": 160,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "pad_token_id": None,
    }
    rope = {"rope_type": "default", "rope_theta": 300.0}
    kinds = ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"]
    gemma = {
        **{"head_dim": 12, "query_pre_attn_scalar": 5, "rms_norm_eps": 1e-3},
        **{"layer_types": kinds, "sliding_window": 5, "final_logit_softcapping": 3.0},
    }
    thetas = {"sliding_attention": 90.0, "full_attention": 700.0}
    ropes = {kind: rope | {"rope_theta": theta} for kind, theta in thetas.items()}
    config = {
        "gpt2": lambda: GPT2Config(
            **{"vocab_size": 160, "n_embd": 16, "n_layer": 4, "n_head": 2, "n_positions": 24},
            **{"n_inner": 24, "activation_function": "relu", "layer_norm_epsilon": 1e-3},
        ),
        "llama": lambda: LlamaConfig(
            **common, attention_bias=True, mlp_bias=True, rope_parameters=rope, rms_norm_eps=1e-3
        ),
        "qwen2": lambda: Qwen2Config(**common, rope_parameters=rope),
        "qwen3": lambda: Qwen3Config(**common, head_dim=12, hidden_act="gelu"),
        "olmo2": lambda: Olmo2Config(**common, rope_parameters=rope, attention_bias=True),
        "gemma2": lambda: Gemma2Config(**common, **gemma, rope_parameters=rope),
        "gemma3_text": lambda: Gemma3TextConfig(**common, **gemma, rope_parameters=ropes),
    }[family]()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return model.double().eval()


@pytest.mark.parametrize("family", DECODERS)
@pytest.mark.parametrize("wider", [None, "lemon"])
def test_a_student_grows_from_a_model_that_others_made(
    tiny: Tiny, family: str, wider: str | None
) -> None:
    """With untied heads, other thetas, biases, heads as wide as they like, windows, caps."""
    teacher, rule = _exists(family), FromTeacher("zero_init", wider)
    sizes = WIDER if wider else {}
    if family != "gpt2":
        sizes = {**sizes, "num_kv_heads": sizes.get("num_heads", 2) // 2}
    options = tiny(family, 6, **sizes)
    config = config_of(options)
    rule.adopt(config, teacher.config)
    student = make_model(options, 0, "student", config).double().eval()
    rule.start(student, teacher)
    assert (logits(student) - logits(teacher)).abs().max() < 1e-5
    again = AutoConfig.for_model(**config.to_dict())
    assert again.to_dict() == config.to_dict(), "it is found again in what is saved"


# --------------------------------------------------------------------------------- refusals

NARROW = {"width": 8, "num_heads": 1, "mlp_width": 12}

REFUSED: list[tuple[dict[str, object], FromTeacher, str]] = [
    ({"family": "modernbert"}, FromTeacher("paper"), "family=modernbert, or remap=random"),
    ({"width": 32}, FromTeacher("paper", "net2net"), "student.width=16 is less than .* 32"),
    ({"mlp_width": 48}, FromTeacher("paper", "tile"), "student.mlp_width=24 is less than .* 48"),
    ({"num_heads": 4}, FromTeacher("paper"), "student.num_heads=2 is less than .* 4"),
    (NARROW, FromTeacher("paper"), "student.width=16 .* remap.width=net2net"),
    ({"mlp_width": 12}, FromTeacher("stack"), "student.mlp_width=24 .* remap.width=net2net"),
    ({"num_heads": 1}, FromTeacher("paper"), "heads are taken over whole; set .*num_heads=1"),
    ({"width": 8, "num_heads": 2}, FromTeacher("paper", "aki"), "whole; set .*num_heads=4"),
    ({"width": 12, "num_heads": 2}, FromTeacher("paper", "aki"), "student.*multiple of 6"),
    ({"width": 8, "num_heads": 1}, FromTeacher("zero_init", "lemon"), r"bert \(post-LN\)"),
    ({}, FromTeacher("zero_init"), r"zero_init.*post-LN.*modernbert.*stack"),
    ({"vocab_size": 161}, FromTeacher("paper"), r"word_embeddings.weight is \(160, 16\)"),
    ({"vocab_size": 161, **NARROW}, FromTeacher("paper", "tile"), r"\(160, 16\).*\(161, 8\)"),
]


@pytest.mark.parametrize(("changes", "options", "expected"), REFUSED, ids=str)
def test_what_cannot_work_is_told_by_shapes_alone(
    tiny: Tiny, changes: dict[str, object], options: FromTeacher, expected: str
) -> None:
    teacher = outlined(tiny(**{"family": "bert", **changes}))
    with pytest.raises(UserError, match=expected) as caught:
        remap(outlined(tiny("bert")), teacher, options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (FromTeacher("fancy"), "remap.depth=fancy is not known: use .*paper, stack"),
        (FromTeacher("paper", "fancy"), "remap.width=fancy is not known: use .*net2net"),
        (Ligo("zero_init", "net2net"), "zero_init is not where LiGO can begin: use interpol"),
        (Ligo("stack", "lemon"), "lemon is not where LiGO can begin: use net2net"),
    ],
    ids=str,
)
def test_a_rule_that_there_is_not(options: FromTeacher, expected: str) -> None:
    (line,) = options.problems("remap")
    assert re.search(expected, line)


def test_the_options_name_every_rule() -> None:
    assert set(FromTeacher.depths) == depth.RULES.keys() > set(Ligo.depths)
    assert set(FromTeacher.widths) == width.RULES.keys() > set(Ligo.widths)


@pytest.mark.slow
def test_what_works_is_known_by_shapes_alone(tiny: Tiny) -> None:
    for family in FAMILIES:
        student, teacher = outlined(tiny(family, num_layers=4)), outlined(tiny(family, **NARROW))
        rules = [*((rule, "net2net") for rule in depth.RULES), *(("stack", w) for w in width.RULES)]
        for rule, wider in rules:
            if rule != "zero_init" or family in PRE_NORM:
                remap(student, teacher, FromTeacher(rule, wider))
        assert all(parameter.is_meta for parameter in student.parameters())


def test_zero_init_and_lemon_have_conditions(tiny: Tiny) -> None:
    shallow, teacher = outlined(tiny("modernbert")), outlined(tiny("modernbert", num_layers=4))
    with pytest.raises(UserError, match=r"zero_init adds layers.*4.*num_layers=2"):
        remap(shallow, teacher, FromTeacher("zero_init"))
    student = outlined(tiny("modernbert", width=24, num_heads=3))
    with pytest.raises(UserError, match=r"lemon.*student.width=24.*16; set student.width=32"):
        remap(student, shallow, FromTeacher("zero_init", "lemon"))


def _modernbert(**changes: object) -> ModernBertForMaskedLM:
    with torch.device("meta"):
        return ModernBertForMaskedLM(
            ModernBertConfig(
                vocab_size=160,
                hidden_size=16,
                num_hidden_layers=4,
                num_attention_heads=2,
                intermediate_size=24,
                pad_token_id=0,
                **changes,
            )
        )


def test_layers_of_another_kind_are_refused(tiny: Tiny) -> None:
    student = outlined(tiny("modernbert", num_layers=6))
    expected = r"layer 1 \(full_attention.*layer 1 \(sliding_attention.*not interchangeable"
    with pytest.raises(UserError, match=expected):
        remap(student, _modernbert(), FromTeacher("paper"))
    mixed = _modernbert(layer_types=["full_attention"] * 2 + ["sliding_attention"] * 2)
    with pytest.raises(UserError, match="the student's layer 2"):
        remap(student, mixed, FromTeacher("stack"))
    with pytest.raises(UserError, match="not interchangeable"):  # it would mix them
        remap(outlined(tiny("modernbert", num_layers=2)), mixed, Ligo("stack"))
    remap(outlined(tiny("modernbert", num_layers=2)), mixed, FromTeacher("stack"))
    remap(_modernbert(), _modernbert(), FromTeacher("stack"))


def test_other_positions_or_activations_are_refused(tiny: Tiny) -> None:
    student, alike = outlined(tiny("modernbert", num_layers=4)), ["full_attention"] * 4
    rope = {"full_attention": {"rope_type": "default", "rope_theta": 500.0}}
    turned = _modernbert(layer_types=alike, rope_parameters=rope)
    with pytest.raises(UserError, match="rope_theta 500"):
        remap(student, turned, FromTeacher("paper"))
    bent = _modernbert(layer_types=alike, hidden_activation="relu")
    with pytest.raises(UserError, match="hidden_activation=relu, the student gelu"):
        remap(student, bent, FromTeacher("paper"))


def test_a_tensor_without_a_place_is_refused(tiny: Tiny) -> None:
    student = outlined(tiny("modernbert", num_layers=4))
    teacher = _modernbert(layer_types=["full_attention"] * 4, mlp_bias=True)
    with pytest.raises(UserError, match=r"no place for the teacher's model.*bias"):
        remap(student, teacher, FromTeacher("paper"))


def test_a_family_without_a_width_rule() -> None:
    def roberta(heads: int) -> RobertaForMaskedLM:
        config = RobertaConfig(
            vocab_size=160,
            hidden_size=8 * heads,
            num_hidden_layers=2,
            num_attention_heads=heads,
            intermediate_size=24,
        )
        with torch.device("meta"):
            return RobertaForMaskedLM(config)

    remap(roberta(2), roberta(2), FromTeacher("paper", "net2net"))
    with pytest.raises(UserError, match="for a roberta there is no width rule"):
        remap(roberta(4), roberta(2), FromTeacher("paper", "net2net"))
