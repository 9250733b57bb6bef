"""The trained model: log-probs and entropies of completions."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn  # type: ignore[attr-defined]
from torch import Tensor, nn

from lgrpo_lightning.errors import UserError
from lgrpo_lightning.functional.logprobs import chunked_logprobs
from lgrpo_lightning.functional.vocabulary import Vocabulary, vocabulary
from lgrpo_lightning.policy.choice import Choice, LayoutName, choice, why_no_tree
from lgrpo_lightning.policy.config import PolicyConfig
from lgrpo_lightning.policy.end_of_sequence import named_token_ids
from lgrpo_lightning.policy.head import backbone, head_logits, verify_causal, verify_head
from lgrpo_lightning.policy.layout import Layout, Tokens, padded_layout
from lgrpo_lightning.policy.loading import context_length, load_model
from lgrpo_lightning.policy.packing import padded_packs, tree_packs
from lgrpo_lightning.policy.rotary import check_length, longest_alike
from lgrpo_lightning.policy.router import router_loss
from lgrpo_lightning.policy.sharded_weights import Division, unshard
from lgrpo_lightning.policy.training_noise import noise_found
from lgrpo_lightning.policy.tree_layout import tree_layout


@dataclass(frozen=True, kw_only=True)
class TokenScores:
    """Log-probs and entropies of every completion token at the sampling temperature: ``[N, T]`` fp32, 0 on padding."""

    logprobs: Tensor
    entropies: Tensor
    router_loss: Tensor | None = None  # of the pass, where it was asked for


class Policy(nn.Module):
    """A Hugging Face causal LM that scores completions.

    The root of FSDP2 sharding: all work on the weights enters through ``forward`` or ``generation_model``.

    Args:
        config: What to load and how to compute.
        pad: Token id to fill rows with; never attended to.
        longest: Most tokens of a prompt and its completion, where that is known.
    """

    def __init__(self, config: PolicyConfig, *, pad: int = 0, longest: int | None = None) -> None:
        super().__init__()
        self.config = config
        self.pad = pad
        self.model = load_model(config, longest=longest)
        size = int(self.model.config.get_text_config().vocab_size)
        self.vocabulary = Vocabulary(total=size, size=size)
        self.verified = False
        self.choice: Choice | None = None
        self.no_tree: str | None = None  # why trees turned out not to work
        self.compute_device: torch.device | None = None
        self.division: Division | None = None
        self.generating = False  # whether all weights are gathered

    def take_type(self, config: PolicyConfig) -> None:
        """Cast the weights to the type of ``config``, which is otherwise the same."""
        if config.dtype != self.config.dtype:
            self.to(getattr(torch, config.dtype))
        self.config = config

    @property
    def device(self) -> torch.device:
        """The device of computation: that of the weights, except for offloaded shards."""
        return self.compute_device or next(self.parameters()).device

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Move or cast the weights; a buffer (rotary frequencies) is moved, but keeps its type."""
        before = dict(self.named_buffers())
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, buffer in dict(self.named_buffers()).items():
            if buffer.dtype != before[name].dtype:
                owner, _, leaf = name.rpartition(".")
                setattr(self.get_submodule(owner), leaf, before[name].to(buffer.device))
        return self

    @property
    def context_length(self) -> int:
        """Most positions the model was built for, and at which it is the same in every pass."""
        built = context_length(self.model.config)
        return min(built, longest_alike(self.model.config) or built)

    def restrict(self, tokenizer: Any, ends: Sequence[int] = ()) -> None:
        """Give probability 0 to the ids that have no text in ``tokenizer`` and are none of ``ends``, or suppressed.

        Raises:
            ValueError: What ``suppress_tokens`` names is no token, or it leaves fewer than two.
        """
        suppressed = named_token_ids(self.config, tokenizer, "suppress_tokens", self.config.suppress_tokens)
        self.vocabulary = vocabulary(tokenizer, self.vocabulary.total, ends, suppressed)

    def choose_layout(self, prompts: Sequence[Tokens], completions: Sequence[Tokens]) -> Choice:
        """Settle the layout of the passes to come, for one rollout."""
        self.choice = choice(
            self.model,
            self.config.layout,
            prompts,
            completions,
            unsupported=self.no_tree or why_no_tree(self.model),
        )
        return self.choice

    def packs(self, prompts: Sequence[Tokens], completions: Sequence[Tokens]) -> list[list[int]]:
        """Rows divided into forward passes within ``micro_batch_tokens``, longest first."""
        if self.layout == "tree":
            return tree_packs(prompts, completions, self.config.micro_batch_tokens)
        lengths = [len(p) + len(c) for p, c in zip(prompts, completions, strict=True)]
        return padded_packs(lengths, self.config.micro_batch_tokens)

    @property
    def layout(self) -> LayoutName:
        """The layout of the passes: that of the last choice."""
        return self.choice.layout if self.choice else "padded"

    def forward(
        self,
        prompts: Sequence[Tokens],
        completions: Sequence[Tokens],
        *,
        temperature: float = 1.0,
        layout: LayoutName | None = None,
        entropy_gradient: bool = False,
        with_router_loss: bool = False,
    ) -> TokenScores:
        """Score every token of ``N`` completions after their prompts: without gradients, in evaluation mode.

        Args:
            layout: Instead of the one chosen.
            entropy_gradient: Whether the entropies carry gradients, as the log-probs do.
            with_router_loss: Whether a mixture of experts tells its load-balancing loss, too.

        Returns:
            ``TokenScores`` of shape ``[N, T]``. Those of ids that may not be sampled mean nothing.
        """
        with nullcontext() if torch.is_grad_enabled() else self.evaluation():
            return self._scores(
                prompts,
                completions,
                temperature=temperature,
                layout=layout,
                entropy_gradient=entropy_gradient,
                with_router_loss=with_router_loss,
            )

    def _scores(
        self,
        prompts: Sequence[Tokens],
        completions: Sequence[Tokens],
        *,
        temperature: float,
        layout: LayoutName | None = None,
        entropy_gradient: bool = False,
        with_router_loss: bool = False,
    ) -> TokenScores:
        """The same in whatever mode the model is."""
        check_length(
            self.model.config, max(len(p) + len(c) for p, c in zip(prompts, completions, strict=True))
        )
        if (layout or self.layout) == "tree":
            made: Layout = tree_layout(prompts, completions, device=self.device)
        else:
            made = padded_layout(prompts, completions, pad=self.pad, device=self.device)
        more = {"output_router_logits": True} if with_router_loss else {}
        output = backbone(self.model)(
            input_ids=made.input_ids,
            position_ids=made.position_ids,
            use_cache=False,
            **made.model_arguments,
            **more,
        )
        hidden = output.last_hidden_state
        logprobs, entropies = chunked_logprobs(
            hidden.flatten(0, 1).index_select(0, made.predictors),
            self.vocabulary.replaced(made.targets),
            lambda h: self.vocabulary.masked(head_logits(self.model, h)),
            temperature=temperature,
            chunk=self.logprob_chunk,
            entropy_gradient=entropy_gradient,
        )
        routed = router_loss(self.model, output, made.attention_mask) if with_router_loss else None
        return TokenScores(
            logprobs=made.spread(logprobs), entropies=made.spread(entropies), router_loss=routed
        )

    @property
    def logprob_chunk(self) -> int:
        """Tokens whose fp32 logits fit into ``logprob_chunk_mb``."""
        vocabulary = int(self.model.config.get_text_config().vocab_size)
        return max(1, self.config.logprob_chunk_mb * 2**20 // (4 * vocabulary))

    def verify(
        self,
        prompts: Sequence[Tokens],
        completions: Sequence[Tokens],
        *,
        temperature: float = 1.0,
        sampled: Tensor | None = None,
        own: bool = True,
        beside: tuple[Sequence[Tokens], Sequence[Tokens]] | None = None,
    ) -> None:
        """Check once that the log-probs of one group are the model's own, the sampler's, and the same in both layouts.

        Trees that differ are given up under ``layout: auto``; ``no_tree`` then says why.

        Args:
            sampled: ``[N, T]`` log-probs of the sampler; NaN where none are known.
            own: The sampler draws with these very weights, so that others are an error; else they are warned of, where
                they are far off.
            beside: Prompts and completions of the shortest and the longest row of the batch: neither may change the
                other's log-probs.

        Raises:
            RuntimeError: They differ; with both numbers and what to do.
        """
        if self.verified or not self.config.verify:
            return
        exact = next(self.parameters()).dtype == torch.float32 and not torch.is_autocast_enabled(
            self.device.type
        )
        ids = torch.tensor([[*prompts[0], *completions[0]][:32]], device=self.device)
        with self.generation_model() as model:
            verify_causal(model, ids, tolerance=1e-3 if exact else 0.1)
            verify_head(model, ids, tolerance=1e-4 if exact else 3e-2)
            if beside is not None:
                self._check_apart(*beside, temperature=temperature, tolerance=1e-3 if exact else 0.5)
            if sampled is not None or self.layout == "tree":
                padded = self(prompts, completions, temperature=temperature, layout="padded").logprobs
            if sampled is not None:
                check_sampled(sampled, padded, exact=exact and own, own=own, model=type(model).__name__)
            if self.layout == "tree":
                tree = self(prompts, completions, temperature=temperature, layout="tree").logprobs
                self._check_tree(tree, padded, tolerance=1e-4 if exact else 0.5)
            if not self.config.dropout and not (self.config.lora and self.config.lora.dropout):
                model.train()
                passes = [
                    self._scores(prompts, completions, temperature=temperature).logprobs for _ in range(2)
                ]
                check_repeatable(model, *passes, tolerance=1e-4 if exact else 0.5)
        self.verified = True

    def _check_apart(
        self,
        prompts: Sequence[Tokens],
        completions: Sequence[Tokens],
        *,
        temperature: float,
        tolerance: float,
    ) -> None:
        """Refuse a model whose log-probs of a row depend on the rows that share its pass."""
        together = self(prompts, completions, temperature=temperature, layout="padded").logprobs
        for i, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
            alone = self([prompt], [completion], temperature=temperature, layout="padded").logprobs[0]
            difference = float((together[i, : len(completion)] - alone).abs().max())
            if not difference <= tolerance:  # NaN is no agreement
                raise UserError(
                    f"{type(self.model).__name__}: log-probs of a row of {len(prompt) + len(completion)} tokens differ "
                    f"by up to {difference:.3g} (allowed {tolerance:g}) from those that it has in a pass of its own, "
                    "so that π/π_old depends on which rows share a pass. Take another model, or lower "
                    "sampling.max_new_tokens and data.max_prompt_length where it comes with long rows."
                )

    def _check_tree(self, tree: Tensor, padded: Tensor, *, tolerance: float) -> None:
        """Refuse trees that differ from padded rows, or do without them where that is allowed."""
        try:
            check_equal(tree, padded, tolerance=tolerance, model=type(self.model).__name__)
        except UserError as error:
            if self.config.layout != "auto":
                raise
            self.no_tree = f"{type(self.model).__name__} gives other log-probs in trees"
            rank_zero_warn(f"{error} policy.layout is auto: this run takes padded rows.")

    @contextmanager
    def generation_model(self) -> Iterator[Any]:
        """The causal LM in evaluation mode without gradients (and without gradient checkpointing's cache ban).

        Collective where the weights are sharded; inside, it may be entered again by one rank alone.
        """
        if self.generating:
            with torch.no_grad():
                yield self.model
            return
        self.generating = True
        try:
            with torch.no_grad(), self.evaluation(), unshard(self):
                yield self.model
        finally:
            self.generating = False

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """Evaluation mode, in which nothing is drawn, for a while."""
        was_training = self.model.training
        self.model.eval()
        try:
            yield
        finally:
            self.model.train(was_training)

    def touch(self) -> None:
        """Do nothing; under FSDP2 a forward pass of nothing, which settles who the root is."""

    def frozen_copy(self) -> Policy:
        """A copy that is never trained: the reference of the KL term."""
        twin = copy.deepcopy(self)
        return twin.requires_grad_(False).eval()


def check_repeatable(model: Any, first: Tensor, second: Tensor, *, tolerance: float) -> None:
    """Refuse a model that draws random numbers in training mode though its dropout is 0.

    Raises:
        RuntimeError: With what may be the cause.
    """
    difference = float((first - second).abs().max())
    if not difference <= tolerance:  # NaN is no agreement
        raise UserError(
            f"{type(model).__name__}: two passes over the same tokens in training mode differ by up to "
            f"{difference:.3g} in log-probs (allowed {tolerance:g}) though policy.dropout is 0, so that the ratio "
            f"of the first update would not be 1. It draws noise from {noise_found(model)}. Turn it off in "
            "policy.model_kwargs."
        )


def check_sampled(sampled: Tensor, scored: Tensor, *, exact: bool, model: str, own: bool = True) -> None:
    """Refuse a model whose completions were drawn from another distribution than the one that is trained.

    Log-probs of another sampler than the model's own are warned of.

    Args:
        sampled, scored: ``[N, T]``; NaN in ``sampled`` where nothing is known.
        own: They are of the model's own sampling.
        exact: Both are fp32: no token may differ by more than 1e-3; else their mean by no more than 0.3.

    Raises:
        RuntimeError: With both numbers.
    """
    known = ~sampled.isnan()
    difference = torch.where(known, (sampled - scored).abs(), 0.0)
    found = float(difference.max() if exact else difference.sum() / known.sum().clamp(min=1))
    allowed = 1e-3 if exact else 0.3
    if not found <= allowed:  # NaN is no agreement
        at = int(difference.argmax())
        one, other = float(sampled.flatten()[at]), float(scored.flatten()[at])
        what = (
            f"{model}: log-probs of sampling differ from those of the same tokens in one pass by {found:.3g}"
        )
        if not own:
            rank_zero_warn(
                f"The sampler's log-probs are not the policy's: {what}. Either its weights are others "
                "(objective.importance corrects for that), or it scores tokens otherwise."
            )
            return
        raise UserError(
            f"{what} "
            f"({'at most' if exact else 'on average'} {allowed:g} allowed; one token {one:.6f} "
            f"sampled, {other:.6f} scored). Its cache does not give what the whole sequence "
            "gives, so that completions of another policy would be trained. Use VLLMSampler if vLLM has this "
            "architecture, or another model."
        )


def check_equal(tree: Tensor, padded: Tensor, *, tolerance: float, model: str) -> None:
    """Refuse trees whose log-probs differ from those of padded rows.

    Raises:
        RuntimeError: With both numbers and the setting that turns trees off.
    """
    difference = (tree - padded).abs()
    if not float(difference.max()) <= tolerance:  # NaN is no agreement
        at = int(difference.argmax())
        raise UserError(
            f"{model}: the log-probs of the tree layout differ from those of padded rows by up to "
            f"{float(difference.max()):.3g} (tree {float(tree.flatten()[at]):.6f}, padded "
            f"{float(padded.flatten()[at]):.6f}; allowed {tolerance:g}). Set model.policy.layout: padded."
        )
