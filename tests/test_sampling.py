import pytest
import torch
from torch import Tensor

from lgrpo_lightning.functional.sampling import Sampling, truncate_logits


def kept(logits: Tensor, sampling: Sampling) -> list[bool]:
    """Which tokens of one row may be drawn, from the definitions, one token after another."""
    probs = (logits.double() / sampling.temperature).softmax(0).tolist()
    order = sorted(range(len(probs)), key=lambda i: -probs[i])
    order = [i for i in order if probs[i] >= sampling.min_p * probs[order[0]]]
    order = order[: sampling.top_k or None]
    total, mass, found = sum(probs[i] for i in order), 0.0, set()
    for i in order:
        if mass < sampling.top_p * total:
            found.add(i)
        mass += probs[i]
    return [i in found for i in range(len(probs))]


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(top_k=5),
        Sampling(top_p=0.7),
        Sampling(min_p=0.1),
        Sampling(temperature=0.6, top_p=0.8, top_k=7, min_p=0.05),
        Sampling(temperature=1.5, top_p=0.9, min_p=0.2),
    ],
)
def test_equals_the_definition(sampling: Sampling) -> None:
    logits = torch.randn(50, 40) * 2
    found = truncate_logits(logits, sampling)
    assert found.isfinite().tolist() == [kept(row, sampling) for row in logits]
    expected = (logits / sampling.temperature).masked_fill(found.isinf(), -torch.inf)
    torch.testing.assert_close(found, expected)


def test_a_large_vocabulary_keeps_what_float64_keeps() -> None:
    logits = torch.randn(4, 100_000) * 3
    found = truncate_logits(logits, Sampling(top_p=0.99))
    probs, index = logits.double().softmax(-1).sort(-1, descending=True)
    beyond = (probs.cumsum(-1) - probs >= 0.99).scatter(-1, index, probs.cumsum(-1) - probs >= 0.99)
    assert (found.isinf() != beyond).sum() <= 4  # one token at the edge of a row


def test_temperature_comes_first() -> None:
    logits = torch.tensor([[3.0, 2.0, -5.0]])
    hot = truncate_logits(logits, Sampling(temperature=100.0, min_p=0.5))
    assert torch.isfinite(hot).all()
    cold = truncate_logits(logits, Sampling(temperature=0.1, min_p=0.5))
    assert torch.isfinite(cold).tolist() == [[True, False, False]]


def test_the_best_token_always_stays() -> None:
    logits = torch.randn(10, 20)
    for sampling in (Sampling(top_p=1e-6), Sampling(min_p=1.0), Sampling(top_k=1)):
        kept = torch.isfinite(truncate_logits(logits, sampling))
        assert torch.equal(kept.float().argmax(-1), logits.argmax(-1))
        assert (kept.sum(-1) == 1).all()
