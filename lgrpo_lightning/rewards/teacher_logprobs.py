"""Token rewards from a frozen teacher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from lgrpo_lightning.contracts import RewardModel, WeightSource
from lgrpo_lightning.errors import UserError, mapped, require
from lgrpo_lightning.process_tree import ProcessTree
from lgrpo_lightning.types import Group, Rewards, pad

if TYPE_CHECKING:
    from lgrpo_lightning.policy.teacher import Teacher

DTYPES = ("float32", "bfloat16", "float16")


class TeacherLogprobs(RewardModel):
    r"""Rewards each token with log π_teacher - log π of the sampler: ``Rewards.tokens``.

    .. math:: r_{i,t} = c \, (\log \pi_{teacher}(y_{i,t}) - \log \pi_{sampler}(y_{i,t}))

    Over tokens that the policy draws, its mean is minus the reverse KL, KL(π ‖ π_teacher): ``Distillation``, which
    reads it as it is, brings the policy to the teacher (GKD, arXiv:2306.13649). The outcome does not apply: other
    reward models may give it. Tokens that are not the model's own get none. The teacher has a device of its own, one in
    every process, and is never trained or saved.

    Args:
        path: Hugging Face name or folder of a causal language model with the policy's tokenizer.
        coefficient: c.
        temperature: Divides the teacher's logits. Null: that of sampling, which the sampler's log-probs have, too; no
            other is possible in a run.
        dtype: Of its weights: "float32", "bfloat16" or "float16".
        device: Where it runs, such as "cuda:1"; "auto": the process's GPU where there is one.
        batch_tokens: Maximal tokens of one forward pass, including padding.
        model_kwargs: As ``policy.model_kwargs``.

    Raises:
        ValueError: An option is out of range; in ``setup``: the vocabularies or temperatures differ.
    """

    def __init__(
        self,
        path: str,
        coefficient: float = 1.0,
        temperature: float | None = None,
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        device: str = "auto",
        batch_tokens: int = 16384,
        model_kwargs: dict[str, Any] | None = None,
    ) -> None:
        require(
            "TeacherLogprobs: ",
            locals(),
            (temperature is None or temperature > 0, "temperature", "above 0, or null"),
            (dtype in DTYPES, "dtype", f"one of {', '.join(DTYPES)}"),
            (batch_tokens >= 1, "batch_tokens", "at least 1"),
        )
        self.path, self.coefficient, self.temperature = path, coefficient, temperature
        self.dtype, self.device, self.batch_tokens = dtype, device, batch_tokens
        self.model_kwargs = mapped("TeacherLogprobs: model_kwargs", model_kwargs or {})
        self._teacher: Teacher | None = None
        self._sampled_at = 1.0

    def setup(self, source: WeightSource) -> None:
        """Compare vocabularies and temperatures; weights are loaded when they are needed.

        Raises:
            ValueError: They differ, or there is no such model.
        """
        self._sampled_at = getattr(source, "temperature", 1.0)
        if self.temperature not in (None, self._sampled_at):
            raise UserError(
                f"TeacherLogprobs.temperature is {self.temperature:g} and sampling.temperature {self._sampled_at:g}: "
                "the teacher's log-probs would be compared with the sampler's at another temperature, and a teacher "
                "equal to the policy would reward. Leave it out: it follows sampling.temperature."
            )
        self._teacher = self._make(source.eos_token_ids, getattr(source, "longest_sequence", None))
        self._teacher.check_vocabulary(source.tokenizer, "TeacherLogprobs.path")

    def score_batch(self, groups: Sequence[Group], trees: Sequence[ProcessTree]) -> list[Rewards]:
        """The token rewards of every group, scored together."""
        self._teacher = self._teacher or self._make((), None)
        rows = iter(
            self._teacher.compute_logprobs(
                [g.prompt.token_ids for g in groups for _ in g.completions],
                [r.token_ids for g in groups for r in g.completions],
                temperature=self.temperature or self._sampled_at,
            )
        )
        return [self._make_rewards(group, [next(rows) for _ in group.completions]) for group in groups]

    def teardown(self) -> None:
        """Free the teacher."""
        self._teacher = None

    def __getstate__(self) -> dict[str, Any]:
        # copies and pickles hold no weights: the teacher is loaded again
        return vars(self) | {"_teacher": None}

    def _make(self, ends: Sequence[int], longest: int | None) -> Teacher:
        from lgrpo_lightning.policy.config import PolicyConfig
        from lgrpo_lightning.policy.teacher import Teacher

        config = PolicyConfig(
            path=self.path,
            dtype=self.dtype,
            layout="padded",  # trees of a model are verified where it is trained
            micro_batch_tokens=self.batch_tokens,
            model_kwargs=self.model_kwargs,
        )
        return Teacher(config, device=self.device, ends=ends, longest=longest)

    def _make_rewards(self, group: Group, logprobs: Sequence[Tensor]) -> Rewards:
        gaps = [
            torch.where(completion.mask, row - completion.logprobs, torch.nan)
            for completion, row in zip(group.completions, logprobs, strict=True)
        ]
        width = max((len(gap) for gap in gaps), default=0)
        real = pad([torch.ones(len(gap), dtype=torch.bool) for gap in gaps], width)
        outcome, divergence = torch.full((len(group),), torch.nan), -torch.cat(gaps).nanmean()
        return Rewards(
            outcome=outcome,
            tokens=torch.where(real, self.coefficient * pad(gaps, width), torch.nan),
            parts={self.name: outcome},
            metrics={} if divergence.isnan() else {f"rewards/{self.name}/reverse_kl": float(divergence)},
        )
