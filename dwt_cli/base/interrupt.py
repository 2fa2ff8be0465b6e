"""Ctrl-C, SIGTERM, SIGUSR1 and 2: requests to stop, which the loop fulfils after its step.

Outside the loop, where nothing is lost, they stop at once. Either way a process that was asked to
stop ends with 128 plus the signal's number, as shells count it: 130, 143, 138 and 140.
"""

import contextlib
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

GRACE_S = 120
"""The time that a process has to finish its step and write a checkpoint when asked to stop."""

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class Interrupted(KeyboardInterrupt):
    """Asked to stop. ``step``: steps done, in a checkpoint; None: stopped outside a training.

    message: the line to print, where the same command is not what goes on.
    """

    def __init__(
        self, step: int | None = None, number: int = signal.SIGINT, message: str | None = None
    ) -> None:
        super().__init__("stopped" if step is None else f"stopped after step {step}")
        self.step, self.number, self.message = step, number, message


@contextlib.contextmanager
def _handled(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler_before in before.items():
            signal.signal(number, handler_before)


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """While this context is open every signal to stop raises `Interrupted`, as Ctrl-C does.

    So does an error that a library has made of it.
    """
    came: list[Interrupted] = []

    def stop(number: int, frame: FrameType | None) -> None:
        came.append(Interrupted(number=number))
        raise came[0]

    with _handled(stop):
        try:
            yield
        except Exception as error:
            if came:
                raise came[0] from error
            raise


class Interrupt(contextlib.ExitStack):
    """While this context is open the first signal is noted; a second Ctrl-C stops at once.

    number: the signal's, 0 before it. reports: whether this process prints that it has come.
    """

    def __init__(self, reports: bool = True) -> None:
        super().__init__()
        self.number, self._reports = 0, reports

    def __enter__(self) -> "Interrupt":
        self.enter_context(_handled(self._note))
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        if not self.number:
            self.number = number
            if self._reports:  # print() may be what the signal has interrupted
                os.write(
                    2, b"\nfinishing this step and writing a checkpoint; Ctrl-C stops at once\n"
                )
        elif number == signal.SIGINT:
            raise Interrupted(number=number)


def exit_code(stop: KeyboardInterrupt) -> int:
    """Return the exit code of a process that was stopped."""
    return 128 + getattr(stop, "number", int(signal.SIGINT))


def report(stop: KeyboardInterrupt, program: str, arguments: Sequence[str]) -> int:
    """Print that a run was stopped and which command goes on; returns the exit code."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # from here on Ctrl-C leaves no trace
    again = [argument for argument in arguments if not argument.startswith("run.fresh=")]
    to_go_on = f"{stop or 'stopped'}; to go on: {shlex.join([program, *again])}"
    message = getattr(stop, "message", None) or to_go_on
    print(f"{program}: {message}", file=sys.stderr, flush=True)
    return exit_code(stop)
