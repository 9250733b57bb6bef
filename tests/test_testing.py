"""The contract checks must fail where a component breaks its contract."""

import pytest
import torch

from lgrpo_lightning.contracts import PolicyLoss, RewardModel
from lgrpo_lightning.estimators import GRPO
from lgrpo_lightning.process_tree import ProcessTree
from lgrpo_lightning.segmenters import TokenPrefixSegmenter
from lgrpo_lightning.testing import (
    check_estimator,
    check_loss,
    check_reward_model,
    check_segmenter,
    toy_group,
    toy_tree,
)
from lgrpo_lightning.types import Credit, Rewards


class DiscountsAll(GRPO):
    """Its discounts count every token."""

    def token_advantages(self, outcome, tree, deviation):
        real = tree.set_sizes() > 0
        to_come = real.flip(1).cumsum(1).flip(1) - 1
        return super().token_advantages(outcome, tree, deviation) * 0.5 ** to_come.clamp(min=0)


class CountsAll(GRPO):
    """Its λ counts every member."""

    def weights(self, tree):
        weights = torch.zeros(tree.sizes.shape)
        for step in tree.steps:
            for member, (start, end) in zip(step.members, step.spans, strict=True):
                weights[member, start:end] = 1 / len(step.members)
        return weights


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (DiscountsAll(), "advantages change with tokens that are not trained"),
        (CountsAll(), "weights count members of a process set that do not train"),
    ],
)
def test_estimators_that_ignore_what_is_trained(estimator, message):
    with pytest.raises(AssertionError, match=message):
        check_estimator(estimator)


class Scores(RewardModel):
    def __init__(self, function):
        self.function = function

    def score(self, group, tree):
        return self.function(group)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda g: torch.zeros(1), r"outcome has shape \[1\]"),
        (lambda g: torch.full((len(g),), torch.inf), "rewards are finite"),
        (lambda g: torch.arange(float(len(g))), "order of members matters"),
        (lambda g: Rewards(outcome=torch.zeros(len(g)), steps=torch.zeros(99)), "one per process step"),
        (lambda g: Rewards(outcome=torch.zeros(len(g)), parts={"a": torch.zeros(1)}), "part 'a' has shape"),
    ],
)
def test_reward_models(function, message):
    with pytest.raises(AssertionError, match=message):
        check_reward_model(Scores(function))


def test_reward_models_whose_groups_influence_each_other():
    class Ranks(RewardModel):
        def score_batch(self, groups, trees):
            return [Rewards(outcome=torch.full((len(g),), float(len(groups)))) for g in groups]

    with pytest.raises(AssertionError, match="influence each other"):
        check_reward_model(Ranks())


def test_a_random_reward_passes_unordered():
    check_reward_model(Scores(lambda g: torch.rand(len(g))), ordered=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: Credit(advantages=c.advantages[:, :1], weights=c.weights), "advantages has shape"),
        (lambda c: Credit(advantages=c.advantages + 1, weights=c.weights), "not 0 on padding"),
        (lambda c: Credit(advantages=c.advantages, weights=-c.weights), "negative"),
        (lambda c: Credit(advantages=c.advantages.double(), weights=c.weights), "must be float32"),
        (lambda c: Credit(advantages=c.advantages / 0, weights=c.weights), "not finite"),
        (
            lambda c: Credit(
                advantages=c.weights * torch.arange(1.0, len(c.weights) + 1)[:, None] * (c.advantages != 0),
                weights=c.weights,
            ),
            "order of members matters",
        ),
    ],
)
def test_estimators(change, message):
    class Changed(GRPO):
        def estimate_batch(self, rewards, trees, *, reduce):
            return [change(c) for c in super().estimate_batch(rewards, trees, reduce=reduce)]

    with pytest.raises(AssertionError, match=message):
        check_estimator(Changed())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sizes": lambda s: s + 1}, "must be 0 on padding and only there"),
        ({"sizes": lambda s: s * 9}, "more members than its group"),
        ({"sizes": lambda s: s.clamp(max=1)}, "member count"),
        ({"units": lambda u: u.clamp(min=0)}, "must be -1 on padding and only there"),
        ({"units": lambda u: u[:, :1]}, r"step_ids of the tree has shape"),
    ],
)
def test_segmenters(change, message):
    class Changed(TokenPrefixSegmenter):
        def segment(self, group):
            tree = super().segment(group)
            fields = {n: getattr(tree, n) for n in ("sizes", "units", "num_nodes", "leaf_sizes")}
            return ProcessTree(**fields | {n: f(fields[n]) for n, f in change.items()})

    with pytest.raises(AssertionError, match=message):
        check_segmenter(Changed())


def test_toy_groups():
    group = toy_group([[1, 0], []], columns={"a": 1}, messages=[{"role": "user", "content": "x"}])
    assert [r.text for r in group.completions] == ["1 0 ", ""]
    assert group.sequences == [[1, 0], []]
    assert group.prompt.columns == {"a": 1}
    assert group.prompt.messages == ({"role": "user", "content": "x"},)
    assert toy_tree(group).set_sizes().tolist() == [[1, 1], [0, 0]]


class Terms(PolicyLoss):
    def __init__(self, function, **said):
        self.function = function
        vars(self).update(said)

    def terms(self, batch):
        return self.function(batch)


def surrogate(batch):
    return -batch.log_ratio.exp() * batch.advantages


@pytest.mark.parametrize(
    ("function", "said", "message"),
    [
        (lambda b: surrogate(b).mean(1), {}, r"terms are \(2,\), not \(2, 3\)"),
        (lambda b: surrogate(b) / (b.advantages - b.advantages), {}, "not finite"),
        (lambda b: surrogate(b) * b.log_ratio.mean(), {}, "another completion changes the terms"),
        (lambda b: surrogate(b) - b.logprobs.mean(-1, keepdim=True), {}, "padding changes the terms"),
        (lambda b: surrogate(b) - b.log_ratio, {}, "an advantage of 0 has a gradient"),
        (lambda b: surrogate(b) * b.log_ratio.sum(-1, keepdim=True), {}, "say level = 'sequence'"),
        (surrogate, {"normalizer": "mean"}, "normalizer is 'mean'"),
        (surrogate, {"level": "step"}, "level is 'step'"),
        (surrogate, {"metrics": lambda b: {"x": b.mask.sum()}}, r"x is \(\), not"),
    ],
)
def test_losses(function, said, message):
    with pytest.raises(AssertionError, match=message):
        check_loss(Terms(function, **said))


def test_losses_that_are_right():
    check_loss(Terms(surrogate))
    check_loss(Terms(lambda b: surrogate(b) * b.log_ratio.sum(-1, keepdim=True), level="sequence"))
