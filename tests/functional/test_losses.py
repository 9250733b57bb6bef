import math

import pytest
import torch

from lgrpo_lightning.functional import aggregate, clipped_surrogate, default_normalizer, k3_kl
from tests.reference import naive
from tests.reference.groups import matrix, random_group

CASES = [(lp, old, a) for lp in (-2.0, -1.0, -0.9) for old in (-2.0, -1.0) for a in (-1.5, 0.0, 2.0)]


def test_clipped_surrogate_by_hand():
    # ratios 2, 2, 0.5, 0.5 with clip (0.1, 0.3): min(2A, 1.3A) and min(0.5A, 0.9A)
    logprobs = torch.tensor([2.0, 2.0, 0.5, 0.5]).log()
    got = clipped_surrogate(logprobs, torch.zeros(4), torch.tensor([1.0, -1.0, 1.0, -1.0]), clip_low=0.1, clip_high=0.3)
    assert got.tolist() == pytest.approx([-1.3, 2.0, -0.5, 0.9])


def test_clipped_tokens_have_no_gradient():
    logprobs = torch.tensor([2.0, 0.5, 2.0]).log().requires_grad_()
    clipped_surrogate(logprobs, torch.zeros(3), torch.tensor([1.0, -1.0, -1.0])).sum().backward()
    assert logprobs.grad.tolist() == pytest.approx([0.0, 0.0, 2.0])


def test_k3_by_hand():
    assert k3_kl(torch.tensor([0.0]), torch.tensor([math.log(2.0)])).item() == pytest.approx(2 - math.log(2) - 1)
    assert (k3_kl(torch.randn(100), torch.randn(100)) >= 0).all()


@pytest.mark.parametrize(("logprob", "old", "advantage"), CASES)
def test_terms_equal_the_definition(logprob, old, advantage):
    ref = -1.3
    lp, o, a, r = (torch.tensor([x]) for x in (logprob, old, advantage, ref))
    got = clipped_surrogate(lp, o, a, clip_low=0.1, clip_high=0.3) + 0.04 * k3_kl(lp, r)
    expected = -naive.term(logprob, old, ref, advantage, low=0.1, high=0.3, beta=0.04)
    assert got.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("by", "expected"), [("token", 11 / 3), ("sequence", (1.5 + 8) / 2), ("constant", 11 / 10)])
def test_aggregate_by_hand(by, expected):
    per_token = torch.tensor([[1.0, 2.0], [8.0, 99.0]])
    mask = torch.tensor([[True, True], [True, False]])
    assert aggregate(per_token, mask, by=by, length=5).item() == pytest.approx(expected)


def test_weights_leave_the_normaliser_alone():
    mask = torch.ones(2, 2, dtype=torch.bool)
    assert aggregate(torch.ones(2, 2), mask, torch.full((2, 2), 0.5)).item() == 0.5
    assert aggregate(torch.ones(2, 2), mask, torch.full((2, 2), 0.5), by="sequence").item() == 0.5


@pytest.mark.parametrize("by", ["token", "sequence", "constant"])
def test_nan_on_padding_reaches_neither_value_nor_gradient(by):
    mask = torch.tensor([[True, False]])
    per_token = torch.tensor([[2.0, math.nan]], requires_grad=True)
    value = aggregate(per_token, mask, torch.tensor([[1.0, math.nan]]), by=by, length=2)
    value.backward()
    assert value.isfinite()
    assert per_token.grad[0, 0].isfinite()


@pytest.mark.parametrize("by", ["token", "sequence", "constant"])
@pytest.mark.parametrize("weighted", [False, True])
def test_equals_the_definition_on_random_groups(by, weighted):
    for seed in range(30):
        group = random_group(seed, empty=False)
        generator = torch.Generator().manual_seed(seed)
        drawn = [[torch.rand(len(y), generator=generator).mul(-3).tolist() for y in group] for _ in range(3)]
        advantage = [[0.5 - i] * len(y) for i, y in enumerate(group)]
        expected = naive.loss(group, *drawn, advantage, by=by, weighted=weighted, length=20, beta=0.04)
        lp, old, ref, a = (matrix(rows) for rows in (*drawn, advantage))
        sizes = matrix(naive.set_sizes(group))
        weights = 1 / sizes.clamp(min=1) if weighted else None
        per_token = clipped_surrogate(lp, old, a) + 0.04 * k3_kl(lp, ref)
        got = aggregate(per_token, sizes > 0, weights, by=by, length=20)
        assert got.item() == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("by", ["token", "sequence", "constant"])
@pytest.mark.parametrize("rows", [1, 2, 3])
def test_micro_batches_padding_and_order_change_nothing(by, rows):
    generator = torch.Generator().manual_seed(0)
    per_token = torch.randn(6, 5, generator=generator)
    mask = torch.arange(5) < torch.tensor([5, 1, 3, 2, 4, 5])[:, None]
    whole = aggregate(per_token, mask, by=by, length=9)
    normalizer = default_normalizer(mask, by=by, length=9)
    parts = [
        aggregate(per_token[i : i + rows], mask[i : i + rows], by=by, length=9, normalizer=normalizer)
        for i in range(0, 6, rows)
    ]
    assert torch.stack(parts).sum().item() == pytest.approx(whole.item(), rel=1e-6, abs=1e-7)
    wider = torch.nn.functional.pad(per_token, (0, 7)), torch.nn.functional.pad(mask, (0, 7))
    at = torch.randperm(6, generator=generator)
    assert aggregate(*wider, by=by, length=9).item() == pytest.approx(whole.item(), rel=1e-6)
    assert aggregate(per_token[at], mask[at], by=by, length=9).item() == pytest.approx(whole.item(), rel=1e-6)


def test_errors():
    with pytest.raises(ValueError, match="needs length="):
        default_normalizer(torch.ones(1, 1, dtype=torch.bool), by="constant")
    with pytest.raises(ValueError, match="possible are 'token'"):
        aggregate(torch.ones(1, 1), torch.ones(1, 1, dtype=torch.bool), by="mean")
