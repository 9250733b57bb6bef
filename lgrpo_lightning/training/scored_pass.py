"""One forward pass of an optimizer step, and what each of its tokens costs."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lgrpo_lightning.contracts import PolicyLoss
from lgrpo_lightning.functional.importance import ImportanceMode
from lgrpo_lightning.policy import Policy
from lgrpo_lightning.policy.policy import TokenScores
from lgrpo_lightning.training.known import Known
from lgrpo_lightning.training.metrics import Means
from lgrpo_lightning.training.objective import Objective
from lgrpo_lightning.training.token_loss import TokenLoss
from lgrpo_lightning.types import LossInput, TrainBatch


@dataclass(frozen=True, kw_only=True)
class ScoredPass:
    """Scores some completions with the policy and applies the policy loss; the arguments are those of ``Update``."""

    policy: Policy
    loss: PolicyLoss
    objective: Objective
    temperature: float
    importance: ImportanceMode | None
    corrects: bool

    def __call__(
        self, micro: TrainBatch, known: Known, kept: Tensor | None, mask: Tensor, means: Means
    ) -> tuple[TokenScores, Tensor]:
        """(log-probs and entropies, ``[N, T]`` loss of every token).

        Args:
            kept: Tokens that the policy loss trains; None: all.
            mask: Tokens that the metrics count; none of a pass that only keeps the ranks in step.
        """
        scores = self.policy(
            micro.prompts,
            micro.completions,
            temperature=self.temperature,
            entropy_gradient=self.objective.with_entropy,
            with_router_loss=self.objective.router_aux_coef > 0,
        )
        given = LossInput(
            logprobs=scores.logprobs,
            old_logprobs=scores.logprobs.detach() if known.old is None else known.old,
            sampler_logprobs=micro.sampler_logprobs,
            ref_logprobs=known.ref,
            advantages=micro.advantages,
            entropies=scores.entropies,
            mask=micro.mask,
        )
        token_loss = TokenLoss(
            loss=self.loss, objective=self.objective, importance=self.importance, corrects=self.corrects
        )
        return scores, token_loss(given, kept=kept, mask=mask, means=means)

    def router(self, value: Tensor, tokens: Tensor, trained: Tensor, means: Means) -> Tensor:
        """A pass's load-balancing loss, by its share of the trained tokens of the optimizer step."""
        means.put("router_loss", float(value.detach() * tokens), float(tokens))
        return self.objective.router_aux_coef * value * tokens / trained
