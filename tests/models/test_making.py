import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import DistilBertConfig, DistilBertForMaskedLM

from dwt_cli.config.run import Run
from dwt_cli.data.tokenizer import SPECIAL_TOKENS
from dwt_cli.models.anatomy import ANATOMIES
from dwt_cli.models.flops import num_parameters
from dwt_cli.models.making import make_model
from dwt_cli.models.options import Architecture, Family
from dwt_cli.models.wrapper import LanguageModel
from tests.conftest import outlined

Tiny = Callable[..., Architecture]


@pytest.fixture(scope="module")
def paper(composed: Callable[..., Run]) -> dict[str, Any]:
    names = ("none", "small", "weak", "very_weak", "extremely_weak")
    return {name: composed("scale=paper", f"teacher={name}") for name in names}


def test_the_paper_s_student_is_of_distilbert_s_shape(paper: dict[str, Any]) -> None:
    ours = outlined(paper["none"].student)
    with torch.device("meta"):
        theirs = DistilBertForMaskedLM(DistilBertConfig())
    for name in (
        "num_hidden_layers",
        "hidden_size",
        "num_attention_heads",
        "vocab_size",
        "max_position_embeddings",
    ):
        assert getattr(ours.config, name) == getattr(theirs.config, name), name
    assert ours.config.intermediate_size == theirs.config.hidden_dim
    assert num_parameters(ours) == pytest.approx(67e6, rel=0.01)
    assert num_parameters(ours) - num_parameters(theirs) == 2 * 768, "BERT's token types alone"


@pytest.mark.parametrize(
    ("teacher", "layers", "ratio"),
    [("small", 4, 0.78), ("weak", 4, 0.78), ("very_weak", 2, 0.57), ("extremely_weak", 1, 0.46)],
)
def test_the_paper_s_teachers(
    paper: dict[str, Any], teacher: str, layers: int, ratio: float
) -> None:
    """Its ratios are those of the models without their heads, with two digits kept."""
    run = paper[teacher]
    made, student = outlined(run.teacher), outlined(run.student)
    assert made.config.num_hidden_layers == layers
    assert math.floor(100 * num_parameters(made.bert) / num_parameters(student.bert)) / 100 == ratio
    assert num_parameters(made) / num_parameters(student) == pytest.approx(ratio, abs=0.012)


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_the_sizes_asked_for(tiny: Tiny, family: str) -> None:
    options = tiny(
        family,
        num_layers=3,
        width=12,
        num_heads=3,
        mlp_width=20,
        vocab_size=77,
        max_length=600,
        dropout=0.25,
    )
    model = make_model(options, 0, "student")
    config = model.config
    assert (
        config.num_hidden_layers,
        config.hidden_size,
        config.num_attention_heads,
        config.intermediate_size,
        config.vocab_size,
    ) == (3, 12, 3, 20, 77)
    ids_BL = torch.randint(77, (1, 600))
    assert LanguageModel(model, torch.float32)(ids_BL, torch.tensor([599])).logits_NV.shape == (
        1,
        77,
    )
    dropouts = [m.p for m in model.modules() if isinstance(m, torch.nn.Dropout) and m.p > 0]
    assert dropouts
    assert set(dropouts) == {0.25}
    sizes = {name: p.shape for name, p in outlined(options).named_parameters()}
    assert sizes == {name: p.shape for name, p in model.named_parameters()}
    assert num_parameters(outlined(options)) == num_parameters(model)
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_weights_depend_on_seed_and_purpose_alone(tiny: Tiny, family: str) -> None:
    def weights(seed: int, purpose: str) -> torch.Tensor:
        return torch.nn.utils.parameters_to_vector(
            make_model(tiny(family), seed, purpose).parameters()
        )

    first = weights(0, "student")
    torch.manual_seed(99)
    state = torch.get_rng_state()
    assert torch.equal(weights(0, "student"), first)
    assert torch.equal(torch.get_rng_state(), state), "nobody else's numbers are used up"
    assert not torch.equal(weights(1, "student"), first)
    assert not torch.equal(weights(0, "teacher"), first)


def test_a_made_model_numbers_special_tokens_as_the_tokenizer_does(tiny: Tiny) -> None:
    for family, name in itertools.product(["bert", "modernbert"], ["pad", "cls", "sep"]):
        number = getattr(outlined(tiny(family)).config, f"{name}_token_id", None)
        assert number in (None, SPECIAL_TOKENS.index(f"[{name.upper()}]")), (family, name)
    assert outlined(tiny("bert")).config.pad_token_id == 0
    assert outlined(tiny("modernbert")).config.eos_token_id == SPECIAL_TOKENS.index("[SEP]")


def test_the_families_to_choose_from_are_those_that_are_made(tiny: Tiny) -> None:
    made = {name for name, anatomy in ANATOMIES.items() if anatomy.configure is not None}
    assert set(Family.__members__) == made
    for family in Family:
        modules = outlined(tiny(family.name)).named_modules()
        assert family.has_rotary_positions == any("rotary" in name for name, _ in modules)


def test_every_layer_of_a_modernbert_attends_to_the_whole_block(tiny: Tiny) -> None:
    model = make_model(tiny("modernbert", num_layers=4), 0, "student")
    assert model.config.layer_types == ["full_attention"] * 4
