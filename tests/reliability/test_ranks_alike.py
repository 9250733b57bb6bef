"""Processes of one run that were given different things are refused, all of them, before the first rollout."""

import json
from pathlib import Path

import pytest

from tests.reliability.processes import RUN, pair

OTHER = {
    "model__group_size": 6,
    "model__updates__mini_batches": 2,
    "model__advantage_estimator": json.dumps({"class_path": "LambdaGRPO", "init_args": {"eps": 0.1}}),
    "model__reward_model": json.dumps(
        [{"class_path": "ExactMatch"}, {"class_path": "FormatMatch", "init_args": {"pattern": "x"}}]
    ),
    "data__train__init_args__count": 8,
    "data__prompts_per_step": 4,
    "seed_everything": 3,
}


@pytest.mark.long
@pytest.mark.parametrize(
    ("second", "said"),
    [
        (
            OTHER,
            [
                "model.group_size is 4 on rank 0, 6 on rank 1",
                "model.updates.mini_batches is 1 on rank 0, 2 on rank 1",
                "model.advantage_estimator.eps is 0.0001 on rank 0, 0.1 on rank 1",
                "model.reward_model.models is 1 long on rank 0, 2 long on rank 1",
                "data.train is prompts ",
                "data.prompts_per_step is 2 on rank 0, 4 on rank 1",
                "seed_everything is 0 on rank 0, 3 on rank 1",
            ],
        ),
        ({"model__optimizer__init_args__lr": 0.5}, ["model.optimizer.lr is 0.0", "0.5 on rank 1"]),
    ],
    ids=["options and data", "learning rate"],
)
def test_another_rank_1(second: dict[str, object], said: list[str], tmp_path: Path) -> None:
    both = pair(tmp_path / "run", second=second, **RUN, trainer__strategy="ddp")
    for run in both:
        assert run.ended(120) == 2, run.said()[-3000:]
        assert "lgrpo: The processes of this run were not given the same:" in run.said()
        for words in said:
            assert words in run.said(), run.said()[-3000:]
    assert not (tmp_path / "run" / "rollouts").exists()
