"""Where does the time of a DWT step go? The table of `train.profile=true`, on random tokens.

Sizes are those of a composed config: `--scale`, and any override of `dwt-train` after it.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

from parts import Parts, Steps, compose_run
from provenance import provenance

from dwt_cli.training.profile import SKIPPED, TAKEN, Profile


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", default="nano", help="a choice of conf/scale (default: nano)")
    parser.add_argument("--out", type=Path, help="a folder for the trace, which is thrown away")
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="as for dwt-train")
    options = parser.parse_args()
    parts = Parts.of(compose_run([f"scale={options.scale}", *options.overrides]))
    training = parts.training(parts.run.alpha, parts.signal())
    print("\n".join(["# The accounts of a step", "", *provenance(), ""]))
    with tempfile.TemporaryDirectory() as name:
        folder = options.out or Path(name)
        profile = Profile(training.model, parts.machine.device, folder, print)
        step = Steps(replace(training, observers=[profile]))
        for _ in range(SKIPPED + TAKEN):
            step()


if __name__ == "__main__":
    main()
