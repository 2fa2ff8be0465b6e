import os
import signal

import pytest

from dwt_cli.base.interrupt import Interrupt, Interrupted, stoppable


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_the_first_signal_is_noted_and_the_old_handlers_come_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with Interrupt() as interrupt:
        assert not interrupt.number
        os.kill(os.getpid(), number)
        assert interrupt.number == number
    assert signal.getsignal(number) is before


def test_a_second_ctrl_c_stops_at_once_and_other_signals_do_not() -> None:
    with Interrupt():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_outside_a_training_a_signal_stops_at_once(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with stoppable():
        with pytest.raises(Interrupted) as stopped:
            os.kill(os.getpid(), number)
        assert (stopped.value.step, stopped.value.number) == (None, number)
    assert signal.getsignal(number) is before


def test_an_error_that_a_library_made_of_a_request_to_stop_is_that_request() -> None:
    def compose() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt as stop:
            raise ValueError("while something was composed") from stop

    with pytest.raises(Interrupted) as caught, stoppable():
        compose()
    assert caught.value.number == signal.SIGTERM
    with pytest.raises(ValueError, match="its own"), stoppable():
        raise ValueError("its own")
