"""Rollouts ahead: drawn from the weights of exactly k rollouts before, whoever is faster."""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lgrpo_lightning import Group, ProcessTree, RewardModel
from lgrpo_lightning.contracts import RandomKey
from lgrpo_lightning.functional.sampling import Sampling
from lgrpo_lightning.types import Progress, Prompt
from tests.reliability.processes import same_run
from tests.runs import VALIDATED, checkpoint, fit, lgrpo, rollouts, train_metrics
from tests.samplers.apart import ApartSampler, OwnWeights

APART = "tests.samplers.apart.ApartSampler"
HERE = "tests.integration.test_rollouts_ahead"
SLOW = pytest.mark.slow
LONG = {"trainer__max_steps": 6, "model__updates__iterations": 1}
TWICE = {"trainer__max_steps": 10, "model__updates__iterations": 2}


class Behind(ApartSampler):
    """Draws with nothing in flight from the weights that it was given ``behind`` times before."""

    def __init__(self, behind: int = 1) -> None:
        super().__init__()
        self.behind = behind
        self.given: deque[OwnWeights] = deque(maxlen=behind + 1)
        self.find_newest: OwnWeights | None = None

    def sync(self, version: int) -> None:
        if self.find_newest is None or self.find_newest.version != version:
            self.find_newest = OwnWeights(self.source._source)
            self.find_newest.take(version)

    def sample(
        self, prompts: Sequence[Prompt], group_size: int, *, sampling: Sampling, random_key: RandomKey
    ) -> list[Group]:
        assert self.find_newest is not None
        newest, source = self.find_newest, self.source
        if random_key.phase == "train":
            self.given.append(newest)
            newest = self.given[0]
        self.source = newest
        try:
            return super().sample(prompts, group_size, sampling=sampling, random_key=random_key)
        finally:
            self.source = source


class Slow(RewardModel):
    """Takes a while, longer for some; the length of the completion is what it pays."""

    def __init__(self, seconds: float = 0.1) -> None:
        self.seconds = seconds
        self.seen: list[tuple[int, int, int]] = []

    def start(self, progress: Progress) -> None:
        self.seen.append((progress.rollout, progress.global_step, progress.epoch))

    def score(self, group: Group, tree: ProcessTree) -> Tensor:
        time.sleep(random.SystemRandom().random() * self.seconds)
        return torch.tensor([float(len(r) % 3) for r in group.completions])


@pytest.mark.long
@pytest.mark.parametrize(
    ("count", "options"), [pytest.param(1, LONG, marks=SLOW), (2, TWICE), pytest.param(3, LONG, marks=SLOW)]
)
def test_the_weights_are_those_of_exactly_k_rollouts_before(
    count: int, options: dict[str, Any], tmp_path: Path
) -> None:
    run = fit(tmp_path, model__sampler=APART, model__updates__rollouts_ahead=count, **options)
    steps = options["model__updates__iterations"]
    drawn = rollouts(run).groupby("rollout")["weight_version"].unique()
    assert [list(v) for v in drawn] == [[max(0, n - count) * steps] for n in range(len(drawn))]
    lag = [min(n, count) * steps for n in range(len(drawn))]
    table = train_metrics(run)
    assert table["sampling/weight_lag"].tolist() == lag
    assert (table["time/trainer_idle"] >= 0).all()
    assert (table["time/sampler_idle"][1:] >= 0).all()


@pytest.mark.long
@pytest.mark.parametrize("count", [pytest.param(1, marks=SLOW), 2])
def test_it_is_the_run_that_draws_old_weights_one_after_the_other(count: int, tmp_path: Path) -> None:
    """Same prompts, noise, credit, importance correction and weights, to the bit; with validations in between."""
    options = TWICE | VALIDATED | {"data__validation__init_args__count": 1}
    ahead = fit(tmp_path / "ahead", model__sampler=APART, model__updates__rollouts_ahead=count, **options)
    behind = {"class_path": f"{HERE}.Behind", "init_args": {"behind": count}}
    with pytest.warns(UserWarning, match="older than those it was given"):
        serial = fit(tmp_path / "serial", model__sampler=behind, **options)
    left, right = checkpoint(ahead), checkpoint(serial)
    for name, weight in left["state_dict"].items():  # type: ignore[attr-defined]
        assert torch.equal(weight, right["state_dict"][name]), name  # type: ignore[index]
    same = ["rollout", "prompt_uid", "member", "completion", "reward", "advantage", "weight_version"]
    assert rollouts(ahead)[same].equals(rollouts(serial)[same])
    names = ["loss", "sampling/weight_lag", "sampling/importance_sampling_ratio/mean", "grad_norm"]
    assert train_metrics(ahead)[names].equals(train_metrics(serial)[names])
    assert (train_metrics(ahead)["sampling/importance_sampling_ratio/mean"][count:] != 1).all()


@pytest.mark.long
@pytest.mark.parametrize("count", [pytest.param(1, marks=SLOW), 2])
def test_who_is_faster_does_not_matter(count: int, tmp_path: Path) -> None:
    options = LONG | {"model__updates__rollouts_ahead": count}

    def run(name: str, *, sampling: float, rewards: float) -> Path:
        parts = {
            "model__sampler": {"class_path": APART, "init_args": {"seconds": sampling}},
            "model__reward_model": {"class_path": f"{HERE}.Slow", "init_args": {"seconds": rewards}},
        }
        return fit(tmp_path / name, **options | parts)

    same_run(run("slow rewards", sampling=0.0, rewards=0.2), run("slow sampler", sampling=0.2, rewards=0.0))


def test_over_epochs_and_up_to_the_last(tmp_path: Path) -> None:
    """No rollout is drawn that nobody trains on, where that is sure; each reward knows where it is."""
    from lightning.pytorch import Trainer

    from lgrpo_lightning import GRPOModule, PromptDataModule
    from lgrpo_lightning.data.arithmetic import ArithmeticTasks
    from lgrpo_lightning.policy import PolicyConfig
    from lgrpo_lightning.training import Updates

    reward = Slow(0.0)
    module = GRPOModule(
        reward,
        PolicyConfig(path="lgrpo:arithmetic"),
        ApartSampler(),
        group_size=2,
        sampling=Sampling(max_new_tokens=16),
        updates=Updates(rollouts_ahead=2),
    )
    data = PromptDataModule(train=ArithmeticTasks(count=6), prompts_per_step=2)
    trainer = Trainer(max_epochs=2, accelerator="cpu", default_root_dir=tmp_path, logger=False)
    trainer.fit(module, datamodule=data)
    assert reward.seen == [(0, 0, 0), (1, 0, 0), (2, 0, 0), (3, 1, 1), (4, 2, 1), (5, 3, 1)]
    assert len(rollouts(tmp_path).groupby("rollout")) == 6
    assert rollouts(tmp_path)["weight_version"].max() == 3
    trainer.fit_loop.max_epochs = 3  # goes on where it was
    trainer.fit(module, datamodule=data)
    assert [seen[:2] for seen in reward.seen[6:]] == [(6, 4), (7, 5), (8, 6)]


@pytest.mark.long
def test_what_nobody_waits_for_is_abandoned(tmp_path: Path) -> None:
    """Where it is not sure that a rollout is the last one, the next ones are drawn, and given up at the end."""
    from lightning.pytorch import Trainer

    from lgrpo_lightning import GRPOModule, PromptDataModule
    from lgrpo_lightning.data.arithmetic import ArithmeticTasks
    from lgrpo_lightning.policy import PolicyConfig
    from lgrpo_lightning.training import Updates

    reward, tasks = Slow(0.0), ArithmeticTasks(count=20)
    module = GRPOModule(
        reward,
        PolicyConfig(path="lgrpo:arithmetic"),
        ApartSampler(0.5),
        group_size=2,
        sampling=Sampling(max_new_tokens=16),
        updates=Updates(rollouts_ahead=1, on_nonfinite="skip"),
    )
    data = PromptDataModule(train=tasks, validation=tasks, prompts_per_step=2)
    trainer = Trainer(max_steps=2, max_epochs=-1, accelerator="cpu", default_root_dir=tmp_path, logger=False)
    trainer.fit(module, datamodule=data)
    first = [seen[0] for seen in reward.seen]
    assert first[:3] == [0, 0, 1]  # the validation at the start is told, too
    assert not [t for t in threading.enumerate() if t.name.startswith("rollout ")]
    trainer.validate(module, datamodule=data)
    trainer.fit_loop.epoch_loop.max_steps = 3
    trainer.fit(module, datamodule=data)
    assert 2 in [seen[0] for seen in reward.seen[len(first) :]]
    assert module.rollout_index >= 3


@pytest.mark.long
def test_resumed_with_another_number(tmp_path: Path) -> None:
    half = LONG | {"trainer__max_steps": 3}
    for before, after in ((0, 2), (2, 1)):
        root = tmp_path / f"{before}-{after}"
        fit(root, model__sampler=APART, model__updates__rollouts_ahead=before, **half)
        run = fit(root, model__sampler=APART, model__updates__rollouts_ahead=after, ckpt_path="last", **LONG)
        versions = rollouts(run).groupby("rollout")["weight_version"].first()
        assert versions.tolist()[3 + after :] == [n - after for n in range(3 + after, 6)]
        assert all(v <= n for n, v in versions.items())


@pytest.mark.long
def test_an_adapter(tmp_path: Path) -> None:
    lora = {"rank": 2, "alpha": 4}
    options = LONG | {
        "model__sampler": APART,
        "model__updates__rollouts_ahead": 1,
        "model__policy__lora": lora,
    }
    options |= {"trainer__max_steps": 4}
    whole = fit(tmp_path / "whole", **options)
    fit(tmp_path / "run", **options | {"trainer__max_steps": 2})
    same_run(whole, fit(tmp_path / "run", ckpt_path="last", **options))
    kept = checkpoint(whole)["lgrpo_earlier_weights"]
    assert all("lora" in name for name in kept[0]["tensors"])  # type: ignore[index]


REFUSED = {
    "policy": ({"model__sampler": "TransformersSampler"}, "the policy's own model, which is being trained"),
    "inside": (
        {"model__sampler": {"class_path": "ForkingSampler"}},
        "ForkingSampler draws with TransformersSampler draws with the policy's own",
    ),
    "engine": ({"model__sampler": "VLLMSampler"}, "VLLMSampler has its engine in this process"),
    "sleep": (
        {
            "model__sampler": {
                "class_path": "VLLMSampler",
                "init_args": {"server": {"urls": ["http://x"]}, "sleep_level": 1},
            }
        },
        "there is no between",
    ),
    "truncated": ({"model__sampling__top_p": 0.9}, "cannot correct for that"),
    "refill": ({"model__updates__refill_rounds": 1}, "updates.refill_rounds: 0"),
    "curriculum": ({"data__curriculum": "{}"}, "data.curriculum"),
    "negative": ({"model__updates__rollouts_ahead": -1}, "must be at least 0"),
    "state": ({"model__reward_model": f"{HERE}.Counting"}, "Counting keeps a state"),
}


class Counting(Slow):
    """Keeps a state."""

    def state_dict(self) -> dict[str, Any]:
        return {}


@pytest.mark.parametrize("case", sorted(REFUSED))
def test_refused_with_the_reason(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes, reason = REFUSED[case]
    assert lgrpo("fit", tmp_path, **{"model__sampler": APART, "model__updates__rollouts_ahead": 1} | changes) != 0
    said = " ".join(capsys.readouterr().err.split())
    assert reason in said
    assert not list(tmp_path.glob("rollouts/*"))


class Wrong(Slow):
    """A mistake in the fourth rollout."""

    def score(self, group: Group, tree: ProcessTree) -> Tensor:
        if len(self.seen) == 4:
            raise ValueError("a mistake in a reward")
        return super().score(group, tree)


def test_a_mistake_in_flight_ends_the_run_where_it_is_needed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = LONG | {"model__sampler": APART, "model__updates__rollouts_ahead": 2}
    assert lgrpo("fit", tmp_path, model__reward_model=f"{HERE}.Wrong", **options) != 0
    said = capsys.readouterr()
    assert "a mistake in a reward" in said.err
    assert "Resume with --ckpt_path last" in said.out + said.err
    assert checkpoint(tmp_path)["lgrpo"]["rollout_index"] >= 1  # type: ignore[index]


class Once(Slow):
    """Fails once, in the second rollout."""

    def __init__(self) -> None:
        super().__init__(0.0)
        self.failed = False

    def score(self, group: Group, tree: ProcessTree) -> Tensor:
        if self.seen and self.seen[-1][0] == 1 and not self.failed:
            self.failed = True
            raise ValueError("an old mistake")
        return super().score(group, tree)


def parts(reward: RewardModel, sampler: ApartSampler, **updates: Any) -> tuple[Any, Any]:
    """A module and its data, in this process."""
    from lgrpo_lightning import GRPOModule, PromptDataModule
    from lgrpo_lightning.data.arithmetic import ArithmeticTasks
    from lgrpo_lightning.policy import PolicyConfig
    from lgrpo_lightning.training import Updates

    module = GRPOModule(
        reward, PolicyConfig(path="lgrpo:arithmetic"), sampler,
        group_size=2, sampling=Sampling(max_new_tokens=16), updates=Updates(**updates),
    )  # fmt: skip
    tasks = ArithmeticTasks(count=8)
    return module, PromptDataModule(train=tasks, test=tasks, validation=tasks, prompts_per_step=2)


def trainer(root: Path, **options: Any) -> Any:
    from lightning.pytorch import Trainer

    return Trainer(accelerator="cpu", default_root_dir=root, logger=False, max_epochs=-1, **options)


def test_a_run_that_failed_leaves_nothing_to_the_next(tmp_path: Path) -> None:
    module, data = parts(reward := Once(), ApartSampler(), rollouts_ahead=2)
    with pytest.raises(ValueError, match="an old mistake"):
        trainer(tmp_path / "1", max_steps=4).fit(module, datamodule=data)
    trainer(tmp_path / "2").test(module, datamodule=data)
    reward.seen.clear()
    trainer(tmp_path / "2", max_steps=4).fit(module, datamodule=data)
    at_start, *drawn, at_end = [seen[0] for seen in reward.seen]
    assert (at_start, drawn, at_end) == (0, [0, 1, 2, 3], 4)
    assert not [t for t in threading.enumerate() if t.name.startswith("rollout ")]


def test_the_last_validation_does_not_wait_for_rollouts_for_nobody(tmp_path: Path) -> None:
    class Stops(Slow):
        def start(self, progress: Progress) -> None:
            super().start(progress)
            if progress.rollout == 1 and threading.current_thread() is not threading.main_thread():
                raise ValueError("in a rollout for nobody")

    module, data = parts(Stops(0.0), ApartSampler(0.5), rollouts_ahead=1, on_nonfinite="skip")
    trainer(tmp_path, max_steps=1).fit(module, datamodule=data)
    assert module.rollout_index == 1


class Draws(Slow):
    """Draws from the process's generator."""

    def score(self, group: Group, tree: ProcessTree) -> Tensor:
        return super().score(group, tree) + random.random()


def test_draws_from_the_process_are_warned_of(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="draws from the process's generator of python"):
        fit(
            tmp_path,
            model__sampler=APART,
            model__updates__rollouts_ahead=1,
            model__reward_model=f"{HERE}.Draws",
        )


def test_weights_alone_are_saved_without_earlier_ones(tmp_path: Path) -> None:
    module, data = parts(Slow(0.0), ApartSampler(), rollouts_ahead=1)
    run = trainer(tmp_path, max_steps=2)
    run.fit(module, datamodule=data)
    run.save_checkpoint(tmp_path / "weights.ckpt", weights_only=True)
    run.save_checkpoint(tmp_path / "all.ckpt")
    names = [torch.load(tmp_path / f, weights_only=True).keys() for f in ("weights.ckpt", "all.ckpt")]
    assert ["lgrpo_earlier_weights" in found for found in names] == [False, True]
