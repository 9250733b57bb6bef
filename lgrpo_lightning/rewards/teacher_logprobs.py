"""Token rewards from a teacher: another model, or the policy itself with more context."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info  # type: ignore[attr-defined]
from torch import Tensor

from lgrpo_lightning.contracts import ModelName, RewardModel, Scorer, WeightSource
from lgrpo_lightning.data.contexts import check_context, complete_context, list_columns
from lgrpo_lightning.errors import UserError, mapped, require
from lgrpo_lightning.process_tree import ProcessTree
from lgrpo_lightning.types import Group, Prompt, Rewards, pad

if TYPE_CHECKING:
    from lgrpo_lightning.policy.teacher import Teacher

DTYPES = ("float32", "bfloat16", "float16")


class TeacherLogprobs(RewardModel):
    r"""Rewards each token with log π_teacher - log π of the sampler: ``Rewards.tokens``.

    .. math:: r_{i,t} = c \, (\log \pi_{teacher}(y_{i,t} | x', y_{i,<t}) - \log \pi_{sampler}(y_{i,t} | x, y_{i,<t}))

    Over tokens that the policy draws, its mean is minus the reverse KL, KL(π ‖ π_teacher): ``Distillation``, which
    reads it as it is, brings the policy to the teacher (GKD, arXiv:2306.13649). The outcome does not apply: other
    reward models may give it. Tokens that are not the model's own get none. A teacher with a path has a device of its
    own, one in every process, and is never trained or saved.

    x' is the prompt x, or with a context the prompt with more than the policy reads, such as the solution. Without a
    path the policy is then its own teacher (SDFT, arXiv:2601.19897; OPSD, arXiv:2601.18734).

    Args:
        path: Hugging Face name or folder of a causal language model with the policy's tokenizer; null: the run's own.
        context: What the teacher reads in place of the prompt: a template with ``{prompt}`` and columns of the row,
            or a column's name, short for the prompt, an empty line and the column. In a chat, ``{prompt}`` is the
            text of the last user message, and the template takes its place. Null: the prompt.
        weights: Without a path: those of the "policy" before each update, or of the "reference", which is the model
            before training unless ``objective.reference_sync_steps`` updates it.
        coefficient: c.
        temperature: Divides the teacher's logits. Null: that of sampling, which the sampler's log-probs have, too; no
            other is possible in a run.
        dtype: Of its weights, with a path, as are the next three: "float32", "bfloat16" or "float16".
        device: Where it runs, such as "cuda:1"; "auto": the process's GPU where there is one.
        batch_tokens: Maximum number of tokens of one forward pass, including padding.
        model_kwargs: As ``policy.model_kwargs``.

    Raises:
        ValueError: An option is out of range; in ``setup``: the vocabularies or temperatures differ.
    """

    def __init__(
        self,
        path: str | None = None,
        context: str | None = None,
        weights: ModelName = "policy",
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
            (weights in ("policy", "reference"), "weights", "'policy' or 'reference'"),
            (path is None or weights == "policy", "weights", "left out with a path, whose model is the teacher"),
        )
        self.path, self.coefficient, self.temperature = path, coefficient, temperature
        self.context, self.weights = context, weights
        self.dtype, self.device, self.batch_tokens = dtype, device, batch_tokens
        self.model_kwargs = mapped("TeacherLogprobs: model_kwargs", model_kwargs or {})
        self._teacher: Scorer | None = None
        self._tokenizer: Any = None
        self._sampled_at = 1.0
        if path is None:
            self._check_own_model()
            self.scores_with = weights  # type: ignore[misc]
        if context is not None:
            self.contexts = (complete_context("TeacherLogprobs.context", context),)  # type: ignore[misc]
            self.columns = list_columns(*self.contexts)  # type: ignore[misc]

    def _check_own_model(self) -> None:
        if self.context is None and self.weights == "policy":
            raise UserError(
                "TeacherLogprobs has neither a path nor a context: the policy with its own prompt has nothing to "
                "teach. Set context to a column that only the teacher reads, such as solution, or path to a model."
            )
        if (self.dtype, self.device, self.batch_tokens, self.model_kwargs) != ("float32", "auto", 16384, {}):
            raise UserError(
                "TeacherLogprobs: dtype, device, batch_tokens and model_kwargs are of a model that path names; without "
                "one, model.policy has them. Leave them out, or set path."
            )

    def check_row(self, row: Mapping[str, Any]) -> None:
        """Refuse a row whose context is empty."""
        for template in self.contexts:
            check_context(self.name, template, row)

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
        self._tokenizer = source.tokenizer
        if self.path is None:
            self._teacher = source.make_teacher(self.weights)
            return
        self._teacher = teacher = self._make(self.path, source.eos_token_ids, getattr(source, "longest_sequence", None))
        teacher.check_vocabulary(source.tokenizer, "TeacherLogprobs.path")

    def score_batch(self, groups: Sequence[Group], trees: Sequence[ProcessTree]) -> list[Rewards]:
        """The token rewards of every group, scored together."""
        if self._teacher is None and self.path is None:
            raise UserError("TeacherLogprobs scores with the model of a run when path is null: call setup first.")
        self._teacher = self._teacher or self._make(str(self.path), (), None)
        rows = iter(
            self._teacher.compute_logprobs(
                [ids for g in groups for ids in [self._find_prompt(g.prompt)] * len(g)],
                [r.token_ids for g in groups for r in g.completions],
                temperature=self.temperature or self._sampled_at,
            )
        )
        return [self._make_rewards(group, [next(rows) for _ in group.completions]) for group in groups]

    def teardown(self) -> None:
        """Free the teacher."""
        self._teacher = self._tokenizer = None

    def __getstate__(self) -> dict[str, Any]:
        # copies and pickles hold no weights: the teacher is loaded again
        return vars(self) | {"_teacher": None, "_tokenizer": None}

    def _find_prompt(self, prompt: Prompt) -> Sequence[int]:
        """What the teacher reads before a completion; the first one with a context is shown in the log."""
        if not self.contexts:
            return prompt.model_input
        if (ids := prompt.contexts.get(self.contexts[0])) is None:
            raise UserError(
                f"Prompt {prompt.uid} has no token ids with the context {self.contexts[0]!r} (Prompt.contexts), which "
                "TeacherLogprobs reads. PromptDataModule makes them; another data module has to, too."
            )
        if self._tokenizer is not None:
            shown = self._tokenizer.decode(ids)
            rank_zero_info(f"{self.name}: before completions of prompt {prompt.uid} the teacher reads {shown!r}.")
            self._tokenizer = None
        return ids

    def _make(self, path: str, ends: Sequence[int], longest: int | None) -> Teacher:
        from lgrpo_lightning.policy.config import PolicyConfig
        from lgrpo_lightning.policy.teacher import Teacher

        config = PolicyConfig(
            path=path,
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
