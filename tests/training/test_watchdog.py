"""Watchdogs of real threads and processes on a real store: what ended a run is named by all, and nobody hangs."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from torch.distributed import PrefixStore, TCPStore

from aam.training.distributed import watchdog
from aam.training.distributed.watchdog import Failure, Watchdog

PATIENCE = 30.0
"""Seconds that a test waits for what must happen, on a busy machine."""
LONG = 60.0
"""Limit of watchdogs that must not miss anybody."""

CHILD = """
import sys, threading, time
from torch.distributed import PrefixStore, TCPStore
from aam.training.distributed.watchdog import Watchdog

rank, size, port, hosts = (int(word) for word in sys.argv[1:5])
limit = float(sys.argv[5])
store = TCPStore("127.0.0.1", port, is_master=bool(hosts), wait_for_workers=False)
dog = Watchdog(PrefixStore("0", store.clone()), rank, size, limit)
dog.start()
dog.note("step 7, samples a, b")
print(store.port, flush=True)
what = sys.stdin.readline().strip()
if what == "fail":
    dog.fail("rank 0 met a\\nproblem", 1)
    sys.exit(1)
if what == "hang":
    store.get("never written")
if what == "stop":
    dog.stop()
if what == "ask":
    found = dog.failure()
    print(found and found.message, flush=True)
    dog.stop()
"""


class Recorded:
    """A watchdog of this process, and the failures that it would have ended the process with."""

    def __init__(self, store: TCPStore, rank: int, size: int, limit: float = LONG) -> None:
        self.failures: list[Failure] = []
        self.called = threading.Event()
        self.dog = Watchdog(PrefixStore("0", store.clone()), rank, size, limit, self._take)
        self.dog.start()

    def _take(self, failure: Failure) -> None:
        self.failures.append(failure)
        self.called.set()

    def end(self) -> Failure:
        """The failure that ends the process, which must come soon and be the only one."""
        assert self.called.wait(PATIENCE)
        assert len(self.failures) == 1
        return self.failures[0]


class Child:
    """Another process with a watchdog, which waits for a word that says how it ends."""

    def __init__(self, rank: int, size: int, port: int = 0, hosts: bool = False, limit: float = LONG) -> None:
        words = [str(word) for word in (rank, size, port, int(hosts), limit)]
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def say(self, word: str) -> None:
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()

    def end(self) -> tuple[int, str, str]:
        code = self.process.wait(PATIENCE)  # its input stays open until then: it waits for a word
        return code, *self.process.communicate()


@pytest.fixture
def make_child() -> Iterator[Callable[..., Child]]:
    children: list[Child] = []

    def make(*words, **options) -> Child:
        children.append(Child(*words, **options))
        return children[-1]

    yield make
    for child in children:
        child.process.kill()
        child.process.communicate()


@pytest.fixture
def store() -> TCPStore:
    return TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)


@pytest.fixture
def run(store) -> Iterator[Callable[..., list[Recorded]]]:
    """Starts the watchdogs of some ranks of a run in this process."""
    started: list[Recorded] = []

    def start(ranks: range, size: int, limit: float = LONG) -> list[Recorded]:
        started.extend(Recorded(store, rank, size, limit) for rank in ranks)
        return started

    yield start
    for each in reversed(started):  # rank 0 waits for the others
        each.dog.stop()


def test_a_failure_ends_all_others_with_its_message_and_code(run):
    first, second, third = run(range(3), 3)
    assert second.dog.fail("--table t.biom is damaged", 2) == Failure(1, 2, "--table t.biom is damaged")
    assert [first.end(), third.end()] == [Failure(1, 2, "--table t.biom is damaged")] * 2
    assert second.failures == []


def test_all_name_the_failure_that_came_first(run):
    first, second, third = run(range(3), 3)
    cause = first.dog.fail("NaN on rank 0")
    assert second.dog.fail("connection closed by peer") == cause
    assert third.end() == cause


def test_who_asks_is_told_and_not_ended(run):
    first, second = run(range(2), 2)
    answers: list[Failure | None] = []
    asking = threading.Thread(target=lambda: answers.append(first.dog.failure(PATIENCE)))
    asking.start()
    time.sleep(0.2)
    second.dog.fail("rank 1 failed")
    asking.join()
    assert answers == [Failure(1, 1, "rank 1 failed")]
    assert first.failures == []


def test_nothing_is_known_of_while_all_live(run):
    first, second = run(range(2), 2)
    for _ in range(2):
        began = time.monotonic()
        assert first.dog.failure(PATIENCE) is None
        assert 0.5 < time.monotonic() - began < PATIENCE / 2
    assert first.failures == []
    second.dog.fail("rank 1 failed")
    assert first.end() == Failure(1, 1, "rank 1 failed")


@pytest.mark.slow
@pytest.mark.parametrize("asker", [0, 1])
def test_who_asks_learns_of_a_killed_rank_long_before_the_limit(run, store, make_child, asker):
    both = run(range(2), 3)
    child = make_child(2, 3, store.port)
    time.sleep(1.5)
    child.process.kill()
    began = time.monotonic()
    found = both[asker].dog.failure()
    assert time.monotonic() - began < 10
    assert found is not None
    assert (found.rank, found.code) == (2, 1)
    assert "rank 2 has not answered" in found.message
    assert "step 7, samples a, b" in found.message
    assert both[1 - asker].end() == found


@pytest.mark.slow
def test_a_stopped_rank_is_missed_after_the_limit(run, store, make_child):
    child = make_child(2, 3, store.port)
    first, second = run(range(2), 3, limit=2.5)
    time.sleep(4)
    assert first.failures == second.failures == []
    child.process.send_signal(signal.SIGSTOP)
    found = first.end()
    assert second.end() == found
    assert found.message == "rank 2 has not answered for 3 s (last at step 7, samples a, b)"
    child.process.send_signal(signal.SIGCONT)
    code, _, errors = child.end()
    assert (code, errors) == (1, f"Error: {found.message}\n")


@pytest.mark.slow
def test_a_stopped_rank_0_is_missed_by_the_others(run, store, make_child):
    child = make_child(0, 3, store.port)
    one, two = run(range(1, 3), 3, limit=3)
    time.sleep(1.5)
    child.process.send_signal(signal.SIGSTOP)
    assert one.end() == two.end()
    assert one.end().rank == 0
    assert "step 7, samples a, b" in one.end().message


@pytest.mark.slow
def test_a_store_that_does_not_answer_ends_the_run(make_child):
    child = make_child(0, 2, hosts=True)
    other = Recorded(TCPStore("127.0.0.1", child.port, is_master=False), 1, 2, limit=2)
    time.sleep(1)
    child.process.send_signal(signal.SIGSTOP)
    assert "has not answered for 2 s" in other.end().message
    assert other.end().rank == 0


@pytest.mark.slow
def test_who_asks_a_store_that_does_not_answer_is_told_so(make_child):
    child = make_child(0, 2, hosts=True)
    other = Recorded(TCPStore("127.0.0.1", child.port, is_master=False), 1, 2)
    time.sleep(1)
    child.process.send_signal(signal.SIGSTOP)
    found = other.dog.failure()
    assert found is not None
    assert (found.rank, other.failures) == (0, [])


def test_a_store_that_is_gone_ends_the_run(make_child):
    child = make_child(0, 2, hosts=True)
    other = Recorded(TCPStore("127.0.0.1", child.port, is_master=False), 1, 2)
    time.sleep(1)
    child.process.kill()
    assert other.end() == Failure(0, 1, "rank 0, or its launcher, is gone: its connection was lost")


def test_a_rank_0_that_fails_and_hosts_the_store_is_understood(make_child):
    child = make_child(0, 3, hosts=True)
    others = [Recorded(TCPStore("127.0.0.1", child.port, is_master=False), rank, 3) for rank in (1, 2)]
    time.sleep(1)
    child.say("fail")
    assert [other.end().message for other in others] == ["rank 0 met a\nproblem"] * 2
    assert child.end()[0] == 1


def test_a_rank_whose_main_thread_hangs_is_ended_with_one_line(run, store, make_child):
    (first,) = run(range(1), 2)
    child = make_child(1, 2, store.port)
    child.say("hang")
    time.sleep(1)
    first.dog.fail("rank 0 met a\n problem", 3)
    assert child.end() == (3, "", "Error: rank 0 met a problem\n")


@pytest.mark.slow
def test_finished_ranks_are_not_missed_and_rank_0_stays_until_the_last(make_child):
    first = make_child(0, 3, hosts=True, limit=3)
    others = [Recorded(TCPStore("127.0.0.1", first.port, is_master=False), rank, 3, limit=1) for rank in (1, 2)]
    time.sleep(0.5)
    others[0].dog.stop()
    first.say("stop")
    time.sleep(2.5)
    assert first.process.poll() is None
    assert others[0].failures == others[1].failures == []
    others[1].dog.stop()
    assert first.end() == (0, "", "")
    assert others[1].failures == []


@pytest.mark.slow
def test_a_process_that_was_suspended_itself_blames_nobody(run, store, make_child):
    (second,) = run(range(1, 2), 2)
    child = make_child(0, 2, store.port, limit=2)
    time.sleep(1)
    child.process.send_signal(signal.SIGSTOP)
    time.sleep(5)
    child.process.send_signal(signal.SIGCONT)
    time.sleep(3)
    assert child.process.poll() is None
    assert second.failures == []


def test_a_process_that_failed_and_does_not_end_is_ended(run, monkeypatch):
    monkeypatch.setattr(watchdog, "GRACE", 1.0)
    first, second = run(range(2), 2)
    second.dog.fail("rank 1 failed")
    assert second.end() == first.end() == Failure(1, 1, "rank 1 failed")


def test_a_restart_does_not_see_the_failure_of_the_start_before(store):
    def start(prefix: str) -> Watchdog:
        dog = Watchdog(PrefixStore(prefix, store.clone()), 0, 1, LONG, lambda _: None)
        dog.start()
        return dog

    before = start("0")
    before.fail("killed")
    before.stop()
    again = start("1")
    assert again.failure(1.0) is None
    again.stop()


def test_the_place_ends_a_sentence(store):
    dog = Watchdog(store, 0, 1, LONG)
    assert dog.place == ""
    dog.note("step 3, samples a")
    assert dog.place == " at step 3, samples a"
