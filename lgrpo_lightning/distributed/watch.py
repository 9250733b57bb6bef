"""A thread in every process of a run that passes on a stop, and notices when another process is gone."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import torch.distributed

from lgrpo_lightning.distributed.activity import read_activity
from lgrpo_lightning.distributed.interruption import (
    PEER_LOST,
    explain_lost_peer,
    note_lost_peer,
    read_stop_signal,
    request_stop,
)
from lgrpo_lightning.distributed.processes import is_process_gone, name_machine

POLL = 0.5
"""Seconds between two looks at the store."""
SILENT = 60.0
"""Seconds without a report after which a process on another machine counts as gone."""
GRACE = 30.0
"""Seconds that the main thread has to end by itself once another process is gone."""
SAVING = 10
"""How many times as long it has while it saves a checkpoint."""
HINT = (
    "The run ends with status 75. See what that process printed last, and whether the system killed it (for want "
    "of memory, say); then resume with --ckpt_path last."
)


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a process tells the others about itself; ``done``: it has nothing left to do."""

    rank: int
    host: str
    pid: int
    machine: str
    what: str
    waits: bool
    seconds: float
    done: bool = False

    @classmethod
    def from_this_process(cls, rank: int, *, done: bool = False) -> Report:
        """This process's own."""
        now = read_activity()
        return cls(
            rank=rank,
            host=socket.gethostname(),
            pid=os.getpid(),
            machine=name_machine(),
            what=now.what,
            waits=now.waits,
            seconds=round(time.monotonic() - now.since, 1),
            done=done,
        )

    def __str__(self) -> str:
        return f"rank {self.rank} (host {self.host}, process {self.pid})"

    @property
    def doing(self) -> str:
        """Such as "sampling rollout 5 (for 3 s)"."""
        return f"{self.what} (for {self.seconds:.0f} s)"

    @property
    def gone(self) -> bool:
        """Whether the process does not run any more, as far as can be told from here."""
        return self.machine == name_machine() and is_process_gone(self.pid)


class Watch(threading.Thread):
    """Talks to the other processes through a store, while the main thread works.

    A stop that one process was asked for reaches all within ``POLL``. A process that failed, is gone or silent, or is
    waited for longer than ``limit`` seconds is named on standard error, with what it was doing; then the main thread
    gets a ``PeerLostError`` where it would wait for others next, and after ``GRACE`` the process is ended.

    Args:
        store: Shared by all processes, perhaps with earlier runs: torchrun keeps its store when it starts processes
            again.
        run: A name that no earlier run has, the same in all processes.
    """

    def __init__(self, store: Any, *, run: str, rank: int, world_size: int, limit: float) -> None:
        super().__init__(name="lgrpo-watch", daemon=True)
        distributed: Any = torch.distributed
        self.store = distributed.PrefixStore(f"lgrpo/{run}", store)
        self.rank, self.limit = rank, limit
        self._torchrun = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None
        self.ending = False  # the store may go away now
        self._others = [str(r) for r in range(world_size) if r != rank]
        self._over = threading.Event()
        self._seen: dict[int, tuple[Report, float]] = {}  # last report of each rank, and when it changed

    def end(self, error: str = "") -> None:
        """Stop watching, and tell the others that this process is done, or failed."""
        self.ending = True
        self._over.set()
        self.join(timeout=8)
        with suppress(RuntimeError):  # the store may be gone already
            me = Report.from_this_process(self.rank, done=not error)
            self.store.set(str(self.rank), json.dumps(asdict(me)))
            if error:
                self.store.compare_set("lost", "", f"{me} ended with {error}. It was {me.doing}.")
                time.sleep(4 * POLL if self.rank == 0 else 0)  # the store ends with rank 0: let the others read it

    def run(self) -> None:
        """Until ``end``."""
        until = 0.0
        while not self._over.wait(POLL):
            try:
                self._step()
            except Exception as error:  # the store's errors have no common class
                host = f"{self._seen[0][0]}, which" if 0 in self._seen else "Rank 0, which"
                was = f" It was {self._seen[0][0].doing}." if 0 in self._seen else f" ({type(error).__name__})"
                if not self.ending and not explain_lost_peer():
                    gone = "is gone, or its torchrun" if self._torchrun else "is gone"  # that may host it, too
                    why = f"{host} hosts the store of the process group, {gone}.{was}"
                    self._lose(self._find_lost_torchrun() or why)
            if explain_lost_peer() and not until:
                until = time.monotonic() + GRACE * (SAVING if read_activity().saves else 1)
            if until and time.monotonic() > until:
                what = f"lgrpo: rank {self.rank} is ended: it hangs, {read_activity().what}."
                print(what, file=sys.stderr, flush=True)
                os._exit(PEER_LOST)

    def _step(self) -> None:
        if self.store.check(["stop"]):
            request_stop(int(self.store.get("stop")))
        elif signum := read_stop_signal():
            self.store.set("stop", str(signum))
        if explain_lost_peer():
            return
        gone = [r for r, (report, _) in self._seen.items() if report.gone]  # before reading whether they are done
        self.store.set(str(self.rank), json.dumps(asdict(Report.from_this_process(self.rank))))
        all_there = self.store.check(self._others)
        there = [key for key in self._others if all_there or self.store.check([key])]
        for text in self.store.multi_get(there) if there else ():
            report = Report(**json.loads(text))
            if report.rank not in self._seen or self._seen[report.rank][0] != report:
                self._seen[report.rank] = (report, time.monotonic())
        if why := self._find_lost(gone):
            self.store.compare_set("lost", "", why)  # of several reasons the first counts, on all ranks
        if self.store.check(["lost"]):
            self._lose(self.store.get("lost").decode())

    def _find_lost(self, gone: list[int]) -> str:
        """Which process this one cannot go on without, and why; "" where all is well."""
        now, mine = time.monotonic(), read_activity()
        if why := self._find_lost_torchrun():
            return why
        for report, at in self._seen.values():
            if report.rank in gone and not report.done:
                return f"{report} is gone. It was {report.doing}."
            if report.machine != name_machine() and not report.done and now - at > SILENT:
                return f"{report} has been silent for {now - at:.0f} s. It was {report.doing}."
        if not mine.waits or now - mine.since < self.limit:
            return ""
        others = [r for r, _ in self._seen.values()]
        behind = [r for r in others if not r.waits] or [r for r in others if r.what != mine.what] or others
        named = "; ".join(f"{r} is {r.doing}" for r in behind) or "no other rank has reported"
        return f"Waited {now - mine.since:.0f} s for other ranks (RankWatch.timeout_minutes): {named}."

    def _find_lost_torchrun(self) -> str:
        if self._torchrun in (None, os.getppid()):
            return ""
        # its processes are in sessions of their own, and stay
        me = Report.from_this_process(self.rank)
        return f"The torchrun that started {me} is gone (process {self._torchrun}). The rank was {me.doing}."

    def _lose(self, why: str) -> None:
        note_lost_peer(why[:1].upper() + why[1:])
        here = f"This is rank {self.rank}, {Report.from_this_process(self.rank).doing}."
        print(f"lgrpo: {explain_lost_peer()} {here} {HINT}", file=sys.stderr, flush=True)
