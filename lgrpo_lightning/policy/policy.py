"""The trained model: log-probs and entropies of completions."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from lgrpo_lightning.errors import UserError
from lgrpo_lightning.functional.logprobs import chunked_logprobs
from lgrpo_lightning.functional.vocabulary import Vocabulary, vocabulary
from lgrpo_lightning.images import ImageTokens
from lgrpo_lightning.policy.choice import COUNTS, LayoutChoice, LayoutName, choose_layout, explain_unsupported
from lgrpo_lightning.policy.config import PolicyConfig
from lgrpo_lightning.policy.end_of_sequence import find_token_ids
from lgrpo_lightning.policy.head import compute_logits
from lgrpo_lightning.policy.layout import Layout, Tokens, make_padded_layout
from lgrpo_lightning.policy.loading import find_context_length, load_model
from lgrpo_lightning.policy.multimodal import find_outside_of_text
from lgrpo_lightning.policy.packing import pack_groups, pack_padded, pack_prompts
from lgrpo_lightning.policy.prefix_layout import make_prefix_layout
from lgrpo_lightning.policy.processor import PromptProcessor
from lgrpo_lightning.policy.rotary import check_length, find_longest_alike
from lgrpo_lightning.policy.router import compute_router_loss
from lgrpo_lightning.policy.sharded_weights import Division, unshard
from lgrpo_lightning.policy.tree_layout import make_tree_layout

NO_TREES = "a tree gives each token one position and one mask, and tokens of images have others"


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
        processor: Of prompts with images; None: one of its own.
        reads_images: Whether prompts may have images. The tokens that stand for them are then never drawn.
    """

    def __init__(
        self,
        config: PolicyConfig,
        *,
        pad: int = 0,
        longest: int | None = None,
        processor: PromptProcessor | None = None,
        reads_images: bool = False,
    ) -> None:
        super().__init__()
        self.reads_images = reads_images
        self.processor = processor or PromptProcessor(config)
        self.config = config
        self.pad = pad
        self.model = load_model(config, longest=longest)
        size = int(self.model.config.get_text_config().vocab_size)
        self.vocabulary = Vocabulary(total=size, size=size)
        self.verified: set[LayoutName] = set()  # layouts whose log-probs are right
        self.choice: LayoutChoice | None = None
        self.images_verified = False  # whether a group with images was among those
        self.failed: dict[LayoutName, str] = {}  # layouts that turned out not to work, and why
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
        built = find_context_length(self.model.config)
        return min(built, find_longest_alike(self.model.config) or built)

    def restrict(self, tokenizer: Any, ends: Sequence[int] = ()) -> None:
        """Give probability 0 to the ids that have no text in ``tokenizer`` and are none of ``ends``, or suppressed.

        Raises:
            ValueError: What ``suppress_tokens`` names is no token, or it leaves fewer than two.
        """
        suppressed = find_token_ids(self.config, tokenizer, "suppress_tokens", self.config.suppress_tokens)
        placeholders = self.processor.placeholder_ids if self.reads_images else ()
        self.vocabulary = vocabulary(tokenizer, self.vocabulary.total, ends, (*suppressed, *placeholders))

    def choose_layout(
        self,
        prompts: Sequence[Tokens],
        completions: Sequence[Tokens],
        total: Callable[[Tensor], Tensor] = lambda table: table,
    ) -> LayoutChoice:
        """Settle the layout of the passes to come, for one rollout.

        Args:
            total: Sum over the processes of the run. Collective.
        """
        self.choice = choose_layout(
            self.model,
            self.config.layout,
            prompts,
            completions,
            unsupported=self.unsupported,
            total=lambda table: total(table.float().to(self.device)).double(),  # MPS has no float64
        )
        return self.choice

    def take_layout(
        self, layout: LayoutName, prompts: Sequence[Tokens], completions: Sequence[Tokens], *, reason: str
    ) -> LayoutChoice:
        """Settle the layout of the passes to come, whatever is configured."""
        tokens = {name: COUNTS[name](prompts, completions) for name in (layout, "padded")}
        self.choice = LayoutChoice(layout=layout, computed=tokens[layout], padded=tokens["padded"], reason=reason)
        return self.choice

    @property
    def unsupported(self) -> dict[LayoutName, str]:
        """Layouts that the model cannot run, or that failed their check → why."""
        reasons = explain_unsupported(self.model, checkpointing=self.config.gradient_checkpointing)
        if self.config.layout == "auto" and not self.config.verify:  # some models continue a cache wrongly
            reasons.setdefault("prefix", "policy.verify is false")
        if self.reads_images:
            reasons["tree"] = NO_TREES
        return reasons | self.failed

    def divide_rows(self, prompts: Sequence[Tokens], completions: Sequence[Tokens]) -> list[list[int]]:
        """Rows divided into forward passes within ``micro_batch_tokens``, longest first."""
        if self.layout != "padded":
            pack = pack_groups if self.layout == "tree" else pack_prompts
            return pack(prompts, completions, self.config.micro_batch_tokens)
        lengths = [len(p) + len(c) for p, c in zip(prompts, completions, strict=True)]
        return pack_padded(lengths, self.config.micro_batch_tokens)

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
        **options: Any,
    ) -> TokenScores:
        """As ``score``; without gradients, in evaluation mode."""
        with nullcontext() if torch.is_grad_enabled() else self.enter_evaluation():
            return self.score(prompts, completions, temperature=temperature, **options)

    def score(
        self,
        prompts: Sequence[Tokens],
        completions: Sequence[Tokens],
        *,
        temperature: float,
        layout: LayoutName | None = None,
        entropy_gradient: bool = False,
        with_router_loss: bool = False,
    ) -> TokenScores:
        """``[N, T]`` scores of every completion token after its prompt, in whatever mode the model is.

        Args:
            layout: Instead of the one chosen.
            entropy_gradient: Whether the entropies carry gradients, as the log-probs do.
            with_router_loss: Whether a mixture of experts computes its load-balancing loss, too.
        """
        rows = zip(prompts, completions, strict=True)
        check_length(self.model.config, max(len(p) + len(c) for p, c in rows))
        name = layout or self.layout
        if name == "tree":
            if any(isinstance(prompt, ImageTokens) for prompt in prompts):
                raise UserError(f"policy.layout is 'tree', but {NO_TREES}. Use policy.layout: prefix, padded or auto.")
            laid_out: Layout = make_tree_layout(prompts, completions, device=self.device)
        else:
            make = make_prefix_layout if name == "prefix" else make_padded_layout
            laid_out = make(prompts, completions, pad=self.pad, device=self.device, reader=self.processor)
        hidden, output = laid_out.run(self.model, **({"output_router_logits": True} if with_router_loss else {}))
        if not laid_out.images and torch.is_grad_enabled():  # every rank has a gradient of the same weights
            parameters = (p for module in self._outside_of_text for p in module.parameters(recurse=False))
            hidden = sum((0 * p.sum() for p in parameters if p.requires_grad), hidden)
        logprobs, entropies = chunked_logprobs(
            hidden.index_select(0, laid_out.predictors),
            self.vocabulary.replaced(laid_out.targets),
            lambda h: self.vocabulary.masked(compute_logits(self.model, h)),
            temperature=temperature,
            chunk=self.logprob_chunk,
            entropy_gradient=entropy_gradient,
        )
        routed = compute_router_loss(self.model, output, laid_out.router_mask) if with_router_loss else None
        logprobs, entropies = laid_out.spread(logprobs), laid_out.spread(entropies)
        return TokenScores(logprobs=logprobs, entropies=entropies, router_loss=routed)

    @cached_property
    def _outside_of_text(self) -> list[nn.Module]:
        """The part for images, on which an adapter may be."""
        return list(find_outside_of_text(self.model).values())

    @property
    def exact(self) -> bool:
        """Whether passes compute in fp32, so that two of them differ by rounding alone."""
        fp32 = next(self.parameters()).dtype == torch.float32
        return fp32 and not torch.is_autocast_enabled(self.device.type)

    @property
    def draws_dropout(self) -> bool:
        """Whether passes in training mode draw random numbers."""
        return bool(self.config.dropout or (self.config.lora and self.config.lora.dropout))

    @property
    def logprob_chunk(self) -> int:
        """Tokens whose fp32 logits fit into ``logprob_chunk_mb``."""
        vocabulary = int(self.model.config.get_text_config().vocab_size)
        return max(1, self.config.logprob_chunk_mb * 2**20 // (4 * vocabulary))

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
            with torch.no_grad(), self.enter_evaluation(), unshard(self):
                yield self.model
        finally:
            self.generating = False

    @contextmanager
    def enter_evaluation(self) -> Iterator[None]:
        """Evaluation mode, in which nothing is drawn, for a while."""
        was_training = self.model.training
        self.model.eval()
        try:
            yield
        finally:
            self.model.train(was_training)

    def touch(self) -> None:
        """Do nothing; under FSDP2 a forward pass of nothing, which settles who the root is."""

    def copy_frozen(self) -> Policy:
        """A copy that is never trained: the reference of the KL term."""
        twin = copy.deepcopy(self)
        return twin.requires_grad_(False).eval()
