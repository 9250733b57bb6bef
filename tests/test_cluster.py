"""The files in configs/cluster: shells parse them, their fields are known, and their commands are commands of lgrpo."""

import json
import os
import re
import shlex
import subprocess
from collections.abc import Mapping
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from torch.distributed.run import get_args_parser

from lgrpo_lightning import cli

ROOT = Path(__file__).parent.parent
CLUSTER = ROOT / "configs" / "cluster"
SLURM = CLUSTER / "slurm.sh"
SKYPILOT: dict[str, Any] = yaml.safe_load((CLUSTER / "skypilot.yaml").read_text())
SERVICE, SERVERS, JOB = yaml.safe_load_all((CLUSTER / "kubeflow.yaml").read_text())
SBATCH = {
    "job-name", "nodes", "ntasks-per-node", "gpus-per-node", "cpus-per-task", "time", "signal", "requeue", "open-mode",
}  # fmt: skip
"""Options of sbatch that the file uses; they are in its manual."""
TOOLS = Path(__file__).parent / "reliability" / "cluster_tools"
"""Stand-ins for srun and scontrol."""


def write_run(folder: Path) -> Path:
    """A configuration as the files ask for."""
    run = yaml.safe_load((ROOT / "configs" / "quickstart_vllm.yaml").read_text())
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(run))
    return path


def run_script(script: str, folder: Path, *words: str, **environment: str) -> list[list[str]]:
    """Run a script with ``lgrpo`` and ``torchrun`` that write down how they were called; the calls."""
    stand_ins, calls = folder / "stand-ins", folder / "calls"
    stand_ins.mkdir()
    place = f"echo $(basename $0) $1 ${{SLURMD_NODENAME:-}} ${{MASTER_ADDR:-}} >> {folder}/places\n"
    write = f"{place}python -c 'import json, sys; print(json.dumps(sys.argv[1:]))' $(basename $0) \"$@\" >> {calls}"
    over = f"until [ $(wc -l < {calls}) = 2 ]; do /bin/sleep 0.1; done; touch {folder}/runs/x/task.over"
    for name, text in {"lgrpo": write, "torchrun": write, "sleep": over}.items():
        (stand_ins / name).write_text(f"#!/bin/bash\n{text}\n")
        (stand_ins / name).chmod(0o755)
    done = subprocess.run(
        ["bash", "-c", script, "script", *words],
        env=os.environ | {"PATH": f"{stand_ins}:{TOOLS}:{os.environ['PATH']}", **environment},
        capture_output=True, text=True, timeout=60, check=False, cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in calls.read_text().splitlines()]


def parse_fit(words: list[str]) -> dict[str, Any]:
    """What ``lgrpo fit`` makes of a command line."""
    shown = StringIO()
    with pytest.raises(SystemExit) as stop, redirect_stdout(shown):
        cli.main([*words, "--print_config"])
    assert stop.value.code in (0, None)
    parsed: dict[str, Any] = yaml.safe_load(shown.getvalue())
    return parsed


def check_serve(words: list[str]) -> str:
    """The port of a command of a server, which parses."""
    assert words[:2] == ["lgrpo", "serve"]
    assert cli.main([*words[1:], "--dry_run"]) == 0
    return words[words.index("--port") + 1]


def check_fit(words: list[str], urls: list[str], *, run: str, nodes: int, devices: int) -> dict[str, Any]:
    """What a command of a run is parsed to."""
    parsed = parse_fit(words[words.index("fit") :])
    server = parsed["model"]["sampler"]["init_args"]["server"]
    assert server["urls"] == urls
    assert server["weights_dir"] == f"{run}/weights"
    trainer = parsed["trainer"]
    assert (trainer["default_root_dir"], trainer["num_nodes"]) == (run, nodes)
    assert int(trainer["devices"]) == devices
    assert parsed["ckpt_path"] == "last"
    return parsed


def slurm_environment(*nodes: str, processes: int = 2) -> dict[str, str]:
    """What sbatch gives to its script."""
    return {
        "SLURM_JOB_NODELIST": ",".join(nodes), "SLURM_NTASKS_PER_NODE": str(processes), "SLURM_NNODES": str(len(nodes)),
        "SLURM_CPUS_PER_TASK": "1", "SLURM_JOB_ID": "4711", "SLURM_JOB_NAME": "lgrpo",
    }  # fmt: skip


def test_slurm(tmp_path: Path) -> None:
    run, text = str(write_run(tmp_path)), SLURM.read_text()
    assert subprocess.run(["bash", "-n", SLURM], check=False).returncode == 0
    assert set(re.findall(r"^#SBATCH --([\w-]+)", text, flags=re.MULTILINE)) == SBATCH
    calls = run_script(text, tmp_path, run, "runs/x", "--trainer.max_steps=7", **slurm_environment("a", "b", "c"))
    served = [words for words in calls if words[1] == "serve"]
    assert sorted(map(check_serve, served)) == ["8000", "8001"]
    trained = [words for words in calls if words[1] == "fit"]
    assert len(trained) == 4
    assert all(words == trained[0] for words in trained)
    places = sorted((tmp_path / "places").read_text().splitlines())
    assert places == [f"lgrpo {words} a" for words in ("fit a", "fit a", "fit b", "fit b", "serve c", "serve c")]
    parsed = check_fit(trained[0], ["http://c:8000", "http://c:8001"], run="runs/x", nodes=2, devices=2)
    assert parsed["trainer"]["max_steps"] == 7


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_skypilot(rank: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path)
    monkeypatch.chdir(tmp_path)
    environment = {
        **SKYPILOT["envs"], "RUN": "runs/x", "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2\n10.0.0.3",
        "SKYPILOT_NODE_RANK": str(rank), "SKYPILOT_NUM_NODES": "3", "SKYPILOT_NUM_GPUS_PER_NODE": "2",
        "SKYPILOT_TASK_ID": "task",
    }  # fmt: skip
    calls = run_script(SKYPILOT["run"], tmp_path, **environment)
    assert (tmp_path / "runs" / "x" / "task.over").exists()
    if rank == 2:
        assert sorted(map(check_serve, calls)) == ["8000", "8001"]
        return
    (call,) = calls
    launch = get_args_parser().parse_args(call[1:])
    assert (launch.nnodes, launch.nproc_per_node, launch.node_rank) == ("2", "2", rank)
    assert (launch.master_addr, launch.training_script) == ("10.0.0.1", "lgrpo_lightning.cli")
    check_fit(call, ["http://10.0.0.3:8000", "http://10.0.0.3:8001"], run="runs/x", nodes=2, devices=2)


def test_kubeflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, there = str(write_run(tmp_path)), "/shared/run.yaml"
    (container,), trainer = SERVERS["spec"]["template"]["spec"]["containers"], JOB["spec"]["trainer"]
    name, service = SERVERS["metadata"]["name"], SERVICE["metadata"]["name"]
    port = check_serve([run if word == there else word for word in container["command"]])
    urls = [f"http://{name}-{i}.{service}:{port}" for i in range(SERVERS["spec"]["replicas"])]
    fit = [word.replace(there, run) for word in trainer["command"]]
    nodes, devices = trainer["numNodes"], trainer["numProcPerNode"]
    check_fit(fit, urls, run="/shared/runs/first", nodes=nodes, devices=devices)
    for variable, value in {"NNODES": "2", "NPROC_PER_NODE": "8", "NODE_RANK": "1", "MASTER_ADDR": "lgrpo-0"}.items():
        monkeypatch.setenv(f"PET_{variable}", value)  # as the runtime torch-distributed does
    launch = get_args_parser().parse_args(fit[1:])
    assert (launch.nnodes, launch.nproc_per_node, launch.node_rank) == ("2", "8", 1)
    assert (launch.master_addr, launch.training_script) == ("lgrpo-0", "lgrpo_lightning.cli")
    assert devices == trainer["resourcesPerNode"]["limits"]["nvidia.com/gpu"]
    assert SERVERS["spec"]["serviceName"] == service
    labels = SERVERS["spec"]["template"]["metadata"]["labels"]
    assert SERVICE["spec"]["selector"] == SERVERS["spec"]["selector"]["matchLabels"] == labels


def whole(model: Any, given: Mapping[str, Any]) -> None:
    """All fields of ``given`` are fields of the model, with values of their types."""
    kept = json.loads(model.from_dict(given).to_json())
    assert kept == given


def test_kubeflow_fields() -> None:
    models = pytest.importorskip("kubeflow_trainer_api.models", reason="pip install kubeflow-trainer-api")
    whole(models.TrainerV1alpha1TrainJob, JOB)
    whole(models.IoK8sApiCoreV1Service, SERVICE)
    whole(models.IoK8sApiCoreV1PodTemplateSpec, SERVERS["spec"]["template"])
    documented = {
        "serviceName",
        "replicas",
        "podManagementPolicy",
        "selector",
        "template",
    }  # of apps/v1 StatefulSetSpec
    assert set(SERVERS["spec"]) == documented


def test_skypilot_fields() -> None:
    schemas = pytest.importorskip("sky.utils.schemas", reason="pip install skypilot")
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.validate(SKYPILOT, schemas.get_task_schema())
    jsonschema.validate(SKYPILOT["resources"], schemas.get_resources_schema())


def test_their_first_lines_are_commands() -> None:
    for path in CLUSTER.iterdir():
        first = next(line for line in path.read_text().splitlines() if not line.startswith("#!"))
        assert str(path.relative_to(ROOT)) in shlex.split(first.removeprefix("# "))
