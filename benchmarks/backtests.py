"""Is the advice right? What `dwt-advise` says in sweeps/backtests.yaml's situations, and what came.

    python benchmarks/backtests.py --record runs/studies/sizes runs/studies/payoff -- data=files ...

Each situation is asked about with the FLOPs of its student alone, and with the law of those runs
on record that are shorter by a quarter or more. What is true is the mean over seeds of an arm's
held-out loss, minus that of the student alone with as many FLOPs, the teacher's passes counted,
interpolated between 1 and 1.25 times the steps. Regret is what was advised minus the best arm, in
nats. Each of three fixed rules says the same in all situations. CLAIMS were written before any of
these runs.
"""

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pandas as pd
from claims import verdicts
from provenance import provenance
from timing import table

from dwt_cli.config.compose import runs_of
from dwt_cli.config.files import SWEEPS
from dwt_cli.config.run import Study
from dwt_cli.study.advice import ALONE, WHAT
from dwt_cli.study.comparisons import difference
from dwt_cli.study.compute import Account, loss_at
from dwt_cli.study.record import RUNS
from dwt_cli.study.results import Results, read_results
from dwt_cli.study.scored import FORECASTS
from dwt_cli.track.metrics import read_lines

RULES = {ALONE: "never distil", "taught": "always overtake", "grown": "always grow, untaught"}
"""Fixed rules by the arm that they choose."""

CLAIMS = {arm: f"what is advised costs less than `{rule}`" for arm, rule in RULES.items()}
"""Beside them: in nine of ten situations regret is at most `WITHIN` nats, or half the interval of
the paired difference; and where `alone` is advised it is the best."""

WITHIN = 0.02
_SHORTER = 4 / 3
_CONDITIONS = ("scale.teacher_steps=3600", "scale.eval_every=50", "scale.checkpoint_every=100")
_STUDENT = ("scale.batch_size=32", "optim.hidden_lr=0.01")


def situations(results: Results) -> list[str]:
    """Return their names, which the arms of the study begin with."""
    return [arm.removesuffix("_taught") for arm in results.study.arms if arm.endswith("_taught")]


def alone_in(results: Results, situation: str) -> str:
    """Return the arm that is the student alone: the situation's own, or that of most."""
    own = f"{situation}_{ALONE}"
    return own if own in results.study.arms else ALONE


def truth(results: Results, situation: str) -> pd.DataFrame:
    """Return by seed each arm's held-out loss minus that of the student alone for as many FLOPs."""
    alone = alone_in(results, situation)
    found: dict[str, dict[int, float]] = {arm: {} for arm in WHAT}
    for arm, by_seed in found.items():
        runs = results.runs[results.runs.arm == (alone if arm == ALONE else f"{situation}_{arm}")]
        for run in runs.itertuples():
            seed = int(run.seed)
            known = results.points({alone, f"{alone}_1.25"}, seed)
            dear = loss_at(known, float(getattr(run, Account.FORWARD.column)))
            if dear is not None:
                by_seed[seed] = float(run.heldout_loss) - dear
    return pd.DataFrame(found).dropna()


def shorter(record: Path, into: Path, steps: int) -> Path:
    """Return a study's folder with only those of its runs that are shorter by a quarter or more.

    It names no run's folder, or the others would be found there.
    """
    if not (record / RUNS).is_file():
        sys.exit(f"--record {record}: it has no {RUNS}; name the folder of a study")
    study, *lines = cast(list[dict[str, Any]], list(read_lines(record / RUNS)))
    kept = [line for line in lines if line["summary"]["student"]["steps"] * _SHORTER <= steps]
    named = {line["summary"]["identity"] for line in kept}
    jobs = [job | {"folder": None} for job in study["jobs"] if job["identity"] in named]
    into.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(line) + "\n" for line in (study | {"jobs": jobs}, *kept))
    (into / RUNS).write_text(text, encoding="utf-8")
    return into


def words_of(arm: str, steps: int, seed: int) -> list[str]:
    """Return what an arm of the study sets."""
    words = [f"arm={arm}", f"length={steps}", f"seed={seed}"]
    (run,), _ = runs_of(words, Study, "backtests", str(SWEEPS))
    return run.overrides[len(words) :]


def advised(words: Sequence[str], record: Sequence[Path], root: Path, seed: int) -> str:
    """Return the arm that `dwt-advise` names, whose command and answer are printed on stderr."""
    command = [
        *(*words, f"seed={seed}", f"run.root={root}"),
        f"advise.record=[{','.join(map(str, record))}]",
    ]
    print(shlex.join(["dwt-advise", *command]), file=sys.stderr, flush=True)
    program = str(Path(sys.executable).with_name("dwt-advise"))
    done = subprocess.run([program, *command], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{done.stdout[-500:]}{done.stderr}")
    print(done.stdout, file=sys.stderr)
    (page,) = [line for line in done.stdout.splitlines() if line.startswith("html: ")]
    kept = Path(page.removeprefix("html: ")).with_name(FORECASTS)
    return str(json.loads(kept.read_text(encoding="utf-8").splitlines()[-1])["advised"])


def report(found: Mapping[str, pd.DataFrame], said: Mapping[str, str]) -> list[str]:
    """Return the tables: each situation, and what became of the claims.

    found: `truth` of each. said: what was advised.
    """
    rows, held = [], []
    costs: dict[str, list[float]] = {arm: [] for arm in ("advised", *RULES)}
    for name, gaps in found.items():
        means, arm = gaps.mean(), said[name]
        best = str(means.idxmin())
        for each in costs:
            costs[each].append(means[arm if each == "advised" else each] - means[best])
        regret, paired = costs["advised"][-1], difference((gaps[arm] - gaps[best]).tolist())
        half = 0.0
        if paired and paired.low is not None and paired.high is not None and arm != best:
            half = (paired.high - paired.low) / 2
        held.append(regret <= max(WITHIN, half))
        shown = [f"{means[each]:+.3f}" for each in WHAT if each != ALONE]
        rows.append(
            (name, str(len(gaps)), *shown, best, arm, f"{regret:.3f}", "yes" if held[-1] else "no")
        )
    headings = ("situation", "seeds", *(arm for arm in WHAT if arm != ALONE), "best", "advised")
    mean = {each: sum(values) / len(values) for each, values in costs.items()}
    never = [name for name, arm in said.items() if arm == ALONE]
    right = [name for name in never if found[name].mean().idxmin() == ALONE]
    return [
        *table((*headings, "regret", "within"), rows),
        "",
        "Mean regret: " + ", ".join(f"{RULES.get(each, each)} {mean[each]:.3f}" for each in mean),
        f"Within max({WITHIN}, half the paired interval): {sum(held)} of {len(held)}",
        f"`{ALONE}` was advised {len(never)} times, and was the best in {len(right)}",
        "",
        *verdicts(
            {
                claim: [a - b for a, b in zip(costs["advised"], costs[arm], strict=True)]
                for arm, claim in CLAIMS.items()
            }
        ),
    ]


def main() -> None:
    """Ask for what is missing, and print the tables in Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--study", type=Path, default=Path("runs/studies/backtests"))
    parser.add_argument("--record", type=Path, nargs="+", required=True, help="folders of studies")
    parser.add_argument("--root", type=Path, default=Path("runs"))
    parser.add_argument("words", nargs="*", help="of every command, as data=files data.path=DIR")
    asked = parser.parse_args()
    results = read_results(asked.study)
    steps, seed = min(results.runs.length), min(results.runs.seed)
    found = {name: truth(results, name) for name in situations(results)}
    if none := [name for name, gaps in found.items() if gaps.empty]:
        sys.exit(f"{', '.join(none)}: no seed has all arms yet; train them first")
    places = [asked.root / "records" / f"{k}-{each.name}" for k, each in enumerate(asked.record)]
    record = [shorter(*each, steps) for each in zip(asked.record, places, strict=True)]
    said = {}
    for name in found:
        alone = results.runs[results.runs.arm == alone_in(results, name)]
        budget = f"advise.budget={alone.flops_student.mean():.4g}".replace("e+", "e")
        words = [*words_of(f"{name}_taught", steps, seed), *_CONDITIONS, *_STUDENT]
        said[name] = advised([*words, budget, *asked.words], record, asked.root, seed)
    print("\n".join([*report(found, said), "", *provenance()]))


if __name__ == "__main__":
    main()
