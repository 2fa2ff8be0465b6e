"""What became of the claims of a benchmark that runs several seeds."""

from collections.abc import Mapping, Sequence

from timing import table

from dwt_cli.study.comparisons import difference, holm


def verdicts(gaps: Mapping[str, Sequence[float]], above: bool = False) -> list[str]:
    """Return the table of claims that differences are below zero, or above it.

    gaps: by claim, a difference for each seed. p are corrected by Holm's procedure.
    """
    found = [difference(each) for each in gaps.values()]
    ps = holm([1.0 if gap is None or gap.p is None else gap.p for gap in found])
    rows = []
    for claim, gap, p in zip(gaps, found, ps, strict=True):
        assert gap is not None, "there is a seed"
        interval = "one seed" if gap.low is None else f"[{gap.low:+.4g}, {gap.high:+.4g}]"
        decided = "holds" if (gap.mean > 0) is above else "the reverse"
        verdict = decided if p < 0.05 else "undecided"
        rows.append(
            (claim, f"{gap.mean:+.4g}", interval, "< 0.001" if p < 0.001 else f"{p:.3f}", verdict)
        )
    return table(("claim", "difference", "95%", "p", "verdict"), rows)
