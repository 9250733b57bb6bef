"""A policy loss is refused beside an estimator, or a correction, that does not go with it."""

from __future__ import annotations

from lgrpo_lightning.contracts import AdvantageEstimator, PolicyLoss, Sampler
from lgrpo_lightning.errors import UserError
from lgrpo_lightning.training.objective import Objective
from lgrpo_lightning.types import Sampling


def check_weights(loss: PolicyLoss, estimator: AdvantageEstimator) -> None:
    """Refuse λ weights, which weigh tokens, beside a loss that has one term for a completion.

    Raises:
        ValueError: With what to do.
    """
    if loss.level == "sequence" and estimator.power > 0:
        name, who = type(loss).__name__, type(estimator).__name__
        token = "its token form (model.loss.init_args.token: true), " if hasattr(loss, "token") else ""
        raise UserError(
            f"model.loss is {name}, which has one ratio for all tokens of a completion, and {who} weighs tokens by "
            f"1/|λ|^{estimator.power:g}: such a loss has no tokens to weigh. Take {token}"
            "an estimator without λ weights (GRPO, or lambda_power: 0), or a token-level loss."
        )


def check_penalty(objective: Objective, estimator: AdvantageEstimator) -> None:
    """Refuse a KL penalty in the reward beside an estimator that does not look at it, or takes it for something else.

    Raises:
        ValueError: With what to do.
    """
    if objective.kl_in_reward and not ("outcome" in estimator.reads and estimator.takes_penalties):
        raise UserError(
            f"objective.kl_place is 'reward', and {type(estimator).__name__} does not look at completions' outcomes, "
            "or compares it with a threshold, so that a penalty is lost on it. Set objective.kl_place: loss."
        )


def check_correction(loss: PolicyLoss, objective: Objective, sampler: Sampler, sampling: Sampling) -> None:
    """Refuse the correction of whole completions beside a loss that multiplies those of tokens itself.

    Raises:
        ValueError: With what to do.
    """
    mode = objective.importance
    applied = not (sampler.is_policy or sampling.truncated)
    if loss.corrects and applied and mode.startswith("sequence"):
        raise UserError(
            f"model.loss is {type(loss).__name__}, which multiplies the corrections of a completion's tokens, and "
            f"objective.importance is {mode!r}, one correction for all of them. Set objective.importance: "
            f"{mode.replace('sequence', 'token')}, or none."
        )
