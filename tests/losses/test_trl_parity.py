"""Value, gradient and metrics of an update against TRL's own ``_compute_loss``, on the same log-probs.

TRL computes on a micro-batch, this library on a whole optimizer step, which is cut into micro-batches here. Both see
the same twelve completions, so that the numbers have to agree. With several micro-batches TRL's numbers depend on how
they are cut: it averages "grpo", "sapo", "luspo" and "bnpo", the entropy bonus and the quantile of entropies over each
of them; these here never do.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lgrpo_lightning.contracts import PolicyLoss
from lgrpo_lightning.losses import CISPO, GMPO, GSPO, LUSPO, SAPO, VESPO, ClippedSurrogate
from lgrpo_lightning.training import Objective
from lgrpo_lightning.training.token_loss import EntropyBonus
from tests.losses.stub_policy import Case, drawn, updated
from tests.losses.trl_trainer import importance_ratio, trainer, trl_loss

trl = pytest.importorskip("trl.trainer.grpo_trainer")

CLIP = {"clip_low": 0.2, "clip_high": 0.28}
SEQUENCE_CLIP = {"clip_range_low": 0.1, "clip_range_high": 0.14}
SEQUENCE = {"importance_sampling_level": "sequence", "epsilon_low": 0.1, "epsilon_high": 0.14}
LOSSES: dict[str, tuple[PolicyLoss, dict[str, Any]]] = {
    "grpo": (ClippedSurrogate(**CLIP, normalizer="sequence"), {}),
    "bnpo": (ClippedSurrogate(**CLIP, normalizer="token"), {}),
    "dr_grpo": (ClippedSurrogate(**CLIP, normalizer="constant"), {}),
    "dapo": (ClippedSurrogate(**CLIP), {}),
    "luspo of tokens": (ClippedSurrogate(**CLIP, normalizer="completion"), {}),
    "grpo with delta": (ClippedSurrogate(**CLIP, delta=1.4, normalizer="sequence"), {"delta": 1.4}),
    "dapo with delta": (ClippedSurrogate(**CLIP, delta=1.4), {"delta": 1.4}),
    "grpo of sequences": (GSPO(**SEQUENCE_CLIP), SEQUENCE),
    "bnpo of sequences": (GSPO(**SEQUENCE_CLIP, normalizer="token"), SEQUENCE),
    "dr_grpo of sequences": (GSPO(**SEQUENCE_CLIP, normalizer="constant"), SEQUENCE),
    "dapo of sequences": (GSPO(**SEQUENCE_CLIP, normalizer="token"), SEQUENCE),
    "luspo": (LUSPO(**SEQUENCE_CLIP), SEQUENCE),
    "cispo": (CISPO(ratio_max=1.3), {"epsilon_high": 1.3}),
    "sapo": (SAPO(), {}),
    "sapo, other temperatures": (SAPO(2.0, 3.0), {"sapo_temperature_pos": 2.0, "sapo_temperature_neg": 3.0}),
    "vespo": (VESPO(), {}),
}
"""TRL's loss type, and what it is with → ours, and TRL's options."""


def compare(name: str, case: Case, theirs: Any, ours: Any) -> None:
    """Value, both gradients, and the metrics that both log."""
    value, logprobs, entropies, logged = theirs
    metrics, gradient, of_entropy = ours
    assert metrics["loss"] == pytest.approx(value, rel=1e-5, abs=1e-6)
    assert float(logprobs.abs().max()) > 1e-3
    torch.testing.assert_close(gradient, logprobs, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(of_entropy, entropies, rtol=1e-5, atol=1e-6)
    shared = {"kl", "entropy", "entropy_coef", "cispo_clip_ratio", "vespo/phi_seq_mean"}
    if "sequences" not in name and "delta" not in name and name != "luspo":  # TRL counts completions, bounded ratios
        shared |= {f"clip_ratio/{end}_mean" for end in ("low", "high", "region")}
    for metric in shared & logged.keys() - {"entropy_coef"}:
        assert metrics[metric] == pytest.approx(logged[metric], rel=1e-4, abs=1e-6), metric


def both(name: str, case: Case, objective: Objective, *, ratio: Any = None, **options: Any) -> None:
    """One optimizer step of both. ``ratio``: TRL's importance correction."""
    loss, own = LOSSES[name]
    off_policy = options.pop("off_policy", True)
    importance = objective.importance if ratio is not None else "none"
    stub = trainer(trl, case, **({"loss_type": name.split()[0].strip(",")} | own | options))
    theirs = trl_loss(stub, trl.GRPOTrainer._compute_loss, case, off_policy=off_policy, ratio=ratio)
    for per_pass in (5, 100):
        ours = updated(case, loss, objective, importance=importance, off_policy=off_policy, per_pass=per_pass)
        compare(name, case, theirs, ours)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("shape", ["full", "ragged", "holes"])
@pytest.mark.parametrize("off_policy", [False, True], ids=["first update", "clipped"])
def test_loss(name: str, shape: str, off_policy: bool) -> None:
    both(name, drawn(shape), Objective(), off_policy=off_policy)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("unbiased", [False, True], ids=["plain", "unbiased"])
@pytest.mark.parametrize("shape", ["ragged", "holes"])
def test_kl(name: str, unbiased: bool, shape: str) -> None:
    objective = Objective(kl_coef=0.04, kl_unbiased=unbiased)
    both(name, drawn(shape), objective, beta=0.04, use_bias_correction_kl=unbiased)


@pytest.mark.parametrize("name", LOSSES)
def test_fixed_entropy_bonus(name: str) -> None:
    both(name, drawn("holes"), Objective(entropy_coef=0.3), entropy_coef=0.3)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("bonus", [0.0, 0.3])
def test_undecided_tokens(name: str, bonus: float) -> None:
    """TRL takes the quantile of this micro-batch's entropies now, the update that of the optimizer step's before it."""
    objective = Objective(top_entropy=0.4, entropy_coef=bonus, kl_coef=0.04)
    both(name, drawn("holes"), objective, top_entropy_quantile=0.4, entropy_coef=bonus, beta=0.04)


@pytest.mark.parametrize("name", LOSSES)
def test_off_policy_mask(name: str) -> None:
    """With the sampler's log-probs, as TRL has them from vLLM; no correction beside it."""
    case = drawn("holes")
    case.sampler[0, 1] = case.sampler[4, 0] = torch.nan  # tokens that the engine could not score
    with_mask = updated(case, LOSSES[name][0], Objective(off_policy_kl=0.05), importance="none")[0]
    assert 0 < with_mask["updates/off_policy_masked"] < 1
    own = LOSSES[name][1] | {"loss_type": name.split()[0].strip(","), "off_policy_mask_threshold": 0.05}
    stub = trainer(trl, case, **own)
    ones = torch.ones_like(case.mask, dtype=torch.float32)
    theirs = trl_loss(stub, trl.GRPOTrainer._compute_loss, case, ratio=ones)
    compare(name, case, theirs, updated(case, LOSSES[name][0], Objective(off_policy_kl=0.05)))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("mode", ["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"])
@pytest.mark.parametrize("bounds", [(1.3, None), (1.4, 0.7), (None, 0.8)])
def test_importance(name: str, mode: Any, bounds: tuple[float | None, float | None]) -> None:
    """VESPO takes the corrections of tokens only; TRL refuses others, and so does a run."""
    if name == "vespo" and mode.startswith("sequence"):
        pytest.skip("refused by TRL, and by a run: tests/training/test_objective.py")
    case = drawn("holes")
    case.sampler[0, 1] = torch.nan
    objective = Objective(importance=mode, importance_max=bounds[0], importance_min=bounds[1], kl_coef=0.04)
    ratio = importance_ratio(case, mode, *bounds)
    assert ratio.unique().numel() > 2
    both(name, case, objective, ratio=ratio, use_vllm=True, beta=0.04)


@pytest.mark.parametrize("name", ["grpo", "dapo", "luspo", "vespo", "sapo"])
def test_all_at_once(name: str) -> None:
    objective = Objective(
        kl_coef=0.04,
        kl_unbiased=True,
        entropy_coef=0.2,
        top_entropy=0.5,
        off_policy_kl=0.05,
        importance="token_truncate",
        importance_max=1.3,
    )
    case = drawn("holes", seed=3)
    both(
        name,
        case,
        objective,
        ratio=importance_ratio(case, "token_truncate", 1.3, None),
        use_vllm=True,
        beta=0.04,
        use_bias_correction_kl=True,
        entropy_coef=0.2,
        top_entropy_quantile=0.5,
        off_policy_mask_threshold=0.05,
    )


@pytest.mark.parametrize("start", [0.0, 0.1])
@pytest.mark.parametrize("top", [1.0, 0.5])
def test_adaptive_entropy_over_several_steps(start: float, top: float) -> None:
    """TRL measures the entropy of its whole accumulation window, as the update that of the optimizer step."""
    chosen = {"entropy_target": 1.0, "entropy_coef_delta": 0.05, "entropy_coef_max": 0.12}
    objective = Objective(entropy_coef=start, top_entropy=top, **chosen)
    bonus = EntropyBonus(objective)
    case = drawn("ragged")
    made = {"use_adaptive_entropy": True, "entropy_coef": start, "top_entropy_quantile": top, **chosen}
    stub = trainer(trl, case, loss_type="dapo", **made)
    spread = case.entropies.detach().clone()
    coefficients = []
    for scale in (0.4, 0.5, 0.4, 1.5, 0.3, 1.6, 1.6, 1.6, 0.2, 0.2):
        with torch.no_grad():
            case.entropies.copy_(scale * spread)
        theirs = trl_loss(stub, trl.GRPOTrainer._compute_loss, case)
        coefficients.append(bonus.coefficient)
        compare("dapo", case, theirs, updated(case, LOSSES["dapo"][0], objective, bonus=bonus))
        assert bonus.weight == pytest.approx(stub.entropy_coef)
    assert coefficients[0] == 0.0  # nothing is known of the entropy before the first step
    assert max(coefficients) > 0.1
    assert 0.0 in coefficients[2:]


@pytest.mark.parametrize("shape", ["full", "ragged", "holes"])
@pytest.mark.parametrize("beta", [0.0, 0.04])
def test_gmpo_of_trl_experimental(shape: str, beta: float) -> None:
    theirs = pytest.importorskip("trl.experimental.gmpo.gmpo_trainer").GMPOTrainer._compute_loss
    case = drawn(shape)
    stub = trainer(trl, case, epsilon_low=0.4, epsilon_high=0.4, beta=beta)
    found = trl_loss(stub, theirs, case)
    assert found[3]["clip_ratio/region_mean"] > 0
    compare("gmpo", case, found, updated(case, GMPO(), Objective(kl_coef=beta)))


def test_the_defaults_are_those_of_trl() -> None:
    config = pytest.importorskip("trl.trainer.grpo_config").GRPOConfig
    theirs = {name: field.default for name, field in config.__dataclass_fields__.items()}
    sapo, vespo, clipped = SAPO(), VESPO(), ClippedSurrogate()
    assert theirs["sapo_temperature_pos"] == sapo.temperature_pos
    assert theirs["sapo_temperature_neg"] == sapo.temperature_neg
    assert (theirs["vespo_k_pos"], theirs["vespo_lambda_pos"]) == (vespo.k_pos, vespo.rate_pos)
    assert (theirs["vespo_k_neg"], theirs["vespo_lambda_neg"]) == (vespo.k_neg, vespo.rate_neg)
    assert theirs["epsilon"] == clipped.clip_low == clipped.clip_high
    objective = Objective()
    assert theirs["ref_model_mixup_alpha"] == objective.reference_sync_mix
    assert theirs["entropy_coef_delta"] == objective.entropy_coef_delta
    assert theirs["entropy_coef_max"] == objective.entropy_coef_max
