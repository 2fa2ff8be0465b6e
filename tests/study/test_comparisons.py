"""Differences, verdicts, budgets and crossings of a made-up study, against its formulas."""

import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from scipy import stats

from dwt_cli.study import tables
from dwt_cli.study.comparisons import (
    against_alone,
    costs_to_equal,
    crossing_lengths,
    curves_apart,
    headline,
    judge,
    lengths_apart,
    losses_apart,
    pairs,
)
from dwt_cli.study.compute import Account
from dwt_cli.study.record import Claim, Expect
from dwt_cli.study.results import read_results
from tests.study import miniature
from tests.study.test_results import place

SEEDS = range(5)


def test_pairs_take_away_the_luck_of_a_seed(tmp_path: Path) -> None:
    results = read_results(miniature.write(tmp_path))
    apart = losses_apart(results, "weak", "alone", 200)
    assert dict(apart) == pytest.approx({s: -0.1 + miniature.noise("weak", s) for s in SEEDS})
    early = losses_apart(results, "weak", "alone", 200, 0.4)
    assert dict(early) == pytest.approx(dict(apart)), "the curves of the miniature are parallel"
    by_share = curves_apart(results, "weak", "alone", 200)
    assert list(by_share.index) == [0.2, 0.4, 0.6, 0.8, 1.0], "the start is left out"
    assert dict(by_share.loc[0.6]) == pytest.approx(dict(apart))


def test_a_claim_is_read_at_the_nearest_evaluation(tmp_path: Path) -> None:
    results = read_results(miniature.write(tmp_path, seeds=(0,)))
    apart = losses_apart(results, "weak", "alone", 200, 0.35)
    curves = (results.of(arm, 200).curve[0] for arm in ("weak", "alone"))
    weak, alone = (dict(curve)[80] for curve in curves)
    assert dict(apart) == pytest.approx({0: weak - alone})


def test_a_claim_about_so_many_tokens(tmp_path: Path) -> None:
    """Evaluations are 20 and 40 steps apart; none is within a quarter of 28 steps."""
    claims = [
        Claim(f"at {steps}", "weak", "alone", Expect.lower, tokens=miniature.TOKENS * steps)
        for steps in (80, 150, 28)
    ]
    results = read_results(miniature.write(tmp_path, claims=claims))
    judged = {(each.claim.claim, each.length): each for each in judge(results)}
    both = {(f"at {steps}", length) for steps in (80, 28) for length in (100, 200)}
    assert judged.keys() == both | {("at 150", 200)}
    for length in (100, 200):
        curves = [results.of(arm, length).curve for arm in ("weak", "alone")]
        expected = {s: dict(curves[0][s])[80] - dict(curves[1][s])[80] for s in SEEDS}
        assert dict(judged["at 80", length].by_seed) == pytest.approx(expected)
        assert judged["at 28", length].verdict == "undecided (no pair of runs)"
    assert list(tables.too_short(results)) == [
        "length 100 has no 9,600 tokens, so no such claim: at 150"
    ]


def test_verdicts_are_corrected_for_all_claims(tmp_path: Path) -> None:
    claims = [
        *miniature.CLAIMS,
        Claim("poor is ahead early", "poor", "alone", Expect.lower, 100, 0.4),
    ]
    results = read_results(miniature.write(tmp_path, claims=claims))
    judged = judge(results)
    assert [(each.claim.arm, each.length) for each in judged] == [
        ("weak", 100),
        ("weak", 200),
        ("poor", 200),
        ("poor", 100),
    ]
    ps = [stats.ttest_1samp(each.by_seed, 0).pvalue for each in judged]
    assert all(each.adjusted_p <= 4 * p for each, p in zip(judged, ps, strict=True))
    assert max(each.adjusted_p for each in judged) >= max(ps)
    assert min(each.adjusted_p for each in judged) == pytest.approx(4 * min(ps))
    assert [each.verdict for each in judged] == [
        "supported",
        "supported",
        "contradicted",
        "contradicted",
    ]


def test_the_best_of_several_is_chosen_by_other_seeds(tmp_path: Path) -> None:
    claim = Claim(
        "weak is not above", "weak", None, Expect.not_higher,
        within=0.01, best_of=["poor", "alone"], chosen_on=[0, 1, 7],
    )  # fmt: skip
    (undecided, *_) = judge(read_results(miniature.write(tmp_path / "1", claims=[claim])))
    assert (undecided.against, len(undecided.by_seed)) == ("poor or alone", 0)
    assert undecided.verdict == "undecided (no pair of runs)"
    known = replace(claim, chosen_on=[0, 1])
    results = read_results(miniature.write(tmp_path / "2", claims=[known]))
    (judged, *_) = judge(results)
    apart = losses_apart(results, "weak", "alone", 100)
    assert judged.against == "alone" and judged.verdict == "supported"
    assert dict(judged.by_seed) == pytest.approx({seed: apart[seed] for seed in (2, 3, 4)})


def test_equal_flops(tmp_path: Path) -> None:
    """At length 100 the forward makes 125 steps' worth, the whole 175; both lie below 200."""
    results = read_results(miniature.write(tmp_path))
    runs = against_alone(results).set_index(["arm", "length"])
    weak = runs.loc[("weak", 100)].set_index("seed")
    for account, steps in ((Account.FORWARD, 125), (Account.WHOLE, 175)):
        share = math.log(steps / 100) / math.log(2)
        expected = {
            s: (-0.1 + miniature.noise("weak", s)) + 0.1 * share for s in SEEDS
        }  # the stand-alone loses 0.1 from 100 to 200 steps
        assert dict(weak[account.name]) == pytest.approx(expected)
    assert dict(weak.lead) == pytest.approx(dict.fromkeys(SEEDS, -0.3))
    assert runs.loc[("weak", 200), ["FORWARD", "WHOLE"]].isna().all(axis=None), "no extrapolation"


def test_a_teacher_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(miniature.TEACHER, "weak", -0.2)
    runs = against_alone(read_results(miniature.write(tmp_path, lengths=(100,))))
    assert set(runs.arm[runs.lead >= 0]) == {"weak"}
    assert len(runs) == 10 and runs.arm.unique().tolist() == ["weak", "poor"]


def test_the_cost_of_the_stand_alones_loss(tmp_path: Path) -> None:
    """Weak is 0.1 + noise ahead, and so are 100 steps: it gets to 200's loss with about 100."""
    folder = miniature.write(tmp_path, seeds=(1, 2, 3, 4))
    results = read_results(folder)
    found = costs_to_equal(results, "weak", 200, Account.FORWARD)
    for seed, cost in found.items():
        ahead = 0.1 - miniature.noise("weak", seed)
        if ahead > 0.1:
            assert (cost.at_least, cost.at_most) == pytest.approx((0.0, 125 / 200))
        else:
            steps = 100 * 2 ** ((0.1 - ahead) / 0.1)
            assert cost.exact == pytest.approx(1.25 * steps / 200)
    assert any(cost.exact is None for cost in found.values())
    assert any(cost.exact is not None for cost in found.values())
    assert set(found) == {1, 2, 3, 4}
    never = costs_to_equal(results, "poor", 200, Account.STUDENT)
    assert {cost.at_most for cost in never.values()} == {math.inf}
    early = next(seed for seed, cost in found.items() if cost.exact is None)
    late = next(seed for seed, cost in found.items() if cost.exact is not None)
    for length, seed, left in ((200, early, {1, 2, 3, 4}), (200, late, {1, 2, 3, 4} - {late})):
        shutil.rmtree(place(folder, "weak", length, seed))
        rest = costs_to_equal(read_results(folder), "weak", 200, Account.FORWARD)
        assert set(rest) == left and rest[early] == found[early]
    shutil.rmtree(place(folder, "weak", 100, early))
    rest = costs_to_equal(read_results(folder), "weak", 200, Account.FORWARD)
    assert set(rest) == {1, 2, 3, 4} - {early, late}


def test_what_never_arrives_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though the seed with which it does brings its mean below that of an arm that arrives late."""
    luck = {("poor", 0): -0.3, ("poor", 1): 0.8}
    monkeypatch.setattr(miniature, "noise", lambda arm, seed: luck.get((arm, seed), 0.0))
    monkeypatch.setitem(miniature.EFFECT, "weak", 0.1)  # as far behind as 100 steps are
    results = read_results(miniature.write(tmp_path, lengths=(100, 200, 400), seeds=(0, 1)))
    found = headline(results).set_index(["length", "arm"]).drop(index=400)
    assert found.loc[200].index.tolist() == ["weak", "poor"]
    assert (found.loc[200].side > 0).tolist() == [False, True]
    assert found.share.is_monotonic_decreasing and found.share.is_unique


def test_crossings_between_lengths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = miniature.summary

    def turning(arm: str, length: int, seed: int, steps: int | None = None) -> object:
        said = plain(arm, length, seed, steps)
        if arm == "weak" and length == 400:
            said["student"]["heldout"]["loss"] += 0.15  # 0.1 ahead becomes 0.05 behind
        return said

    monkeypatch.setattr(miniature, "summary", turning)
    monkeypatch.setattr(miniature, "noise", lambda arm, seed: 0.0)
    results = read_results(miniature.write(tmp_path, lengths=(100, 200, 400)))
    at_end = lengths_apart(results, "weak", "alone")
    assert dict(at_end) == pytest.approx({100: -0.1, 200: -0.1, 400: 0.05})
    assert crossing_lengths(at_end) == pytest.approx([200 * 2 ** (0.1 / 0.15)])
    assert pairs(results) == [("weak", "alone"), ("poor", "alone")]
