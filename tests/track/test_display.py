import io
from typing import Any

import pytest
from rich.console import Console

from dwt_cli.track import display as module
from dwt_cli.track.display import Display, TrainingDisplay

METRICS = {
    "hard_loss": 4.5,
    "soft_loss": 1.25,
    "alpha_hard": 1.0,
    "alpha_soft": 4.0,
    "tokens_per_s": 1000.0,
}


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(module, "time", made)
    return made


@pytest.fixture
def file() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def log(file: io.StringIO) -> Console:
    """A console that is no terminal."""
    return Console(file=file, force_terminal=False, width=80)


def run(
    display: Display, clock: Clock, first: int, last: int, of: int, seconds: float = 1.0
) -> TrainingDisplay:
    """Steps of ``seconds`` each, as the loop tells them."""
    watching = TrainingDisplay(display, "student")
    watching.resumed(first - 1)
    for step in range(first, last + 1):
        clock.now += seconds
        watching.stepped(
            step, step / of, METRICS | {"tokens": step * 500.0, "tokens_per_s": 500 / seconds}
        )
    if last == of:
        watching.evaluated(last, {"loss": 6.125})
    return watching


def test_in_a_log_file_there_are_plain_lines_now_and_then(
    clock: Clock, log: Console, file: io.StringIO
) -> None:
    with Display(log, {"corpus": 0.0, "student": 1e12}) as display:
        display.update("corpus", 1.0, "1,000 tokens [of text]")
        run(display, clock, 1, 50, 50)
        display.say("a line [that] stays")
    text = file.getvalue()
    lines = text.splitlines()
    assert "\x1b" not in text
    assert "\r" not in text
    assert lines[0] == "corpus   100%  done         1,000 tokens [of text]"
    assert lines[-1] == "a line [that] stays"
    steps = lines[1:-1]
    assert len(steps) == 4, "every 15 seconds, and the end"
    assert "step 16  hard 4.500  soft 1.250  alpha 1:4  500 tokens/s" in steps[0]
    assert "ETA 0:00:34" in steps[0]
    assert "100%  done" in steps[-1]


def test_the_rest_is_foreseen_from_the_work_of_all_stages(
    clock: Clock, log: Console, file: io.StringIO
) -> None:
    """50 steps of teacher are half of the work of 50 steps of student: 17 s, and 133 s to go."""
    with Display(log, {"corpus": 0.0, "teacher": 1e12, "student": 2e12}) as display:
        for step in range(1, 21):
            clock.now += 1
            display.update("teacher", step / 50, "", seconds=1.0)
    assert "\nteacher   34%  ETA 0:02:13 " in file.getvalue()


def test_no_time_is_given_while_a_stage_to_come_has_an_unknown_length(
    clock: Clock, log: Console
) -> None:
    with Display(log) as display:
        display.expect({"teacher": 1e12, "student": None})
        display.update("teacher", 0.5, "", seconds=10.0)
        assert display._eta() == "ETA ..."
        display.expect({"teacher": 1e12, "student": 2e12})
        assert display._eta() == "ETA 0:00:50"


def test_a_resumed_training_is_not_credited_with_the_steps_of_before(
    clock: Clock, log: Console, file: io.StringIO
) -> None:
    with Display(log, {"student": 1e12}) as display:
        run(display, clock, 51, 70, 100)
    assert file.getvalue().startswith("student: going on after step 50\nstudent   51% ")
    assert "\nstudent   67%  ETA 0:00:33 " in file.getvalue()


def test_a_terminal_shows_every_stage_and_the_heldout_loss(clock: Clock) -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=200)
    with Display(console, {"corpus": 0.0, "student": 1e12}) as display:
        display.update("corpus", 1.0, "read")
        watching = run(display, clock, 1, 4, 10)
        watching.evaluated(4, {"loss": 6.125})
        watching.stepped(5, 0.5, METRICS | {"tokens": 2500.0})
    text = file.getvalue()
    for expected in ("corpus", "student", " 50%", "step 5", "held-out 6.125", "\x1b["):
        assert expected in text


def test_a_student_alone_has_no_soft_loss_to_show(
    clock: Clock, log: Console, file: io.StringIO
) -> None:
    alone: dict[str, Any] = {
        "hard_loss": 4.5,
        "alpha_hard": 1.0,
        "tokens_per_s": 10.0,
        "tokens": 10.0,
    }
    with Display(log, {"student": 1e12}) as display:
        watching = TrainingDisplay(display, "student")
        watching.evaluated(0, {"loss": 8.5})
        watching.stepped(1, 1.0, alone)
        watching.evaluated(1, {"loss": 6.125})
    (line,) = file.getvalue().splitlines()
    assert line.endswith("done         step 1  hard 4.500  10 tokens/s  held-out 6.125")
