"""Two torchrun agents on this machine that stand for two machines: they share nothing but the run's folder."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.reliability.processes import Running, gone
from tests.runs import lgrpo_arguments

ROOT = Path(__file__).parent.parent.parent
MODEL = ROOT / "lgrpo_lightning" / "policy" / "assets" / "arithmetic"
NODES = {"trainer__num_nodes": 2, "trainer__devices": 1, "trainer__strategy": "ddp", "model__policy__path": "model"}


class Agent(Running):
    """torchrun on one node, with a home, a folder for temporary files, a working directory and a model of its own."""

    def __init__(
        self,
        root: Path,
        rank: int,
        port: int,
        *,
        log: str = "1",
        torchrun: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        **options: object,
    ) -> None:
        super().__init__(root, f"{log}.node{rank}")
        node = make_node(root.parent / f"node-{rank}")
        launch = ["--nnodes=2", f"--node-rank={rank}", "--nproc-per-node=1", "--master-addr=127.0.0.1"]
        launch += [f"--master-port={port}", *torchrun, "-m", "lgrpo_lightning.cli"]
        words = [*launch, *lgrpo_arguments("fit", root, **NODES | options)]
        with self.log.open("w") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "torch.distributed.run", *words],
                env=os.environ | node_environment(node) | dict(environment or {}),
                cwd=node / "work",
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        self.pid = self.process.pid

    def status(self) -> int | None:
        """The exit status of torchrun."""
        return self.process.poll()

    def workers(self) -> list[int]:
        """The processes that train on this node."""
        return [int(p) for p in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]


def make_node(node: Path) -> Path:
    """The disk of a node."""
    for name in ("home", "tmp", "work"):
        (node / name).mkdir(parents=True, exist_ok=True)
    if not (node / "work" / "model").exists():
        shutil.copytree(MODEL, node / "work" / "model")
    return node


def node_environment(node: Path) -> dict[str, str]:
    """What a process on the node sees of it."""
    return {"HOME": str(node / "home"), "TMPDIR": str(node / "tmp"), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def agents(root: Path, **options: object) -> list[Agent]:
    """The agents of both nodes."""
    port = free_port()
    return [Agent(root, rank, port, **options) for rank in range(2)]


def finished_agents(root: Path, **options: object) -> Path:
    """A whole run."""
    wait_for_agents(agents(root, **options))
    return root


def wait_for_agents(both: Sequence[Agent]) -> None:
    """Until the run is over, which has to end well."""
    assert [agent.ended() for agent in both] == [0, 0], "".join(agent.said()[-3000:] for agent in both)


def kill_agents(both: Sequence[Agent], victims: Sequence[int]) -> None:
    """Kill some agents; the others, and all processes that train, have to end by themselves."""
    workers = [pid for agent in both for pid in agent.workers()]
    for victim in victims:
        both[victim].signalled(signal.SIGKILL)
    assert all(agent.ended(120) != 0 for agent in both)
    assert all(gone(pid, 60) for pid in workers)
