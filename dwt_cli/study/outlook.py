"""What a law says of longer runs than it was fitted to, with intervals, and what came of it.

An interval is that of one run, by Student's t. Two things make it wide: how far laws differ that
are fitted to seeds drawn anew, and how far off the law is in lengths that it has not seen, which is
taken to grow with the logarithm of the length. Beside it stand two forecasts that need no law.

Shapes: R runs.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from scipy import stats

from dwt_cli.base.errors import UserError
from dwt_cli.study.forms import Array
from dwt_cli.study.law import GIVEN, Choice, Law, alike, choices, fitted, simplest

CONFIDENCE = 0.9
_NUM_DRAWS = 100


@dataclass(frozen=True)
class Outlook:
    """A law, and how far it is to be trusted. runs: those that it was fitted to."""

    choice: Choice
    runs: pd.DataFrame

    @property
    def law(self) -> Law:
        return self.choice.law

    @cached_property
    def drawn(self) -> list[Law]:
        """Laws of the same form, of seeds drawn anew; none where each cell has one seed.

        Cells of an arm and a length with the same seeds stay paired.
        """
        chance, law = np.random.default_rng(0), self.law
        cells = self.runs.groupby(["arm", "steps"])
        seeds = cells.seed.transform(lambda own: ",".join(map(str, sorted(own.unique()))))
        if not seeds.str.contains(",").any():
            return []
        parts = [[own for _, own in of.groupby("seed")] for _, of in self.runs.groupby(seeds)]
        drawn = []
        for _ in range(_NUM_DRAWS):
            chosen = [of[k] for of in parts for k in chance.integers(len(of), size=len(of))]
            each = pd.concat(chosen, ignore_index=True)
            drawn.append(fitted(law.alone, law.listening, each, law))
        return drawn

    def farther(self, tokens: pd.Series | float) -> Array:
        """Return how much farther off a law is at lengths than in one that it has not seen."""
        logs = np.log(np.sort(alike(self.runs).unique()))
        apart = np.diff(logs).mean()
        beyond: Array = (np.log(np.asarray(tokens, float)) - logs[-1]) / apart
        return np.maximum(1.0, beyond)

    def losses(self, runs: pd.DataFrame) -> pd.DataFrame:
        """Return the losses that runs are forecast to have, and the ends of their 90% intervals.

        Columns: value, low, high; of R rows.
        """
        value = self.law.losses(runs)
        moved_DR = np.array([np.log(law.losses(runs) / value) for law in self.drawn])
        variance = (moved_DR**2).mean(0) if self.drawn else np.zeros(len(runs))
        variance += self.choice.error * self.farther(runs.tokens) ** 2
        reach = np.exp(quantile(alike(self.runs).nunique()) * np.sqrt(variance))
        found = {"value": value, "low": value / reach, "high": value * reach}
        return pd.DataFrame(found, runs.index)


def quantile(num_lengths: int) -> float:
    """Return Student's t of an interval by what was missed in so many lengths, left out in turn."""
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, num_lengths - 1))


def naive(before: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Return two forecasts of runs that need no law, NaN where too little is known before.

    power: on a power law through the stand-alone runs of that size, whoever teaches. last: with the
    arm's last difference from those, over the seeds of both.
    """

    def forecast(run: pd.Series) -> tuple[float, float]:
        alone = stand_alone(before[before.parameters == run.parameters])
        if alone.steps.nunique() < 2:
            return math.nan, math.nan
        line = stats.linregress(np.log(alone.tokens), np.log(alone.loss))
        power = math.exp(line.intercept + line.slope * math.log(run.tokens))
        own, place = before[before.arm == run.arm], ["steps", "seed"]
        both = own.merge(alone[[*place, "loss"]], on=place, suffixes=("", "_alone"))
        last = both[both.steps == both.steps.max()]
        return power, power + (last.loss - last.loss_alone).mean()

    found = [forecast(run) for _, run in runs.iterrows()]
    return pd.DataFrame(found, runs.index, ["power", "last"])


def stand_alone(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs without a teacher that read no text twice, one of a size, length and seed."""
    is_alone = (runs.taught == 0) & (runs.grown == 0)
    found = runs[is_alone & (runs.new_tokens >= runs.tokens)]
    return found.drop_duplicates(["parameters", "steps", "seed"])


def longest_left_out(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the longest runs with what a law of the shorter ones alone forecasts of them.

    Its form is chosen without them, too, and how long and how strongly they are taught is what
    their arms' shorter runs let one expect: taught runs of arms that have none are not forecast,
    and attrs has their number, not_forecast. Columns: those of the runs, value, low, high, power,
    last.
    Raises `UserError` where there are too few lengths.
    """
    is_last = alike(runs) == alike(runs).max()
    before, longest = runs[~is_last], runs[is_last]
    before.attrs = {}
    out = longest[longest.arm.isin(before.arm) | (longest.taught == 0)]
    if out.empty:
        raise UserError("none of the longest runs is of an arm with shorter ones")
    known = Outlook(simplest(choices(before)), before)
    said = out.copy()
    for (arm, steps), own in out.groupby(["arm", "steps"]):
        if len(shorter := before[before.arm == arm]):
            expected = _longer(shorter, steps / shorter.steps.max())
            said.loc[own.index, ["taught", "weight"]] = expected[["taught", "weight"]].tolist()
    found = out.join(known.losses(said)).join(naive(before, out))
    found.attrs["not_forecast"] = len(longest) - len(out)
    return found


def longer(runs: pd.DataFrame, length: int) -> pd.DataFrame:
    """Return a run of each arm and so long, in the study's steps, as shorter ones let one expect.

    Raises `UserError` where there are no runs, or some are as long.
    """
    if runs.empty:
        raise UserError(f"{length} steps: the first study has no run that a law is about")
    if length <= runs.length.max():
        raise UserError(f"{length} steps: runs of {runs.length.max()} are on record; give more")
    found = []
    for arm, own in runs.groupby("arm", sort=False):
        run = _longer(own, length / own.length.max())
        found.append({"arm": arm, **run, "length": length})
    return pd.DataFrame(found)


def _longer(runs: pd.DataFrame, ratio: float) -> pd.Series:
    """Return a run that is so many times as long as an arm's longest.

    A teacher is as good as it was. The tokens that it is heard for grow with a power of the length,
    as between the arm's two longest lengths; with one length they are the same share. Text is read
    again where there is no more. The weight is of taught tokens.
    """
    heard_R = runs.taught * runs.tokens
    both = runs.assign(heard=heard_R, weighed=heard_R * runs.weight).groupby("steps")
    means = both[[*GIVEN, "text", "heard", "weighed"]].mean()
    means["weight"] = (means.weighed / means.heard).where(means.heard > 0, 0.0)
    means = means[[*GIVEN, "text"]]
    last, heard, power = means.iloc[-1], means.taught * means.tokens, 1.0
    if len(means) > 1 and (heard.iloc[-2:] > 0).all():
        known = math.log(means.index[-1] / means.index[-2])
        power = min(1.0, max(0.0, math.log(heard.iloc[-1] / heard.iloc[-2]) / known))
    run = last.copy()
    run["steps"], run["tokens"] = round(means.index[-1] * ratio), last.tokens * ratio
    run["new_tokens"] = min(run.tokens, last.text)
    run["taught"] = min(1.0, last.taught * ratio ** (power - 1))
    return run
