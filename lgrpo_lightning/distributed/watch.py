"""A thread in every process of a run that passes on a stop, and notices when another process is gone."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from itertools import count
from typing import Any

from lgrpo_lightning.distributed.activity import activity
from lgrpo_lightning.distributed.alive import machine
from lgrpo_lightning.distributed.interruption import PEER_LOST, lose, lost, request_stop, stop_signal
from lgrpo_lightning.distributed.report import DONE, Report

POLL = 0.5
"""Seconds between two looks at the store."""
SILENT = 60.0
"""Seconds without a sign of life after which a process on another machine counts as gone."""
GRACE = 30.0
"""Seconds that the main thread has to end by itself once another process is gone."""
SAVING = 10
"""How many times as long it has while it saves a checkpoint."""
HINT = (
    "The run ends with status 75. See what that process printed last, and whether the system killed it (for want "
    "of memory, say); then resume with --ckpt_path last."
)

_runs = count()


class Watch(threading.Thread):
    """Talks to the other processes through the store of the process group, while the main thread works.

    A stop that one process was asked for reaches all within ``POLL``. A process that ended, is silent, or is
    waited for longer than ``limit`` is named on standard error, with what it was doing; then the main thread gets a
    ``PeerLostError`` where it would wait for others next, and after ``GRACE`` the process is ended.

    Args:
        store: A connection of its own to the store.
        rank, world_size: This process; how many there are.
        limit: Longest wait for the others, in seconds.
        before_exit: Called before the process is ended from here.
    """

    def __init__(
        self, store: Any, *, rank: int, world_size: int, limit: float, before_exit: Callable[[], None]
    ) -> None:
        super().__init__(name="lgrpo-watch", daemon=True)
        self.store, self.rank, self.world_size, self.limit = store, rank, world_size, limit
        self.before_exit = before_exit
        self.prefix = f"lgrpo/{next(_runs)}"
        self.ending = False  # the store may go away now
        self._ended, self._blames = "", False
        self._over = threading.Event()
        self._beats = count()
        self._seen: dict[int, tuple[Report, float]] = {}  # last report of each rank, and when it changed
        self._began = time.monotonic()
        self._told = False

    def end(self, why: str = DONE, *, blames: bool = False) -> None:
        """Tell the others that this process ends, and stop watching."""
        self.ending, self._ended, self._blames = True, why, blames
        self._over.set()
        self.join(timeout=8)

    def run(self) -> None:
        """Until ``end``."""
        lost_at = 0.0
        while not self._over.is_set():
            self._step()
            if lost() and not lost_at:
                lost_at = time.monotonic()
            if lost_at and time.monotonic() > lost_at + GRACE * (SAVING if activity().keeps else 1):
                self._exit()
            self._over.wait(POLL)
        self._last_words()

    def _step(self) -> None:
        try:
            self._pass_on_stop()
            self._publish()
            if not lost():
                self._look()
        except Exception as error:  # the store's errors have no common class
            if not self.ending and not lost():
                self._lose(self._store_lost(error))

    def _last_words(self) -> None:
        try:
            self._publish()
            if (
                self.rank == 0 and self._ended != DONE
            ):  # the store ends with this process: let the others read it
                until = time.monotonic() + 5
                while time.monotonic() < until and not all(r.ended for r in self._reports()):
                    time.sleep(0.1)
        except Exception as error:
            if self.rank == 0:
                print(f"rank 0 could not say good-bye to the others: {error}", file=sys.stderr, flush=True)

    def _pass_on_stop(self) -> None:
        key = f"{self.prefix}/stop"
        if not self.store.check([key]):
            if signum := stop_signal():
                self.store.set(key, str(signum))
        elif not stop_signal():
            request_stop(int(self.store.get(key)))

    def _publish(self) -> None:
        now = activity()
        report = Report(
            rank=self.rank,
            host=socket.gethostname(),
            pid=os.getpid(),
            machine=machine(),
            beat=next(self._beats),
            what=now.what,
            waits=now.waits,
            seconds=round(time.monotonic() - now.since, 1),
            ended=self._ended,
            blames=self._blames,
        )
        self.store.set(f"{self.prefix}/rank/{self.rank}", report.text())

    def _reports(self) -> list[Report]:
        """Of all other processes that have said something."""
        keys = [f"{self.prefix}/rank/{r}" for r in range(self.world_size) if r != self.rank]
        there = keys if self.store.check(keys) else [key for key in keys if self.store.check([key])]
        return [Report.read(text) for text in self.store.multi_get(there)] if there else []

    def _look(self) -> None:
        """Find out whether all others are well."""
        now = time.monotonic()
        for report in self._reports():
            seen = self._seen.get(report.rank)
            if seen is None or seen[0].beat != report.beat:
                self._seen[report.rank] = (report, now)
        running = [(r, at) for r, at in self._seen.values() if not r.ended]
        for report, at in running:
            if report.gone() and not self._ended_since(report.rank):
                self._lose(f"{report} is gone. It was {_doing(report)}.")
            elif report.machine != machine() and now - at > SILENT:
                self._lose(f"{report} has been silent for {now - at:.0f} s. It was {_doing(report)}.")
        for report, at in self._seen.values():
            if report.blames:
                self._lose(report.ended)
            elif report.ended not in ("", DONE) and now - at > 2 * POLL:  # one that lost another comes second
                self._lose(f"{report} ended with {report.ended}. It was {_doing(report)}.")
        self._check_patience()

    def _ended_since(self, rank: int) -> bool:
        """Whether a process that is gone had said that it would be."""
        report = Report.read(self.store.get(f"{self.prefix}/rank/{rank}"))
        self._seen[rank] = (report, time.monotonic())
        return bool(report.ended)

    def _check_patience(self) -> None:
        """Not to wait longer than ``limit``."""
        mine = activity()
        waited = time.monotonic() - mine.since
        if not mine.waits or waited < self.limit:
            return
        others = [r for r, _ in self._seen.values()]
        behind = [r for r in others if not r.waits] or [r for r in others if r.what != mine.what] or others
        named = "; ".join(f"{r} is {_doing(r)}" for r in behind) or "no other rank has reported"
        self._lose(f"Waited {waited:.0f} s for other ranks (RankWatch.timeout_minutes): {named}.")

    def _store_lost(self, error: Exception) -> str:
        host = self._seen.get(0)
        if host is None:
            return f"The store of the process group, which rank 0 hosts, is gone ({type(error).__name__})."
        return f"{host[0]}, which hosts the store of the process group, is gone. It was {_doing(host[0])}."

    def _lose(self, why: str) -> None:
        lose(why[:1].upper() + why[1:])
        if not self._told:
            self._told = True
            now = activity()
            took = f"{time.monotonic() - now.since:.0f} s"
            here = f"This is rank {self.rank}, {now.what} (for {took})."
            print(f"lgrpo: {lost()} {here} {HINT}", file=sys.stderr, flush=True)

    def _exit(self) -> None:
        """End the process, whose main thread does not come back."""
        print(f"lgrpo: rank {self.rank} is ended: it hangs, {activity().what}.", file=sys.stderr, flush=True)
        self.before_exit()
        sys.stdout.flush()
        os._exit(PEER_LOST)


def _doing(report: Report) -> str:
    return f"{report.what} (for {report.seconds:.0f} s)"
