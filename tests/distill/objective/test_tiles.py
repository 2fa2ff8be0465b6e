"""Head and losses in tiles: eq. 3 by the book of logits in fp64, and what is formed on the way."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from dwt_cli.distill.alpha import Weights
from dwt_cli.distill.objective import fused
from dwt_cli.distill.objective.divergences import ForwardKL, ReverseKL, TopK
from dwt_cli.distill.objective.fused import Comparison, DistillationSums
from dwt_cli.distill.objective.revise import LabelRevision
from dwt_cli.distill.objective.select import Gate
from dwt_cli.distill.teacher.targets import HeadStates
from dwt_cli.models.wrapper import OutputLayer
from tests.distill.objective.test_fused import by_the_book, flat

N, D, V, OF_TEACHER = 13, 6, 37, 4  # OF_TEACHER: its width
WEIGHTS = Weights(0.7, 3.0)
COMPARISONS = {
    "kl": Comparison({"it": ForwardKL()}),
    "two": Comparison(
        {"near": ReverseKL(temperature=2.0), "far": TopK(k=3, weight=0.3)}, LabelRevision(), Gate()
    ),
}
LABELS_N = torch.arange(N) * 5 % V


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def sides(
    dtype: torch.dtype = torch.float32, cap: float | None = None
) -> tuple[Tensor, OutputLayer, HeadStates]:
    """The student's states and head, and a teacher of another width; the cap is of both."""
    states_ND, weight_VD, bias_V = (x.requires_grad_() for x in (draw(N, D), draw(V, D), draw(V)))
    head = OutputLayer(weight_VD, bias_V, cap, None if dtype == torch.float32 else dtype)
    teacher = HeadStates(draw(N, OF_TEACHER).to(dtype), draw(V, OF_TEACHER), None, cap, 1.5)
    return states_ND, head, teacher


def found(
    states_ND: Tensor, head: OutputLayer, teacher: HeadStates | None, comparison: Comparison
) -> tuple[dict[str, float], list[Tensor | None]]:
    """The sums, and the gradients of a third of the total."""
    sums = DistillationSums(teacher, LABELS_N, WEIGHTS, comparison)(states_ND, head)
    (sums.total / 3).backward()
    return flat(sums), [states_ND.grad, head.weight_VD.grad, head.bias_V.grad]


def expected(
    states_ND: Tensor, head: OutputLayer, teacher: HeadStates | None, comparison: Comparison
) -> tuple[dict[str, float], list[Tensor]]:
    """The same from whole logits in fp64."""
    leaves = [x.detach().double().requires_grad_() for x in (states_ND, *head[:2])]
    logits_NV = leaves[0] @ leaves[1].T + leaves[2]
    theirs_NV = None
    if teacher is not None:
        theirs_NV = teacher.states_ND.double() @ teacher.weight_VD.double().T
    if head.cap is not None:
        logits_NV = head.cap * (logits_NV / head.cap).tanh()
        theirs_NV = None if theirs_NV is None else head.cap * (theirs_NV / head.cap).tanh()
    theirs_NV = None if theirs_NV is None else theirs_NV / teacher.temperature
    sums, gradient_NV = by_the_book(logits_NV, theirs_NV, LABELS_N, WEIGHTS, comparison)
    return flat(sums), list(torch.autograd.grad(logits_NV, leaves, gradient_NV / 3))


@pytest.mark.parametrize("rows", [1, 4, 13, 100])
@pytest.mark.parametrize("cap", [None, 3.0])
@pytest.mark.parametrize("comparison", [*COMPARISONS.values(), None], ids=[*COMPARISONS, "alone"])
def test_values_and_gradients(
    monkeypatch: pytest.MonkeyPatch, rows: int, cap: float | None, comparison: Comparison | None
) -> None:
    monkeypatch.setitem(fused.TILE_BYTES, "cpu", rows * 4 * V)
    monkeypatch.setitem(fused.CHUNK_BYTES, "cpu", 3 * 4 * V)
    states_ND, head, teacher = sides(cap=cap)
    asked = (teacher, comparison) if comparison else (None, Comparison({}))
    values, gradients = found(states_ND, head, *asked)
    slow_values, slow_gradients = expected(states_ND, head, *asked)
    assert values == pytest.approx(slow_values, rel=3e-6, abs=2e-5)
    for gradient, slow in zip(gradients, slow_gradients, strict=True):
        assert gradient is not None and gradient.dtype == torch.float32
        assert (gradient - slow).abs().max() < 1e-6 * slow.abs().max()


@pytest.mark.parametrize("rows", [30, 1000])
def test_bf16_is_no_further_from_fp64_than_plain_products(
    monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    num_rows, width, vocab_size = 200, 48, 300
    monkeypatch.setitem(fused.TILE_BYTES, "cpu", rows * 2 * vocab_size)
    drawn = (draw(num_rows, width), draw(vocab_size, width) / 4, draw(vocab_size))
    teacher = HeadStates(draw(num_rows, 8).bfloat16(), draw(vocab_size, 8).bfloat16())
    labels_N = torch.arange(num_rows)

    def plain(dtype: torch.dtype, mixed: bool) -> tuple[Tensor, ...]:
        leaves = [tensor.to(dtype).requires_grad_() for tensor in drawn]
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            logits_NV = F.linear(*leaves).to(dtype)
        theirs_NV = teacher.dense().to(dtype).log_softmax(-1)
        hard = F.cross_entropy(logits_NV, labels_N, reduction="sum")
        soft = F.kl_div(logits_NV.log_softmax(-1), theirs_NV, log_target=True, reduction="sum")
        return torch.autograd.grad((WEIGHTS.hard * hard + WEIGHTS.soft * soft) / 3, leaves)

    leaves = [tensor.clone().requires_grad_() for tensor in drawn]
    head = OutputLayer(leaves[1], leaves[2], dtype=torch.bfloat16)
    sums = DistillationSums(teacher, labels_N, WEIGHTS, COMPARISONS["kl"])(leaves[0], head)
    tiled = torch.autograd.grad(sums.total / 3, leaves)
    both = (plain(torch.float32, True), plain(torch.float64, False))
    for ours, theirs, right in zip(tiled, *both, strict=True):
        assert (ours - right).norm() < 1.1 * (theirs - right).norm()  # by chance


@pytest.mark.parametrize("needed", [(), (0,), (1,), (0, 1), (0, 1, 2)], ids=str)
def test_only_what_is_asked_for_is_formed(needed: tuple[int, ...]) -> None:
    states_ND, head, teacher = sides()
    inputs = [states_ND, *head[:2]]
    for number, tensor in enumerate(inputs):
        tensor.requires_grad_(number in needed)
    sums = DistillationSums(teacher, LABELS_N, WEIGHTS, COMPARISONS["kl"])
    with Watched() as watched:
        total = sums(states_ND, head).total
        if needed:
            total.backward()
    assert watched.num_products == 2 + (0 in needed) + (1 in needed)
    assert [tensor.grad is not None for tensor in inputs] == [n in needed for n in range(3)]
    with torch.no_grad(), Watched() as watched:
        assert sums(states_ND, head).total == total
    assert watched.num_products == 2


class Watched(TorchDispatchMode):
    """The number of matrix products, and the most rows of any table over the vocabulary."""

    num_products = num_rows = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.num_products += "mm" in str(func)
        if isinstance(result, Tensor) and result.ndim == 2 and result.shape[1] == V:
            self.num_rows = max(self.num_rows, len(result))
        return result


@pytest.mark.parametrize("rows", [1, 4])
def test_no_more_than_a_tile_of_logits_is_there(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setitem(fused.TILE_BYTES, "cpu", rows * 4 * V)
    states_ND, head, teacher = sides()
    head = head._replace(weight_VD=draw(V, D))  # its transposed gradient has V columns too
    with Watched() as watched:
        sums = DistillationSums(teacher, LABELS_N, WEIGHTS, COMPARISONS["two"])(states_ND, head)
        sums.total.backward()
    assert watched.num_rows == max(rows, D)  # a transposed view of the head


def test_a_head_may_itself_be_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As that of a student whose weights are learned functions of its teacher's."""
    monkeypatch.setitem(fused.TILE_BYTES, "cpu", 4 * 4 * V)
    states_ND, head, teacher = sides()
    map_DD = torch.eye(D).requires_grad_()
    computed = head._replace(weight_VD=head.weight_VD @ map_DD)
    sums = DistillationSums(teacher, LABELS_N, WEIGHTS, COMPARISONS["kl"])
    of_map_DD, of_weight_VD = torch.autograd.grad(
        sums(states_ND, computed).total, [map_DD, head.weight_VD]
    )
    torch.testing.assert_close(of_map_DD, head.weight_VD.T @ of_weight_VD)


def test_without_rows_there_are_zeros() -> None:
    states_ND, head, teacher = sides()
    none = HeadStates(teacher.states_ND[:0], teacher.weight_VD)
    sums = DistillationSums(none, LABELS_N[:0], WEIGHTS, COMPARISONS["two"])(states_ND[:0], head)
    sums.total.backward()
    assert not any(flat(sums).values())
    assert head.weight_VD.grad is not None and not head.weight_VD.grad.any()


def test_a_teacher_s_side_that_needs_a_gradient_is_refused() -> None:
    _, head, _ = sides()
    with pytest.raises(AssertionError, match="trains no teacher"):
        DistillationSums(HeadStates(draw(N, D), *head[:3]), LABELS_N, WEIGHTS, COMPARISONS["kl"])


def test_a_second_backward_pass_is_refused() -> None:
    states_ND, head, teacher = sides()
    total = DistillationSums(teacher, LABELS_N, WEIGHTS, COMPARISONS["kl"])(states_ND, head).total
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        total.backward()


def test_twice_in_one_step_with_exchanged_roles() -> None:
    """Each side learns from what the other says, as if it were alone."""
    ours, theirs = sides()[:2], (draw(N, D + 1).requires_grad_(), draw(V, D + 1).requires_grad_())
    heads = [ours[1], OutputLayer(theirs[1], draw(V + 1)[:V].requires_grad_())]
    states = [ours[0], theirs[0]]

    def total(one: int, other: int) -> Tensor:
        teacher = HeadStates(states[other], *heads[other][:3]).detached()
        sums = DistillationSums(teacher, LABELS_N, WEIGHTS, COMPARISONS["two"])
        return sums(states[one], heads[one]).total

    (total(0, 1) + total(1, 0)).backward()
    for one, other in ((0, 1), (1, 0)):
        leaves = [states[one], *heads[one][:2]]
        alone = torch.autograd.grad(total(one, other), leaves)
        for leaf, gradient in zip(leaves, alone, strict=True):
            assert torch.equal(leaf.grad, gradient)


@pytest.mark.parametrize("reentrant", [False, True])
def test_under_gradient_checkpointing(reentrant: bool) -> None:
    states_ND, head, teacher = sides()
    _, plain = found(states_ND, head, teacher, COMPARISONS["kl"])
    states_ND, head, _ = sides()
    sums = DistillationSums(teacher, LABELS_N, WEIGHTS, COMPARISONS["kl"])
    again = lambda *parts: sums(parts[0], OutputLayer(*parts[1:])).total  # noqa: E731
    (checkpoint(again, states_ND, *head[:2], use_reentrant=reentrant) / 3).backward()
    for leaf, gradient in zip((states_ND, *head[:2]), plain, strict=True):
        assert torch.equal(leaf.grad, gradient)


def test_fake_tensors_have_the_shapes() -> None:
    with FakeTensorMode():
        states_ND, head, teacher = sides(torch.bfloat16)
        sums = DistillationSums(
            teacher, torch.zeros(N, dtype=torch.long), WEIGHTS, COMPARISONS["two"]
        )
        found = sums(states_ND, head)
        found.total.backward()
    assert found.total.shape == found.hard.shape == ()
    assert head.weight_VD.grad.shape == (V, D)


def test_compiled_it_is_one_operator_whatever_the_moment() -> None:
    """Of a graph without a break, which is not made anew when weights and temperature change."""
    torch._dynamo.reset()
    graphs = counters["stats"]["unique_graphs"]

    @torch.compile(backend="aot_eager", fullgraph=True)
    def compiled(states_ND: Tensor, head: OutputLayer, sums: DistillationSums) -> Any:
        return sums(states_ND.tanh(), head._replace(weight_VD=2 * head.weight_VD))

    for moment in (0.0, 0.5, 0.9):
        objective = ForwardKL(temperature=4.0, temperature_end=1.0)
        comparison = Comparison({"it": objective}, progress=moment)
        seen = []
        for call in (compiled, getattr(compiled, "_torchdynamo_orig_callable")):  # noqa: B009
            states_ND, head, teacher = sides(cap=3.0)
            settings = (teacher, LABELS_N, Weights(1 - moment, moment), comparison)
            sums = call(states_ND, head, DistillationSums(*settings))
            sums.total.backward()
            seen.append((flat(sums), states_ND.grad, head.weight_VD.grad, head.bias_V.grad))
        assert seen[0][0] == seen[1][0]
        for one, other in zip(seen[0][1:], seen[1][1:], strict=True):
            assert torch.equal(one, other)
    assert counters["stats"]["unique_graphs"] - graphs == 1
