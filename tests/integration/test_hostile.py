"""Whatever components do to generators, working directory, types, gradients and data: training is the same."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import Any

import pandas
import pytest
import torch
from lightning.pytorch import Trainer, seed_everything

from lgrpo_lightning import GRPOModule, PromptDataModule, Sampling
from lgrpo_lightning.policy import PolicyConfig
from lgrpo_lightning.rewards import RewardFunction
from lgrpo_lightning.training import Validation
from tests.integration import hostile


def popping(completions: list[str], answers: list[list[str]], **columns: Any) -> list[float]:
    """A function that takes the answer out of the list it is given."""
    assert not torch.is_grad_enabled()
    assert all(len(a) == 2 for a in answers)
    return [float(a.pop() in c) for c, a in zip(completions, answers, strict=True)]


def fit(root: Path, *, bad: bool, precision: Any = "32-true", ckpt_path: str | None = None, **options: Any) -> Path:
    """Three rollouts with two updates each, with dropout, under a relative root."""
    seed_everything(7)
    module = GRPOModule(
        reward_model=[hostile.Judge(bad), RewardFunction(popping)],
        policy=PolicyConfig(path="lgrpo:arithmetic", dropout=0.1),
        sampler=hostile.Samples(bad),
        segmenter=hostile.Segments(bad),
        advantage_estimator=hostile.Estimates(bad),
        group_size=4,
        sampling=Sampling(max_new_tokens=12),
        validation=Validation(k=1, at_start=False),
    )
    data = PromptDataModule(train=hostile.Rows(bad), validation=hostile.Rows(bad), prompts_per_step=2)
    limits = {"max_steps": 3, "limit_val_batches": 1} | options
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "log_every_n_steps": 1}
    every = {"val_check_interval": 2, "check_val_every_n_epoch": None}
    trainer = Trainer(accelerator="cpu", precision=precision, default_root_dir=root, **limits, **quiet, **every)
    trainer.fit(module, data, ckpt_path=ckpt_path)
    return root


@pytest.mark.long
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_training_is_the_same(
    tmp_path: Path, precision: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    hostile.DRAWN.clear()
    fit(Path("good"), bad=False, precision=precision)
    drawn = hostile.DRAWN.copy()
    hostile.DRAWN.clear()
    hostile.SEEN.clear()
    fit(Path("bad"), bad=True, precision=precision)
    weights = [torch.load(r / "checkpoints" / "last.ckpt", weights_only=True) for r in (Path("good"), Path("bad"))]
    for name, tensor in weights[0]["state_dict"].items():
        assert torch.equal(tensor, weights[1]["state_dict"][name]), name
    good, bad = (pandas.read_csv(r / "metrics.csv") for r in (Path("good"), Path("bad")))
    pandas.testing.assert_series_equal(good["loss"], bad["loss"])
    assert {who for who, _, _ in hostile.SEEN} == {
        "source", "start", "reward_model", "segmenter", "advantage_estimator", "sampler", "sync", "release"
    }  # fmt: skip
    calls = [next(of_one) for _, of_one in groupby(hostile.SEEN, key=lambda seen: seen[0])]
    assert not any(gradients or autocast for _, gradients, autocast in calls), calls
    assert hostile.DRAWN[0] == drawn[0]
    assert len(set(drawn)) > 5, "the same numbers in every call"
    assert torch.get_default_dtype() == torch.float32
    assert Path.cwd() == tmp_path
    stored = pandas.read_parquet(Path("bad") / "rollouts")["columns"]
    assert all('"none"' in columns for columns in stored), "what is stored is the data's"


def test_what_a_reward_draws_goes_on_in_a_resumed_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    hostile.DRAWN.clear()
    fit(Path("whole"), bad=False, limit_val_batches=0)
    whole = hostile.DRAWN.copy()
    fit(Path("part"), bad=False, max_steps=2, limit_val_batches=0)
    hostile.DRAWN.clear()
    fit(Path("part"), bad=False, ckpt_path="part/checkpoints/last.ckpt", limit_val_batches=0)
    assert whole[-len(hostile.DRAWN) :] == hostile.DRAWN
    assert hostile.DRAWN
