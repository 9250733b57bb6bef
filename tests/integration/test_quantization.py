"""Runs with a base model in 4 or 8 bits: they train the adapter alone, resume bit for bit, and export."""

import signal
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from lgrpo_lightning import cli
from lgrpo_lightning.policy import Policy, PolicyConfig
from tests.integration.test_export import TRAIN
from tests.models import make_model
from tests.reliability.processes import RUN, Run, finished, same_run
from tests.runs import checkpoint, fit, lgrpo, lgrpo_arguments, train_metrics
from tests.several import commands

LORA = {"model__policy__lora__rank": 4, "model__policy__lora__alpha": 8}
needs_bitsandbytes = pytest.mark.skipif(
    find_spec("bitsandbytes") is None, reason="needs bitsandbytes (the extra quantization)"
)


@needs_bitsandbytes
@pytest.mark.long
@pytest.mark.parametrize(("kind", "layout"), [("nf4", "tree"), ("nf4", "prefix"), ("int8", "padded")])
def test_a_run_learns(kind: str, layout: str, model_folder: Callable[..., Path], tmp_path: Path) -> None:
    """With the KL penalty towards the base, which is the adapter switched off."""
    run = fit(
        tmp_path / "run",
        model__policy__path=model_folder("llama"),
        model__policy__quantization=kind,
        model__policy__layout=layout,
        model__objective__kl_coef=0.001,
        trainer__max_steps=16,
        **LORA,
        **TRAIN,
    )
    assert all("lora_" in name for name in checkpoint(run)["state_dict"])  # type: ignore[attr-defined]
    found = train_metrics(run)
    assert found["kl"].iloc[0] == pytest.approx(0, abs=1e-6)
    assert found["kl"].iloc[-1] > 0
    assert found["reward"].iloc[-4:].mean() > found["reward"].iloc[:4].mean()
    assert cli.main(["export", str(run), str(tmp_path / "merged")]) == 0
    assert cli.main(["export", str(run), str(tmp_path / "adapter"), "--adapter"]) == 0
    merged = Policy(PolicyConfig(path=str(tmp_path / "merged"))).model
    base = Policy(PolicyConfig(path=str(model_folder("llama")))).model
    state = checkpoint(run)["state_dict"]
    name = "model.layers.0.self_attn.q_proj"
    a, b = (state[f"policy.model.{name}.lora_{x}.default.weight"] for x in "AB")  # type: ignore[index]
    expected = base.get_submodule(name).weight + 2 * b @ a
    torch.testing.assert_close(merged.get_submodule(name).weight, expected, atol=1e-6, rtol=0)


@needs_bitsandbytes
@pytest.mark.long
def test_kill_and_resume(tmp_path: Path) -> None:
    run_options = RUN | LORA | {"model__policy__quantization": "nf4"}
    whole = finished(tmp_path / "whole", **run_options)
    root = tmp_path / "run"
    run = Run(root, **run_options)
    deadline = time.monotonic() + 200
    while not (root / "rollouts" / "rollout-000002-rank-000.parquet").exists():
        assert run.status() is None, "the run ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    run.signalled(signal.SIGKILL)
    assert run.ended() == -signal.SIGKILL
    finished(root, log="2", **run_options, ckpt_path="last")
    same_run(whole, root)


@needs_bitsandbytes
@pytest.mark.long
def test_two_processes_give_what_one_gives(tmp_path: Path) -> None:
    options: dict[str, object] = LORA | {
        "model__policy__path": make_model("llama", tmp_path / "model"),
        "model__policy__quantization": "nf4",
        "model__optimizer__init_args__eps": 1e-5,
        "trainer__max_steps": 2,
    }
    one = fit(tmp_path / "one", **options)
    commands([lgrpo_arguments("fit", tmp_path / "two", trainer__devices=2, trainer__strategy="ddp", **options)])
    first, second = (checkpoint(root)["state_dict"] for root in (one, tmp_path / "two"))
    for name, tensor in first.items():  # type: ignore[attr-defined]
        torch.testing.assert_close(second[name], tensor, atol=2e-5, rtol=0)  # type: ignore[index]


def test_fsdp2_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen: dict[str, object] = {"trainer__strategy": "fsdp2", "trainer__accelerator": "cpu"}
    assert lgrpo("fit", tmp_path, model__policy__quantization="nf4", **chosen, **LORA)
    assert "policy.quantization is 'nf4', and trainer.strategy fsdp2 divides weights" in capsys.readouterr().err
