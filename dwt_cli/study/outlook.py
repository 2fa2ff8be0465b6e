"""What a law says of longer runs than it was fitted to, with intervals, and what came of it.

An interval is that of one run: of laws fitted to seeds that are drawn anew, each with an error that
the law made in forecasting a length that it had not seen. Beside it stand two forecasts that need
no law.

Shapes: R runs.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from scipy import stats

from dwt_cli.base.errors import UserError
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
        """Laws of the same form, of seeds that are drawn anew; the law alone where there is one."""
        chance, law = np.random.default_rng(0), self.law
        by_seed = [of for _, of in self.runs.groupby("seed")]
        if len(by_seed) < 2:
            return [law]
        drawn = chance.integers(len(by_seed), size=(_NUM_DRAWS, len(by_seed)))
        samples = (pd.concat([by_seed[k] for k in each], ignore_index=True) for each in drawn)
        return [fitted(law.alone, law.listening, each, law.numbers) for each in samples]

    def losses(self, runs: pd.DataFrame) -> pd.DataFrame:
        """Return the losses that runs are forecast to have, and the ends of their 90% intervals.

        Columns: value, low, high; of R rows.
        """
        value = self.law.losses(runs)
        moved_R = [np.log(law.losses(runs) / value) for law in self.drawn]
        errors = np.add.outer(self.choice.missed, moved_R).reshape(-1, len(runs))
        ends = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)
        low, high = value * np.exp(np.quantile(errors, ends, axis=0))
        return pd.DataFrame({"value": value, "low": low, "high": high}, runs.index)


def naive(before: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Return two forecasts of runs that need no law, NaN where too little is known before.

    power: on a power law through the stand-alone runs of that size, whoever teaches. kept: with the
    last difference between the arm and those.
    """

    def forecast(run: pd.Series) -> tuple[float, float]:
        alone = _alone(before[before.parameters == run.parameters])
        if alone.length.nunique() < 2:
            return math.nan, math.nan
        line = stats.linregress(np.log(alone.tokens), np.log(alone.loss))
        power = math.exp(line.intercept + line.slope * math.log(run.tokens))
        own = before[before.arm == run.arm]
        both = {*own.length} & {*alone.length}
        if not both:
            return power, math.nan
        last = (each[each.length == max(both)].loss.mean() for each in (own, alone))
        return power, power + next(last) - next(last)

    found = [forecast(run) for _, run in runs.iterrows()]
    return pd.DataFrame(found, runs.index, ["power", "kept"])


def _alone(runs: pd.DataFrame) -> pd.DataFrame:
    is_alone = (runs.taught == 0) & (runs.grown == 0)
    return runs[is_alone & (runs.new_tokens >= runs.tokens)]


def longest_left_out(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the longest runs with what a law of the shorter ones alone forecasts of them.

    Its form is chosen without them, too. Columns: those of the runs, value, low, high, power, kept.
    Raises `UserError` where there are too few lengths.
    """
    is_last = alike(runs) == alike(runs).max()
    before, out = runs[~is_last], runs[is_last]
    known = Outlook(simplest(choices(before)), before)
    return out.join(known.losses(out)).join(naive(before, out))


def longer(runs: pd.DataFrame, steps: int) -> pd.DataFrame:
    """Return a run of each arm and so many steps, as its longest ones let one expect it.

    A teacher is as good as it was. The tokens that it is heard for grow with a power of the length,
    as between the arm's two longest lengths; with one length they are the same share. Text that was
    not read twice is not.
    Raises `UserError` where runs on record are as long.
    """
    if steps <= runs.length.max():
        raise UserError(f"{steps} steps: runs of {runs.length.max()} are on record; give more")
    found = []
    for arm, own in runs.groupby("arm", sort=False):
        means = own.groupby("length")[[*GIVEN]].mean()
        last, heard, power = means.iloc[-1], means.taught * means.tokens, 1.0
        if len(means) > 1 and (heard.iloc[-2:] > 0).all():
            ratio = means.index[-1] / means.index[-2]
            power = min(1.0, max(0.0, math.log(heard.iloc[-1] / heard.iloc[-2]) / math.log(ratio)))
        ratio = steps / means.index[-1]
        tokens = last.tokens * ratio
        own_text = {
            "tokens": tokens,
            "new_tokens": last.new_tokens if last.new_tokens < 0.999 * last.tokens else tokens,
            "taught": last.taught * ratio ** (power - 1),
        }
        found.append({"arm": arm, "length": steps, **last, **own_text})
    return pd.DataFrame(found)
