"""The wrapper against transformers' own full forward pass."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from dwt_cli.models.anatomy import ANATOMIES
from dwt_cli.models.families import bert
from dwt_cli.models.families.parts import Anatomy
from dwt_cli.models.flops import forward_flops
from dwt_cli.models.options import Head
from dwt_cli.models.wrapper import LanguageModel, OutputLayer, Want
from dwt_cli.training.options import Fsdp
from dwt_cli.training.parallel import shard
from tests.models.conftest import ENCODERS

WINDOWED = ["modernbert-sliding", "modernbert-wide-window"]
FAMILIES = [*ENCODERS, *WINDOWED, "electra", "llama", "qwen3", "gpt2"]
B, L = 3, 32
OfFamily = Callable[[str], PreTrainedModel]


def draw() -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    rows_N = torch.tensor([0, 1, 31, 32, 50, 40, 95, 64, 70])
    return torch.randint(5, 160, (B, L), generator=rng), rows_N


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_target_rows_have_the_logits_of_the_full_forward(of_family: OfFamily, family: str) -> None:
    model = of_family(family)
    ids_BL, rows_N = draw()
    full_NV = model(input_ids=ids_BL, attention_mask=torch.ones_like(ids_BL)).logits.flatten(0, 1)
    found_NV = LanguageModel(model, torch.float32).eval()(ids_BL, rows_N).logits_NV
    torch.testing.assert_close(found_NV, full_NV[rows_N], rtol=1e-5, atol=1e-5)
    assert full_NV.std() > 0.1, "differences would show"


@torch.no_grad()
def test_a_window_shorter_than_the_block_matters(of_family: OfFamily) -> None:
    ids_BL, rows_N = draw()
    narrow, wide = (
        LanguageModel(of_family(f"modernbert-{kind}"), torch.float32)(ids_BL, rows_N).logits_NV
        for kind in ("sliding", "wide-window")
    )
    assert (narrow - wide).abs().max() > 0.05


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_the_gradient_is_that_of_the_full_forward(of_family: OfFamily, family: str) -> None:
    ids_BL, rows_N = draw()
    gradients = []
    for through_wrapper in (True, False):
        model = of_family(family)
        logits_NV = (
            LanguageModel(model, torch.float32).eval()(ids_BL, rows_N).logits_NV
            if through_wrapper
            else model(input_ids=ids_BL).logits.flatten(0, 1)[rows_N]
        )
        logits_NV.logsumexp(-1).sum().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name, gradient in gradients[1].items():
        torch.testing.assert_close(gradients[0][name], gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["bert", "modernbert"])
@pytest.mark.parametrize("rows", [[0, 1, 31, 40, 95], [0, 1, 31, 40, 41, 95], [64, 65]], ids=str)
def test_unequal_numbers_of_rows_per_block(
    of_family: OfFamily, family: str, rows: list[int]
) -> None:
    ids_BL, rows_N = draw()[0], torch.tensor(rows)
    gradients = []
    for through_wrapper in (True, False):
        model = of_family(family).eval()
        if through_wrapper:
            logits_NV = LanguageModel(model, torch.float32)(
                ids_BL, rows_N, Want(ragged=True)
            ).logits_NV
        else:
            logits_NV = model(input_ids=ids_BL).logits.flatten(0, 1)[rows_N]
        logits_NV.logsumexp(-1).sum().backward()
        gradients.append((logits_NV, {name: p.grad for name, p in model.named_parameters()}))
    (found_NV, found), (full_NV, expected) = gradients
    torch.testing.assert_close(found_NV, full_NV, rtol=1e-5, atol=1e-5)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["bert", "modernbert"])
@torch.no_grad()
def test_the_states_that_enter_the_head_and_a_loss_inside(
    of_family: OfFamily, family: str, dtype: torch.dtype
) -> None:
    ids_BL, rows_N = draw()
    wrapped = LanguageModel(of_family(family), dtype).eval()
    logits_NV = wrapped(ids_BL, rows_N).logits_NV

    def by_rows(states_ND: Tensor, head: OutputLayer) -> tuple[Tensor, Tensor]:
        rows = [head(state_D[None]).logsumexp(-1).sum() for state_D in states_ND]
        return torch.stack(rows), states_ND

    output = wrapped(ids_BL, rows_N, Want(logits=False, loss=by_rows))
    assert output.logits_NV is None
    losses_N, states_ND = output.loss
    rounding = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(losses_N, logits_NV.logsumexp(-1), rtol=rounding, atol=rounding)
    last_ND = wrapped.hidden(ids_BL).flatten(0, 1)[rows_N]
    read_ND = wrapped.anatomy.transform(wrapped.model, last_ND)
    torch.testing.assert_close(states_ND.float(), read_ND, rtol=rounding, atol=rounding)
    both = wrapped(ids_BL, rows_N, Want(loss=lambda states_ND, head: head(states_ND)))
    assert torch.equal(both.loss, both.logits_NV)
    assert both.features is None


@pytest.fixture
def group() -> Iterator[None]:
    """A group of this process alone, in which FSDP does what it does in any."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("group")
def test_a_loss_inside_a_sharded_model_sees_whole_weights(of_family: OfFamily) -> None:
    ids_BL, rows_N = draw()
    seen = []

    def by_rows(states_ND: Tensor, head: OutputLayer) -> dict[str, Tensor]:
        decoder = wrapped.model.get_submodule("cls.predictions.decoder")
        seen.append(isinstance(decoder.weight, DTensor))
        return {"sum": sum(head(state_D[None]).logsumexp(-1).sum() for state_D in states_ND)}

    gradients = []
    for options in (None, Fsdp()):
        wrapped = LanguageModel(of_family("bert"), torch.float32).eval()
        if options is not None:
            shard(wrapped, nn.ModuleDict(), options, torch.device("cpu"), torch.float32)
        output = wrapped(ids_BL, rows_N, Want(logits=False, loss=by_rows))
        output.loss["sum"].backward()
        found = {name: p.grad for name, p in wrapped.named_parameters()}
        assert all(isinstance(g, DTensor) == (options is not None) for g in found.values())
        gradients.append({n: g.full_tensor() if options else g for n, g in found.items()})
    assert seen == [False, False]
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)


@torch.no_grad()
def test_an_unknown_family_has_logits_alone(of_family: OfFamily) -> None:
    ids_BL, rows_N = draw()
    wrapped = LanguageModel(of_family("electra"), torch.float32).eval()
    output = wrapped(ids_BL, rows_N, Want(loss=lambda logits_NV, head: (logits_NV, head)))
    assert output.loss == (output.logits_NV, None)
    assert len(wrapped(ids_BL, rows_N[:4], Want(ragged=True)).logits_NV) == 4


CAUSAL = Anatomy(
    "transformer.h",
    output="lm_head",
    projections=("attn.c_attn",),
    embeddings="transformer.wte",
    predicts=Head.causal,
)


@torch.no_grad()
def test_each_row_of_a_causal_family_sees_what_is_before_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(ANATOMIES, "gpt2", CAUSAL)
    config = GPT2Config(vocab_size=160, n_embd=16, n_head=2, n_layer=2, n_positions=L)
    model = GPT2LMHeadModel(config).eval()
    ids_BL, rows_N = draw()
    expected_NV = model(ids_BL).logits.flatten(0, 1)[rows_N]
    found_NV = LanguageModel(model, torch.float32).eval()(ids_BL, rows_N).logits_NV
    torch.testing.assert_close(found_NV, expected_NV)
    assert forward_flops(model, B, L, 1) == forward_flops(
        model, B, L, 1, frozenset({("hidden", -1)})
    )


def test_a_family_whose_rows_have_masks_of_their_own_runs_on_all_positions() -> None:
    with pytest.raises(AssertionError, match="rows have masks"):
        replace(CAUSAL, last_layer=bert.ANATOMY.last_layer)


def test_attention_follows_the_mode_and_the_device(of_family: OfFamily) -> None:
    def chosen(wrapped: LanguageModel) -> str:
        return wrapped.model.config._attn_implementation

    wrapped = LanguageModel(of_family("bert"), torch.bfloat16).train()
    assert chosen(wrapped) == "eager"
    assert chosen(wrapped.eval()) == "sdpa"
    assert chosen(wrapped.train().to("meta").train()) == "sdpa", "no CPU any more"
    cuda = torch.device("cuda")  # where shares of an offloaded model are computed
    assert chosen(LanguageModel(of_family("bert"), torch.bfloat16, device=cuda).train()) == "sdpa"


@torch.no_grad()
def test_bf16_computes_products_in_bf16_and_keeps_fp32_weights(of_family: OfFamily) -> None:
    model = of_family("bert")
    ids_BL, rows_N = draw()
    exact_NV = LanguageModel(model, torch.float32)(ids_BL, rows_N).logits_NV
    rough_NV = LanguageModel(model, torch.bfloat16)(ids_BL, rows_N).logits_NV
    assert rough_NV.dtype == torch.bfloat16
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    difference = (rough_NV - exact_NV).abs().max()
    assert 0 < difference < 0.1 * exact_NV.abs().max()


def test_it_has_no_weights_of_its_own(of_family: OfFamily) -> None:
    model = of_family("modernbert")
    ours = LanguageModel(model, torch.float32).state_dict()
    assert ours.keys() == {f"model.{name}" for name in model.state_dict()}


@pytest.mark.slow
@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_compiled_it_is_the_same_model(family: str, of_family: OfFamily) -> None:
    ids_BL = torch.randint(4, 160, (B, L), generator=torch.Generator().manual_seed(1))
    rows_N = torch.tensor([0, 5, 40, 33, 95, 64])
    seen = []
    for compiled in (False, True):
        model = of_family(family)
        wrapped = LanguageModel(model, torch.float32)
        if compiled:
            wrapped.compile_layers()
        logits_NV = wrapped(ids_BL, rows_N).logits_NV
        logits_NV.square().sum().backward()
        seen.append((logits_NV, wrapped.state_dict().keys(), [p.grad for p in model.parameters()]))
    (eager_NV, names, gradients), (compiled_NV, same_names, same) = seen
    assert names == same_names
    torch.testing.assert_close(compiled_NV, eager_NV, rtol=1e-4, atol=1e-4)
    for one, other in zip(same, gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)
