"""Several GPUs: what one gives, and everything together."""

from pathlib import Path

import pytest
import torch

from tests.gpu.machine import needs_gpus, needs_vllm, started
from tests.runs import checkpoint, rollouts, train_metrics

pytestmark = [pytest.mark.gpu, needs_gpus(2)]
RUN = {
    "trainer__max_steps": 4,
    "model__updates__iterations": 2,
    "model__optimizer__init_args__eps": 1e-5,
    "model__objective__kl_coef": 0.04,
    "data__prompts_per_step": 4,
}


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
@pytest.mark.parametrize("layout", ["padded", "tree"])
def test_two_gpus_equal_one(strategy: str, layout: str, tmp_path: Path) -> None:
    one = started(tmp_path / "one", **RUN, trainer__devices=1, model__policy__layout=layout)
    two = started(tmp_path / "two", **RUN, trainer__devices=2, trainer__strategy=strategy, model__policy__layout=layout)
    first = [rollouts(run).query("rollout == 0")["completion"].tolist() for run in (one, two)]
    assert first[0] == first[1]
    a, b = (train_metrics(run) for run in (one, two))
    assert a["loss"].iloc[0] == pytest.approx(b["loss"].iloc[0], rel=1e-3, abs=1e-5)
    assert a["grad_norm"].iloc[0] == pytest.approx(b["grad_norm"].iloc[0], rel=1e-3)


def test_fsdp2_in_mixed_precision(tmp_path: Path) -> None:
    run = started(tmp_path, **RUN, trainer__devices=2, trainer__strategy="fsdp2", trainer__precision="bf16-mixed")
    weights = checkpoint(run)["state_dict"]
    assert all(t.dtype == torch.float32 for t in weights.values())  # type: ignore[attr-defined]
    assert train_metrics(run)["loss"].notna().all()


@needs_vllm
@pytest.mark.parametrize("lora", [False, True], ids=["all weights", "LoRA"])
def test_fsdp2_bf16_vllm_and_trees(lora: bool, tmp_path: Path) -> None:
    """Everything at once: sharded bf16 training on trees, an engine on each GPU that sleeps in between."""
    engine = {"dtype": "bfloat16", "gpu_memory_utilization": 0.2}
    sampler = {
        "class_path": "VLLMSampler",
        "init_args": {"engine": engine, "check_every": 1, "sleep_level": 2},
    }
    run = started(
        tmp_path,
        **RUN,
        **({"model__policy__lora__rank": 8} if lora else {}),
        trainer__devices=2,
        trainer__strategy="fsdp2",
        trainer__precision="bf16-mixed",
        model__policy__layout="tree",
        model__sampler=sampler,
    )
    table = train_metrics(run)
    assert (table["sampling/weight_lag"] == 0).all()
    assert table["tree/token_ratio"].max() < 1
    assert sorted(rollouts(run)["rollout"].unique()) == [0, 1]


@needs_vllm
def test_an_engine_over_two_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensor parallelism inside the engine; weights go to its worker processes as files."""
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "0|1")  # unused on CUDA
    engine = {"tensor_parallel_size": 2, "gpu_memory_utilization": 0.2}
    sampler = {"class_path": "VLLMSampler", "init_args": {"engine": engine, "check_every": 1}}
    run = started(tmp_path, trainer__devices=1, model__sampler=sampler)
    assert len(train_metrics(run)) == 3
