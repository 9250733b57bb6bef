"""Models that score tokens without being trained by that: another one, or the run's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from lgrpo_lightning.errors import UserError
from lgrpo_lightning.policy.config import PolicyConfig
from lgrpo_lightning.policy.layout import Tokens
from lgrpo_lightning.policy.loading import load_config, load_tokenizer
from lgrpo_lightning.policy.policy import Policy
from lgrpo_lightning.policy.reference import Reference
from lgrpo_lightning.policy.refusals import explain_load_errors
from lgrpo_lightning.policy.verification import verify_layout


class Teacher:
    """A causal language model on its own device, loaded at its first use.

    Args:
        config: What to load; its ``micro_batch_tokens`` are those of a forward pass.
        device: Where it runs; "auto": the process's GPU where there is one.
        ends: Ids that may end a completion though they have no text.
        longest: Most tokens of a prompt and its completion, where that is known.
    """

    def __init__(
        self,
        config: PolicyConfig,
        *,
        device: str = "auto",
        ends: Sequence[int] = (),
        longest: int | None = None,
    ) -> None:
        self.config, self.device, self.ends, self.longest = config, device, tuple(ends), longest
        self._policy: Policy | None = None

    def check_vocabulary(self, tokenizer: Any, key: str) -> None:
        """Refuse a teacher that reads token ids otherwise than ``tokenizer``.

        Args:
            key: The option that names it.
        """
        with explain_load_errors(key, self.config.path, self.config.resolved_path):
            theirs = load_tokenizer(self.config).get_vocab()
            ids = int(load_config(self.config).get_text_config().vocab_size)
        ours = tokenizer.get_vocab()
        if other := sorted(t for t in {*ours, *theirs} if ours.get(t) != theirs.get(t)):
            was, now = (v.get(other[0], "none") for v in (ours, theirs))
            raise UserError(
                f"{key} is {self.config.path!r}, whose tokenizer is not the policy's: {len(other)} tokens differ, such "
                f"as {other[0]!r}, which has id {was} for the policy and {now} for the teacher. Log-probs are compared "
                "token by token: take a teacher of the policy's family, with the same tokenizer."
            )
        if (last := max(ours.values(), default=0)) >= ids:
            raise UserError(
                f"{key} is {self.config.path!r}, which has {ids} token ids and so no embedding for id {last} of its "
                "own tokenizer. The folder's model and tokenizer are not of one model."
            )

    @torch.no_grad()
    def compute_logprobs(
        self, prompts: Sequence[Tokens], completions: Sequence[Tokens], *, temperature: float
    ) -> list[Tensor]:
        """``[T]`` fp32 log-probs of each completion's tokens after its prompt, on the CPU."""
        if not completions:
            return []
        policy = self._policy = self._policy or self._load()
        policy.choose_layout(prompts, completions)
        return _score_rows(policy, policy, prompts, completions, temperature)

    def _load(self) -> Policy:
        tokenizer = load_tokenizer(self.config)
        policy = Policy(self.config, pad=tokenizer.pad_token_id or 0, longest=self.longest)
        policy.restrict(tokenizer, self.ends)
        device = ("cuda" if torch.cuda.is_available() else "cpu") if self.device == "auto" else self.device
        return policy.to(device).requires_grad_(False).eval()


class OwnTeacher:
    """The policy of a run, or its reference, as it is at each call, in the layout that suits the teacher's prompts.

    Args:
        policy: The trained model.
        reference: What scores in its place; None: the policy itself.
        precision: A context in which models compute as in training.
    """

    def __init__(
        self,
        policy: Policy,
        reference: Reference | None,
        precision: Callable[[], AbstractContextManager[Any]],
    ) -> None:
        self._scorer: Policy | Reference = reference or policy
        self._policy = reference if isinstance(reference, Policy) else policy
        self._precision = precision

    @torch.no_grad()
    def compute_logprobs(
        self, prompts: Sequence[Tokens], completions: Sequence[Tokens], *, temperature: float
    ) -> list[Tensor]:
        """``[T]`` fp32 log-probs of each completion's tokens after its prompt, on the CPU. Collective."""
        policy = self._policy
        with self._precision(), policy.generation_model():  # sharded weights are gathered: ranks may differ in passes
            if not completions:
                return []
            before = policy.choice
            try:
                self._choose_layout(prompts, completions, temperature)
                return _score_rows(policy, self._scorer, prompts, completions, temperature)
            finally:
                policy.choice = before

    def _choose_layout(self, prompts: Sequence[Tokens], completions: Sequence[Tokens], temperature: float) -> None:
        """Give the policy the layout of these rows; one that was not in use yet is checked on their first group.

        A resumed run scores before its update has checked any layout, and has to score as the run before.
        """
        first = [i for i, prompt in enumerate(prompts) if prompt == prompts[0]]
        group = [prompts[i] for i in first], [completions[i] for i in first]
        while self._policy.choose_layout(prompts, completions).layout not in self._policy.verified | {"padded"}:
            verify_layout(self._policy, *group, temperature=temperature)


def _score_rows(
    policy: Policy,
    scorer: Policy | Reference,
    prompts: Sequence[Tokens],
    completions: Sequence[Tokens],
    temperature: float,
) -> list[Tensor]:
    """``[T]`` log-probs of each completion by ``scorer``, in the passes of ``policy``, on the CPU."""
    logprobs: dict[int, Tensor] = {}
    for pack in policy.divide_rows(prompts, completions):
        rows = [prompts[i] for i in pack], [completions[i] for i in pack]
        scores = scorer(*rows, temperature=temperature).logprobs.cpu()
        logprobs |= {i: row[: len(completions[i])] for i, row in zip(pack, scores, strict=True)}
    return [logprobs[i] for i in range(len(completions))]
