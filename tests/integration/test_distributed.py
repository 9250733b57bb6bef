"""Two real processes give what one gives."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from tests.runs import checkpoint, lgrpo_arguments, rollouts, train_metrics

RUN = {
    "trainer__max_steps": 4,
    "model__updates__iterations": 2,
    "model__optimizer__init_args__eps": 1e-5,
    "model__optimizer__init_args__lr": 1e-3,
    "model__objective__kl_coef": 0.04,
    "model__group_size": 4,
    "data__prompts_per_step": 4,
}


def run(root: Path, **extra: object) -> Path:
    arguments = lgrpo_arguments("fit", root, **(RUN | extra))
    done = subprocess.run(
        [sys.executable, "-m", "lgrpo_lightning.cli", *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    return root


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("one"))


@pytest.mark.parametrize(
    ("strategy", "layout"),
    [
        pytest.param("ddp", "tree", marks=pytest.mark.slow),
        ("ddp", "padded"),
        ("fsdp2", "tree"),
    ],
)
def test_two_processes_equal_one(strategy: str, layout: str, one: Path, tmp_path: Path) -> None:
    two = run(tmp_path, trainer__devices=2, trainer__strategy=strategy, model__policy__layout=layout)
    a, b = rollouts(one), rollouts(two)
    pd.testing.assert_frame_equal(a, b, check_exact=False, atol=1e-4)
    assert list(a["completion"]) == list(b["completion"])
    for name in ("loss", "grad_norm", "reward", "kl"):
        left, right = (torch.tensor(train_metrics(r)[name].to_numpy()) for r in (one, two))
        torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-5)
    for (name, x), y in zip(
        checkpoint(one)["state_dict"].items(),
        checkpoint(two)["state_dict"].values(),
        strict=True,  # type: ignore[attr-defined]
    ):
        assert (x - y).abs().max() < 5e-6, name
