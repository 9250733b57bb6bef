"""What the processes of a run tell each other about themselves."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from lgrpo_lightning.distributed.alive import machine, process_gone

DONE = "done"
"""How a process ends that did all it had to do."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """One process, as of now.

    Attributes:
        rank: Its number.
        host, pid: Where it runs.
        machine: Names the machine and its numbering of processes, so that another one there can look for ``pid``.
        beat: Counts up as long as it lives.
        what: What it is doing.
        waits: Whether it waits for others in that.
        seconds: How long it has been doing it.
        ended: "" while it runs, ``DONE``, or why it ended.
        blames: Whether ``ended`` tells of another process, which it lost.
    """

    rank: int
    host: str
    pid: int
    machine: str
    beat: int
    what: str
    waits: bool
    seconds: float
    ended: str = ""
    blames: bool = False

    def text(self) -> str:
        """To be sent."""
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, text: str | bytes) -> Report:
        """What ``text`` gave."""
        return cls(**json.loads(text))

    def __str__(self) -> str:
        """Such as "rank 1 (host node3, process 4711)"."""
        return f"rank {self.rank} (host {self.host}, process {self.pid})"

    def gone(self) -> bool:
        """Whether the process does not run any more, as far as can be told from here."""
        return self.machine == machine() and process_gone(self.pid)
