"""Whole runs with real engines, in processes of their own."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.samplers.vllm.engines import KEY, RealServer, needs_vllm

pytestmark = needs_vllm
ENGINE = {"max_num_seqs": 16}


def command(root: Path, **options: Any) -> list[str]:
    import json

    arguments = {"devices": 1, "strategy": "auto", "steps": 3, "engine": ENGINE, **options}
    return [sys.executable, "-m", "tests.samplers.vllm.small_fit", str(root), json.dumps(arguments)]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "VLLM_API_KEY": KEY, "OMP_NUM_THREADS": "1", **more}


def run(root: Path, *, cores: str = "auto", **options: Any) -> str:
    """The output of a fit that ends well; ``cores`` are those of the engine."""
    done = subprocess.run(
        command(root, **options), env=environment(VLLM_CPU_OMP_THREADS_BIND=cores),
        capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    return done.stdout


def digests(output: str) -> dict[str, str]:
    return dict(re.findall(r"DIGEST (\d) (\w+)", output))


def rollouts(root: Path) -> pd.DataFrame:
    return pd.read_parquet(root / "rollouts")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RealServer]:
    made = RealServer("lgrpo:arithmetic", tmp_path).start()
    yield made
    made.kill()


@pytest.mark.parametrize(
    ("strategy", "lora"),
    [
        pytest.param("ddp", False, marks=pytest.mark.slow),
        pytest.param("fsdp2", False, marks=pytest.mark.slow),
        ("fsdp2", True),
    ],
    ids=["ddp", "fsdp2", "fsdp2 LoRA"],
)
def test_two_ranks_with_an_engine_each(strategy: str, lora: bool, tmp_path: Path) -> None:
    found = digests(run(tmp_path / "two", devices=2, strategy=strategy, lora=lora))
    assert sorted(found) == ["0", "1"]
    assert found["0"] == found["1"]
    table = rollouts(tmp_path / "two")
    assert len(table) == 3 * 4 * 4
    assert (table["weight_version"] == table["rollout"]).all()


@pytest.mark.parametrize("lora", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["all weights", "LoRA"])
def test_one_rank_with_an_engine_over_two_processes(lora: bool, tmp_path: Path) -> None:
    """The engine's processes read the weights from files; each update is checked against the policy."""
    run(tmp_path / "one", lora=lora)
    run(tmp_path / "two", lora=lora, engine=ENGINE | {"tensor_parallel_size": 2}, cores="0|1")
    one, two = (rollouts(tmp_path / name) for name in ("one", "two"))
    assert (two["weight_version"] == two["rollout"]).all()
    first = [table.query("rollout == 0")["completion"].tolist() for table in (one, two)]
    assert first[0] == first[1]


def test_two_ranks_with_one_server(server: RealServer, tmp_path: Path) -> None:
    found = digests(run(tmp_path / "two", devices=2, strategy="ddp", server={"urls": [server.url]}))
    assert found["0"] == found["1"]
    table = rollouts(tmp_path / "two")
    assert len(table) == 3 * 4 * 4
    assert (table["weight_version"] == table["rollout"]).all()


@pytest.mark.parametrize("again", [True, False], ids=["started again", "not started again"])
def test_a_server_killed_in_the_middle_of_a_run(server: RealServer, tmp_path: Path, again: bool) -> None:
    root = tmp_path / "run"
    urls = {"urls": [server.url], "retry_seconds": 240.0 if again else 3.0}
    process = subprocess.Popen(
        command(root, steps=8, server=urls),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    seen: list[str] = []
    for line in process.stdout:
        seen.append(line)
        if line.startswith("STEP 2"):
            time.sleep(0.05)  # the next rollout has begun
            server.kill()
            break
    killed = time.monotonic()
    if again:
        server.start()
    output = "".join(seen) + process.communicate(timeout=400)[0]
    table = rollouts(root)
    if again:
        assert process.returncode == 0, output[-5000:]
        assert sorted(table["rollout"].unique()) == list(range(8))
        assert len(table) == 8 * 4 * 4  # none twice, none half
    else:
        assert process.returncode != 0
        assert f"The vLLM server {server.url} did not answer for 3 seconds" in output
        assert time.monotonic() - killed < 60
        assert len(table) % 16 == 0
        assert len(table) >= 2 * 16
        assert (root / "checkpoints" / "last.ckpt").is_file()


@pytest.mark.parametrize(
    ("devices", "strategy", "lora"),
    [pytest.param(1, "auto", False, marks=pytest.mark.slow), (2, "ddp", True)],
)
def test_rollouts_ahead_killed_and_resumed(
    devices: int, strategy: str, lora: bool, server: RealServer, tmp_path: Path
) -> None:
    """Each from the weights of one rollout before; what was in flight is drawn again by the servers, to the bit."""
    options: dict[str, Any] = {
        "devices": devices, "strategy": strategy, "steps": 5, "ahead": 1, "server": {"urls": [server.url]},
    }  # fmt: skip
    whole = digests(run(tmp_path / "whole", **options))
    table = rollouts(tmp_path / "whole")
    assert (table["weight_version"] == (table["rollout"] - 1).clip(lower=0)).all()
    log = (tmp_path / "log").open("w+")
    killed = subprocess.Popen(
        command(tmp_path / "run", **options), env=environment(), stdout=log, start_new_session=True
    )
    while "STEP 3" not in (tmp_path / "log").read_text():
        assert killed.poll() is None
        time.sleep(0.01)
    os.killpg(killed.pid, 9)
    killed.wait()
    assert digests(run(tmp_path / "run", resume="last", **options)) == whole
    key = ["rollout", "prompt_uid", "member"]
    same = [tmp_path / "whole", tmp_path / "run"]
    left, right = (rollouts(root).sort_values(key, ignore_index=True) for root in same)
    columns = [*key, "completion", "reward", "advantage", "weight_version"]
    assert left[columns].equals(right[columns])
