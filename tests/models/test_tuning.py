"""What is trained beside frozen weights, against dense and slow versions of itself."""

import copy
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from dwt_cli.base.errors import UserError
from dwt_cli.models import adapters
from dwt_cli.models.adapters import Adapter, kept
from dwt_cli.models.anatomy import layers_of
from dwt_cli.models.decomposition import greedy, places_of
from dwt_cli.models.flops import num_trained, training_flops
from dwt_cli.models.making import make_classifier, make_model
from dwt_cli.models.options import Architecture
from dwt_cli.models.tuning import Dsee, Lora, Places, PruneBy, Tuning
from dwt_cli.models.wrapper import LanguageModel
from dwt_cli.training.optim import Optimizer
from dwt_cli.training.options import AdamW, Muon
from tests.conftest import outlined

FAMILIES = ["bert", "modernbert", "gpt2", "qwen3"]
B, L = 3, 12

Tiny = Callable[..., Architecture]


def made(tiny: Tiny, family: str, **sizes: Any) -> PreTrainedModel:
    return make_model(tiny(family, **sizes), 0, "student")


def moved(model: PreTrainedModel, seed: int = 0) -> PreTrainedModel:
    """Give every adapter numbers, as after a training."""
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.3 if "values" in name else 0.1)
    return model


def logits(model: PreTrainedModel) -> Tensor:
    ids_BL = torch.arange(B * L).view(B, L) % 50
    rows_N = L * torch.arange(B).repeat_interleave(2) + torch.tensor([1, 7] * B)
    found = LanguageModel(model, torch.float32).eval()(ids_BL, rows_N).logits_NV
    assert found is not None
    return found


def stored(module: nn.Module) -> Tensor:
    """The frozen weight, outputs first."""
    weight: Any = module.parametrizations["weight"].original  # type: ignore[index, union-attr]
    return weight.mT if "Conv1D" in type(module).__name__ else weight


def tuned_parts(model: PreTrainedModel, family: str) -> list[tuple[nn.Module, slice, slice, Any]]:
    """Return the matrix, its rows and the numbers of queries and values, layer after layer."""
    found = []
    for layer in layers_of(model):
        inside = dict(layer.named_modules())
        if family in ("modernbert", "gpt2"):
            fused = inside["attn.Wqkv" if family == "modernbert" else "attn.c_attn"]
            size = len(stored(fused)) // 3
            rows = [slice(0, size), slice(2 * size, 3 * size)]
            found += [(fused, rows[0], rows[1], number) for number in (0, 1)]
        else:
            names = {
                "bert": ("attention.self.query", "attention.self.value"),
                "qwen3": ("self_attn.q_proj", "self_attn.v_proj"),
            }[family]
            found += [(inside[name], slice(None), slice(None), None) for name in names]
    return found


# ------------------------------------------------------------------------------------- formula


def dense(weight_DC: Tensor, adapter: Adapter, numbers: dict[str, Tensor], rank: int) -> Tensor:
    """W', number by number."""
    changed = [list(row) for row in weight_DC]
    size, num_inputs = adapter.parts[0][1] - adapter.parts[0][0], weight_DC.shape[1]
    for part, (first, _) in enumerate(adapter.parts):
        for d in range(size):
            for c in range(num_inputs):
                low = sum(
                    numbers["up"][part * size + d, r] * numbers["down"][part * rank + r, c]
                    for r in range(rank)
                )
                changed[first + d][c] = changed[first + d][c] + adapter.scale * low
    for place, value in zip(adapter.places.tolist(), numbers["values"], strict=True):
        part, rest = divmod(place, size * num_inputs)
        d, c = divmod(rest, num_inputs)
        first = adapter.parts[part][0]
        changed[first + d][c] = changed[first + d][c] + adapter.scale * value
    return torch.stack([torch.stack(row) for row in changed])


@pytest.mark.parametrize("stored_CD", [False, True])
@pytest.mark.parametrize("parts", [[(0, 6)], [(0, 2), (4, 6)]])
def test_a_changed_matrix_is_that_of_the_formula(
    parts: list[tuple[int, int]], stored_CD: bool
) -> None:
    torch.manual_seed(0)
    options = Dsee(rank=2, alpha=6.0, num_sparse=3, places=Places.random)
    weight_DC = torch.randn(6, 4, dtype=torch.float64)
    adapter = Adapter(weight_DC, parts, options, 5, stored_CD).double()
    assert torch.equal(adapter.up, torch.zeros_like(adapter.up))
    weight = weight_DC.mT.contiguous() if stored_CD else weight_DC
    assert torch.equal(adapter(weight), weight)  # it begins as what it was
    for parameter in adapter.parameters():
        nn.init.normal_(parameter)
    slow = {n: p.detach().clone().requires_grad_() for n, p in adapter.named_parameters()}
    ours_DC, theirs_DC = adapter(weight), dense(weight_DC, adapter, slow, options.rank)
    ours_DC = ours_DC.mT if stored_CD else ours_DC
    torch.testing.assert_close(ours_DC, theirs_DC)
    way_DC = torch.randn_like(theirs_DC)
    (ours_DC * way_DC).sum().backward()
    (theirs_DC * way_DC).sum().backward()
    for name, parameter in adapter.named_parameters():
        torch.testing.assert_close(parameter.grad, slow[name].grad)
    assert ours_DC.is_contiguous() or stored_CD


def test_the_same_seed_draws_the_same_beginning() -> None:
    weight_DC = torch.randn(8, 8)

    def numbers(seed: int) -> tuple[Tensor, Tensor]:
        options = Dsee(rank=4, num_sparse=9, places=Places.random)
        adapter = Adapter(weight_DC, [(0, 8)], options, seed, False)
        return adapter.down.detach(), adapter.places

    assert all(map(torch.equal, numbers(1), numbers(1)))
    assert not any(map(torch.equal, numbers(1), numbers(2)))
    places = numbers(1)[1].tolist()
    assert len({*places}) == 9
    assert all(0 <= place < 64 for place in places)


# -------------------------------------------------------------------------------------- places


def slowly(weight_DC: np.ndarray, start_C: np.ndarray, rank: int) -> np.ndarray:
    """The decomposition by Gram and Schmidt, vector by vector."""

    def basis(columns: list[np.ndarray]) -> list[np.ndarray]:
        found: list[np.ndarray] = []
        for column in columns:
            left = column.copy()
            for _ in range(2):
                for each in found:
                    left -= (each @ left) * each
            found.append(left / np.linalg.norm(left))
        return found

    rows = [start_C]
    while True:
        sparse_DC = np.zeros_like(weight_DC)
        for _ in range(2):
            left_DC = weight_DC - sparse_DC
            ups = basis([left_DC @ row for row in rows])
            rows = [up @ left_DC for up in ups]
            low_DC = sum(np.outer(up, row) for up, row in zip(ups, rows, strict=True))
            rest_DC = weight_DC - low_DC
            sparse_DC = rest_DC * (np.abs(rest_DC) >= 0.01)
        more = min(5, rank - len(rows))
        if more <= 0:
            return rest_DC
        left_DC = rest_DC - sparse_DC
        rows += [up @ left_DC for up in basis(list(left_DC.T[:more]))]


@pytest.mark.parametrize("rank", [1, 4, 8])
def test_the_decomposition_is_that_of_a_slow_one(rank: int) -> None:
    draw = np.random.default_rng(rank)
    weight_DC, start_C = draw.normal(size=(14, 10)) * 0.012, draw.normal(size=10)
    ours = greedy(torch.from_numpy(weight_DC), torch.from_numpy(start_C), rank).numpy()
    np.testing.assert_allclose(ours, slowly(weight_DC, start_C, rank), atol=1e-9)
    assert rank == 8 or 0 < np.count_nonzero(np.abs(ours) >= 0.01) < ours.size  # it has an S


def test_the_decomposition_finds_what_a_low_rank_part_cannot_be() -> None:
    torch.manual_seed(0)
    weight_DC = torch.randn(64, 3) @ torch.randn(3, 48) * 0.01 / 3**0.5
    planted = torch.randperm(weight_DC.numel())[:20]
    weight_DC.view(-1)[planted] += 0.025 * torch.randn(20).sign()
    options = Dsee(rank=6, num_sparse=20)
    found = {*places_of(options, weight_DC, 0).tolist()}
    largest = {*places_of(Dsee(num_sparse=20, places=Places.largest), weight_DC, 0).tolist()}
    assert found == {*planted.tolist()}
    assert len(largest & {*planted.tolist()}) < 12
    assert largest == {*weight_DC.abs().flatten().argsort(descending=True)[:20].tolist()}


# ------------------------------------------------------------------------------- whole models


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_merged_is_the_same_model_of_the_same_names(tiny: Tiny, family: str) -> None:
    model = made(tiny, family)
    before = copy.deepcopy(model)
    tuning = Dsee(rank=3, num_sparse=4)
    tuning.attach(model, 0, trains_head=False)
    torch.testing.assert_close(logits(model), logits(before))
    moved(model)
    unmerged = logits(model)
    assert (unmerged - logits(before)).abs().max() > 1e-3
    beside = tuning.merged(model)
    torch.testing.assert_close(logits(model), unmerged)  # a copy was merged
    account = tuning.merge(model)
    for each in (beside, model):
        torch.testing.assert_close(logits(each), unmerged)
        shapes, names = ({n: t.shape for n, t in m.state_dict().items()} for m in (each, before))
        assert shapes == names
        assert [type(m) for m in each.modules()] == [type(m) for m in before.modules()]
        assert all(parameter.requires_grad for parameter in each.parameters())
    queries = sum(len(stored_of) for stored_of in _outputs(before))
    inputs, matrices = before.config.hidden_size, 2 * before.config.num_hidden_layers
    assert account == {"trained": 3 * (queries + matrices * inputs) + 4 * matrices}


def _outputs(model: PreTrainedModel) -> list[range]:
    """The outputs of queries and values, by the configuration."""
    config = model.config
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    shared = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return [range(n * size) for n in (config.num_attention_heads, shared)] * (
        config.num_hidden_layers
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_only_queries_and_values_are_changed(tiny: Tiny, family: str) -> None:
    before, model = made(tiny, family), made(tiny, family)
    Lora(rank=3).attach(model, 0, trains_head=False)
    places = [(m, rows, number) for m, *rows, number in tuned_parts(moved(model), family)]
    adapters.merge(model)
    changed = {
        name
        for name, weight in model.state_dict().items()
        if not torch.equal(weight, before.state_dict()[name])
    }
    names = {module: name for name, module in model.named_modules()}
    assert changed == {f"{names[module]}.weight" for module, _, _ in places}
    for module, (of_queries, of_values), number in places:
        if number is not None:  # the keys between
            ours, theirs = (
                dict(each.named_modules())[names[module]].weight for each in (model, before)
            )
            turned = [w.mT if family == "gpt2" else w for w in (ours, theirs)]
            keys = slice(of_queries.stop, of_values.start)
            assert torch.equal(turned[0][keys], turned[1][keys])


def test_a_classifier_s_head_is_trained_whole(tiny: Tiny) -> None:
    model = make_classifier(made(tiny, "bert"), 3, 0)
    Lora(rank=2).attach(model, 0, trains_head=True)
    trained = {name for name, each in model.named_parameters() if each.requires_grad}
    others = {name for name in trained if ".parametrizations." not in name}
    assert others == {
        *("classifier.weight", "classifier.bias"),
        *("bert.pooler.dense.weight", "bert.pooler.dense.bias"),
    }
    assert len(trained - others) == 2 * 2 * 2


@pytest.mark.parametrize("options", [AdamW(), Muon()])
def test_the_optimiser_has_what_is_trained_alone(tiny: Tiny, options: AdamW | Muon) -> None:
    model = made(tiny, "modernbert")
    Dsee(rank=2, num_sparse=3).attach(model, 0, trains_head=False)
    wrapped = LanguageModel(model, torch.float32)
    (part,) = Optimizer(wrapped, options).parts
    held = [parameter for group in part.param_groups for parameter in group["params"]]
    assert {id(p) for p in held} == {id(p) for p in model.parameters() if p.requires_grad}
    assert sum(p.numel() for p in held) == num_trained(model)


@pytest.mark.parametrize("family", ["bert", "modernbert", "gpt2"])
def test_flops_are_those_that_torch_counts(tiny: Tiny, family: str) -> None:
    sizes = {"num_layers": 3, "width": 64, "num_heads": 4, "mlp_width": 96, "vocab_size": 500}
    model, targets = made(tiny, family, **sizes), 4
    Dsee(rank=2).attach(model, 0, trains_head=False)
    ids_BL = torch.zeros(B, 24, dtype=torch.long)
    rows_N = 24 * torch.arange(B).repeat_interleave(targets)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        found = LanguageModel(model, torch.float32)(ids_BL, rows_N).logits_NV
        assert found is not None
        found.sum().backward()
    own = 3 * sum(adapter.flops for adapter in adapters.adapters(model))
    planned = training_flops(model, B, 24, targets) + own
    # what a first layer saves is counted, and of a decoder's attention half
    assert counter.get_total_flops() == pytest.approx(planned, rel=0.08)
    whole = training_flops(outlined(tiny(family, **sizes)), B, 24, targets)
    assert planned < 0.85 * whole


# ------------------------------------------------------------------------------------ removing


def test_masks_are_those_of_a_sort() -> None:
    draw = random.Random(0)
    sizes = [torch.tensor([draw.random() for _ in range(n)]).view(-1, 2) for n in (6, 10, 4)]
    places = sorted(
        (float(value), number, place)
        for number, each in enumerate(sizes)
        for place, value in enumerate(each.flatten())
    )
    wanted = [torch.ones_like(each) for each in sizes]
    for _, number, place in places[:6]:  # 0.3 of 20
        wanted[number].view(-1)[place] = 0
    assert all(map(torch.equal, kept(sizes, 0.3), wanted))
    same = kept([torch.zeros(5), torch.zeros(5)], 0.4)
    assert torch.cat(same).tolist() == [0.0] * 4 + [1.0] * 6


@pytest.mark.parametrize("by", PruneBy)
@pytest.mark.parametrize("family", FAMILIES)
def test_weights_are_removed_by_the_size_that_is_asked_for(
    tiny: Tiny, family: str, by: PruneBy
) -> None:
    model = made(tiny, family)
    tuning = Dsee(rank=3, num_sparse=4, prune=0.25, prune_by=by)
    tuning.attach(model, 0, trains_head=False)
    moved(model)
    tuned = tuned_parts(model, family)
    before = {id(module): stored(module).clone() for module, *_ in tuned}
    tuning.remove(model, 0)
    sizes, zeros = [], []
    for module, of_queries, of_values, number in tuned:
        rows = of_values if number else of_queries
        update = module.weight - module.parametrizations["weight"].original  # type: ignore
        added = (update.mT if family == "gpt2" else update)[rows].abs()
        own = before[id(module)][rows].abs()
        sizes.append((added if by is PruneBy.update else own).flatten())
        zeros.append((stored(module)[rows] == 0).flatten())
    size, zero = torch.cat(sizes), torch.cat(zeros)
    assert zero.sum() == round(0.25 * len(zero))
    is_sorted = size[zero].max() <= size[~zero].min() + 1e-6
    assert is_sorted == (by is not PruneBy.random)
    after = {name: weight.clone() for name, weight in model.state_dict().items()}
    tuning.remove(moved(model, 1), 0)  # once is enough
    again = model.state_dict()
    frozen = {name for name, each in model.named_parameters() if not each.requires_grad}
    assert all(torch.equal(after[name], again[name]) for name in frozen & again.keys())
    account = tuning.merge(model)
    assert account is not None
    assert account["zeros"] == pytest.approx(0.25, abs=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_removed_head_says_nothing(tiny: Tiny, family: str) -> None:
    more = {"num_kv_heads": 2} if family == "qwen3" else {}
    model = made(tiny, family, width=32, num_heads=4, **more)
    tuning = Dsee(rank=2, num_sparse=3, heads=2)
    tuning.attach(model, 0, trains_head=False)
    moved(model)
    removed, width, hooks = [], 8, []
    tuned = tuned_parts(model, family)
    names = {"bert": "attention.output.dense", "modernbert": "attn.Wo", "gpt2": "attn.c_proj",
             "qwen3": "self_attn.o_proj"}  # fmt: skip
    for layer, number in zip(layers_of(model), range(0, len(tuned), 2), strict=True):
        scores = [0.0] * 4
        for module, of_queries, of_values, part in tuned[number : number + 2]:
            change = module.weight - module.parametrizations["weight"].original  # type: ignore
            change = (change.mT if family == "gpt2" else change).detach()
            is_value = part == 1 or (part is None and module is tuned[number + 1][0])
            of_heads = change[of_values if is_value else of_queries].abs().sum(1)
            per = len(of_heads) // (2 if is_value and more else 4)
            for head in range(4):
                shared = head // 2 if is_value and more else head
                scores[head] += of_heads[shared * per : (shared + 1) * per].sum().item()
        lowest = sorted(range(4), key=scores.__getitem__)[:2]
        removed.append(lowest)

        def silence(_: nn.Module, given: tuple[Tensor], lowest: list[int] = lowest) -> Any:
            states = given[0].clone()
            for head in lowest:
                states[..., head * width : (head + 1) * width] = 0
            return (states, *given[1:])

        hooks.append(dict(layer.named_modules())[names[family]].register_forward_pre_hook(silence))
    silenced = logits(model)
    for hook in hooks:
        hook.remove()
    assert (logits(model) - silenced).abs().max() > 1e-4
    tuning.remove(model, 0)
    torch.testing.assert_close(logits(model), silenced)
    tuning.merge(model)
    torch.testing.assert_close(logits(model), silenced)


# ------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("tuning", "line"),
    [
        (Lora(rank=17), "tuning.rank=17: the student's queries and values are 16 x 16; set it to"),
        (Dsee(rank=2, num_sparse=257), "tuning.num_sparse=257: .* has 256 numbers"),
        (Dsee(rank=2, heads=2), "tuning.heads=2: each layer of the student has 2, .* to 1 or less"),
    ],
)
def test_what_a_model_does_not_have_is_refused(tiny: Tiny, tuning: Tuning, line: str) -> None:
    with pytest.raises(UserError, match=line):
        tuning.attach(outlined(tiny("bert")), 0, trains_head=False)


def test_full_tuning_leaves_a_model_as_it_is(tiny: Tiny) -> None:
    model = made(tiny, "bert")
    names, tuning = [*model.state_dict()], Tuning()
    tuning.attach(model, 0, trains_head=False)
    tuning.remove(model, 0)
    assert tuning.merged(model) is model
    assert tuning.merge(model) is None
    assert [*model.state_dict()] == names
