"""What keeps a run of several processes from hanging: each says that it lives, and what ended it ends all.

Every process writes its heartbeat into the store that the launch shares (a `TCPStore`). Rank 0 watches all hearts, the
others watch that of rank 0. The first failure that is posted is the one that every process names and leaves with, even
where its main thread waits in a collective that will never return.
"""

import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

from torch.distributed import DistError
from torch.distributed.distributed_c10d import Store

logger = logging.getLogger(__name__)

BEAT = 1.0
"""Seconds between two heartbeats."""
LOOK = 0.2
"""Seconds between two looks at the hearts by a process that asks why its collective failed."""
SILENCE = 3.0
"""Seconds without a heartbeat after which a process is taken for dead once a collective has failed."""
FAREWELL = 5.0
"""Seconds that rank 0, which may host the store, waits for the others to read a failure."""
GRACE = 15.0
"""Seconds that a process has to end by itself once its failure is known to all."""

_FAILURE = "failure"
_NONE = "none"
_FINISHED = "finished"
_START = "its start"


@dataclass(frozen=True)
class Failure:
    """What ended a run."""

    rank: int
    """The process that failed, or was lost."""
    code: int
    """Exit code of every process."""
    message: str
    """One line for the user."""


def leave(failure: Failure) -> None:
    """End this process at once, whatever its other threads are waiting for; its message is one line."""
    line = " ".join(failure.message.split())
    try:
        sys.stderr.write(f"Error: {line}\n")  # one call, so that lines of several processes do not mix
        sys.stderr.flush()
    finally:
        os._exit(failure.code)


class Watchdog:
    """Watches the processes of a run from two threads of this one, which end with the process.

    Args:
        store: an own connection to the store that all processes share: a call can block for long, and must not hold
            up the process group. Each restart of a launch has its own part of the store (`PrefixStore`).
        rank: number of this process.
        size: number of processes.
        limit: seconds without a heartbeat after which a process is lost.
        on_failure: called, from a thread, when the run has failed and the main thread does not know.
    """

    def __init__(
        self, store: Store, rank: int, size: int, limit: float, on_failure: Callable[[Failure], None] = leave
    ) -> None:
        self.rank, self.limit, self.on_failure = rank, limit, on_failure
        self.beat = min(BEAT, limit / 5)
        self.others = [other for other in range(size) if other != rank]
        self._board = _Board(store, rank)
        self._hearts = _Hearts(self.beat)
        self._note, self._rounds = _START, 0
        self._own: Failure | None = None
        self._verdict: Failure | None = None
        self._is_asked = self._is_stopping = False
        self._seen: dict[int, str] | None = None  # first heartbeats since this process has asked
        self._lock = threading.Lock()
        self._wake, self._settled, self._over = threading.Event(), threading.Event(), threading.Event()
        # the only thread that uses the store, so that a store that does not answer holds up no other
        self._talker = threading.Thread(target=self._talk, name="aam-watchdog", daemon=True)
        self._guard = threading.Thread(target=self._guard_process, name="aam-watchdog-guard", daemon=True)

    def start(self) -> None:
        """Begin to beat and to watch."""
        self._talker.start()
        self._guard.start()

    def note(self, text: str) -> None:
        """Keep what this process is at, for the message should it be lost; costs nothing."""
        self._note = text

    @property
    def place(self) -> str:
        """What this process is at, to end a sentence with, such as `` at step 7``; empty before the first note."""
        return f" at {self._note}" if self._note != _START else ""

    def fail(self, message: str, code: int = 1) -> Failure:
        """Tell all processes that this one failed; returns the failure that the run ends with, which came first.

        The process is to end by itself now; where it has not after `GRACE` seconds, and without `stop`, it is ended.
        """
        self._own = Failure(self.rank, code, message)
        self._wake.set()
        self._talker.join(2 * FAREWELL)
        return self._verdict or self._own

    def failure(self, wait: float = 2 * FAREWELL) -> Failure | None:
        """What ended the run, asked by a process whose collective failed; None if nothing is known of.

        It is what a process has posted, or the loss of one that has not beaten for `SILENCE` seconds. Where there is
        such a failure, ending the process is up to the caller, as after `fail`. Where all others are seen to beat, the
        answer comes at once.

        Args:
            wait: seconds to wait for the answer, more than `SILENCE`.
        """
        with self._lock:
            self._is_asked, self._seen = True, None
            if self._verdict is None:
                self._settled.clear()
        self._wake.set()
        self._settled.wait(wait)
        with self._lock:
            self._is_asked = self._verdict is not None
            return self._verdict

    def stop(self) -> None:
        """Take leave, the work being done: nobody watches this process from here on.

        Rank 0, whose process may host the store, waits for the others, and watches them meanwhile.
        """
        self._is_stopping = True
        self._wake.set()
        self._talker.join(self.limit + 2 * FAREWELL)
        self._over.set()
        self._guard.join(FAREWELL)

    def _talk(self) -> None:
        """Beat and watch until the run fails or this process stops."""
        found = None
        try:
            while self._own is None and not self._may_go() and (found := self._look()) is None:
                self._wake.wait(LOOK if self._is_asked else self.beat)
                self._wake.clear()
            if self._own is not None:
                found = self._board.post(self._own)
            self._make_known(found)
            self._say_farewell()
        except DistError as error:
            logger.debug("the store of the run is lost: %s", error)
            self._make_known(Failure(0, 1, f"rank 0, or its launcher, is gone: its connection was lost{self.place}"))
        self._leave_unless_known()

    def _may_go(self) -> bool:
        """Whether this process has stopped; rank 0 is the last to go."""
        if not self._is_stopping or self.rank != 0:
            return self._is_stopping
        self._board.write(_FINISHED)
        return self._have_left(self.others)

    def _look(self) -> Failure | None:
        """Beat once, and look at the others; a process that is lost is a failure that is posted."""
        self._rounds += 1
        if not self._is_stopping:
            self._board.write(f"{self._rounds}\n{self._note}")
        is_asked = self._is_asked
        watched = self.others if is_asked or self.rank == 0 else [0]
        posted, hearts = self._board.read(watched)
        lost = self._hearts.lost(hearts, self._patience(is_asked))
        if is_asked:
            seen = self._seen = self._seen or hearts
            if all(heart == _FINISHED or heart != seen[rank] for rank, heart in hearts.items()):
                self._settled.set()  # nobody is lost
        return posted if posted is not None or lost is None else self._board.post(lost)

    def _patience(self, is_asked: bool) -> float:
        """Seconds of silence that mean a loss: fewer where a collective has failed already."""
        return min(SILENCE, self.limit) if is_asked else self.limit

    def _say_farewell(self) -> None:
        """Show that this process knows; rank 0 stays until the others do, who may need its store to learn of it."""
        self._board.write(_FINISHED)
        until = time.monotonic() + FAREWELL
        others = [other for other in self.others if self._verdict is None or other != self._verdict.rank]
        while self.rank == 0 and time.monotonic() < until and not self._have_left(others):
            time.sleep(LOOK)

    def _have_left(self, others: Sequence[int]) -> bool:
        return all(heart == _FINISHED for heart in self._board.read(others)[1].values())

    def _make_known(self, found: Failure | None) -> None:
        """Settle on what ended the run; the first finding counts."""
        if found is not None:
            with self._lock:
                self._verdict = self._verdict or found
            self._settled.set()

    def _leave_unless_known(self) -> None:
        """End the process, unless the main thread does: it has failed itself, or has asked."""
        with self._lock:
            if self._verdict is None or self._is_asked or self._own is not None or self._over.is_set():
                return
            self._over.set()
        self.on_failure(self._verdict)

    def _guard_process(self) -> None:
        """See to it that this process ends where the store does not answer, or where its main thread does not end.

        Beats are counted, not seconds, so that a process that was suspended itself blames nobody.
        """
        rounds, quiet, waited = -1, 0.0, 0.0
        while not self._over.wait(self.beat):
            known = self._verdict or self._own
            if known is not None:
                waited += self.beat
                if waited >= GRACE:
                    self._over.set()
                    self.on_failure(known)
                continue
            quiet = quiet + self.beat if self._rounds == rounds else 0.0
            rounds = self._rounds
            if quiet >= self._patience(self._is_asked):
                self._make_known(Failure(0, 1, f"rank 0, or its launcher, has not answered for {quiet:.0f} s"))
                self._leave_unless_known()


class _Board:
    """What the processes write for each other: a heartbeat each, and the first failure."""

    def __init__(self, store: Store, rank: int) -> None:
        self.store, self.rank = store, rank
        self._known: set[str] = set()

    def write(self, heart: str) -> None:
        """Set the heartbeat of this process: a number that rises and, on further lines, what it is at."""
        self.store.set(_heart(self.rank), heart)

    def post(self, failure: Failure) -> Failure:
        """Post a failure unless there is one; returns the first."""
        self._prepare([_FAILURE])
        return _parse(self.store.compare_set(_FAILURE, _NONE, json.dumps(asdict(failure)))) or failure

    def read(self, ranks: Sequence[int]) -> tuple[Failure | None, dict[int, str]]:
        """The failure, if there is one, and heartbeats by rank."""
        keys = [_FAILURE, *map(_heart, ranks)]
        self._prepare(keys)
        failure, *hearts = self.store.multi_get(keys)
        return _parse(failure), {rank: heart.decode() for rank, heart in zip(ranks, hearts, strict=True)}

    def _prepare(self, keys: Sequence[str]) -> None:
        """Give first values to what nobody has written yet, for which a read would wait."""
        for key in keys:
            if key not in self._known:
                self.store.compare_set(key, "", _NONE if key == _FAILURE else f"0\n{_START}")
                self._known.add(key)


def _heart(rank: int) -> str:
    return f"heart/{rank}"


def _parse(value: bytes) -> Failure | None:
    return None if value.decode() == _NONE else Failure(**json.loads(value))


class _Hearts:
    """For how long each heart has been silent, by a clock that stands still while this process is suspended."""

    def __init__(self, beat: float) -> None:
        self.beat = beat
        self._looked, self._clock = time.monotonic(), 0.0
        self._last: dict[int, tuple[str, float]] = {}

    def lost(self, hearts: Mapping[int, str], limit: float) -> Failure | None:
        """Take new heartbeats by rank; returns the loss of the rank that is silent longest, if longer than the limit.

        Processes that have finished are not missed.
        """
        now = time.monotonic()
        self._clock += min(now - self._looked, 2 * self.beat)
        self._looked = now
        for rank, heart in hearts.items():
            if rank not in self._last or self._last[rank][0] != heart:
                self._last[rank] = (heart, self._clock)
        silent = {rank: self._clock - self._last[rank][1] for rank, heart in hearts.items() if heart != _FINISHED}
        if not silent or max(silent.values()) <= limit:
            return None
        rank = max(silent, key=lambda rank: silent[rank])
        note = hearts[rank].partition("\n")[2]
        return Failure(rank, 1, f"rank {rank} has not answered for {silent[rank]:.0f} s (last at {note})")
