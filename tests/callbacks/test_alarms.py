"""Each alarm on a series of metrics, through a real Trainer; and silence where a run is healthy."""

import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from lgrpo_lightning.callbacks import Alarms, call_rollout_callbacks
from lgrpo_lightning.estimators import LambdaGRPO
from lgrpo_lightning.monitoring.alarm_rules import RULES
from lgrpo_lightning.types import Rewards
from tests.callbacks.stub import Loader, StubModule, batch, fit, group

RECORDED = Path(__file__).parent.parent / "golden" / "quickstart_metrics.csv"
N = 5
HEALTHY: dict[str, float] = {
    "reward_std": 0.4,
    "entropy": 0.6,
    "kl": 0.05,
    "completions/mean_length": 100.0,
    "completions/clipped_ratio": 0.02,
    "frac_reward_zero_std": 0.3,
    "groups/all_right": 0.15,
    "groups/all_wrong": 0.15,
    "rewards/not_applicable": 0.0,
    "grad_norm": 0.2,
    "updates/nonfinite": 0.0,
    "clip_ratio/region_mean": 0.0,
    "sampling/sampling_logp_difference/mean": 0.01,
    "tree/intermediate_proportion": 0.3,
    "rewards/Right/std": 0.4,
    "rewards/Right/no_answer": 0.1,
    "rewards/Style/std": 0.2,
    "time/step": 10.0,
    "time/sample": 5.0,
    "time/reward": 1.0,
}
Series = Callable[[int], dict[str, float]]


class Logged(StubModule):
    """Logs a series of metrics, the ones of rollout ``i`` being ``series(i)``."""

    def __init__(self, series: Series, rollouts: int) -> None:
        super().__init__(rollouts=rollouts)
        self.series = series
        self.advantage_estimator = LambdaGRPO()

    def training_step(self, item: int, batch_idx: int) -> None:
        self.manual_backward(self.weight.sum())
        self.optimizers().step()
        noise = random.Random(self.rollout_index).gauss(0, 0.01)
        metrics = {"reward": 0.3 + noise, **HEALTHY, **self.series(self.rollout_index)}
        text = "again" if metrics.pop("prompts", 0) else str(self.rollout_index)
        one = group([[1], [2]], uid=str(self.rollout_index))
        seen = batch(self.rollout_index, [one], [Rewards(outcome=torch.zeros(2))])
        alone = replace(seen.groups[0], prompt=replace(seen.groups[0].prompt, text=text))
        call_rollout_callbacks(self.trainer, self, replace(seen, groups=(alone,)))
        self.rollout_index += 1
        self.log_dict(metrics, batch_size=1)

    def train_dataloader(self) -> Any:
        return Loader(self.size)


class Sooner(Alarms):
    """A second one beside the first: Lightning tells callbacks that keep a state by their classes."""


def said(
    root: Path, capsys: pytest.CaptureFixture[str], series: Series, *more: Alarms, rollouts: int = 30, **options: Any
) -> list[str]:
    """The alarms of a run."""
    module = Logged(series, rollouts)
    fit(root, Alarms(**{"patience": N} | options), *more, module=module, enable_progress_bar=False)
    lines = capsys.readouterr().out.splitlines()
    return [line for line in lines if line.startswith("Alarm after rollout")]


def from_10(**metrics: float) -> Series:
    return lambda i: metrics if i >= 10 else {}


WRONG = {"groups/all_right": 0.1, "groups/all_wrong": 0.8}
FAULTS: dict[str, tuple[dict[str, float], int, str]] = {
    "entropy": (
        {"entropy": 0.004, **WRONG},
        15,
        "entropy is below 0.02 .0.004. .*80% of the groups .*loss.clip_high",
    ),
    "kl": ({"kl": 2.5}, 16, "KL divergence .* is 2.5 nats per token, above 1. Raise objective.kl_coef"),
    "length": ({"completions/mean_length": 450.0}, 17, "have grown from 100 to 450 tokens without a gain"),
    "clipped": (
        {"completions/clipped_ratio": 0.9},
        15,
        "90% of the completions are cut off .*sampling.max_new_tokens",
    ),
    "dead_groups": (
        {"frac_reward_zero_std": 1.0, "groups/all_right": 0.0, "groups/all_wrong": 1.0, "grad_norm": 0.0},
        16,
        "100% of the groups have equal rewards .* all wrong .100%.*easier",
    ),
    "not_applicable": (
        {
            "rewards/not_applicable": 1.0,
            "frac_reward_zero_std": 1.0,
            "groups/all_right": 0.0,
            "groups/all_wrong": 0.0,
        },
        15,
        "no reward applies to 100% of the completions.*rewards/<name>/errors",
    ),
    "gradient": ({"grad_norm": 0.0}, 15, "norm is 0 although the groups' rewards differ.*clip_ratio"),
    "nonfinite": ({"updates/nonfinite": 0.5}, 17, "of the optimizer steps were dropped.*bf16-mixed"),
    "no_answer": ({"rewards/Right/no_answer": 1.0}, 15, "Right finds no answer in .* of the completions"),
    "drift": ({"sampling/sampling_logp_difference/mean": 0.5}, 15, "nats per token away from the policy's"),
    "rate": ({"reward": -0.5}, 18, "the reward fell from 0.31, its best over 5 rollouts.*too large"),
    "clip_region": ({"clip_ratio/region_mean": 0.9}, 15, "have their gradient cut by clipping"),
    "drowned": ({"rewards/Right/std": 40.0}, 15, "Right varies .* times as much as Style.*reward_weights"),
    "repeated": ({"prompts": 1}, 17, "of the prompts seen are in the data more than once"),
    "unshared": (
        {"tree/intermediate_proportion": 0.0},
        19,
        "share only 0.0% of their tokens.*DelimiterSegmenter",
    ),
    "reward_time": ({"time/reward": 9.0}, 17, "rewards take .* of the 10.0 s of a rollout"),
    "sampling_time": ({"time/sample": 9.9}, 19, "sampling takes .* of the 10.0 s of a rollout.*VLLMSampler"),
}


def test_every_alarm_has_its_test() -> None:
    assert set(FAULTS) == {rule.name for rule in RULES} == set(Alarms().thresholds)


@pytest.mark.parametrize("name", FAULTS)
def test_named_once_with_what_to_change(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metrics, at, text = FAULTS[name]
    (line,) = said(tmp_path / "on", capsys, from_10(**metrics), rollouts=at + 10)
    assert pd.Series([line]).str.contains(text, regex=True).all(), line
    assert line.startswith(f"Alarm after rollout {at}: "), line
    assert not said(tmp_path / "off", capsys, from_10(**metrics), rollouts=at + 1, thresholds={name: None})


def test_groups_that_are_all_right_are_another_cause(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    equal = {"frac_reward_zero_std": 1.0}
    (line,) = said(tmp_path, capsys, from_10(**equal, **{"groups/all_right": 1.0, "groups/all_wrong": 0.0}))
    assert "all right (100%). The task is solved" in line
    both = {"groups/all_right": 0.5, "groups/all_wrong": 0.5}
    (line,) = said(tmp_path, capsys, from_10(**equal, **both))
    assert "50% all right, 50% all wrong. Take prompts of middling difficulty" in line


def test_length_that_collapses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = said(tmp_path, capsys, from_10(**{"completions/mean_length": 20.0}))
    assert "have shrunk from 100 to 20 tokens" in line


@pytest.mark.long
def test_again_only_after_it_was_away(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def comes_and_goes(i: int) -> dict[str, float]:
        away = 20 <= i < 23 or 30 <= i < 36  # shorter than the patience, and longer
        return {"rewards/not_applicable": 0.0 if i < 10 or away else 0.8}

    lines = said(tmp_path, capsys, comes_and_goes, rollouts=60)
    assert [line.split(":")[0] for line in lines] == ["Alarm after rollout 15", "Alarm after rollout 41"]


def test_one_bad_rollout_is_no_alarm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def spikes(i: int) -> dict[str, float]:
        bad = {k: v for metrics, _, _ in FAULTS.values() for k, v in metrics.items() if k != "kl"}
        return bad if i % 10 == 9 else {}

    assert not said(tmp_path, capsys, spikes)


def test_what_was_said_is_not_said_again_after_a_resume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    series = from_10(**{"rewards/not_applicable": 0.8, "completions/mean_length": 450.0})
    first = said(tmp_path, capsys, series, rollouts=16)
    assert len(first) == 1
    module = Logged(series, 40)
    module.train_dataloader = lambda: Loader(40)  # type: ignore[method-assign]
    fit(tmp_path, Alarms(patience=N), module=module, ckpt_path="last", max_epochs=2, enable_progress_bar=False)
    lines = [x for x in capsys.readouterr().out.splitlines() if x.startswith("Alarm")]
    assert len(lines) == 1
    assert "have grown from 100 to" in lines[0]


SOLVED = {"groups/all_right": 0.9, "groups/all_wrong": 0.02, "frac_reward_zero_std": 0.92, "entropy": 0.005}


@pytest.mark.parametrize(
    "series",
    [
        lambda i: {"reward": min(0.3 + i / 50, 0.98), "entropy": 0.6 * 0.9**i},
        lambda i: SOLVED | {"reward": 0.98} if i > 20 else {"reward": 0.3 + i / 30},
        lambda i: {"reward": 0.3 + i / 100, "completions/mean_length": 100 * 1.05**i},
        lambda i: {"reward": min(0.3 + i / 20, 0.9), "completions/mean_length": max(100 * 0.9**i, 20)},
        lambda i: {"reward": 0.2 + i / 100, "completions/clipped_ratio": 0.7},
        lambda i: {"reward": math.nan} | dict.fromkeys(HEALTHY, math.nan),
        lambda i: {},
    ],
    ids=[
        "learns",
        "solved",
        "longer and better",
        "shorter and better",
        "cut off and learns",
        "nothing known",
        "flat",
    ],
)
def test_silence_where_nothing_is_wrong(series: Series, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not said(tmp_path, capsys, series, rollouts=40)


@pytest.mark.long
def test_silence_in_the_quickstart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The metrics of ``configs/quickstart.yaml`` as they were recorded: entropy falls to 0.01 as it is solved."""
    table = pd.read_csv(RECORDED)
    assert table["entropy"].min() < Alarms().thresholds["entropy"]
    recorded = [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]
    assert not said(tmp_path, capsys, recorded.__getitem__, Sooner(patience=5), rollouts=len(recorded), patience=20)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"patience": 0}, "at least 1"),
        ({"thresholds": {"length": 1.0}}, "above 1, or null"),
        ({"thresholds": {"lenght": 3.0}}, "possible are nonfinite, not_applicable"),
        ({"thresholds": {"kl": "high"}}, "thresholds.kl is 'high'; it must be a number, or null"),
    ],
)
def test_impossible_settings(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Alarms(**options)
