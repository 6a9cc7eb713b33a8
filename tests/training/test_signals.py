"""Signals are noted once, handlers come back, and threads are left alone."""

import os
import signal
import threading

import pytest

from aam.training.signals import stop_signals


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_a_signal_is_noted_and_does_not_end_the_process(name):
    with stop_signals() as request:
        assert request.name is None
        os.kill(os.getpid(), signal.Signals[name])
        assert request.name == name


def test_the_first_signal_is_the_one_that_counts():
    with stop_signals() as request:
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert request.name == "SIGUSR1"


def test_handlers_come_back_even_after_an_error():
    taken: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: taken.append(number))
    try:
        with pytest.raises(KeyError), stop_signals() as request:
            raise KeyError
        os.kill(os.getpid(), signal.SIGUSR1)
        assert (taken, request.name) == ([signal.SIGUSR1], None)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_an_interrupt_stays_an_interrupt():
    with pytest.raises(KeyboardInterrupt), stop_signals():
        os.kill(os.getpid(), signal.SIGINT)


def test_outside_the_main_thread_nothing_is_set():
    handlers = []

    def enter() -> None:
        with stop_signals() as request:
            handlers.append((signal.getsignal(signal.SIGTERM), request.name))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert handlers == [(signal.SIG_DFL, None)]
