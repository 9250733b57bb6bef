"""Two real processes give what one gives."""

from pathlib import Path

import pandas as pd
import pytest
import torch

from tests.runs import checkpoint, fit, lgrpo_arguments, rollouts, train_metrics
from tests.several import commands

RUN = {
    "trainer__max_steps": 4,
    "model__updates__iterations": 2,
    "model__optimizer__init_args__eps": 1e-5,
    "model__optimizer__init_args__lr": 1e-3,
    "model__objective__kl_coef": 0.04,
    "model__group_size": 4,
    "data__prompts_per_step": 4,
}


def two_processes(root: Path, **extra: object) -> Path:
    commands([lgrpo_arguments("fit", root, **(RUN | {"trainer__devices": 2} | extra))])
    return root


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit(tmp_path_factory.mktemp("one"), **RUN)


@pytest.mark.slow  # test_exact_devices.py and test_fsdp2.py see the same on the same rollouts
@pytest.mark.parametrize(("strategy", "layout"), [("ddp", "tree"), ("ddp", "padded"), ("fsdp2", "tree")])
def test_two_processes_equal_one(strategy: str, layout: str, one: Path, tmp_path: Path) -> None:
    two = two_processes(tmp_path, trainer__strategy=strategy, model__policy__layout=layout)
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
