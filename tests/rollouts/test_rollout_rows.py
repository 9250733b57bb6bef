import json
import math

import torch

from lgrpo_lightning.rollouts.rollout_rows import build_rows, build_table
from lgrpo_lightning.types import Rewards
from tests.callbacks.stub import batch, group, simple_batch

NAN = math.nan


def test_a_row_per_completion_with_what_every_stage_said() -> None:
    rows = build_table(simple_batch(4)).to_pylist()
    assert [row["completion"] for row in rows] == ["1 2 3", "1 2 4", "5"]
    assert [row["member"] for row in rows] == [0, 1, 2]
    first = rows[0]
    assert (first["rollout"], first["prompt_uid"], first["prompt"]) == (4, "p4r0", "say p4r0")
    assert (first["token_ids"], first["length"], first["finish_reason"]) == ([1, 2, 3], 3, "stop")
    assert (first["weight_version"], first["trained"]) == (7, True)
    assert [row["reward"] for row in rows] == [row["reward/exact"] for row in rows] == [1.0, 0.0, 0.5]
    assert [row["advantage"] for row in rows] == [0.5, -0.5, 0.0]


def test_summary_of_the_process_sets() -> None:
    rows = build_table(simple_batch(0)).to_pylist()  # |λ| is [2, 2, 1], [2, 2, 1], [1]
    assert [round(row["set_size_mean"], 4) for row in rows] == [1.6667, 1.6667, 1.0]
    assert [row["shared_tokens"] for row in rows] == [2, 2, 0]
    assert [row["path_depth"] for row in rows] == [1, 1, 0]


def test_step_rewards_are_those_of_the_completions_own_steps() -> None:
    rewards = Rewards(outcome=torch.tensor([1.0, 0.0, 0.5]), steps=torch.tensor([0.1, 0.2, 0.3, 0.4]))
    made = batch(0, [group([[1, 2, 3], [1, 2, 4], [5]])], [rewards])
    steps = [row["step_rewards"] for row in build_rows(made)]
    assert torch.tensor(steps[0]).tolist() == torch.tensor([0.1, 0.2]).tolist()
    assert torch.tensor(steps[1]).tolist() == torch.tensor([0.1, 0.3]).tolist()
    assert torch.tensor(steps[2]).tolist() == torch.tensor([0.4]).tolist()


def test_what_does_not_apply_is_nan_not_zero() -> None:
    rewards = Rewards(outcome=torch.tensor([1.0, NAN]), parts={"a": torch.tensor([NAN, 2.0])})
    other = Rewards(outcome=torch.tensor([0.0, 1.0]), parts={"b": torch.tensor([0.0, 1.0])})
    made = batch(0, [group([[1], [2]]), group([[1], [2]], uid="q")], [rewards, other])
    frame = build_table(made).to_pandas()
    assert frame["reward"].isna().tolist() == [False, True, False, False]
    assert frame["reward/a"].isna().tolist() == [True, False, True, True]
    assert frame["reward/b"].tolist()[2:] == [0.0, 1.0]


def test_advantage_is_that_of_the_first_trained_token() -> None:
    made = batch(
        0,
        [group([[1, 2], [3, 4]], masks=[[False, True], [False, False]])],
        [Rewards(outcome=torch.tensor([1.0, 0.0]))],
    )
    made.credits[0].advantages[0] = torch.tensor([9.0, 3.0])
    advantages = build_table(made).to_pandas()["advantage"]
    assert advantages[0] == 3.0
    assert math.isnan(advantages[1])


def test_empty_completion() -> None:
    row = build_table(batch(0, [group([[], [1]])], [Rewards(outcome=torch.tensor([0.0, 1.0]))])).to_pylist()[0]
    assert row["length"] == 0
    assert math.isnan(row["set_size_mean"])


def test_user_columns_and_extras_are_json_so_the_schema_never_changes() -> None:
    plain = batch(0, [group([[1], [2]])], [Rewards(outcome=torch.zeros(2))])
    rich = batch(
        1,
        [group([[1], [2]], answer=3, tags=["é"])],
        [Rewards(outcome=torch.zeros(2), steps=torch.zeros(2), extras={"note": ["x", None]})],
    )
    assert build_table(plain).schema == build_table(rich).schema
    row = build_table(rich).to_pylist()[1]
    assert json.loads(row["columns"]) == {"answer": 3, "tags": ["é"]}
    assert json.loads(row["extras"]) == {"note": None}
