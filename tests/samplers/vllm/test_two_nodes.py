"""Runs over two nodes, with a server apart, are killed and resumed exactly. The nodes share the run's folder only."""

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.reliability.nodes import MODEL, agents, finished_agents, free_port, kill_agents, make_node
from tests.reliability.processes import RUN, Running, same_run
from tests.runs import CONFIG, SMALL
from tests.samplers.vllm.engines import KEY, RealServer, needs_vllm
from tests.test_cluster import SLURM, TOOLS, slurm_environment

pytestmark = needs_vllm
SIX = RUN | {"trainer__max_steps": 12, "trainer__strategy": "ddp"}
SECOND, FOURTH = (f"rollouts/rollout-{r:06d}-rank-000.parquet" for r in (1, 3))


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RealServer]:
    monkeypatch.setenv("VLLM_API_KEY", KEY)
    node = make_node(tmp_path / "node-of-the-server")
    with monkeypatch.context() as own:
        own.setenv("HOME", str(node / "home"))
        made = RealServer(node / "work" / "model", node).start()
    yield made
    made.kill()


def sample_from(server: RealServer, root: Path) -> dict[str, str]:
    """Options of a run."""
    options = {"server": {"urls": [server.url], "weights_dir": str(root / "weights")}}
    return {"model__sampler": json.dumps({"class_path": "VLLMSampler", "init_args": options})}


@pytest.mark.parametrize("ahead", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_one_agent_then_both_are_killed(ahead: int, server: RealServer, tmp_path: Path) -> None:
    options = SIX | {"model__updates__rollouts_ahead": ahead}
    cut, whole = tmp_path / "cut" / "run", tmp_path / "whole" / "run"
    both = agents(cut, **options, **sample_from(server, cut))
    both[0].until(SECOND)
    kill_agents(both, [1])
    both = agents(cut, log="2", ckpt_path="last", **options, **sample_from(server, cut))
    both[0].until(FOURTH)
    kill_agents(both, [0, 1])
    finished_agents(cut, log="3", ckpt_path="last", **options, **sample_from(server, cut))
    same_run(finished_agents(whole, **options, **sample_from(server, whole)), cut)
    assert not list((cut / "weights").iterdir())  # what killed runs left is removed


class Job(Running):
    """``configs/cluster/slurm.sh`` under stand-ins for srun and scontrol, on three nodes that are this machine."""

    def __init__(self, root: Path, config: Path, *, log: str = "1", **environment: str) -> None:
        super().__init__(root, log)
        nodes = [f"127.0.0.{i}" for i in (1, 2, 3)]
        for node in nodes:
            make_node(root.parent / node)
        given = slurm_environment(*nodes, processes=1) | environment
        tools = {
            "PORT": str(free_port()),
            "PATH": f"{TOOLS}:{os.environ['PATH']}",
            "NODES": str(root.parent),
            "OMP_NUM_THREADS": "1",
        }
        with self.log.open("w") as out:
            self.process = subprocess.Popen(
                ["bash", SLURM, config, root],
                env=os.environ | tools | given | {"SCONTROL_CALLS": str(root.parent / "scontrol")},
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.pid = self.process.pid

    def status(self) -> int | None:
        return self.process.poll()

    def kill(self) -> None:
        """All that is left of it."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def signal_steps(self, signum: int) -> None:
        """As SLURM does: to all steps, not to the script."""
        for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split():
            os.kill(int(pid), signum)


def write_job(tmp_path: Path) -> Path:
    """A small run for the script."""
    run: dict[str, Any] = yaml.safe_load(CONFIG.read_text())
    changes = SMALL | {key.replace("__", "."): value for key, value in SIX.items()}
    changes |= {"model.policy.path": str(MODEL), "trainer.limit_val_batches": 0, "trainer.enable_progress_bar": False}
    changes["trainer.callbacks"] = json.loads(str(changes["trainer.callbacks"]))
    for key, value in changes.items():
        *folders, last = key.split(".")
        at = run
        for folder in folders:
            at = at.setdefault(folder, {})
        at[last] = value
    run["model"]["sampler"] = {"class_path": "VLLMSampler"}
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(run))
    return path


@pytest.fixture
def start_job(tmp_path: Path) -> Iterator[Callable[..., Job]]:
    """Starts jobs of one configuration, and kills what is left of them."""
    config, jobs = write_job(tmp_path), list[Job]()

    def start(name: str, **options: str) -> Job:
        jobs.append(Job(tmp_path / name / "run", config, **options))
        return jobs[-1]

    yield start
    for job in jobs:
        job.kill()


def test_the_slurm_script_is_stopped_and_queued_again(start_job: Callable[..., Job]) -> None:
    job = start_job("cut")
    job.until(SECOND, seconds=500)
    job.signal_steps(signal.SIGUSR1)
    assert job.ended(120) == 128 + signal.SIGUSR1, job.said()[-3000:]
    assert (job.root.parent / "scontrol").read_text() == "requeue 4711\n"
    again = start_job("cut", log="2", SLURM_RESTART_COUNT="1")
    assert again.ended(500) == 0, again.said()[-3000:]
    assert "(resumed after " in again.said()
    whole = start_job("whole")
    assert whole.ended(500) == 0, whole.said()[-3000:]
    same_run(whole.root, job.root)
