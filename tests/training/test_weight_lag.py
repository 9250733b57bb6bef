"""Completions from older weights than the policy's are noticed."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from lgrpo_lightning.contracts import RandomKey
from lgrpo_lightning.functional.sampling import Sampling
from lgrpo_lightning.samplers import TransformersSampler
from lgrpo_lightning.types import Group, Prompt
from tests.runs import fit, train_metrics


class StaleSampler(TransformersSampler):
    """Says that its weights are those of the start, as an engine does that is not synchronised."""

    def sample(
        self, prompts: Sequence[Prompt], group_size: int, *, sampling: Sampling, random_key: RandomKey
    ) -> list[Group]:
        groups = super().sample(prompts, group_size, sampling=sampling, random_key=random_key)
        return [replace(g, completions=tuple(replace(r, weight_version=0) for r in g.completions)) for g in groups]


def test_a_sampler_that_does_not_sync(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"older than those it was given; sampling/weight_lag.*sync\(\)"):
        run = fit(tmp_path, model__sampler="tests.training.test_weight_lag.StaleSampler")
    assert train_metrics(run)["sampling/weight_lag"].tolist() == [0, 1, 2]


def test_the_policys_own_sampler(tmp_path: Path) -> None:
    run = fit(tmp_path, model__updates__iterations=2, trainer__max_steps=4)
    assert (train_metrics(run)["sampling/weight_lag"] == 0).all()
