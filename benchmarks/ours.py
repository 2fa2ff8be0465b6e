"""The project's side against its rivals, as a process of its own: `python -m ours WORDS`.

The loop's own step, masking included. Its weights and batches follow from the words.
"""

import sys
from collections.abc import Mapping
from dataclasses import replace

from parts import Parts, compose_run
from rivals.problem import Turnstile

from dwt_cli.training.checkpoint import Counters
from dwt_cli.training.protocols import Observer


class EachStep(Observer):
    def __init__(self, turnstile: Turnstile) -> None:
        self._turnstile = turnstile

    def stepped(self, step: int, progress: float, metrics: Mapping[str, float]) -> None:
        self._turnstile.passed(metrics["hard_loss"])


def main() -> None:
    turnstile = Turnstile()
    parts = Parts.of(compose_run(sys.argv[1:]))
    training = parts.training(parts.run.alpha, parts.signal())
    training = replace(training, observers=[EachStep(turnstile)])
    counters = Counters()
    turnstile.wait()
    while True:  # until nobody asks
        training.step(counters, progress=0.5)


if __name__ == "__main__":
    main()
