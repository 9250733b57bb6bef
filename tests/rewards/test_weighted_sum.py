import math
from dataclasses import replace

import pytest
import torch

from lgrpo_lightning.contracts import RewardModel
from lgrpo_lightning.rewards import RewardError, RewardSum
from lgrpo_lightning.testing import check_reward_model, toy_group, toy_tree
from lgrpo_lightning.types import Progress, Rewards

NAN = math.nan
GROUP = toy_group(["ab", "ac", "b"])
TREE = toy_tree(GROUP)


class Fixed(RewardModel):
    """Gives what it is told to."""

    def __init__(self, value, columns=()):
        self.value = value
        self.columns = columns
        self.calls = []

    def start(self, progress):
        self.calls.append(progress)

    def score(self, group, tree):
        return self.value if isinstance(self.value, Rewards) else torch.as_tensor(self.value)

    def teardown(self):
        self.calls.append("teardown")


class Batched(Fixed):
    def score_batch(self, groups, trees):
        return self.value


def total(*models, weights=None):
    return RewardSum(list(models), weights).score_batch([GROUP], [TREE])[0]


def test_keeps_the_contract():
    class Ones(RewardModel):
        def score(self, group, tree):
            return torch.ones(len(group))

    check_reward_model(RewardSum([Ones(), Ones()], [1.0, 0.5]))


def test_weighted_sum_with_unweighted_parts():
    got = total(Fixed([1.0, 2.0, NAN]), Fixed([10.0, NAN, NAN]), weights=[2.0, 0.5])
    assert got.outcome[:2].tolist() == [7.0, 4.0]
    assert got.outcome[2].isnan()
    assert got.parts.keys() == {"Fixed", "Fixed_2"}
    assert got.parts["Fixed_2"][0].item() == 10.0


def test_the_sum_is_that_of_exact_weights():
    got = total(*(Fixed([1.0, 0.0, 1.0]) for _ in range(3)), weights=[0.65, 0.15, 0.2])
    assert got.outcome.tolist() == [1.0, 0.0, 1.0]
    large = total(Fixed([3e38, -3e38, 1.0]), Fixed([-3e38, 3e38, 1.0]))
    assert large.outcome.tolist() == [0.0, 0.0, 2.0]
    with pytest.raises(RewardError, match="too large for fp32"):
        total(Fixed([3e38, 0.0, 1.0]), weights=[2.0])


def test_a_dropped_episode_is_in_nothing():
    """Its own steps have no reward; of a step that it shares the others' stays."""
    dropped = [replace(r, applies=i != 1) for i, r in enumerate(GROUP.completions)]
    group = replace(GROUP, completions=tuple(dropped))
    given = Rewards(outcome=torch.ones(3), steps=torch.ones(4), tokens=torch.ones(3, 2), parts={"a": torch.ones(3)})
    assert [step.members for step in TREE.steps] == [(0, 1), (0,), (1,), (2,)]
    got = RewardSum([Fixed(given)]).score_batch([group], [TREE])[0]
    assert got.outcome.isnan().tolist() == got.parts["a"].isnan().tolist() == [False, True, False]
    assert got.tokens.isnan().any(1).tolist() == [False, True, False]
    assert got.steps.isnan().tolist() == [False, False, True, False]


def test_metrics_extras_and_own_parts():
    a = Rewards(
        outcome=torch.ones(3),
        parts={"x": torch.ones(3)},
        metrics={"m": 1.0, "n": 5.0},
        extras={"e": [1, 2, 3]},
    )
    b = Rewards(outcome=torch.ones(3), metrics={"m": 3.0}, extras={"e": [4, 5, 6]})
    got = total(Fixed(a), Fixed(b))
    assert got.parts.keys() == {"x", "Fixed"}
    assert got.metrics == {"m": 2.0, "n": 5.0}
    assert got.extras == {"e": [1, 2, 3], "e_2": [4, 5, 6]}


def test_steps_of_those_that_have_them():
    count = len(TREE.steps)
    a = Rewards(outcome=torch.zeros(3), steps=torch.arange(float(count)))
    b = Rewards(outcome=torch.zeros(3), steps=torch.ones(count))
    assert total(Fixed([0.0] * 3)).steps is None
    got = total(Fixed(a), Fixed([0.0] * 3), Fixed(b), weights=[2.0, 9.0, 1.0])
    assert got.steps.tolist() == [2.0 * i + 1 for i in range(count)]


def test_columns_start_and_teardown():
    models = [Fixed([0.0] * 3, ("a", "b")), Fixed([0.0] * 3, ("b", "c"))]
    both = RewardSum(models)
    assert both.columns == ("a", "b", "c")
    progress = Progress(rollout=2)
    both.start(progress)
    both.teardown()
    assert all(m.calls == [progress, "teardown"] for m in models)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Fixed([1.0, 2.0]), r"'Fixed', prompt 'toy/0': outcome has shape \[2\]; it must be \[3\]"),
        (Fixed([[1.0], [2.0], [3.0]]), r"shape \[3, 1\]"),
        (Fixed([1.0, math.inf, 0.0]), "rewards are finite"),
        (
            Fixed(Rewards(outcome=torch.zeros(3), steps=torch.zeros(9))),
            r"steps has shape \[9\]; it must be \[\d\]",
        ),
        (Fixed(Rewards(outcome=torch.zeros(3), parts={"x": torch.zeros(1)})), "part 'x' has shape"),
        (Fixed(Rewards(outcome=torch.zeros(3), extras={"e": [1]})), r"extras have 3 values.*got \{'e': 1\}"),
        (
            Fixed(Rewards(outcome=torch.zeros(3), metrics={"reward": 1.0})),
            "Fixed logs a metric 'reward', a name of",
        ),
        (Fixed(Rewards(outcome=[0.0] * 3)), "outcome is a list; it must be a tensor"),
        (Batched([]), "returned 0 results for 1 groups"),
        (Batched([torch.zeros(3)]), "got Tensor; score_batch returns a list of Rewards"),
    ],
)
def test_a_wrong_answer_names_model_and_prompt(model, message):
    with pytest.raises(ValueError, match=message):
        total(model)


def test_other_types_become_fp32():
    got = total(Fixed(torch.tensor([1, 2, 3])), Fixed(torch.ones(3, dtype=torch.double, requires_grad=True)))
    assert got.outcome.dtype == torch.float32
    assert not got.outcome.requires_grad


def test_a_model_without_score():
    class Nothing(RewardModel):
        pass

    with pytest.raises(NotImplementedError, match="Nothing defines neither"):
        total(Nothing())


def test_refuses():
    with pytest.raises(ValueError, match="There is no reward model"):
        RewardSum([])
    with pytest.raises(ValueError, match=r"reward_weights are 2, \[1.0, 2.0\], for 1 reward models \(Fixed\)"):
        RewardSum([Fixed(None)], [1.0, 2.0])
