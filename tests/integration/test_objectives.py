"""Whole runs with what stands beside the policy loss: exact resume, two processes, losses by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from lgrpo_lightning import cli
from lgrpo_lightning.policy import Policy, PolicyConfig
from tests.reliability.processes import same
from tests.runs import VALIDATED, checkpoint, fit, lgrpo_arguments, rollouts, train_metrics
from tests.several import commands

SYNC = {
    "model__objective__kl_coef": 0.1,
    "model__objective__reference_sync_steps": 2,
    "model__objective__reference_sync_mix": 0.25,
}
STEERED = {
    "model__objective__entropy_coef": 0.01,
    "model__objective__entropy_target": 0.4,
    "model__objective__entropy_coef_delta": 0.02,
}
RUN: dict[str, object] = {
    "trainer__max_steps": 4,
    "model__updates__iterations": 2,
    "model__optimizer__init_args__lr": 1e-3,
    "model__optimizer__init_args__eps": 1e-5,
    "model__sampling__temperature": 1.5,
} | SYNC | STEERED  # fmt: skip


def state(root: Path) -> dict[str, Any]:
    found: Any = checkpoint(root)["lgrpo"]
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit(tmp_path_factory.mktemp("whole"), **RUN)


def test_the_reference_in_the_checkpoint_is_the_mix_of_policies(whole: Path, tmp_path: Path) -> None:
    """After two steps 1/4 of the policy then, 3/4 of the starting model."""
    run = fit(tmp_path, **RUN | {"trainer__max_steps": 2})
    start = dict(Policy(PolicyConfig(path="lgrpo:arithmetic")).named_parameters())
    weights: Any = checkpoint(run)["state_dict"]
    reference = state(run)["reference"]
    assert reference.keys() == start.keys()
    for name, value in reference.items():
        torch.testing.assert_close(value, 0.75 * start[name].detach() + 0.25 * weights[f"policy.{name}"])
    moved = state(whole)["reference"]
    assert any(not torch.equal(moved[name], value) for name, value in reference.items())


@pytest.mark.long
def test_a_resumed_run_has_the_same_reference_and_bonus(whole: Path, tmp_path: Path) -> None:
    """Stopped inside of a rollout's updates would be another run; stopped between rollouts it is the same."""
    part = fit(tmp_path, **RUN | {"trainer__max_steps": 2})
    assert state(part)["components"]["entropy_bonus"] != state(whole)["components"]["entropy_bonus"]
    fit(part, **RUN, ckpt_path="last")
    for key in ("state_dict", "optimizer_states", "lgrpo", "global_step"):
        same(checkpoint(whole)[key], checkpoint(part)[key], key)
    pd.testing.assert_frame_equal(rollouts(whole), rollouts(part))
    left, right = (train_metrics(r)[["loss", "kl", "entropy_coef"]] for r in (whole, part))
    pd.testing.assert_frame_equal(left, right, check_exact=True)
    assert left["entropy_coef"].max() > 0


def test_a_reference_that_stays_is_in_no_checkpoint(tmp_path: Path) -> None:
    run = fit(tmp_path, trainer__max_steps=1, model__objective__kl_coef=0.1)
    assert "reference" not in state(run)


BOTH = RUN | {
    "model__loss": "GSPO",
    "model__loss__token": "true",
    "model__loss__clip_range_high": 0.01,
    "model__objective__top_entropy": 0.47,
    "model__objective__off_policy_kl": 0.001,
    "data__prompts_per_step": 4,
    "model__policy__layout": "padded",
    "trainer__accelerator": "cpu",
}


PLACES: dict[str, dict[str, object]] = {
    "loss": {"model__objective__kl_place": "loss"},
    "reward": {"model__objective__kl_place": "reward", "model__objective__kl_estimator": "k1"},
}


@pytest.fixture(scope="module", params=["fsdp2", "ddp"])
def two_processes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with the KL penalty in each place."""
    root = tmp_path_factory.mktemp("two")
    shared = BOTH | {"trainer__devices": 2, "trainer__strategy": request.param}
    commands([lgrpo_arguments("fit", root / place, **shared | flags) for place, flags in PLACES.items()])
    return root


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
def test_two_processes_equal_one(place: str, two_processes: Path, tmp_path: Path) -> None:
    one, two = fit(tmp_path, **BOTH | PLACES[place]), two_processes / place
    a, b = rollouts(one), rollouts(two)
    assert list(a["completion"]) == list(b["completion"])
    torch.testing.assert_close(
        torch.tensor(a["reward"].to_numpy()), torch.tensor(b["reward"].to_numpy()), atol=1e-4, rtol=1e-4
    )
    for name in ("loss", "grad_norm", "kl", "entropy_coef", "updates/off_policy_masked"):
        left, right = (torch.tensor(train_metrics(r)[name].to_numpy()) for r in (one, two))
        torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-5, msg=name)
    for part in (lambda r: checkpoint(r)["state_dict"], lambda r: state(r)["reference"]):
        for name, value in part(one).items():
            assert float((value - part(two)[name]).abs().max()) < 5e-6, name
    bonuses = [state(root)["components"]["entropy_bonus"] for root in (one, two)]
    assert bonuses[0] == bonuses[1]


def test_kl_in_the_reward_trains_and_validates_without_it(tmp_path: Path) -> None:
    """It changes the weights, and no reward that is logged, nor validation's."""
    given = VALIDATED | {
        "trainer__max_steps": 2,
        "trainer__val_check_interval": 1,
        "model__validation__at_start": "false",
    }
    rate = {"model__optimizer__init_args__lr": 3e-3}
    flags = {
        "model__objective__kl_coef": 5.0,
        "model__objective__kl_place": "reward",
        "model__objective__kl_estimator": "k1",
    }
    run = fit(tmp_path, **given, **rate, **flags)
    table = train_metrics(run)
    assert table["reward"].iloc[0] == pytest.approx(table["rewards/ExactMatch/mean"].iloc[0], abs=1e-4)
    assert table["kl"].iloc[0] == pytest.approx(0.0, abs=1e-5)  # before the first update
    assert table["reward"].iloc[1] == pytest.approx(table["rewards/ExactMatch/mean"].iloc[1], abs=1e-4)
    assert table["kl"].iloc[1] != 0
    free = fit(tmp_path / "free", trainer__max_steps=2, **rate, **(flags | {"model__objective__kl_coef": 1e-6}))
    weights = [checkpoint(root)["state_dict"] for root in (run, free)]
    assert any(not torch.equal(a, b) for a, b in zip(*(w.values() for w in weights), strict=True))  # type: ignore[attr-defined]
    every = pd.read_csv(run / "metrics.csv")["val/reward"].dropna()
    assert every.between(0, 1).all()


@pytest.mark.parametrize(
    "loss",
    [
        "GSPO",
        "Reinforce",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("GMPO", "CISPO", "SAPO", "LUSPO", "VESPO")),
    ],
)
def test_every_loss_by_its_name(loss: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Under its defaults; the estimator without λ weights, which losses of sequences refuse."""
    flags = {"model__advantage_estimator": "GRPO", "model__loss": loss}
    run = fit(tmp_path, trainer__max_steps=2, model__updates__iterations=2, **flags)
    table = train_metrics(run)
    assert table["loss"].notna().all()
    assert (table["grad_norm"] > 0).any()


def test_losses_are_named_in_yaml_and_by_flags(tmp_path: Path) -> None:
    short = tmp_path / "short.yaml"
    short.write_text(json.dumps({"model": {"loss": {"clip_high": 0.28, "normalizer": "sequence"}}}))
    long = tmp_path / "long.yaml"
    options = {"class_path": "ClippedSurrogate", "init_args": {"clip_high": 0.28, "normalizer": "sequence"}}
    long.write_text(json.dumps({"model": {"loss": options}}))
    flags = ["--model.loss.clip_high=0.28", "--model.loss.normalizer=sequence"]
    seen = []
    for number, words in enumerate(([f"--config={short}"], [f"--config={long}"], flags)):
        root = tmp_path / str(number)
        arguments = lgrpo_arguments("fit", root, trainer__max_steps=1)
        assert cli.main([*arguments, *words]) == 0
        text = (root / "config.yaml").read_text()
        seen.append(text[text.index("  loss:") : text.index("  objective:")])
    assert seen[0] == seen[1] == seen[2]
    assert "clip_high: 0.28" in seen[0]
    assert "clip_low: 0.2" in seen[0]
