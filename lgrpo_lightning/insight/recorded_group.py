"""One group of a recorded rollout, and what GRPO and λ-GRPO make of each step of its process tree."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas
import torch

from lgrpo_lightning.contracts import StepSegmenter
from lgrpo_lightning.functional import equal_rewards, group_advantages
from lgrpo_lightning.insight.recorded_run import RecordedRun
from lgrpo_lightning.process_tree import ProcessTree
from lgrpo_lightning.types import Group, Prompt, Rollout


@dataclass(frozen=True, kw_only=True)
class Ending:
    """A completion that ends at a step."""

    member: int
    reward: float
    advantage: float
    finish_reason: str
    text: str


@dataclass(frozen=True, kw_only=True)
class StepNode:
    """One process step.

    Attributes:
        text: Its text.
        tokens: How many tokens it has, of its first member.
        set_size: |λ|: completions that share it.
        reward: Its reward: the mean of theirs; NaN where none applies.
        advantage: Its advantage A(λ): the mean of theirs.
        grpo: What GRPO adds up for each of its tokens: |λ| · A(λ).
        lambda_grpo: What λ-GRPO does: A(λ), once.
        endings: The completions that end with it.
        children: The steps that follow.
    """

    text: str
    tokens: int
    set_size: int
    reward: float
    advantage: float
    grpo: float
    lambda_grpo: float
    endings: tuple[Ending, ...]
    children: tuple[StepNode, ...]


@dataclass(frozen=True, kw_only=True)
class RecordedGroup:
    """A group with its tree.

    Attributes:
        rollout: Number of the rollout batch.
        place, of: Which of how many groups of the rollout, from 0.
        prompt: Its text.
        uid: Its name.
        rewards: Of the completions.
        roots: The steps without a parent.
        path_depth, shared: Means over the completions: steps between root and leaf, share of tokens with |λ| > 1.
        segmenter: What divided completions into steps.
    """

    rollout: int
    place: int
    of: int
    prompt: str
    uid: str
    rewards: tuple[float, ...]
    roots: tuple[StepNode, ...]
    path_depth: float
    shared: float
    segmenter: str

    @property
    def largest(self) -> float:
        """The largest push of any step, by either estimator."""
        waiting, found = list(self.roots), 0.0
        while waiting:
            step = waiting.pop()
            waiting.extend(step.children)
            found = max(found, abs(step.grpo), abs(step.lambda_grpo))
        return found

    @property
    def flat(self) -> bool:
        """Whether all rewards are equal, so that nothing is learnt from it."""
        return bool(equal_rewards(torch.tensor([self.rewards])))


def recorded_group(run: RecordedRun, rollout: int | None = None, place: int = 0) -> RecordedGroup:
    """A group of a run, with its process tree by the run's own segmenter.

    Args:
        rollout: Number of the rollout; None: the last one.
        place: Which of its groups, from 0.

    Raises:
        FileNotFoundError: There is no such rollout.
        ValueError: There is no such group, or the run was recorded without the ends of its tokens.
    """
    if not run.rollout_numbers:
        raise FileNotFoundError(f"{run.folder} has no rollouts yet.")
    number = run.rollout_numbers[-1] if rollout is None else rollout
    table = run.rollouts(only=number)
    if "text_ends" not in table:
        raise ValueError(
            f"{run.folder} was recorded by an older version, without the column text_ends: where tokens end in the "
            "text is not known."
        )
    uids = list(dict.fromkeys(table["prompt_uid"]))
    if not 0 <= place < len(uids):
        raise ValueError(
            f"Rollout {number} has {len(uids)} groups, 0 to {len(uids) - 1}; there is no group {place}."
        )
    rows = table[table["prompt_uid"] == uids[place]]
    group = as_group(rows)
    segmenter = own_segmenter(run)
    tree = segmenter.segment(group)
    rewards = torch.tensor(list(rows["reward"]), dtype=torch.float32)
    sizes = [s[s > 0] for s in tree.set_sizes()]
    return RecordedGroup(
        rollout=number,
        place=place,
        of=len(uids),
        prompt=group.prompt.text,
        uid=group.prompt.uid,
        rewards=tuple(rewards.tolist()),
        roots=nodes(group, tree, rewards),
        path_depth=float(tree.path_depth().float().mean()),
        shared=float(torch.tensor([float((s > 1).float().mean()) for s in sizes if len(s)]).mean()),
        segmenter=type(segmenter).__name__,
    )


def as_group(rows: pandas.DataFrame) -> Group:
    """The group that rows of the rollouts tell of."""
    rollouts = tuple(
        Rollout(
            token_ids=tuple(int(i) for i in row["token_ids"]),
            logprobs=torch.zeros(len(row["token_ids"])),
            text=row["completion"],
            text_ends=tuple(int(i) for i in row["text_ends"]),
            finish_reason=row["finish_reason"],
            mask=torch.ones(len(row["token_ids"]), dtype=torch.bool),
        )
        for row in rows.to_dict("records")
    )
    first = rows.iloc[0]
    return Group(
        prompt=Prompt(uid=first["prompt_uid"], text=first["prompt"], token_ids=()), rollouts=rollouts
    )


def own_segmenter(run: RecordedRun) -> StepSegmenter:
    """The segmenter of the run's configuration; exact tokens where that is not known or not installed any more."""
    from importlib import import_module

    from lgrpo_lightning.segmenters import TokenPrefixSegmenter

    named = run.option("model.segmenter")
    if not isinstance(named, Mapping):
        return TokenPrefixSegmenter()
    module, _, name = str(named.get("class_path")).rpartition(".")
    try:
        segmenter: StepSegmenter = getattr(import_module(module), name)(**(named.get("init_args") or {}))
    except (ImportError, AttributeError, ValueError):
        return TokenPrefixSegmenter()
    return segmenter


def nodes(group: Group, tree: ProcessTree, rewards: torch.Tensor) -> tuple[StepNode, ...]:
    """The steps of a group's tree, nested; those with the best reward first."""
    advantages = group_advantages(rewards[None])[0]
    following: dict[int, list[int]] = {}
    for number, step in enumerate(tree.steps):
        following.setdefault(step.parent, []).append(number)
    ids = tree.step_ids
    last = [int(ids[m, len(rollout) - 1]) if len(rollout) else -1 for m, rollout in enumerate(group.rollouts)]

    def node(number: int) -> StepNode:
        step = tree.steps[number]
        first, (start, end) = group.rollouts[step.members[0]], step.spans[0]
        advantage = round(_mean([float(advantages[m]) for m in step.members]), 6) + 0.0  # rounding is no push
        return StepNode(
            text=first.text_between(start, end),
            tokens=end - start,
            set_size=len(step.members),
            reward=_mean([float(rewards[m]) for m in step.members]),
            advantage=advantage,
            grpo=advantage * len(step.members),
            lambda_grpo=advantage,
            endings=_endings(group, rewards, advantages, [m for m in step.members if last[m] == number]),
            children=_ordered([node(child) for child in following.get(number, [])]),
        )

    return _ordered([node(number) for number in following.get(-1, [])])


def _endings(
    group: Group, rewards: torch.Tensor, advantages: torch.Tensor, members: Sequence[int]
) -> tuple[Ending, ...]:
    return tuple(
        Ending(
            member=m,
            reward=float(rewards[m]),
            advantage=float(advantages[m]),
            finish_reason=group.rollouts[m].finish_reason,
            text=group.rollouts[m].text,
        )
        for m in members
    )


def _ordered(steps: Sequence[StepNode]) -> tuple[StepNode, ...]:
    return tuple(sorted(steps, key=lambda s: (-s.set_size, -s.reward if s.reward == s.reward else math.inf)))


def _mean(values: Sequence[float]) -> float:
    there = [v for v in values if not math.isnan(v)]
    return sum(there) / len(there) if there else math.nan
