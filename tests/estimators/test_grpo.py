import math

import pytest
import torch

from lgrpo_lightning.estimators import GRPO, LambdaGRPO
from lgrpo_lightning.estimators.grpo import batch_statistics
from lgrpo_lightning.process_tree import ProcessTree
from lgrpo_lightning.testing import check_estimator
from lgrpo_lightning.types import Rewards
from tests.reference import naive
from tests.reference.groups import random_group

NAN = math.nan
BATCH = [[1.0, 0.0, 0.5, 0.0], [0.25, NAN, 3.0, -1.0], [0.7, 0.7, 0.7, 0.7], [NAN, NAN, NAN, NAN]]


def alone(tensor):
    return tensor


def trees(count, size):
    return [ProcessTree.from_sequences(random_group(seed, size=size, empty=False)) for seed in range(count)]


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
@pytest.mark.parametrize("estimator", [GRPO, LambdaGRPO])
def test_keeps_the_contract(estimator, scale):
    check_estimator(estimator(scale=scale))


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
@pytest.mark.parametrize("estimator", [GRPO, LambdaGRPO])
def test_advantages_equal_the_definition(estimator, scale):
    rewards = [Rewards(outcome=torch.tensor(r)) for r in BATCH]
    forest = trees(len(BATCH), 4)
    credits = estimator(scale=scale).estimate_batch(rewards, forest, reduce=alone)
    pool = [r for row in BATCH for r in row]
    for row, tree, credit in zip(BATCH, forest, credits, strict=True):
        expected = torch.tensor(naive.advantages(row, scale=scale, pool=pool))[:, None] * (tree.set_sizes() > 0)
        assert torch.allclose(credit.advantages, expected, atol=1e-6)
    assert (credits[2].advantages == 0).all()
    assert (credits[3].advantages == 0).all()


def test_the_algorithms_differ_in_the_weights_alone():
    for seed in range(50):
        group = random_group(seed, empty=False)
        tree = ProcessTree.from_sequences(group)
        rewards = Rewards(outcome=torch.rand(len(group)))
        grpo, ours = GRPO().estimate(rewards, tree), LambdaGRPO().estimate(rewards, tree)
        assert torch.equal(grpo.advantages, ours.advantages)
        assert torch.equal(grpo.weights, (tree.set_sizes() > 0).float())
        for row, sizes in zip(ours.weights.tolist(), naive.set_sizes(group), strict=True):
            assert row == pytest.approx([1 / n for n in sizes] + [0.0] * (len(row) - len(sizes)))


def test_batch_scale_equals_trl():
    trl = pytest.importorskip("trl.trainer.grpo_trainer")
    rewards = torch.tensor(BATCH[:2])
    theirs = torch.nan_to_num((rewards - rewards.nanmean(1, keepdim=True)) / (trl.nanstd(rewards) + 1e-4))
    credits = GRPO(scale="batch").estimate_batch([Rewards(outcome=r) for r in rewards], trees(2, 4), reduce=alone)
    for row, credit in zip(theirs, credits, strict=True):
        assert torch.allclose(credit.advantages[:, 0], row, atol=1e-5)


def test_batch_scale_is_that_of_all_ranks():
    """Two ranks, one of them first; each pass adds what the other rank adds."""
    shares = [[torch.tensor(BATCH[0])], [torch.tensor(BATCH[1]), torch.tensor(BATCH[2])]]
    whole = batch_statistics([*shares[0], *shares[1]], alone)[1]
    passes = []
    for _ in range(3):  # each round knows the other rank's result of one pass more
        sent = [[], []]
        for rank in (0, 1):

            def reduce(x, rank=rank, sent=sent):
                sent[rank].append(x)
                n = len(sent[rank]) - 1
                other = passes[-1][1 - rank] if passes else []
                return x + other[n] if n < len(other) else x

            result = batch_statistics(shares[rank], reduce)[1]
        passes.append(sent)
    assert result.item() == pytest.approx(whole.item(), rel=1e-6)
    assert [len(s) for s in passes[-1]] == [2, 2]


@pytest.mark.parametrize(
    ("outcomes", "expected"), [([], 0.0), ([[1.0]], 0.0), ([[NAN]], 0.0), ([[3.0], [1.0]], 2**0.5)]
)
def test_batch_deviation_of_few(outcomes, expected):
    assert batch_statistics([torch.tensor(o) for o in outcomes], alone)[1].item() == pytest.approx(expected)


def test_batch_deviation_far_from_zero():
    rewards = [1e6, 1e6 + 1, 1e6 + 2]
    assert batch_statistics([torch.tensor(rewards)], alone)[1].item() == 1.0


@pytest.mark.parametrize(
    ("options", "message"), [({"scale": "std"}, "'group', 'batch' or 'none'"), ({"eps": 0.0}, "above 0")]
)
def test_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        LambdaGRPO(**options)
