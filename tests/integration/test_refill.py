"""Groups of equal rewards are replaced: the same after a kill, and on two processes."""

from pathlib import Path

import pytest

from lgrpo_lightning.training import Updates
from tests.reliability.processes import RUN, check_kill_and_resume, check_two_processes
from tests.runs import fit, rollouts, train_metrics

REFILL = {
    "model__updates__refill_rounds": 2,
    "model__group_size": 3,
    "data__train__init_args__count": 12,
    "data__prompts_per_step": 4,
}
"""Groups of three: about half are all right or all wrong."""


@pytest.mark.long
def test_a_run_shows_all_that_was_sampled_and_trains_what_is_left(tmp_path: Path) -> None:
    root = fit(tmp_path, **REFILL, model__updates__drop_equal_groups="true", trainer__max_steps=4)
    groups = rollouts(root).groupby(["rollout", "prompt_uid"])["reward"].agg(["size", "nunique"])
    trained = rollouts(root).groupby(["rollout", "prompt_uid"])["trained"].first()
    assert (groups["size"] == 3).all()  # nothing is sampled twice in a rollout
    assert (trained == (groups["nunique"] > 1)).all()
    sampled, kept = groups.groupby("rollout").size(), trained.groupby("rollout").sum()
    assert sampled.max() > 4
    assert kept.max() <= 4
    table = train_metrics(root)
    assert table["groups/sampled_per_trained"].tolist() == (sampled / kept).tolist()
    assert table["reward"].tolist() == pytest.approx(rollouts(root).groupby("rollout")["reward"].mean())
    assert table["groups/dropped"].tolist() == pytest.approx((1 - kept / sampled).tolist())


def test_what_is_trained_is_that_of_another_sampling_without_it(tmp_path: Path) -> None:
    """The first groups are those of a run without the option; it adds, and changes no draw."""
    off, on = (
        rollouts(
            fit(
                tmp_path / name,
                **(REFILL | {"model__updates__refill_rounds": n, "model__group_size": 2, "trainer__max_steps": 1}),
            )
        )
        for name, n in (("off", 0), ("on", 2))
    )
    both = off.merge(on, on=["rollout", "prompt_uid", "member"])
    assert len(both) == len(off) < len(on)
    assert (both["completion_x"] == both["completion_y"]).all()


@pytest.mark.long
def test_kill_and_resume(tmp_path: Path) -> None:
    whole = check_kill_and_resume(tmp_path, 2, **RUN | REFILL)
    assert train_metrics(whole)["groups/sampled_per_trained"].max() > 1


@pytest.mark.long
def test_two_processes_equal_one(tmp_path: Path) -> None:
    options = REFILL | {"trainer__max_steps": 4, "model__optimizer__init_args__lr": 1e-3}
    names = ("loss", "reward", "groups/sampled_per_trained", "frac_reward_zero_std")
    one = check_two_processes(tmp_path, *names, **options)
    assert train_metrics(one)["groups/sampled_per_trained"].max() > 1


def test_refuses() -> None:
    with pytest.raises(ValueError, match=r"updates\.refill_rounds is -1; it must be at least 0"):
        Updates(refill_rounds=-1)
