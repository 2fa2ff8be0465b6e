"""What compiling costs and gains: seconds until the first compiled step, cold and warm, and a step.

Compiled steps and plain ones of the same training are taken in turn, in a new process with nothing
compiled, and in another one that loads what the first has kept. How far the two trainings' losses
are apart is said too. `dwt_cli.training.compiling.COSTS` has the figures of `scale=nano`.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from parts import Parts, Steps, compose_run
from provenance import provenance

from dwt_cli.training.compiling import KeptCode
from dwt_cli.training.protocols import Observer

_WARM_UP = 3


@dataclass
class _Losses(Observer):
    seen: list[float] = field(default_factory=list)

    def stepped(self, step: int, progress: float, metrics: Mapping[str, float]) -> None:
        self.seen.append(metrics["loss"])


def measure(folder: Path, num_steps: int, overrides: list[str]) -> dict[str, float]:
    """Return seconds of the first compiled step, of steps, and the losses' largest distance."""
    run = compose_run(overrides)
    plain, compiled = _Losses(), _Losses()
    seconds: dict[bool, list[float]] = {False: [], True: []}
    with KeptCode({}, print, folder) as code:
        steps = {}
        for is_compiled, losses in ((False, plain), (True, compiled)):
            parts = Parts.of(replace(run, train=replace(run.train, compile=is_compiled)))
            training = parts.training(run.alpha, parts.signal())
            steps[is_compiled] = Steps(replace(training, observers=[losses]))
        for number in range(num_steps):
            for is_compiled, step in steps.items():
                started = time.perf_counter()
                step()
                seconds[is_compiled].append(time.perf_counter() - started)
            if number == 0:
                code.keep()
    apart = [abs(a - b) / a for a, b in zip(plain.seen, compiled.seen, strict=True)]
    return {
        "first_s": seconds[True][0] - seconds[False][0],
        "plain_s": statistics.median(seconds[False][_WARM_UP:]),
        "compiled_s": statistics.median(seconds[True][_WARM_UP:]),
        "apart": max(apart),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*", help="as for dwt-train")
    options = parser.parse_args()
    if options.folder:
        print(json.dumps(measure(options.folder, options.steps, options.overrides)))
        return
    print("\n".join(["# What compiling costs and gains", "", *provenance(), ""]))
    print("| code | first compiled step, s | plain step, s | compiled step, s | gain | losses |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as folder:
        for code in ("compiled", "loaded"):
            command = [sys.executable, __file__, "--folder", folder]
            more = ["--steps", str(options.steps), *options.overrides]
            answer = subprocess.run([*command, *more], stdout=subprocess.PIPE, check=True)
            of = json.loads(answer.stdout.splitlines()[-1])
            gain = of["plain_s"] / of["compiled_s"]
            print(
                f"| {code} | {of['first_s']:.1f} | {of['plain_s']:.3f} | {of['compiled_s']:.3f} | "
                f"{gain:.2f} | {of['apart']:.0e} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
