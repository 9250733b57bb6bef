import pytest
import torch
from transformers.generation.logits_process import MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from lgrpo_lightning.samplers.truncation import truncated_logits
from lgrpo_lightning.types import Sampling


@pytest.mark.parametrize(
    ("sampling", "warper"),
    [
        (Sampling(top_k=5), TopKLogitsWarper(5)),
        (Sampling(top_p=0.7), TopPLogitsWarper(0.7)),
        (Sampling(min_p=0.1), MinPLogitsWarper(0.1)),
    ],
)
def test_equals_transformers(sampling: Sampling, warper: object) -> None:
    logits = torch.randn(50, 40) * 2
    torch.testing.assert_close(truncated_logits(logits, sampling), warper(None, logits.clone()))  # type: ignore[operator]


def test_temperature_comes_first() -> None:
    logits = torch.tensor([[3.0, 2.0, -5.0]])
    hot = truncated_logits(logits, Sampling(temperature=100.0, min_p=0.5))
    assert torch.isfinite(hot).all()
    cold = truncated_logits(logits, Sampling(temperature=0.1, min_p=0.5))
    assert torch.isfinite(cold).tolist() == [[True, False, False]]


def test_the_best_token_always_stays() -> None:
    logits = torch.randn(10, 20)
    for sampling in (Sampling(top_p=1e-6), Sampling(min_p=1.0), Sampling(top_k=1)):
        kept = torch.isfinite(truncated_logits(logits, sampling))
        assert torch.equal(kept.float().argmax(-1), logits.argmax(-1))
        assert (kept.sum(-1) == 1).all()
