"""The learned maps, against W_new = B (sum_l w_l W_l) A^T written out, forward and backward."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dwt_cli.distill.remap.ligo import Growing
from dwt_cli.distill.remap.options import FromTeacher, Ligo
from dwt_cli.distill.remap.remap import remap
from tests.distill.remap.conftest import WIDER, Pair, logits
from tests.miniature import dwt_train, options, write_text

FAMILIES = ["bert", "modernbert", "qwen3", "gpt2"]
IDS_BL = torch.randint(5, 160, (2, 20), generator=torch.Generator().manual_seed(0))
ROWS_N = torch.tensor([1, 7, 30, 33])


def growing(pair: Pair, family: str, disturbed: bool, **changes: int) -> tuple[Growing, Any]:
    """A student to be, and its teacher; disturbed: the maps have left where they began."""
    student, teacher = pair(family, 3, 4, **changes)
    made = Growing(student, teacher, Ligo("stack", "net2net"), torch.float32)
    if disturbed:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(1)
            for learned in (*made.widths.values(), *made.depths.values()):
                learned.add_(torch.randn_like(learned), alpha=0.2)
    return made, teacher


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("changes", [{}, WIDER], ids=["alike", "wider"])
def test_it_begins_as_the_rules_do(pair: Pair, family: str, changes: dict[str, int]) -> None:
    made, teacher = growing(pair, family, disturbed=False, **changes)
    student, _ = pair(family, 3, 4, **changes)
    remap(student, teacher, FromTeacher("stack", "net2net"))
    found = made(IDS_BL, ROWS_N).logits_NV
    expected = logits(student).flatten(0, 1)[ROWS_N]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)
    assert bool(made.widths) == bool(changes)


def by_hand(made: Growing, teacher: Any, layer: int) -> Tensor:
    """ModernBERT's fused Wqkv of a layer: q, k and v by themselves."""
    inside = "attn.Wqkv.weight"
    weights = made.depths[inside.replace(".", "/")][layer]
    parts = []
    for part in range(3):
        mixed = torch.zeros(16, 16, dtype=torch.float64)
        for origin in range(3):
            whole = teacher.get_parameter(f"model.layers.{origin}.{inside}").detach()
            mixed = mixed + weights[origin] * whole[16 * part : 16 * (part + 1)]
        parts.append(made.widths["H"] @ mixed @ made.widths["d"].T)
    return torch.cat(parts)


def test_the_formula_forward_and_backward(pair: Pair) -> None:
    made, teacher = growing(pair, "modernbert", disturbed=True, **WIDER)
    found, expected = made._made("model.layers.2.attn.Wqkv.weight"), by_hand(made, teacher, 2)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    maps = [made.widths["H"], made.widths["d"], made.depths["attn/Wqkv/weight"]]
    towards = torch.randn(found.shape, dtype=torch.float64)
    for one, other in zip(
        torch.autograd.grad((found * towards).sum(), maps),
        torch.autograd.grad((expected * towards).sum(), maps),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_a_first_layer_is_mixed_with_the_norm_that_it_had(pair: Pair) -> None:
    made, teacher = growing(pair, "modernbert", disturbed=True)
    norms = ["embeddings.norm", "layers.1.attn_norm", "layers.2.attn_norm"]
    tensors = [teacher.get_parameter(f"model.{name}.weight") for name in norms]
    weights = made.depths["attn_norm/weight"][3]
    expected = sum(w * tensor for w, tensor in zip(weights, tensors, strict=True))
    torch.testing.assert_close(made._made("model.layers.3.attn_norm.weight"), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_maps_alone_learn_and_then_the_student_is_one_like_any_other(
    pair: Pair, family: str
) -> None:
    made, _ = growing(pair, family, disturbed=True, **WIDER)
    expected = made(IDS_BL, ROWS_N).logits_NV
    expected.square().sum().backward()
    learning = {name for name, p in made.named_parameters() if p.grad is not None}
    assert learning == made.maps().keys()
    assert all(p.grad.abs().max() > 0 for p in made.parameters() if p.grad is not None)

    account = made.fold({name: tensor.clone() for name, tensor in made.maps().items()})
    found = logits(made.model).flatten(0, 1)[ROWS_N]
    torch.testing.assert_close(found, expected.detach(), rtol=0, atol=1e-11)
    assert account.grown.keys() == made.model.state_dict().keys()
    assert all(parameter.requires_grad for parameter in made.model.parameters())
    means = torch.stack(list(made.depths.values())).mean(0)
    assert [list(shares.values()) for shares in account.layers.values()] == means.tolist()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ligo")
    write_text(folder / "text")
    return folder


def started(place: Path, *words: str) -> tuple[dict[str, Any], list[dict[str, float]]]:
    """remap.json and the metrics of a run from a narrower teacher."""
    narrow = ["teacher.width=8", "teacher.num_heads=1", "teacher.mlp_width=8", "optim.lr=1e-3"]
    done = dwt_train(*options(place), *narrow, "remap=ligo", *words, cwd=place)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = Path(done.stdout.split("record: ")[-1].strip())
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert (folder / "remap.png").stat().st_size > 1000
    return json.loads((folder / "remap.json").read_text()), [json.loads(line) for line in lines]


@pytest.mark.slow
def test_maps_are_learned_once_and_the_student_starts_from_them(place: Path) -> None:
    steps = ["remap.steps=20", "remap.lr=0.02", "teacher.max_steps=30"]
    first, metrics = started(place, *steps)
    heldout = [line["heldout/loss"] for line in metrics if line["step"] == 0]
    assert heldout == [first["losses"]["remapped"]]
    assert first["losses"]["remapped"] < first["losses"]["random"]
    assert first["flops"] > 0 and first["seconds"] > 0
    (kept,) = (place / "cache" / "maps").glob("*/")
    learning = [json.loads(line) for line in (kept / "metrics.jsonl").read_text().splitlines()]
    losses = [line["heldout/loss"] for line in learning if "heldout/loss" in line]
    assert losses[-1] == pytest.approx(first["losses"]["remapped"], abs=1e-4)
    assert losses[-1] < losses[0]

    again, metrics_again = started(place, *steps, "run.fresh=true")
    assert again == first
    assert [line.get("train/loss") for line in metrics_again] == [
        line.get("train/loss") for line in metrics
    ]
    assert list((place / "cache" / "maps").glob("*/")) == [kept]


def test_the_maps_are_part_of_what_a_run_is(composed: Callable[..., Any]) -> None:
    from dwt_cli.base.identity import fingerprint

    assert fingerprint(composed("remap=ligo").remap) != fingerprint(composed("remap=stack").remap)
