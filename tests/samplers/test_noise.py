import math

import pytest
import torch

from lgrpo_lightning.contracts import RandomKey
from lgrpo_lightning.samplers.noise import draw_gumbel, gumbel_argmax, make_row_key


def keys(count: int) -> torch.Tensor:
    return torch.tensor([make_row_key(RandomKey(0, "train", 0), "a", member) for member in range(count)])


def test_noise_is_standard_gumbel_and_independent() -> None:
    noise = draw_gumbel(keys(50_000), 0, 0, 4).double()
    assert noise.mean(0).sub(0.5772156649).abs().max() < 0.02
    assert noise.var(0).sub(math.pi**2 / 6).abs().max() < 0.05
    assert (torch.corrcoef(noise.T) - torch.eye(4)).abs().max() < 0.02
    other = draw_gumbel(keys(50_000), 1, 0, 1).double()
    assert abs(torch.corrcoef(torch.stack([noise[:, 0], other[:, 0]]))[0, 1]) < 0.02


def test_any_draw_is_computed_on_its_own() -> None:
    whole = draw_gumbel(keys(8), 3, 0, 10)
    assert torch.equal(whole[:, 4:7], draw_gumbel(keys(8), 3, 4, 3))
    assert torch.equal(whole[2:4], draw_gumbel(keys(8)[2:4], 3, 0, 10))


def test_every_part_of_the_key_matters() -> None:
    base = make_row_key(RandomKey(0, "train", 0), "a", 0)
    others = [
        make_row_key(RandomKey(1, "train", 0), "a", 0),
        make_row_key(RandomKey(0, "validation", 0), "a", 0),
        make_row_key(RandomKey(0, "train", 1), "a", 0),
        make_row_key(RandomKey(0, "train", 0), "b", 0),
        make_row_key(RandomKey(0, "train", 0), "a", 1),
    ]
    assert len({base, *others}) == 6


def test_tokens_follow_the_distribution() -> None:
    """A chi-squared test on 41 tokens, of which some are excluded and the last block is padded."""
    torch.manual_seed(0)
    logits = torch.randn(1, 41) * 2
    logits[0, 5:9] = -torch.inf
    draws = 100_000
    tokens, logprobs = gumbel_argmax(logits.expand(draws, -1).contiguous(), keys(draws), 7)
    expected = logits.softmax(-1)[0] * draws
    seen = torch.bincount(tokens, minlength=41)
    assert seen[5:9].sum() == 0
    kept = expected > 5
    chi2 = ((seen - expected)[kept] ** 2 / expected[kept]).sum()
    assert chi2 < kept.sum() + 4 * math.sqrt(2 * kept.sum())
    torch.testing.assert_close(logprobs, logits.log_softmax(-1)[0][tokens], atol=1e-5, rtol=0)


def test_rounding_flips_almost_nothing() -> None:
    torch.manual_seed(0)
    logits = torch.randn(20_000, 50)
    first, _ = gumbel_argmax(logits, keys(20_000), 0)
    second, _ = gumbel_argmax(logits + 1e-6 * torch.randn_like(logits), keys(20_000), 0)
    assert (first != second).sum() <= 2


@pytest.mark.parametrize("vocabulary", [1, 2, 5, 41, 49, 1000])
@pytest.mark.parametrize("rows", [1, 8, 19])
def test_strides_change_no_draw(vocabulary: int, rows: int) -> None:
    """``[V, R]`` storage, whole blocks of excluded tokens too."""
    torch.manual_seed(0)
    logits = torch.randn(rows, vocabulary)
    logits[:, 1 : vocabulary // 2] = -torch.inf
    expected = gumbel_argmax(logits, keys(rows), 3)
    got = gumbel_argmax(logits.T.contiguous().T, keys(rows), 3)
    assert torch.equal(got[0], expected[0])
    torch.testing.assert_close(got[1], expected[1], atol=1e-5, rtol=0)
    torch.testing.assert_close(got[1], logits.log_softmax(-1).gather(1, got[0][:, None])[:, 0], atol=1e-5, rtol=0)
