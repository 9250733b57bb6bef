"""The values that components exchange: frozen, keyword-only, complete.

Shapes: ``G`` completions of a group, ``T`` tokens of the longest one, ``S`` steps of a process tree, ``N`` completions
of a batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from lgrpo_lightning.errors import refuse_text
from lgrpo_lightning.images import ImageFile, ImageTokens
from lgrpo_lightning.process_tree import ProcessTree

FinishReason = Literal["stop", "length"]
Message = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One prompt, rendered and tokenised.

    Attributes:
        uid: Name of the prompt in its data set; part of the key of the sampling noise.
        text: Input of the model, after the chat template; an image is one placeholder.
        token_ids: ``text`` as token ids; an image is as many placeholders as the model reads of it.
        messages: The chat it was rendered from, or None for a plain string.
        columns: All other columns of the data row, for rewards.
        contexts: Token ids of the prompt with more context, by the template of ``RewardModel.contexts``.
        images: The images of the placeholders, in order.

    >>> prompt = Prompt(uid="sums/0", text="1+1=", token_ids=(5, 3, 5, 9), columns={"answer": 2})
    >>> prompt.columns["answer"], prompt.messages
    (2, None)
    """

    uid: str
    text: str
    token_ids: tuple[int, ...]
    messages: tuple[Message, ...] | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)
    contexts: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    images: tuple[ImageFile, ...] = ()

    def __post_init__(self) -> None:
        refuse_text("Prompt.token_ids", self.token_ids)
        refuse_text("Prompt.messages", self.messages)
        refuse_text("Prompt.images", self.images)

    @property
    def model_input(self) -> Sequence[int]:
        """What the model reads: the token ids, with the images where there are any."""
        return ImageTokens(self.token_ids, self.text, self.images) if self.images else self.token_ids

    def copy(self) -> Prompt:
        """A copy with its own columns and messages."""
        messages = None if self.messages is None else tuple(copy_value(dict(m)) for m in self.messages)
        return replace(self, messages=messages, columns=copy_value(dict(self.columns)))


@dataclass(frozen=True, kw_only=True)
class Fork:
    """Origin of a forked completion, whose first tokens are a copy.

    Attributes:
        member: Index in the group of the completion that was copied.
        position: Number of copied tokens.

    >>> Fork(member=0, position=12)
    Fork(member=0, position=12)
    """

    member: int
    position: int


@dataclass(frozen=True, kw_only=True)
class Turn:
    """A turn of an episode: a span of the completion's tokens, and the messages in it.

    Attributes:
        role: Who wrote the turn: the policy is "assistant".
        start: Index of its first token in the completion.
        end: Index of its last token plus 1.
        messages: The messages of the turn; one for the policy.

    >>> turn = Turn(role="assistant", start=0, end=3, messages=({"role": "assistant", "content": "7?"},))
    >>> turn.end - turn.start
    3
    """

    role: Literal["assistant", "environment"]
    start: int
    end: int
    messages: tuple[Message, ...]


@dataclass(frozen=True, kw_only=True)
class Completion:
    """One sampled completion.

    Attributes:
        token_ids: The completion, including the end-of-sequence token if it was sampled.
        logprobs: ``[T]`` fp32, natural logarithms of the tokens' probabilities in the distribution that was sampled
            from.
        text: The completion as text, without the tokens that ``Sampling.strip_special_tokens`` strips.
        text_ends: Length of ``text`` after each token, in characters; ``T`` non-decreasing numbers. If a token ends
            inside a character, only complete characters count.
        finish_reason: "stop" (end of sequence or a stop string) or "length".
        mask: ``[T]`` bool; False on tokens that the policy did not sample (a tool's output). In the group that a
            segmenter gets, False on all untrained tokens.
        weight_version: Number of optimizer steps of the weights that sampled it.
        entropies: ``[T]`` fp32, entropy of the sampled distribution in nats, if the sampler computes it.
        fork: Origin of a forked completion; None for an independent sample.
        applies: False for an episode whose environment failed: no reward applies to it.
        turns: The turns of an episode, in order; empty for a completion of one turn.
        rewards: Rewards of the environment: one number, or one per turn of the assistant; empty without a reward.
        metrics: Metrics of the sampler; their means over completions are logged.

    >>> from lgrpo_lightning.testing import toy_group
    >>> completion = toy_group(["5+4"]).completions[0]
    >>> len(completion), completion.text_between(1, 3), completion.mask.tolist()
    (3, '+4', [True, True, True])
    """

    token_ids: tuple[int, ...]
    logprobs: Tensor
    text: str
    text_ends: tuple[int, ...]
    finish_reason: FinishReason
    mask: Tensor
    weight_version: int = 0
    entropies: Tensor | None = None
    fork: Fork | None = None
    applies: bool = True
    turns: tuple[Turn, ...] = ()
    rewards: tuple[float, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        refuse_text("Completion.token_ids", self.token_ids)
        sizes = {name: len(getattr(self, name)) for name in ("token_ids", "logprobs", "text_ends", "mask")}
        if len(set(sizes.values())) > 1:
            raise ValueError(f"A completion has one entry per token in every field; got {sizes}.")

    def __len__(self) -> int:
        return len(self.token_ids)

    @property
    def truncated(self) -> bool:
        """Whether it was cut off at the maximum length."""
        return self.finish_reason == "length"

    def trained(self, *, mask_truncated: bool = False) -> Tensor:
        """``[T]`` bool: the trained tokens: those it sampled; none if it failed or is truncated under that option."""
        return self.mask & (self.applies and not (mask_truncated and self.truncated))

    def text_between(self, start: int, end: int) -> str:
        """The text of tokens ``start`` to ``end`` (exclusive)."""
        ends = (0, *self.text_ends)
        return self.text[ends[start] : ends[end]]


@dataclass(frozen=True, kw_only=True)
class Group:
    """A prompt and the completions sampled for it.

    Attributes:
        prompt: The prompt.
        completions: ``G`` completions. The index of a completion is its number as a member of the group.

    >>> from lgrpo_lightning.testing import toy_group
    >>> group = toy_group(["ab", "c"], columns={"answer": "ab"})
    >>> [completion.text == group.prompt.columns["answer"] for completion in group.completions]
    [True, False]
    """

    prompt: Prompt
    completions: tuple[Completion, ...]

    def __len__(self) -> int:
        return len(self.completions)

    def copy(self) -> Group:
        """A copy with its own prompt."""
        return replace(self, prompt=self.prompt.copy())

    def masked(self, *, mask_truncated: bool = False) -> Group:
        """A copy in which the mask of each completion marks the trained tokens."""
        own = [replace(r, mask=r.trained(mask_truncated=mask_truncated)) for r in self.completions]
        return replace(self, completions=tuple(own))

    @property
    def mask(self) -> Tensor:
        """``[G, T]`` bool: the masks of the completions, False on padding."""
        return pad([r.mask for r in self.completions], max((len(r) for r in self.completions), default=0)).bool()

    @property
    def applies(self) -> Tensor:
        """``[G]`` bool: False on episodes that were dropped."""
        return torch.tensor([r.applies for r in self.completions], dtype=torch.bool)

    @property
    def sequences(self) -> list[list[int]]:
        """Token ids of each completion."""
        return [list(r.token_ids) for r in self.completions]


@dataclass(frozen=True, kw_only=True)
class Rewards:
    """The rewards of one group.

    Attributes:
        outcome: ``[G]`` fp32, one reward per completion; NaN = "does not apply".
        steps: ``[S]`` fp32, one reward per step of the group's process tree, in the order of ``ProcessTree.steps``, or
            None; NaN = "does not apply".
        tokens: ``[G, T]`` fp32, a reward per token, or None; NaN on padding and where a token has no reward.
        parts: The named summands of ``outcome``, each ``[G]`` and unweighted; logged as ``rewards/<name>/…``.
        part_weights: Factor of each part in ``outcome``, by name; 1 if it is missing.
        metrics: Scalars to log, by name.
        extras: Columns to store with the completions, ``G`` values each.

    >>> right, short = torch.tensor([1.0, 0.0]), torch.tensor([0.2, 0.8])
    >>> Rewards(outcome=right + short / 2, parts={"right": right, "short": short}, part_weights={"short": 0.5}).outcome
    tensor([1.1000, 0.4000])
    """

    outcome: Tensor
    steps: Tensor | None = None
    tokens: Tensor | None = None
    parts: Mapping[str, Tensor] = field(default_factory=dict)
    part_weights: Mapping[str, float] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    extras: Mapping[str, list[Any]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Credit:
    """The advantage and weight of every token.

    Attributes:
        advantages: ``[G, T]`` fp32, 0 on padding. Positive: the token becomes more probable.
        weights: ``[G, T]`` fp32, factor of the token's term in the loss, 0 on padding and on untrained tokens.

    >>> from lgrpo_lightning.testing import toy_tree
    >>> tree = toy_tree(["ab", "ac"])
    >>> Credit(advantages=torch.tensor([[1.0, 1.0], [-1.0, -1.0]]), weights=tree.weights(1)).weights.tolist()
    [[0.5, 1.0], [0.5, 1.0]]
    """

    advantages: Tensor
    weights: Tensor


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """One rollout: the groups of a batch of prompts on this rank, with their trees, rewards and credits.

    Attributes:
        index: Number of the rollout in the run, from 0.
        groups: The groups, in the order of the prompts.
        trees: The process tree of each group.
        rewards: The rewards of each group.
        credits: The credit of each group.
        trained: For each group whether the update uses it (False: dropped because its rewards are equal).
        mask_truncated: Whether truncated completions are removed from the loss.
        kept: Members of each group that the update may use, in order; empty: all of every group.
        replaced: Groups that were sampled first and then replaced; none of them is trained.

    >>> from lgrpo_lightning.callbacks import RolloutCallback
    >>> class PrintRewards(RolloutCallback):
    ...     def on_rollout_end(self, trainer, pl_module, rollout):
    ...         print(rollout.index, [rewards.outcome.mean().item() for rewards in rollout.rewards])
    """

    index: int
    groups: tuple[Group, ...]
    trees: tuple[ProcessTree, ...]
    rewards: tuple[Rewards, ...]
    credits: tuple[Credit, ...]
    trained: tuple[bool, ...]
    mask_truncated: bool = False
    kept: tuple[tuple[int, ...], ...] = ()
    replaced: Rollout | None = None

    @property
    def sampled(self) -> Rollout:
        """All sampled groups: the replaced ones follow the others."""
        if (more := self.replaced) is None:
            return self
        kept = self.kept and self.kept + tuple(tuple(range(len(group))) for group in more.groups)
        both = ("groups", "trees", "rewards", "credits", "trained")
        joined = {name: getattr(self, name) + getattr(more, name) for name in both}
        return replace(self, kept=kept, replaced=None, **joined)

    @property
    def rows(self) -> list[tuple[int, int]]:
        """(group, member) of each row of an update's batch."""
        kept = self.kept or [range(len(group)) for group in self.groups]
        return [(at, member) for at, members in enumerate(kept) for member in members]

    def takes_part(self, at: int, member: int) -> bool:
        """Whether the update uses a completion of the group at ``at``."""
        completion = self.groups[at].completions[member]
        kept = not self.kept or member in self.kept[at]
        return self.trained[at] and kept and completion.applies and not (self.mask_truncated and completion.truncated)

    def to(self, device: Any, **options: Any) -> Rollout:
        """The rollout itself, because all its tensors are on the CPU. Lightning calls this for predictions."""
        return self


@dataclass(frozen=True, kw_only=True)
class Progress:
    """The position in the run of the completions that are scored.

    Attributes:
        rollout: Finished rollouts, or the number of the rollout that is scored.
        global_step: Optimizer steps of the weights that sampled.
        epoch: Finished epochs.
        max_steps: Maximum number of optimizer steps of the run, in complete rollouts; -1: no limit.
        max_rollouts: Maximum number of rollouts; -1: no limit.

    >>> progress = Progress(rollout=30, max_rollouts=120)
    >>> progress.rollout / progress.max_rollouts  # a reward that grows stricter during the run
    0.25
    """

    rollout: int = 0
    global_step: int = 0
    epoch: int = 0
    max_steps: int = -1
    max_rollouts: int = -1


@dataclass(frozen=True, kw_only=True)
class TrainBatch:
    """Completions of complete groups with their credit: the input of an update.

    Attributes:
        prompts: Token ids of each row's prompt, with its images.
        completions: Token ids of each row's completion.
        group_ids: ``[N]`` index of each row's group, non-decreasing.
        advantages, weights: ``[N, T]`` fp32, 0 on padding.
        mask: ``[N, T]`` bool, True on tokens that are trained.
        sampler_logprobs: ``[N, T]`` fp32, 0 on padding.
    """

    prompts: tuple[Sequence[int], ...]
    completions: tuple[tuple[int, ...], ...]
    group_ids: Tensor
    advantages: Tensor
    weights: Tensor
    mask: Tensor
    sampler_logprobs: Tensor

    def __len__(self) -> int:
        return len(self.completions)

    @property
    def lengths(self) -> list[int]:
        """Completion lengths in tokens, ``N`` of them."""
        return [len(c) for c in self.completions]

    @classmethod
    def from_groups(
        cls,
        groups: Sequence[Group],
        credits: Sequence[Credit],
        *,
        device: torch.device | str = "cpu",
        mask_truncated: bool = False,
        rows: Sequence[tuple[int, int]] | None = None,
    ) -> TrainBatch:
        """Stack groups and their credit row by row, padded to the longest completion.

        Args:
            mask_truncated: Train no token of a completion that was cut off.
            rows: (group, member) of each row, group after group; None: all completions.
        """
        rows = [(at, m) for at, g in enumerate(groups) for m in range(len(g))] if rows is None else rows
        completions = [groups[at].completions[m] for at, m in rows]
        width = max((len(c) for c in completions), default=0)
        return cls(
            prompts=tuple(groups[at].prompt.model_input for at, _ in rows),
            completions=tuple(c.token_ids for c in completions),
            group_ids=torch.tensor([at for at, _ in rows], dtype=torch.long, device=device),
            advantages=pad([credits[at].advantages[m] for at, m in rows], width).to(device),
            weights=pad([credits[at].weights[m] for at, m in rows], width).to(device),
            mask=pad([c.trained(mask_truncated=mask_truncated) for c in completions], width).to(device),
            sampler_logprobs=pad([c.logprobs for c in completions], width).to(device),
        )

    @property
    def trained_ids(self) -> list[list[int]]:
        """The ids of each completion that are trained: those that were drawn."""
        rows = zip(self.completions, self.mask.tolist(), strict=True)
        return [[i for i, kept in zip(ids, row, strict=False) if kept] for ids, row in rows]

    def rows(self, index: list[int]) -> TrainBatch:
        """The rows at ``index``, in that order, trimmed to their longest completion."""
        width = max((len(self.completions[i]) for i in index), default=0)
        at = torch.tensor(index, dtype=torch.long, device=self.mask.device)
        names = ("advantages", "weights", "mask", "sampler_logprobs")
        return TrainBatch(
            prompts=tuple(self.prompts[i] for i in index),
            completions=tuple(self.completions[i] for i in index),
            group_ids=self.group_ids.index_select(0, at),
            **{name: getattr(self, name).index_select(0, at)[:, :width] for name in names},
        )


@dataclass(frozen=True, kw_only=True)
class LossInput:
    """What a policy loss gets of ``N`` completions. Values on padding and on untrained tokens are arbitrary.

    Log-probs are natural logarithms of the probabilities of the completion's tokens.

    Attributes:
        logprobs: ``[N, T]`` fp32, log-probs under the policy, with gradient.
        old_logprobs: ``[N, T]`` fp32, log-probs under the policy before the rollout's first optimizer step.
        sampler_logprobs: ``[N, T]`` fp32, log-probs in the distribution that the tokens were sampled from.
        advantages: ``[N, T]`` fp32, advantage of each token.
        entropies: ``[N, T]`` fp32, entropy of the policy's distribution at each token, in nats.
        mask: ``[N, T]`` bool, True on trained tokens.
        ref_logprobs: ``[N, T]`` fp32, log-probs under the reference model; None without a reference.
        importance: ``[N, T]`` fp32, factor that corrects for the sampler's distribution; None: no correction.

    >>> from lgrpo_lightning.testing import toy_loss_input
    >>> batch = toy_loss_input(ratios=[[2.0, 1.0]], advantages=[[1.0, -1.0]])
    >>> (-batch.log_ratio.exp() * batch.advantages).tolist()
    [[-2.0, 1.0]]
    """

    logprobs: Tensor
    old_logprobs: Tensor
    sampler_logprobs: Tensor
    advantages: Tensor
    entropies: Tensor
    mask: Tensor
    ref_logprobs: Tensor | None = None
    importance: Tensor | None = None

    @property
    def log_ratio(self) -> Tensor:
        """``[N, T]`` fp32, ``logprobs`` minus ``old_logprobs``; 0 on padding and on untrained tokens."""
        return torch.where(self.mask, self.logprobs - self.old_logprobs, 0.0)

    @property
    def lengths(self) -> Tensor:
        """``[N, 1]`` long, number of trained tokens of each completion, at least 1."""
        return self.mask.sum(-1, keepdim=True).clamp(min=1)

    @property
    def mean_advantages(self) -> Tensor:
        """``[N, T]`` fp32, the mean of each completion's advantages over its trained tokens."""
        kept = torch.where(self.mask, self.advantages, 0.0).double()  # exact where they are equal
        return (kept.sum(-1, keepdim=True) / self.lengths).to(self.advantages).expand_as(self.advantages)


def copy_value(value: Any) -> Any:
    """``value`` with containers and arrays of its own; what is neither stays itself.

    >>> copy_value(row := {"answers": ["4", "four"]})["answers"].pop(), row
    ('four', {'answers': ['4', 'four']})
    """
    if type(value) is dict:
        return {key: copy_value(item) for key, item in value.items()}
    if type(value) in (list, tuple, set):
        return type(value)(copy_value(item) for item in value)
    return deepcopy(value) if hasattr(value, "__array__") else value


def pad(rows: list[Tensor], width: int) -> Tensor:
    """Stack 1-D tensors of different lengths into ``[len(rows), width]``, zeros (False) on padding.

    >>> pad([torch.tensor([1, 2]), torch.tensor([3])], 3).tolist()
    [[1, 2, 0], [3, 0, 0]]
    """
    if not rows:
        return torch.zeros(0, width)
    out = rows[0].new_zeros(len(rows), width)
    for i, row in enumerate(rows):
        out[i, : min(len(row), width)] = row[:width]
    return out
