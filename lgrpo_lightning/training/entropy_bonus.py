"""The weight of the entropy bonus, fixed or steered towards a target."""

from __future__ import annotations

from typing import Any

from lgrpo_lightning.training.objective import Objective


class EntropyBonus:
    """Gives the weight of the next optimizer step from the entropy of the last one (Skywork-OR1, arXiv:2505.22312).

    With a target, the weight rises by a step of its own while the entropy is at or below it, and falls while it is
    above; it is applied only where the last optimizer step was at or below, and so not before the first one.

    >>> bonus = EntropyBonus(Objective(entropy_target=0.5, entropy_coef_delta=0.01))
    >>> weights = []
    >>> for entropy in (0.4, 0.4, 0.6, 0.4):
    ...     weights.append(bonus.coefficient)
    ...     bonus.saw(entropy)
    >>> weights
    [0.0, 0.01, 0.02, 0.0]
    """

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self.weight = objective.entropy_coef
        self.low = False  # whether the entropy was at or below the target; not known yet

    @property
    def coefficient(self) -> float:
        """The weight of the next optimizer step."""
        return self.weight if self.objective.entropy_target is None or self.low else 0.0

    def saw(self, entropy: float) -> None:
        """An optimizer step was made, whose tokens had this mean entropy on all ranks."""
        objective = self.objective
        if objective.entropy_target is None:
            return
        self.low = entropy <= objective.entropy_target
        change = objective.entropy_coef_delta if self.low else -objective.entropy_coef_delta
        self.weight = min(max(self.weight + change, 0.0), objective.entropy_coef_max)

    def state_dict(self) -> dict[str, Any]:
        """Weight and place."""
        return {"weight": self.weight, "low": self.low}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        if self.objective.entropy_target is not None:  # else the weight is the configuration's
            self.weight = min(state["weight"], self.objective.entropy_coef_max)
            self.low = state["low"]
