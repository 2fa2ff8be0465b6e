"""Head, cross-entropy, KL and backward as one operation, against plain torch on whole logits.

Time: the plain way, ours, and the four matrix products alone, which neither can do without; student
and teacher of one width. Gradients: the largest difference from the plain way's, relative to the
largest entry, and in bf16 each one's distance from fp64.

Legend: N rows, V vocabulary, D width.
"""

import argparse
from collections.abc import Callable
from itertools import product

import torch
from provenance import provenance
from timing import SMOKE, in_turn, ratios, spread, table, timed
from torch import Tensor
from torch.nn import functional as F

from dwt_cli.distill.alpha import Weights
from dwt_cli.distill.objective.divergences import ForwardKL
from dwt_cli.distill.objective.fused import Comparison, DistillationSums
from dwt_cli.distill.teacher.targets import HeadStates
from dwt_cli.models.wrapper import OutputLayer

CPU = torch.device("cpu")
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
SOFT = 4.0
Gradients = tuple[Tensor, Tensor]


class Sides:
    """States and heads, in fp32, of a student and a teacher, and labels. dtype: of the products."""

    def __init__(self, num_rows: int, vocab_size: int, width: int, dtype: torch.dtype) -> None:
        torch.manual_seed(0)
        self.dtype, self.labels_N = dtype, torch.randint(vocab_size, (num_rows,))
        sizes = (num_rows, width), (vocab_size, width)
        self.states_ND, self.teacher_ND = (torch.randn(sizes[0]) for _ in "st")
        self.weight_VD, self.teacher_VD = (torch.randn(sizes[1]) / width**0.5 for _ in "st")

    def plain(self, dtype: torch.dtype = torch.float32) -> Gradients:
        given = (self.states_ND, self.weight_VD)
        leaves = [x.detach().to(dtype).requires_grad_() for x in given]
        mixed = self.dtype == torch.bfloat16 and dtype == torch.float32
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            logits_NV = F.linear(*leaves).to(dtype)
            with torch.no_grad():
                teacher = (self.teacher_ND.to(dtype), self.teacher_VD.to(dtype))
                theirs_NV = F.linear(*teacher).to(dtype).log_softmax(-1)
        hard = F.cross_entropy(logits_NV, self.labels_N, reduction="sum")
        soft = F.kl_div(logits_NV.log_softmax(-1), theirs_NV, log_target=True, reduction="sum")
        ((hard + SOFT * soft) / len(self.labels_N)).backward()
        return _taken(*leaves)

    def ours(self) -> Gradients:
        states_ND, weight_VD = self.states_ND.requires_grad_(), self.weight_VD.requires_grad_()
        teacher = HeadStates(self.teacher_ND.to(self.dtype), self.teacher_VD.to(self.dtype))
        settings = (Weights(1.0, SOFT), Comparison({"logits": ForwardKL()}))
        sums = DistillationSums(teacher, self.labels_N, *settings)
        total = sums(states_ND, OutputLayer(weight_VD, dtype=self.dtype)).total
        (total / len(self.labels_N)).backward()
        return _taken(states_ND, weight_VD)

    def products(self) -> Callable[[], None]:
        given = (self.states_ND, self.weight_VD, self.teacher_ND, self.teacher_VD)
        states_ND, weight_VD, *teacher = (x.detach().to(self.dtype) for x in given)
        gradient_NV = states_ND @ weight_VD.T

        def call() -> None:
            _ = states_ND @ weight_VD.T, teacher[0] @ teacher[1].T
            _ = gradient_NV @ weight_VD, gradient_NV.T @ states_ND

        return call


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    print("\n".join([*([SMOKE] if options.rows < 512 else []), *provenance(), ""]))
    rows = []
    for name, vocab_size, width in product(options.dtype, options.vocab, options.width):
        sides = Sides(options.rows, vocab_size, width, TYPES[name])
        ways = {"plain": sides.plain, "ours": sides.ours, "products": sides.products()}
        named = {way: timed(call, CPU) for way, call in ways.items()}
        seconds = in_turn(named, options.rounds, warm_up=1)
        shares = [spread(ratios(seconds[way], seconds["plain"]), 2) for way in ("ours", "products")]
        times = [f"{1000 * min(seconds[way]):.0f}" for way in ways]
        rows.append([f"{name}, {vocab_size}, {width}", *times, *shares, _errors(sides)])
    headings = ["type, V, D", "plain, ms", "ours", "products", "ours / plain", "products / plain"]
    print("\n".join(table([*headings, "gradients of states, head"], rows)))


def _errors(sides: Sides) -> str:
    plain, ours = sides.plain(), sides.ours()
    if sides.dtype == torch.float32:
        apart = [(a - b).abs().max() / b.abs().max() for a, b in zip(ours, plain, strict=True)]
        return "apart " + ", ".join(f"{each:.0e}" for each in apart)
    right = sides.plain(torch.float64)
    distances = [
        float((a - r).norm() / (b - r).norm()) for a, b, r in zip(ours, plain, right, strict=True)
    ]
    return "distance / plain's " + ", ".join(f"{each:.3f}" for each in distances)


def _taken(*leaves: Tensor) -> Gradients:
    states_ND, weight_VD = (leaf.grad for leaf in leaves)
    assert states_ND is not None and weight_VD is not None
    for leaf in leaves:
        leaf.grad = None
    return states_ND, weight_VD


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--vocab", type=int, nargs="+", default=[8192, 32768])
    parser.add_argument("--width", type=int, nargs="+", default=[256, 768])
    parser.add_argument("--dtype", choices=TYPES, nargs="+", default=[*TYPES])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
