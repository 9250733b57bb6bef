"""A run over two torchrun agents, which stand for two machines, is killed and resumed exactly."""

import os
import re
import signal
from pathlib import Path
from unittest.mock import Mock

import pytest
from torch.distributed import HashStore

from lgrpo_lightning.distributed.watch import Watch
from tests.reliability.nodes import Agent, agents, finished_agents, free_port, kill_agents, wait_for_agents
from tests.reliability.processes import RUN, SLOW, pair, same_run

FOUR = RUN | SLOW | {"trainer__max_steps": 8}
SECOND, THIRD = (f"rollouts/rollout-{r:06d}-rank-000.parquet" for r in (1, 2))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing disturbs."""
    return finished_agents(tmp_path_factory.mktemp("whole") / "run", **FOUR | {"trainer__strategy": "ddp"})


@pytest.mark.long
@pytest.mark.parametrize("strategy", ["ddp", pytest.param("fsdp2", marks=pytest.mark.slow)])
def test_one_agent_then_both_are_killed(strategy: str, whole: Path, tmp_path: Path) -> None:
    options = FOUR | {"trainer__strategy": strategy}
    root = tmp_path / "cut" / "run"
    both = agents(root, **options)
    both[0].until(SECOND)
    kill_agents(both, [1])
    assert "lgrpo: The torchrun that started rank 1 (host" in both[0].said()
    both = agents(root, log="2", ckpt_path="last", **options)
    both[0].until(THIRD)
    kill_agents(both, [0, 1])
    finished_agents(root, log="3", ckpt_path="last", **options)
    said = "".join(log.read_text() for log in root.parent.glob("*.log"))
    assert "Going on with another configuration" not in said  # each node's model is at a path of its own
    assert "is another folder" not in said
    same_run(whole if strategy == "ddp" else finished_agents(tmp_path / "whole" / "run", **options), root)


@pytest.mark.long
def test_torchrun_starts_the_processes_again(whole: Path, tmp_path: Path) -> None:
    """``--max-restarts``, as docs/scaling.md says."""
    options = FOUR | {"trainer__strategy": "ddp", "ckpt_path": "last"}
    root, port = tmp_path / "cut" / "run", free_port()
    elastic = ["--max-restarts=2", "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}", "--rdzv-id=x"]
    own_store = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    both = [Agent(root, rank, port, torchrun=elastic, environment=own_store, **options) for rank in range(2)]
    both[0].until(SECOND)
    os.kill(both[1].workers()[0], signal.SIGKILL)
    wait_for_agents(both)
    assert "(resumed after " in "".join(agent.said() for agent in both)
    same_run(whole, root)


@pytest.mark.long
def test_a_folder_that_is_not_shared(tmp_path: Path) -> None:
    apart = {"trainer__default_root_dir": tmp_path / "of-rank-1"}
    both = pair(tmp_path / "run", second=apart, **RUN | {"trainer__max_steps": 2, "trainer__strategy": "ddp"})
    assert [run.ended() for run in both] == [0, 0]
    assert "run (trainer.default_root_dir) is another folder for rank 1 than for rank 0." in both[0].said()


def test_a_torchrun_that_is_gone_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    store = HashStore()
    watch = Watch(store, run="first", rank=0, world_size=1, limit=60)
    monkeypatch.setattr(watch, "_lose", said := Mock())
    watch._step()
    said.assert_not_called()
    monkeypatch.setattr(os, "getppid", lambda: 1)
    watch._step()
    assert re.match(r"The torchrun that started rank 0 \(.*\) is gone", said.call_args.args[0])
    again = Watch(store, run="second", rank=0, world_size=1, limit=60)  # torchrun keeps the store
    monkeypatch.setattr(again, "_lose", said := Mock())
    again._step()
    said.assert_not_called()
