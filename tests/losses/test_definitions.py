"""Every policy loss against its paper's formula, written as loops; value and gradient, through the update."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from lgrpo_lightning.contracts import PolicyLoss
from lgrpo_lightning.functional import kl_estimate
from lgrpo_lightning.functional.losses import KLEstimator, Normalizer
from lgrpo_lightning.losses import CISPO, GMPO, GSPO, LUSPO, SAPO, VESPO, ClippedSurrogate, Reinforce
from lgrpo_lightning.testing import toy_loss_input
from lgrpo_lightning.training import Objective
from lgrpo_lightning.types import LossInput
from tests.losses.stub_policy import LONGEST, Case, drawn, updated
from tests.reference import naive_losses as naive

SMALL = {"low": 0.1, "high": 0.14}
RANGES = {"clip_range_low": 0.1, "clip_range_high": 0.14}
PAPERS: dict[str, tuple[PolicyLoss, Callable[..., list[Tensor]]]] = {
    "clipped": (ClippedSurrogate(0.2, 0.28), partial(naive.clipped, low=0.2, high=0.28, delta=None)),
    "dual clip": (ClippedSurrogate(delta=1.5), partial(naive.clipped, low=0.2, high=0.2, delta=1.5)),
    "gspo": (GSPO(**RANGES), partial(naive.gspo, **SMALL)),
    "gspo-token": (GSPO(**RANGES, token=True), partial(naive.gspo_token, **SMALL)),
    "luspo": (LUSPO(**RANGES), partial(naive.luspo, **SMALL)),
    "gmpo": (GMPO(), partial(naive.gmpo, log_clip=0.4)),
    "cispo": (CISPO(ratio_max=1.3), partial(naive.cispo, ratio_max=1.3)),
    "sapo": (SAPO(), partial(naive.sapo, pos=1.0, neg=1.05)),
    "vespo": (VESPO(), partial(naive.vespo, pos=(2.0, 3.0), neg=(3.0, 2.0))),
    "reinforce": (Reinforce(), naive.reinforce),
}
OWN = {"clipped": "token", "dual clip": "token", "luspo": "completion", "cispo": "token"} | {
    "gspo": "sequence", "gspo-token": "sequence", "gmpo": "sequence", "sapo": "sequence",
    "vespo": "token", "reinforce": "token",
}  # fmt: skip
"""The normaliser of each paper."""


def expected(case: Case, rule: Callable[..., list[Tensor]], by: str, beta: float = 0.0, k: str = "k3") -> Any:
    """(loss, gradient of the log-probs) of the definition."""
    now = case.logprobs.detach().double().requires_grad_()
    terms = []
    for i, worth in enumerate(case.worth.double().tolist()):
        at = [t for t in range(case.mask.shape[1]) if case.mask[i, t]]
        row = rule([now[i, t] for t in at], [case.old[i, t].double() for t in at], [worth[t] for t in at])
        terms.append([x + beta * naive.kl(now[i, t], case.ref[i, t].double(), k) for x, t in zip(row, at, strict=True)])
    value = naive.total(terms, by=by, length=LONGEST)
    return value.item(), torch.autograd.grad(value, now)[0]


@pytest.mark.parametrize("name", PAPERS)
@pytest.mark.parametrize("shape", ["ragged", "holes"])
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("of_tokens", [False, True], ids=["completions", "tokens"])
def test_loss_and_gradient(name: str, shape: str, seed: int, of_tokens: bool) -> None:
    loss, rule = PAPERS[name]
    case = drawn(shape, seed=seed, of_tokens=of_tokens)
    value, gradient = expected(case, rule, OWN[name])
    metrics, found, _ = updated(case, loss)
    assert metrics["loss"] == pytest.approx(value, rel=1e-5, abs=1e-6)
    torch.testing.assert_close(found, gradient.float(), rtol=1e-4, atol=1e-6)
    assert float(gradient.abs().max()) > 1e-3


@pytest.mark.parametrize("by", get_args(Normalizer))
@pytest.mark.parametrize("kind", [ClippedSurrogate, GSPO, GMPO, CISPO, SAPO, LUSPO, VESPO, Reinforce])
def test_every_normaliser_with_every_loss(by: Any, kind: Any) -> None:
    rules = {ClippedSurrogate: "clipped", GSPO: "gspo", LUSPO: "luspo"}
    name = rules.get(kind, kind.__name__.lower())
    options = {"gspo": RANGES, "luspo": RANGES, "cispo": {"ratio_max": 1.3}, "clipped": {"clip_high": 0.28}}
    case = drawn("holes", of_tokens=True)
    value, gradient = expected(case, PAPERS[name][1], by)
    metrics, found, _ = updated(case, kind(**options.get(name, {}), normalizer=by))
    assert metrics["loss"] == pytest.approx(value, rel=1e-5, abs=1e-6)
    torch.testing.assert_close(found, gradient.float(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("estimator", get_args(KLEstimator))
def test_kl_estimators(estimator: Any) -> None:
    case = drawn("holes")
    value, gradient = expected(case, PAPERS["clipped"][1], "token", beta=0.3, k=estimator)
    metrics, found, _ = updated(case, PAPERS["clipped"][0], Objective(kl_coef=0.3, kl_estimator=estimator))
    assert metrics["loss"] == pytest.approx(value, rel=1e-5, abs=1e-6)
    torch.testing.assert_close(found, gradient.float(), rtol=1e-4, atol=1e-6)


def test_kl_estimators_measure_the_same_thing() -> None:
    """Over draws from π, k1 and k3 have the mean KL(π ‖ π_ref), k2 nearly, where the two are near."""
    logits = torch.tensor([1.0, 0.2, -0.4, 0.0], dtype=torch.float64)
    pi, ref = logits.log_softmax(0), (logits + torch.tensor([0.1, -0.1, 0.0, 0.1])).log_softmax(0)
    true = float((pi.exp() * (pi - ref)).sum())
    for estimator, near in (("k1", 1e-9), ("k3", 1e-9), ("k2", 0.1 * true)):
        mean = float((pi.exp() * kl_estimate(pi, ref, estimator=estimator)).sum())
        assert mean == pytest.approx(true, abs=near), estimator


@pytest.mark.parametrize("name", ["clipped", "gspo", "gspo-token", "gmpo", "cispo", "sapo", "vespo", "reinforce"])
def test_on_policy_the_gradient_is_that_of_reinforce(name: str) -> None:
    """Before the policy has moved, all of them are the policy gradient, but for their normaliser."""
    case = drawn("ragged")
    by: Any = "sequence"
    options: dict[str, Any] = {"token": True} if name == "gspo-token" else {}
    found = updated(case, type(PAPERS[name][0])(**options, normalizer=by), off_policy=False)[1]
    plain = updated(case, Reinforce(normalizer=by), off_policy=False)[1]
    torch.testing.assert_close(found, plain, rtol=1e-4, atol=1e-6)


def test_gspo_token_has_the_values_of_gspo() -> None:
    case = drawn("holes")
    one, gradient, _ = updated(case, GSPO(**RANGES))
    other, same, _ = updated(case, GSPO(**RANGES, token=True))
    assert one["loss"] == pytest.approx(other["loss"], rel=1e-6)
    torch.testing.assert_close(gradient, same, rtol=1e-5, atol=1e-7)
    weights = torch.ones_like(case.worth)
    weights[:, 0] = 0.0  # only the token form lets a token count for less by itself
    assert float(updated(case, GSPO(**RANGES, token=True), weights=weights)[1][:, 0].abs().max()) == 0.0


@pytest.mark.parametrize("loss", [GSPO(**RANGES), LUSPO(**RANGES), GMPO()], ids=lambda x: type(x).__name__)
def test_a_completion_counts_by_the_mean_advantage_of_its_tokens(loss: PolicyLoss) -> None:
    # every ratio is 1.01, so that s is; the mean of 1 and -3 is -1, where a ratio above 1 is not clipped
    batch = toy_loss_input(ratios=[[1.01, 1.01]], advantages=[[1.0, -3.0]])
    terms = loss.terms(batch)
    assert terms[0].tolist() == pytest.approx([1.01, 1.01], abs=1e-6)
    gradient = torch.autograd.grad(terms.mean(), batch.logprobs)[0]
    assert gradient[0].tolist() == pytest.approx([0.505, 0.505], abs=1e-6)


def test_an_update_gives_any_loss_of_sequences_the_mean() -> None:
    class Product(PolicyLoss):
        level = "sequence"

        def terms(self, batch: LossInput) -> Tensor:
            return -batch.log_ratio.sum(-1, keepdim=True).exp() * batch.advantages

    case = drawn("holes", of_tokens=True)
    gradient = updated(case, Product())[1]
    kept = torch.where(case.mask, case.worth, 0.0)
    case.advantages = kept.sum(-1) / case.mask.sum(-1)
    torch.testing.assert_close(updated(case, Product())[1], gradient, rtol=1e-5, atol=1e-6)


def test_the_mean_of_equal_advantages_is_exact() -> None:
    batch = toy_loss_input(advantages=[[0.1] * 7, [-1.2345678] * 7])
    assert torch.equal(batch.mean_advantages, batch.advantages)


def test_dual_clip_by_hand() -> None:
    # min(4 · -1, 1.2 · -1) = -4 without it; at most δ = 3 with it, and no gradient there
    batch = toy_loss_input(ratios=[[4.0]], advantages=[[-1.0]])
    assert ClippedSurrogate().terms(batch).item() == pytest.approx(4.0)
    bounded = ClippedSurrogate(delta=3.0).terms(batch)
    assert bounded.item() == pytest.approx(3.0)
    assert torch.autograd.grad(bounded.sum(), batch.logprobs)[0].item() == 0.0


def test_vespo_by_hand() -> None:
    # w = 2 · 0.5 · 3 = 3, A > 0: φ = 3² e^{3 (1 - 3)} = 9 e^-6
    batch = toy_loss_input(ratios=[[2.0, 0.5, 3.0]], advantages=[[1.0] * 3], logprobs=[[-1.0, -2.0, -0.5]])
    phi = 9 * torch.e**-6
    assert VESPO().terms(batch)[0].tolist() == pytest.approx([phi, 2 * phi, 0.5 * phi], rel=1e-5)
    values = VESPO().metrics(batch)["vespo/phi_seq_mean"][0]
    assert values[0].item() == pytest.approx(phi, rel=1e-5)
    assert values[1:].isnan().all()  # a completion counts once


def test_vespo_of_far_ratios_is_finite() -> None:
    for log_ratio in (-200.0, 200.0):
        batch = toy_loss_input(ratios=[[1.0, 1.0]], advantages=[[1.0, 1.0]])
        batch.old_logprobs.sub_(log_ratio)
        assert VESPO().terms(batch).isfinite().all()


DEFAULTS = [
    (GSPO(), {"clip_range_low": 3e-4, "clip_range_high": 4e-4}),  # section 5.1 of its second version
    (LUSPO(), {"clip_range_low": 2e-3, "clip_range_high": 2.5e-3}),  # section 5.1
    (GMPO(), {"log_clip": 0.4}),  # section 4
    (SAPO(), {"temperature_pos": 1.0, "temperature_neg": 1.05}),
    (VESPO(), {"k_pos": 2.0, "rate_pos": 3.0, "k_neg": 3.0, "rate_neg": 2.0}),
    (CISPO(), {"ratio_max": 5.0}),  # ScaleRL's
    (ClippedSurrogate(), {"clip_low": 0.2, "clip_high": 0.2, "delta": None}),
]


@pytest.mark.parametrize(("loss", "options"), DEFAULTS, ids=lambda x: type(x).__name__)
def test_defaults_are_those_of_the_authors(loss: PolicyLoss, options: dict[str, Any]) -> None:
    assert {name: getattr(loss, name) for name in options} == options


@pytest.mark.parametrize(
    ("kind", "options", "says"),
    [
        (ClippedSurrogate, {"clip_low": 1.5}, "ClippedSurrogate: clip_low is 1.5; it must be from 0 to 1"),
        (ClippedSurrogate, {"clip_high": -0.1}, "clip_high is -0.1; it must be at least 0"),
        (ClippedSurrogate, {"delta": 1.1}, "delta is 1.1; it must be at least 1.2"),
        (ClippedSurrogate, {"clip_high": float("nan")}, "clip_high is nan"),
        (Reinforce, {"normalizer": "mean"}, "'completion', or null"),
        (GSPO, {"clip_range_low": -1}, "GSPO: clip_range_low"),
        (LUSPO, {"clip_range_high": -1}, "LUSPO: clip_range_high"),
        (GMPO, {"log_clip": 0}, "GMPO: log_clip is 0; it must be above 0"),
        (CISPO, {"ratio_max": 0}, "CISPO: ratio_max"),
        (SAPO, {"temperature_neg": 0}, "SAPO: temperature_neg"),
        (VESPO, {"k_neg": -1}, "VESPO: k_neg"),
        (VESPO, {"rate_pos": 0}, "VESPO: rate_pos"),
    ],
)
def test_options_are_checked(kind: Any, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        kind(**options)
