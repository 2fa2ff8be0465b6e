"""Objectives that compare features, against slow versions in fp64; and pairs that cannot work."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from dwt_cli.base.errors import UserError
from dwt_cli.distill.objective.attention import Attention
from dwt_cli.distill.objective.base import Objective
from dwt_cli.distill.objective.choices import FEATURE_OBJECTIVES
from dwt_cli.distill.objective.divergences import ForwardKL
from dwt_cli.distill.objective.features import between, each_layer, parts_for, requested
from dwt_cli.distill.objective.hidden import Distance, Hidden
from dwt_cli.distill.objective.masked import MaskedHidden, Pool
from dwt_cli.distill.objective.projections import Projections
from dwt_cli.distill.objective.relations import MiniLM, MiniLMv2
from dwt_cli.models.features import Features, Heads
from dwt_cli.tasks.task import Batch

B, L = 2, 5
ROWS_N = torch.tensor([1, 3, 4, 5, 8])  # three of the first block, two of the second
BATCH = Batch(
    torch.zeros((B, L), dtype=torch.int64),
    ROWS_N,
    torch.zeros(5, dtype=torch.int64),
    torch.zeros((B, 3), dtype=torch.int64),
    masked_N=torch.tensor([True, False, True, False, False]),
)


def heads(num_heads: int, head_width: int, seed: int) -> Heads:
    draw = torch.Generator().manual_seed(seed)
    shape = (B, num_heads, L, head_width)
    return Heads(*(torch.randn(shape, generator=draw).requires_grad_() for _ in range(3)))


def slow_relation_kl(
    teacher: list[list[Tensor]],
    student: list[list[Tensor]],
    t_width: int,
    s_width: int,
    causal: bool = False,
) -> Tensor:
    """Mean over queries of KL(softmax(teacher products) || softmax(student products)).

    Each side: for every (block, head) a pair of (L, width) matrices left and right. causal: keys
    are those up to the query.
    """
    total, count = torch.zeros((), dtype=torch.float64), 0
    for (t_left, t_right), (s_left, s_right) in zip(teacher, student, strict=True):
        for query in range(L):
            keys = range(query + 1 if causal else L)
            t = torch.stack([t_left[query] @ t_right[key] for key in keys]) / math.sqrt(t_width)
            s = torch.stack([s_left[query] @ s_right[key] for key in keys]) / math.sqrt(s_width)
            t, s = t.exp() / t.exp().sum(), s.exp() / s.exp().sum()
            total = total + (t * (t / s).log()).sum()
            count += 1
    return total / count


def per_head(left: Tensor, right: Tensor) -> list[list[Tensor]]:
    return [
        [left[b, h].double(), right[b, h].double()] for b in range(B) for h in range(left.shape[1])
    ]


def recut(part_BHLE: Tensor, num_heads: int) -> Tensor:
    """(B, H, L, E) -> (B, R, L, F), position by position."""
    blocks = []
    for b in range(B):
        rows = [
            torch.cat([part_BHLE[b, h, p] for h in range(part_BHLE.shape[1])]) for p in range(L)
        ]
        width = len(rows[0]) // num_heads
        blocks.append(
            torch.stack(
                [
                    torch.stack([row[r * width : (r + 1) * width] for row in rows])
                    for r in range(num_heads)
                ]
            )
        )
    return torch.stack(blocks)


def assert_same(found: Tensor, expected: Tensor, inputs: list[Tensor]) -> None:
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    assert found.item() > 1e-3
    ours = torch.autograd.grad(found, inputs, allow_unused=True)
    theirs = torch.autograd.grad(expected, inputs, allow_unused=True)
    for one, other in zip(ours, theirs, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("causal", [False, True])
def test_minilm(causal: bool) -> None:
    student, teacher = heads(3, 4, 0), heads(3, 2, 1)
    options = MiniLM(student_layer=1, teacher_layer=-1)
    found = options.compare(
        Features({}, {1: student}, causal), Features({}, {-1: teacher}, causal), None, BATCH
    )
    s, t = student, teacher
    expected = slow_relation_kl(
        per_head(t.queries_BHLE, t.keys_BHLE), per_head(s.queries_BHLE, s.keys_BHLE), 2, 4, causal
    ) + slow_relation_kl(
        per_head(t.values_BHLE, t.values_BHLE), per_head(s.values_BHLE, s.values_BHLE), 2, 4, causal
    )
    assert_same(found, expected, list(student))


@pytest.mark.parametrize(("asked", "causal"), [(None, False), (1, False), (2, False), (2, True)])
def test_minilmv2_with_other_head_counts(asked: int | None, causal: bool) -> None:
    student, teacher = heads(4, 3, 0), heads(2, 4, 1)  # widths of 12 and 8
    num_heads = asked or 4
    options = MiniLMv2(num_relation_heads=asked)
    found = options.compare(
        Features({}, {-1: student}, causal), Features({}, {-1: teacher}, causal), None, BATCH
    )
    losses = []
    for s, t in zip(student, teacher, strict=True):
        s, t = recut(s, num_heads), recut(t, num_heads)
        losses.append(
            slow_relation_kl(
                per_head(t, t), per_head(s, s), 8 // num_heads, 12 // num_heads, causal
            )
        )
    assert_same(found, torch.stack(losses).mean(), list(student))


APART = {"documents_BL": torch.tensor([[1, 1, 2, 2, 2], [3, 3, 3, 3, 3]])}
PADDED = {"present_BL": torch.tensor([[True] * 5, [True] * 3 + [False] * 2])}


@pytest.mark.parametrize(
    ("causal", "more"),
    [(False, {}), (True, {}), (True, APART), (False, PADDED), (True, PADDED)],
    ids=["whole", "causal", "documents", "padded", "causal, padded"],
)
def test_attention_scores(causal: bool, more: dict[str, Tensor]) -> None:
    """By position over what it sees, by block over its positions; two pairs of layers."""
    student, teacher = {n: heads(3, 4, n) for n in (0, 2)}, {n: heads(3, 2, 9 + n) for n in (0, 1)}
    options = Attention(pairs=[[0, 1], [2, 0]])
    found = options.compare(
        Features({}, student, causal, **more), Features({}, teacher, causal, **more), None, BATCH
    )
    means = []
    for ours, theirs in ((0, 1), (2, 0)):
        (p, t), of_blocks = (student[ours], teacher[theirs]), []
        for b in range(B):
            of_positions = []
            for query in range(L):
                seen = [key for key in range(L) if not causal or key <= query]
                if "documents_BL" in more:
                    document_L = more["documents_BL"][b]
                    seen = [key for key in seen if document_L[key] == document_L[query]]
                if "present_BL" in more:
                    present_L = more["present_BL"][b]
                    seen = [key for key in seen if present_L[key] and present_L[query]]
                squares = [
                    (
                        p.queries_BHLE[b, h, query].double() @ p.keys_BHLE[b, h, key].double() / 2
                        - t.queries_BHLE[b, h, query].double()
                        @ t.keys_BHLE[b, h, key].double()
                        / math.sqrt(2)
                    ).square()
                    for h in range(3)
                    for key in seen
                ]
                if squares:
                    of_positions.append(torch.stack(squares).mean())
            of_blocks.append(torch.stack(of_positions).mean())
        means.append(torch.stack(of_blocks).mean())
    inputs = [each for n in (0, 2) for each in student[n][:2]]
    assert_same(found, torch.stack(means).mean(), inputs)


@pytest.mark.parametrize(
    ("num_student", "num_teacher", "theirs"),
    [
        (4, 12, [2, 5, 8, 11]),  # TinyBERT's
        (4, 4, [0, 1, 2, 3]),
        (4, 2, [0, 0, 1, 1]),
        (5, 2, [0, 0, 1, 1, 1]),
        (3, 4, [1, 2, 3]),
        (3, 1, [0, 0, 0]),
    ],
)
def test_every_layer_listens_to_one(num_student: int, num_teacher: int, theirs: list[int]) -> None:
    assert each_layer(num_student, num_teacher) == [[m, n] for m, n in enumerate(theirs)]


def test_layers_that_are_left_open_are_those_of_the_models() -> None:
    objectives: dict[str, Objective] = {
        "attention": Attention(),
        "hidden": Hidden(pairs=None),
        "let": Hidden(pairs=[[0, -1]]),
        "logits": ForwardKL(),
    }
    ours, theirs = sizes(num_layers=4), sizes(num_layers=2)
    fitted = between(objectives, ours, theirs)
    pairs = [[0, 0], [1, 0], [2, 1], [3, 1]]
    assert fitted == {
        "attention": Attention(pairs=pairs),
        "hidden": Hidden(pairs=pairs),
        "let": objectives["let"],
        "logits": objectives["logits"],
    }
    maps = {name: len(part.projections) for name, part in parts_for(fitted, ours, theirs).items()}
    assert maps == {"hidden": 4, "let": 1}


@pytest.mark.parametrize("distance", Distance)
def test_hidden_states(distance: Distance) -> None:
    draw = torch.Generator().manual_seed(0)
    student = {0: torch.randn(B, L, 6, generator=draw), -1: torch.randn(B, L, 6, generator=draw)}
    teacher = {-1: torch.randn(B, L, 4, generator=draw), 1: torch.randn(B, L, 4, generator=draw)}
    for tensor in student.values():
        tensor.requires_grad_()
    pairs = [(0, -1), (-1, 1)]
    options = Hidden(pairs=[[*pair] for pair in pairs], distance=distance)
    module = options.part("it", sizes(width=6), sizes(width=4))
    assert isinstance(module, Projections)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=draw))
    found = options.compare(Features(student, {}), Features(teacher, {}), module, BATCH)
    distances = []
    for (ours, theirs), projection in zip(pairs, module.projections, strict=True):
        for b in range(B):
            for position in range(L):
                x = projection.weight.double() @ student[ours][b, position].double()
                y = teacher[theirs][b, position].double()
                if distance is Distance.cosine:
                    distances.append(1 - (x @ y) / (x @ x).sqrt() / (y @ y).sqrt())
                else:
                    distances.append((x - y).square().sum() / 4)
    assert_same(found, torch.stack(distances).mean(), [*student.values(), *module.parameters()])


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        MiniLM(),
        MiniLMv2(),
        Hidden(),
        Hidden(distance=Distance.mse),
        Attention(pairs=[[-1, -1]]),
    ],
    ids=str,
)
def test_padding_has_no_part(options: MiniLM | Hidden | Attention, causal: bool) -> None:
    """Texts together are the mean of each alone, forward and backward."""
    lengths, draw = (5, 3), torch.Generator().manual_seed(0)
    ours, theirs = heads(2, 4, 0), heads(2, 4, 1)
    hidden = [torch.randn(B, L, 6, generator=draw).requires_grad_() for _ in range(2)]
    module = options.part("it", sizes(width=6), sizes(width=6))

    def features(side: int, text: slice, length: int, **more: Tensor) -> Features:
        cut = Heads(*(each[text, :, :length] for each in (ours, theirs)[side]))
        return Features({-1: hidden[side][text, :length]}, {-1: cut}, causal, **more)

    every = slice(None)
    sides = [features(side, every, L, present_BL=PADDED["present_BL"]) for side in (0, 1)]
    found = options.compare(sides[0], sides[1], module, BATCH)
    alone = [
        options.compare(*(features(side, slice(b, b + 1), n) for side in (0, 1)), module, BATCH)
        for b, n in enumerate(lengths)
    ]
    inputs = [*ours, hidden[0]]
    assert_same(found, torch.stack(alone).mean(), inputs)


@pytest.mark.parametrize("only_masked", [False, True])
@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("pool", Pool)
def test_states_at_target_rows(pool: Pool, normalise: bool, only_masked: bool) -> None:
    """Block by block; none of the second block's rows shows the mask."""
    draw = torch.Generator().manual_seed(0)
    student = torch.randn(5, 6, generator=draw).requires_grad_()
    teacher = torch.randn(5, 4, generator=draw)
    options = MaskedHidden(pool=pool, normalise=normalise, only_masked=only_masked)
    module = options.part("it", sizes(width=6), sizes(width=4))
    assert isinstance(module, Projections)
    assert options.part("it", sizes(width=6), sizes(width=6)) is None
    (projection,) = module.projections
    with torch.no_grad():
        projection.weight.add_(0.1 * torch.randn(4, 6, generator=draw))
    ours, theirs = (Features({}, {}, rows_ND=states) for states in (student, teacher))
    found = options.compare(ours, theirs, module, BATCH)

    def scaled(vector: Tensor) -> Tensor:
        return vector / (vector @ vector).sqrt() if normalise else vector

    distances = []
    for rows in ((0, 1, 2), (3, 4)):
        counted = [n for n in rows if not only_masked or n in (0, 2)]
        pairs = [(projection.weight.double() @ student[n].double(), teacher[n]) for n in counted]
        if pool is Pool.block and counted:
            means = [sum(each[1:], each[0]) / len(each) for each in zip(*pairs, strict=True)]
            pairs = [(means[0], means[1])]
        each = [(scaled(x) - scaled(y.double())).square().sum() / 4 for x, y in pairs]
        distances.append(sum(each) / len(each) if each else torch.zeros(()).double())
    expected = (distances[0] + distances[1]) / 2
    assert_same(found, expected, [student, *module.parameters()])


def sizes(num_heads: int = 2, width: int = 8, num_layers: int = 3) -> Any:
    return SimpleNamespace(
        model_type="bert",
        num_attention_heads=num_heads,
        hidden_size=width,
        num_hidden_layers=num_layers,
    )


def test_objectives_request_features_and_have_parts_by_their_names() -> None:
    objectives: dict[str, Objective] = {
        "logits": ForwardKL(),
        "minilm": MiniLM(student_layer=0),
        "hidden": Hidden(pairs=[[1, -1], [2, 0]]),
    }
    assert parts_for(objectives, sizes(), sizes(num_layers=2)).keys() == {"hidden"}
    assert requested(objectives) == (
        frozenset({("hidden", 1), ("hidden", 2), ("heads", 0)}),
        frozenset({("hidden", -1), ("hidden", 0), ("heads", -1)}),
    )


@pytest.mark.parametrize("name", FEATURE_OBJECTIVES)
def test_each_choice_asks_both_models_for_something(name: str) -> None:
    assert all(requested(between({"it": FEATURE_OBJECTIVES[name]()}, sizes(), sizes())))


@pytest.mark.parametrize(
    ("options", "ours", "theirs", "said"),
    [
        (MiniLM(), sizes(2), sizes(4), "the student has 2 heads, the teacher 4"),
        (Attention(), sizes(2), sizes(4), "2 heads, the teacher 4, and attention compares head"),
        (Attention(pairs=[[0, 3]]), sizes(), sizes(), "teacher: layer 3 of a model with 3 layers"),
        (MiniLMv2(num_relation_heads=3), sizes(), sizes(), "num_relation_heads=3 does not divide"),
        (MiniLMv2(), sizes(4), sizes(1, 6), "does not divide the teacher's width of 6"),
        (Hidden(pairs=[[3, 0]]), sizes(), sizes(), "student: layer 3 of a model with 3 layers"),
        (Hidden(pairs=[[0, -4]]), sizes(), sizes(), "teacher: layer -4 of a model with 3"),
    ],
    ids=str,
)
def test_sizes_that_cannot_be_compared(
    options: Objective, ours: Any, theirs: Any, said: str
) -> None:
    with pytest.raises(UserError, match=said):
        parts_for(between({"it": options}, ours, theirs), ours, theirs)
