"""Signals are noted once, handlers come back, and threads are left alone."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from aam.training.machine.signals import stop_signals


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGHUP"])
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


LOADING = """
import os, signal, sys, time
from torch.utils.data import DataLoader
from aam.training.machine.signals import shield_worker, stop_signals

if __name__ == "__main__":
    with stop_signals() as request:
        shield = shield_worker if sys.argv[1] == "shielded" else None
        for item in DataLoader(range(1000), batch_size=None, num_workers=1, worker_init_fn=shield):
            if item == 2:
                os.killpg(0, signal.SIGTERM)
                time.sleep(0.5)
            if request.name is not None and item > 20:
                print(request.name, item)
                break
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shield", "code", "told", "error"),
    [("shielded", 0, "SIGTERM 21\n", ""), ("bare", 1, "", "DataLoader worker")],
)
def test_a_signal_to_the_process_group_leaves_shielded_data_workers_alone(shield, code, told, error):
    done = subprocess.run(
        [sys.executable, "-c", LOADING, shield],
        start_new_session=True,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout) == (code, told), done.stderr
    assert error in done.stderr
