"""Laws of runs against slow versions and laws that are known, and as `dwt-report` writes them."""

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import optimize

from dwt_cli.base.errors import UserError
from dwt_cli.cli.report import main
from dwt_cli.study import figures, law_page, outlook
from dwt_cli.study import law as law_module
from dwt_cli.study.forms import ALONE, LISTENING
from dwt_cli.study.law import (
    Choice,
    Law,
    Teacher,
    alike,
    choices,
    fitted,
    points,
    simplest,
    soft_share,
)
from dwt_cli.study.outlook import Outlook, longer, longest_left_out, naive
from dwt_cli.study.results import read_results
from tests.study import miniature

Capture = pytest.CaptureFixture[str]

NUMBERS = {
    "E": 2.0,
    "A": 0.4,
    "a": 0.3,
    "B": 1.2,
    "b": 0.45,
    "g": 1.1,
    "k": 4.0,
    "j": 0.09,
    "q": 0.4,
}
TRUE = Law(ALONE[3], LISTENING[3], NUMBERS, 2.5e6, 4.9e6)
TEACHERS = {
    "alone": (0.0, 0.0, 0.0, math.nan, math.nan),
    "weak": (1.0, 0.5, 0.0, 5.1, 0.5),
    "good": (1.0, 0.5, 0.0, 4.4, 0.5),
    "half": (0.5, 0.8, 0.0, 5.1, 0.5),
    "grown": (0.0, 0.0, 1.0, 5.1, 0.5),
    "both": (1.0, 0.5, 1.0, 4.4, 1.0),
}
"""Of an arm: the share that is taught, the soft loss's share of the weights, whether it begins with
the teacher's weights, the teacher's loss, and its parameters over the student's."""


def record(
    law: Law = TRUE,
    noise: float = 0.0,
    lengths: tuple[int, ...] = (400, 800, 1200, 2400),
    sizes: tuple[float, ...] = (1e5, 5e5, 2.5e6),
    seeds: int = 2,
    luck: int = 0,
) -> pd.DataFrame:
    """Runs of every size, length, teacher and seed, with the losses that a law gives them."""
    rows = [
        {
            "parameters": size,
            "tokens": 2048.0 * length,
            "text": math.inf,
            "new_tokens": 2048.0 * length,
            "taught": taught,
            "weight": weight,
            "grown": grown,
            "teacher": teacher,
            "ratio": ratio,
            "seed": seed,
            "steps": length,
            "length": length,
            "arm": f"{size:g} {arm}",
            "cost": 1 + 0.25 * taught,
        }
        for size, length, seed in itertools.product(sizes, lengths, range(seeds))
        for arm, (taught, weight, grown, teacher, ratio) in TEACHERS.items()
    ]
    runs = pd.DataFrame(rows)
    chance = np.exp(np.random.default_rng(luck).normal(0, noise, len(runs)))
    return runs.assign(loss=law.losses(runs) * chance)


@pytest.fixture
def unpictured(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pictures of the study itself."""
    monkeypatch.setattr(figures, "draw", lambda results, folder: {})


@pytest.fixture
def few_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two forms, which have sizes, and few draws."""
    monkeypatch.setattr(law_module, "ALONE", ALONE[2:4])
    monkeypatch.setattr(law_module, "LISTENING", LISTENING[3:])
    monkeypatch.setattr(outlook, "_NUM_DRAWS", 5)


def test_a_text_is_read_until_it_is_worth_so_much() -> None:
    text = np.array([1e5])
    for read in (5e4, 1e5, 3e5, 4e6):
        worth = float(law_module._worth(np.array([read]), np.minimum(text, read))[0])
        assert law_module.readings(worth, 1e5) == pytest.approx(read)
    assert law_module.readings(1e7, 1e5) == math.inf
    assert law_module.readings(1e7, math.inf) == 1e7


def test_the_soft_losses_share_is_a_mean_while_there_is_one() -> None:
    assert soft_share([(1.0, 1.0), (1.0, 4.0), (1.0, 0.0), (0.0, 0.0)]) == pytest.approx(0.65)
    assert soft_share([(1.0, 0.0)]) == soft_share([]) == 0


@pytest.mark.parametrize("form", ALONE, ids=lambda form: form.formula)
def test_a_student_alone_is_the_formula_and_its_inverse(form: Any) -> None:
    for size, tokens in ((0.1, 0.2), (1.0, 3.0)):
        loss = form.loss(NUMBERS, np.array([size]), np.array([tokens]))
        p, typed = NUMBERS, form.formula
        terms = {"A N^-a": p["A"] / size ** p["a"], "B D^-b": p["B"] / tokens ** p["b"]}
        slow = sum(value for term, value in terms.items() if term in typed)
        slow = slow ** p["g"] if "^g" in typed else slow
        slow += p["E"] if "E" in typed else 0
        assert loss == pytest.approx([slow])
        found = form.tokens(NUMBERS, np.array([size]), loss)
        assert found == pytest.approx([tokens])
    assert form.tokens(NUMBERS, np.array([1.0]), np.array([0.0])) == [math.inf]


@pytest.mark.parametrize("form", LISTENING, ids=lambda form: form.formula)
@pytest.mark.parametrize("level", [0.0, 0.31, 1.2, 100.0, math.inf])
@pytest.mark.parametrize(
    ("weight", "before", "after"), [(0.0, 1.0, 1.0), (0.5, 2.0, 0.3), (1.0, 4.0, 0.09)]
)
def test_what_taught_tokens_count_for_is_counted_one_by_one(
    form: Any, level: float, weight: float, before: float, after: float
) -> None:
    for share in (0.0, 0.4, 1.0):
        count, num = 0.0, 20_000  # of a run of one unit
        for _ in range(round(share * num)):
            worth = {0: 1.0, 1: before}.get(LISTENING.index(form))
            if worth is None:
                later = 1.0 if LISTENING.index(form) == 2 else after
                worth = before if count < level else later
            count += worth / num
        count += 1 - share
        given = (np.array([each]) for each in (share, 1 - share, level, weight))
        found = form.tokens(NUMBERS, *given)
        assert found == pytest.approx([count], abs=5 / num)


def test_text_that_is_read_again_counts_less() -> None:
    (known,) = (
        record(lengths=(800,), sizes=(2.5e6,), seeds=1).query("taught + grown == 0").iloc[:1],
    )
    runs = pd.concat([known.assign(new_tokens=known.tokens / n) for n in (1, 2, 20, 2000)])
    losses = TRUE.losses(runs)
    for (_, run), loss in zip(runs.iterrows(), losses, strict=True):
        repeats = run.tokens / run.new_tokens - 1
        worth = run.new_tokens * (1 + 15.4 * (1 - math.exp(-repeats / 15.4)))
        assert loss == pytest.approx(2 + 0.4 + 1.2 * (worth / 4.9e6) ** -0.45)
    assert list(losses) == sorted(losses)


def objective(theta: Any, runs: pd.DataFrame) -> float:
    """What a fit minimises, run by run: Huber's loss over logarithms, in thousandths."""
    e, a_height, a, b_height, b, k, j, q = theta
    if min(a_height, b_height, k) <= 0 or min(a, b) <= 0 or e < 0:
        return math.inf
    size, most, total = runs.parameters.max(), runs.tokens.max(), 0.0
    for run in runs.itertuples():
        n, d = run.parameters / size, run.tokens / most
        count, start = d, 0.0
        if run.taught or run.grown:
            above = run.teacher - e - a_height * n**-a
            level = (above / b_height) ** (-1 / b) if above > 0 else math.inf
            start = run.ratio**q * level if run.grown else 0.0
            early, late = k**run.weight, j**run.weight
            first = min(run.taught * d, max(level - start, 0) / early)
            count = (1 - run.taught) * d + early * first + late * (run.taught * d - first)
        loss = e + a_height * n**-a + b_height * (start + max(count, 0.01 * d)) ** -b
        missed = (math.log(loss) - math.log(run.loss)) / 1e-3
        total += missed**2 if abs(missed) <= 1 else 2 * abs(missed) - 1
    return total / 2


def test_a_fit_is_not_beaten_by_a_search() -> None:
    runs = record(noise=0.004, seeds=1)
    law = fitted(ALONE[3], LISTENING[3], runs)
    theta = np.array([law.numbers[name] for name in ("E", "A", "a", "B", "b", "k", "j", "q")])
    ours = objective(theta, runs)
    for scale in (1e-3, 0.05):
        start = theta * (1 + scale * np.random.default_rng(1).normal(size=len(theta)))
        found = optimize.minimize(objective, start, (runs,), "Nelder-Mead", options={"maxfev": 300})
        assert ours <= found.fun * 1.0001


def test_a_law_is_found_again_with_its_horizon() -> None:
    law = fitted(ALONE[3], LISTENING[3], record())
    runs = record(lengths=(10_000,), sizes=(3e5, 1e7))
    assert law.losses(runs) == pytest.approx(runs.loss.to_numpy(), rel=1e-3)
    for size, loss, cost in itertools.product((1e5, 2.5e6), (4.4, 5.1), (1.0, 1.25)):
        teacher = Teacher(loss, 0.5, 0.25)
        until = law.until(size, teacher, cost)

        def gain(tokens: float, run: Any = (size, loss, cost)) -> float:
            """Of a student alone, for as much: as the formulas say."""
            rest = 2 + 0.4 * (run[0] / 2.5e6) ** -0.3
            level = ((run[1] - rest) / 1.2) ** (-1 / 0.45)
            d = tokens / 4.9e6
            first = min(d, level / 2)
            counted = max(2 * first + 0.3 * (d - first), 0.01 * d)
            return 1.2 * ((d * run[2]) ** -0.45 - counted**-0.45)

        assert until == pytest.approx(optimize.brentq(gain, 1e4, 1e9), rel=0.03)
        rest = 2 + 0.4 * (size / 2.5e6) ** -0.3
        level = 4.9e6 * ((loss - rest) / 1.2) ** (-1 / 0.45)
        assert law.level(size, loss) == pytest.approx(level, rel=0.01)
        assert law.saved(size, teacher) == pytest.approx(level / 2, rel=0.01), "2 - 1 for each"
        assert law.caught_up(size, teacher) == pytest.approx(level / 2, rel=0.01)
        begun = 0.25**0.4 * level
        assert law.begun(size, teacher) == pytest.approx(begun, rel=0.01)
        left = law.caught_up(size, teacher, grown=True)
        assert left == pytest.approx((level - begun) / 2, rel=0.01)
        as_large = replace(teacher, ratio=1.0)
        assert law.caught_up(size, as_large, grown=True) == 0, "it begins as good as the teacher"
        stronger = law.caught_up(size, replace(teacher, weight=0.8))
        assert stronger == pytest.approx(level / 4**0.8, rel=0.01)
    for loss in (2.44, 2.41):  # alone it would take hundreds of times the longest run, or more
        assert law.caught_up(2.5e6, Teacher(loss, 0.5, 0.25), grown=True) > 50 * 4.9e6
    best, good, weak = (Teacher(loss, 0.5, 0.25) for loss in (2.0, 4.4, 5.1))
    assert law.level(2.5e6, 2.0) == law.saved(2.5e6, best) == math.inf
    assert law.caught_up(2.5e6, best) == law.caught_up(2.5e6, best, grown=True) == math.inf
    poor = replace(law, numbers={**law.numbers, "k": 0.5})
    assert poor.heard(2.5e6, best) == poor.saved(2.5e6, best) == poor.until(2.5e6, best) == 0
    assert math.isnan(law.until(2.5e6, good, cost=math.nan))
    always = replace(law, listening=LISTENING[1])
    assert always.saved(2.5e6, good) == math.inf
    assert replace(law, listening=LISTENING[0]).saved(2.5e6, good) == 0
    nothing = law.until(2.5e6, replace(weak, loss=9.0))
    assert nothing < law.until(2.5e6, weak) / 2, "a teacher that knows nothing"
    assert law.until(2.5e6, replace(best, loss=1.0)) == math.inf, "one better than any student"
    assert law.until(2.5e6, good, cost=3.0) == 0.0, "one that costs more than it gives"


@pytest.mark.slow
def test_lengths_that_are_alike_are_left_out_together(few_forms: None) -> None:
    runs = record(noise=0.004, lengths=(400, 500, 800, 1200, 1700, 2000), seeds=1)
    assert (alike(runs) / 2048).drop_duplicates().tolist() == [400, 800, 1200, 1700]
    assert alike(runs.assign(steps=7)).equals(alike(runs)), "tokens count, and not steps"
    found = choices(runs)
    assert len(found) == 2
    kinds = {400: (400, 500), 500: (400, 500), 800: (800,), 1200: (1200,)}
    for each in found:
        law, residuals = each.law, pd.Series(each.residuals, runs.index)
        for length in (500, 1200, 2000):
            like = kinds.get(length, (1700, 2000))
            without = fitted(law.alone, law.listening, runs[~runs.steps.isin(like)], law, anew=True)
            out = runs[runs.steps == length]
            slow = [math.log(run.loss) for run in out.itertuples()] - np.log(without.losses(out))
            assert residuals[out.index].to_numpy() == pytest.approx(slow)
        cells: dict[Any, list[float]] = {}
        for run, missed in zip(runs.itertuples(), each.residuals, strict=True):
            cells.setdefault((run.arm, run.steps), []).append(missed**2)
        means = [float(np.mean(own)) for own in cells.values()]
        assert each.error == pytest.approx(np.mean(means))
        assert each.within == pytest.approx(np.std(means, ddof=1) / math.sqrt(len(means)))
    assert simplest(found).law.alone is ALONE[3] and simplest(found).law.listening is LISTENING[3]


def test_a_length_is_forecast_by_fits_that_do_not_know_it(few_forms: None) -> None:
    runs = record(noise=0.004, lengths=(400, 800, 1600), seeds=1)
    is_out = runs.steps == 800

    def forecast(runs: pd.DataFrame) -> Any:
        return [(runs.loss / np.exp(each.residuals))[is_out] for each in choices(runs)]

    others = runs.assign(loss=runs.loss.where(~is_out, 1.3 * runs.loss))
    for ours, theirs in zip(forecast(runs), forecast(others), strict=True):
        assert ours.to_numpy() == pytest.approx(theirs.to_numpy(), rel=1e-12)


@pytest.mark.slow
def test_forms_that_runs_do_not_tell_apart_are_none() -> None:
    def formulas(**given: Any) -> set[str]:
        runs = record(seeds=1, **given)
        try:
            return {each.law.alone.formula for each in choices(runs[runs.taught + runs.grown == 0])}
        except UserError:
            return set()

    three = (400, 800, 1600)
    sizes = (1e5, 3e5, 1e6, 3e6)
    assert formulas(lengths=three, sizes=sizes) == {"B D^-b", "A N^-a + B D^-b"}
    assert formulas(lengths=three, sizes=sizes[:1]) == set(), "no more cells than numbers"
    assert formulas(lengths=(*three, 3200), sizes=sizes[:1]) == {"B D^-b"}
    assert formulas(lengths=(*three, 3200), sizes=sizes[:2]) == {
        "B D^-b",
        "E + B D^-b",
        "A N^-a + B D^-b",
    }
    with pytest.raises(UserError, match="3 lengths that are a third apart, and there are 2"):
        choices(record(lengths=(400, 500, 800)))
    runs = record(lengths=three, sizes=(1e5,)).query("taught + grown == 0")
    runs.attrs["left_out"] = {"on another text": 7}
    with pytest.raises(UserError, match="left out: 7 on another text"):
        choices(runs)


@pytest.mark.slow
def test_seeds_are_drawn_anew_where_there_are_several(few_forms: None) -> None:
    runs = record(noise=0.004, seeds=3)
    is_small = runs.parameters < 2.5e6
    part = runs[(is_small & (runs.grown == 0)) | (runs.seed == 0)]  # the rest has one seed
    known = Outlook(simplest(choices(part)), part)
    assert len(known.drawn) == 5
    for law in known.drawn:
        assert (law.size, law.tokens) == (known.law.size, known.law.tokens)
        assert law.numbers["q"] == pytest.approx(known.law.numbers["q"], rel=0.1)
        assert law.losses(runs) == pytest.approx(runs.loss.to_numpy(), rel=0.03)
    assert not Outlook(known.choice, runs[runs.seed == 0]).drawn


def test_the_simplest_within_a_standard_error_is_chosen() -> None:
    def choice(num_numbers: int, error: float) -> Choice:
        numbers = dict.fromkeys(map(str, range(num_numbers)), 0.0)
        return Choice(Law(ALONE[0], LISTENING[0], numbers, 1.0, 1.0), np.zeros(1), error, 0.5)

    for errors, chosen in (((2.0, 1.4, 1.0), 1.4), ((1.5, 1.0, 1.2), 1.5), ((3.0, 2.0, 1.0), 1.0)):
        assert simplest([choice(n, error) for n, error in enumerate(errors)]).error == chosen


def test_a_forecast_of_the_longest_runs_does_not_know_them(few_forms: None) -> None:
    runs = record(noise=0.004)
    found = longest_left_out(runs)
    assert set(found.length) == {2400} and len(found) == len(runs) / 4
    moved = runs.assign(loss=runs.loss.where(runs.length < 2400, 99.0))
    again = longest_left_out(moved)
    pd.testing.assert_frame_equal(found.drop(columns="loss"), again.drop(columns="loss"))
    new = (runs.arm == "500000 half") & (runs.length < 2400)
    fewer = longest_left_out(runs[~new].reset_index(drop=True))
    assert fewer.attrs["not_forecast"] == sum(new) / 3 and "500000 half" not in set(fewer.arm)
    assert (found.value / found.loss - 1).abs().mean() < 0.01
    assert found.loss.between(found.low, found.high).mean() > 0.8
    assert (found.low < found.value).all() and (found.value < found.high).all()


@pytest.mark.slow
def test_an_interval_is_of_seeds_and_of_lengths_not_seen(few_forms: None) -> None:
    runs = record(noise=0.004)
    known = Outlook(simplest(choices(runs)), runs)
    apart = math.log(2400 / 400) / 3
    for length, farther in ((3000, 1.0), (40_000, math.log(40_000 / 2400) / apart)):
        out = record(lengths=(length,), seeds=1)
        said = known.losses(out)
        assert known.farther(out.tokens) == pytest.approx([farther] * len(out))
        for place in range(len(out)):
            each = out.iloc[[place]]
            value = known.law.losses(each)[0]
            moved = [math.log(law.losses(each)[0] / value) ** 2 for law in known.drawn]
            deviation = math.sqrt(np.mean(moved) + known.choice.error * farther**2)
            reach = math.exp(2.3534 * deviation)  # Student's t, three degrees of freedom
            ends = (said.low.iloc[place], said.high.iloc[place])
            assert ends == pytest.approx((value / reach, value * reach), rel=1e-4)


@pytest.mark.slow
def test_intervals_hold_what_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outlook, "_NUM_DRAWS", 6)
    for sizes, lengths in (((1e5, 5e5, 2.5e6), (400, 600, 900)), ((5e5,), (400, 600, 900, 1200))):
        inside: dict[float, list[float]] = {1.5: [], 3.0: []}
        for repeat in range(6):
            runs = record(noise=0.004, sizes=sizes, lengths=lengths, seeds=2, luck=repeat)
            known = Outlook(simplest(choices(runs)), runs)
            for times, found in inside.items():
                length = round(times * max(lengths))
                out = record(
                    noise=0.004, sizes=sizes, lengths=(length,), seeds=1, luck=100 + repeat
                )
                said = known.losses(out)
                found += out.loss.between(said.low, said.high).tolist()
        assert all(np.mean(found) > 0.85 for found in inside.values()), inside


def test_forecasts_that_need_no_law() -> None:
    law = Law(ALONE[0], LISTENING[1], {"B": 4.0, "b": 0.1, "k": 1.5}, 2.5e6, 4.9e6)
    before, after = record(law), record(law, lengths=(4800,))
    found = after.join(naive(before, after))
    for run in found.itertuples():
        assert run.power == pytest.approx(4.0 * (4800 * 2048 / 4.9e6) ** -0.1)
        last = before[(before.arm == run.arm) & (before.steps == 2400)].loss.mean()
        apart = last - 4.0 * (2400 * 2048 / 4.9e6) ** -0.1
        assert run.last == pytest.approx(run.power + apart)
    short = naive(before[before.steps == 400], after)
    assert short.isna().all(axis=None)


def test_longer_runs_are_taught_as_shorter_ones_let_one_expect() -> None:
    runs = record(lengths=(400, 800), sizes=(1e5,), seeds=1)
    runs.loc[(runs.arm == "100000 half") & (runs.steps == 800), "taught"] = 0.3
    again = runs[(runs.arm == "100000 half") & (runs.steps == 800)].assign(taught=0.1, weight=0.9)
    runs = pd.concat([runs, again], ignore_index=True)
    runs.loc[(runs.arm == "100000 half") & (runs.seed == 0) & (runs.taught == 0.3), "weight"] = 0.5
    runs.loc[runs.arm == "100000 good", "new_tokens"] = 1e5
    runs.loc[runs.arm == "100000 good", "text"] = 1e5
    planned = longer(runs, 3200).set_index("arm")
    assert (planned.length == 3200).all() and (planned.tokens == 3200 * 2048).all()
    power = max(0.0, math.log(0.2 * 800 / (0.5 * 400)) / math.log(2))
    heard = 0.2 * 800 * 4**power
    assert planned.weight["100000 half"] == pytest.approx((0.3 * 0.5 + 0.1 * 0.9) / 0.4)
    assert planned.weight["100000 alone"] == 0
    assert planned.taught["100000 half"] == pytest.approx(heard / 3200)
    assert planned.taught["100000 weak"] == 1 and planned.taught["100000 alone"] == 0
    assert planned.new_tokens["100000 good"] == 1e5
    assert planned.new_tokens["100000 weak"] == 3200 * 2048
    assert planned.teacher["100000 good"] == 4.4 and math.isnan(planned.teacher["100000 alone"])
    with pytest.raises(ValueError, match="800 steps: runs of 800 are on record; give more"):
        longer(runs, 800)
    with pytest.raises(ValueError, match="900 steps: the first study has no run"):
        longer(runs[:0], 900)


# ---------------------------------------------------------------------------------- as it is typed


def report(*typed: str) -> int:
    return main(list(typed))


def test_what_a_law_is_about(tmp_path: Path) -> None:
    folder = miniature.write(tmp_path, seeds=(0, 1), lengths=(100, 200, 400))
    changed = tmp_path / "runs" / miniature.identity("poor", 400, 1) / "summary.json"
    said = json.loads(changed.read_text())
    said["student"]["remap"] = {"flops": 0, "seconds": 0.0}
    changed.write_text(json.dumps(said))
    runs = points(read_results(folder), read_results(folder))
    assert len(runs) == 18 and set(runs.arm) == set(miniature.ARMS), "each once"
    (tmp_path / "other").mkdir()
    other = miniature.write(tmp_path / "other", seeds=(2,), lengths=(100,))
    both = points(read_results(folder), read_results(other))
    assert set(both.arm[both.seed == 2]) == {f"miniature: {arm}" for arm in miniature.ARMS}
    assert runs.grown.sum() == 1
    assert (runs.parameters == 20 - 2 * 4).all()
    weak = runs[(runs.arm == "weak") & (runs.length == 400)].iloc[0]
    assert weak.tokens == 64 * 400 and weak.new_tokens == pytest.approx(64 * 150)
    assert weak.text == pytest.approx(64 * 150)
    assert weak.taught == 1 and weak.cost == 1.25
    assert weak.weight == 0.5 and weak.ratio == 0.5
    assert weak.teacher == pytest.approx(miniature.loss_alone(400, 0) + 0.3)
    alone = runs[runs.arm == "alone"]
    assert (alone.taught == 0).all() and alone.teacher.isna().all()


@pytest.mark.slow
def test_a_law_and_its_forecast_are_written_and_scored(
    tmp_path: Path,
    few_forms: None,
    unpictured: None,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(law_module, "ALONE", ALONE[:1])
    folder = miniature.write(tmp_path / "a", seeds=(0, 1), lengths=(100, 200, 400))
    assert report(str(folder), "--law", "--ahead", "800") == 0
    names = {Path(line.partition(": ")[2]).name for line in capsys.readouterr().out.splitlines()}
    assert {"law.html", "law.md", "law.png", "law.jsonl"} <= names
    text = (folder / "law.md").read_text()
    assert "A law of 18 runs" in text and "none has been trained" in text
    (line,) = map(json.loads, (folder / "law.jsonl").read_text().splitlines())
    assert line["length"] == 800 and line["num_runs"] == 18
    arms = {each["arm"]: each for each in line["arms"]}
    assert set(arms) == set(miniature.ARMS)
    assert arms["weak"]["low"] < arms["weak"]["value"] < arms["weak"]["high"]

    monkeypatch.setattr(miniature, "BEGAN", "2999-01-01T00:00:00Z")
    later = miniature.write(tmp_path / "b", seeds=(0, 1), lengths=(100, 200, 400, 800))
    (later / "law.jsonl").write_bytes((folder / "law.jsonl").read_bytes())
    assert report(str(later), "--law", str(folder)) == 0
    (kept,) = (later / "law.md").read_text().split("## Forecasts that were kept")[1:]
    (row,) = [each for each in kept.splitlines() if each.startswith("| alone, 2 of 800")]
    losses = [miniature.loss_alone(800, seed) for seed in (0, 1)]
    missed = abs(arms["alone"]["value"] / np.mean(losses) - 1)
    assert f"| {missed:.2%} |" in row
    inside = np.mean([arms["alone"]["low"] <= loss <= arms["alone"]["high"] for loss in losses])
    assert f"| {inside:.0%} [" in row

    said = line | {"when": "3000-01-01T00:00:00Z"}
    (later / "law.jsonl").write_text(json.dumps(said) + "\n")
    kept = list(law_page._kept(later, points(read_results(later))))
    assert kept == [(said, [])], "runs that began before it do not count"


def test_a_forecast_is_kept_once_and_beside_what_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outlook, "_NUM_DRAWS", 2)
    runs, path = record(sizes=(1e5,)), tmp_path / "law.jsonl"
    known = Outlook(Choice(TRUE, np.full(len(runs), 0.01), 1e-4, 1e-5), runs)
    path.write_text('{"torn')
    for length, commit, num in ((4800, "a", 2), (4800, "b", 2), (9600, "b", 3)):
        law_page._keep(tmp_path, known, runs, longer(runs, length), commit)
        lines = path.read_text().splitlines()
        assert lines[0] == '{"torn' and len(lines) == num
    assert [said["length"] for said, _ in law_page._kept(tmp_path, runs.assign(began=None))] == [
        4800,
        9600,
    ]


def test_a_number_at_an_end_of_its_range_is_marked() -> None:
    runs = record(seeds=1)
    law = fitted(TRUE.alone, TRUE.listening, runs)
    law = replace(law, numbers={**law.numbers, "j": 0.3, "k": 60.0, "E": 0.0, "B": 0.04})
    found = law_page._numbers(Outlook(Choice(law, np.zeros(len(runs)), 1e-4, 1e-5), runs))
    assert found["k"] == "60 (at an end of its range)" and found["j"] == "0.3"
    assert found["E"] == "0 (at an end of its range)" and found["B"] == "0.04"


def test_a_law_is_about_the_text_of_the_first_study(tmp_path: Path) -> None:
    folders = []
    for name, seeds in (("a", (0,)), ("b", (1, 2)), ("c", (3, 4))):
        (tmp_path / name).mkdir()
        folders.append(miniature.write(tmp_path / name, seeds=seeds, lengths=(100,)))
    first, *others = map(read_results, folders)
    for results, text, formerly in zip(others, ("today", "other"), ("c0ffee", None), strict=True):
        frame = results.runs.assign(text=text, text_formerly=formerly)
        object.__setattr__(results, "runs", frame)
    assert set(first.runs.text) == {"c0ffee"}
    runs = points(first, *others)
    assert set(runs.seed) == {0, 1, 2} and runs.attrs["text"] == "today"
    assert runs.attrs["left_out"] == {"on another text": 6}
    unknown = first.runs.assign(layer_parameters=math.nan)
    object.__setattr__(first, "runs", unknown)
    assert points(first).attrs["left_out"] == {"of a size that is not known": 3}
    unknown = others[1].runs.assign(weights=None, identity=None)
    object.__setattr__(others[1], "runs", unknown)
    left_out = points(others[1]).attrs["left_out"]
    assert left_out == {"taught with weights that are not known": 4}
    unknown = unknown.assign(teacher_parameters=math.nan, is_grown=True, taught=0.0)
    object.__setattr__(others[1], "runs", unknown)
    left_out = points(others[1]).attrs["left_out"]
    assert left_out["grown from a teacher of a size that is not known"] > 0
    unknown = others[0].runs.assign(taught=math.nan, identity=None)
    object.__setattr__(others[0], "runs", unknown)
    assert points(others[0]).attrs["left_out"] == {"taught for a share that is not known": 6}


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        (["--law"], "a law takes runs of 3 lengths that are a third apart, and there are 2"),
        (["--law", "--ahead", "200"], "200 steps: runs of 200 are on record; give more"),
        (["--law", "nowhere"], "nowhere is no study's folder"),
        (["--ahead", "900"], "--ahead=900: it is what a law forecasts; add --law"),
    ],
)
def test_what_cannot_be_is_one_line(
    tmp_path: Path, unpictured: None, typed: list[str], line: str, capsys: Capture
) -> None:
    folder = miniature.write(tmp_path, seeds=(0,))
    assert report(str(folder), *typed) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"dwt-report: {line}") and said.count("\n") == 1
