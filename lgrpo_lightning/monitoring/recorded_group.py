"""One group of a recorded rollout: its steps, and what the run, GRPO and λ-GRPO make of each. Nothing is computed anew
but the comparison, and nothing that the run's configuration names is imported.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas
import torch
from torch import Tensor

from lgrpo_lightning.errors import NotFoundError, UserError
from lgrpo_lightning.functional import equal_rewards, group_advantages
from lgrpo_lightning.monitoring.recorded_run import RecordedRun
from lgrpo_lightning.monitoring.window import average
from lgrpo_lightning.process_tree import ProcessTree, Step
from lgrpo_lightning.rollouts.selection import choose_varied
from lgrpo_lightning.types import pad

COLUMNS = ("text_ends", "step_ids", "token_advantages", "token_weights", "token_mask")
DEEPEST = 100
"""Steps below one another that a tree has; drawing is recursive, and a step a line makes thousands."""


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
    """One process step."""

    text: str
    tokens: int  # how many tokens it has, of its first member
    set_size: int  # completions that share it
    reward: float  # its reward: the mean of theirs; NaN where none applies
    own: float  # what the run's estimator adds up for each of its tokens: advantages times weights, over its members
    grpo: float  # what GRPO would: the sum of the advantages of the members that train it
    lambda_grpo: float  # what λ-GRPO would: their mean
    endings: tuple[Ending, ...]  # the completions that end with it
    children: tuple[StepNode, ...]  # the steps that follow


@dataclass(frozen=True, kw_only=True)
class RecordedGroup:
    """A group with its tree.

    Attributes:
        place, of: Which of how many groups of the rollout, from 0.
        roots: The steps without a parent.
        path_depth, shared: Means over the completions: steps between root and leaf, share of tokens with |λ| > 1.
        segmenter, estimator: The run's, by class name; "" where its configuration is not there.
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
    estimator: str

    @property
    def largest(self) -> float:
        """The largest push of any step, by any estimator."""
        waiting, largest = list(self.roots), 0.0
        while waiting:
            step = waiting.pop()
            waiting.extend(step.children)
            largest = max(largest, abs(step.own), abs(step.grpo), abs(step.lambda_grpo))
        return largest

    @property
    def flat(self) -> bool:
        """Whether all rewards are equal, so that nothing is learnt from it."""
        return bool(equal_rewards(torch.tensor([self.rewards])))


def read_group(run: RecordedRun, rollout: int | None = None, place: int | None = None) -> RecordedGroup:
    """A group of a run, with the process tree, the advantages and the weights that were recorded.

    Args:
        rollout: Number of the rollout; None: the last one.
        place: Which of its groups, from 0; None: the one with the largest updates.
    """
    if not run.rollout_numbers:
        raise NotFoundError(f"{run.folder} has no rollouts yet.")
    number = run.rollout_numbers[-1] if rollout is None else rollout
    return build_group(run, number, run.read_rollouts(only=number), place)


def build_group(run: RecordedRun, number: int, table: pandas.DataFrame, place: int | None = None) -> RecordedGroup:
    """A group of rollout ``number``, whose rows are ``table``; see ``read_group``."""
    if missing := [name for name in COLUMNS if name not in table]:
        raise UserError(
            f"{run.folder} was recorded by an older version, without the columns {', '.join(missing)} of its "
            "rollouts: its steps are not known."
        )
    uids = list(dict.fromkeys(table["prompt_uid"]))
    if place is None:
        place = _find_largest(table, uids)
    if not 0 <= place < len(uids):
        raise UserError(f"Rollout {number} has {len(uids)} groups, 0 to {len(uids) - 1}; there is no group {place}.")
    rows = table[table["prompt_uid"] == uids[place]]
    lengths = rows["length"].clip(lower=1)
    return RecordedGroup(
        rollout=number,
        place=place,
        of=len(uids),
        prompt=rows["prompt"].iloc[0],
        uid=uids[place],
        rewards=tuple(float(r) for r in rows["reward"]),
        roots=build_nodes(rows, run.get_option("model.updates.keep_per_group")),
        path_depth=float(rows["path_depth"].mean()),
        shared=float((rows["shared_tokens"] / lengths).mean()),
        segmenter=_get_class_name(run.get_option("model.segmenter.class_path")),
        estimator=_get_class_name(run.get_option("model.advantage_estimator.class_path")),
    )


def _find_largest(table: pandas.DataFrame, uids: Sequence[str]) -> int:
    """The group whose tokens are moved most; the first among equals."""
    moved = [
        sum(abs(a * w) for a, w in zip(row["token_advantages"], row["token_weights"], strict=True))
        for row in table.to_dict("records")
    ]
    sums = pandas.Series(moved).groupby(list(table["prompt_uid"])).sum()
    return max(range(len(uids)), key=lambda i: (float(sums[uids[i]]), -i))


def _get_class_name(class_path: object) -> str:
    return class_path.rpartition(".")[2] if isinstance(class_path, str) else ""


def build_nodes(rows: pandas.DataFrame, keep: int | None = None) -> tuple[StepNode, ...]:
    """The steps of a group's tree, nested; those with the best reward first.

    Args:
        keep: Completions of the group that the update used (``updates.keep_per_group``); None: all.
    """
    members = rows.to_dict("records")
    tree = _build_tree([[int(i) for i in m["step_ids"]] for m in members])
    rewards = torch.tensor([float(m["reward"]) for m in members])
    width = tree.step_ids.shape[1]
    own, weights, mask = (
        pad([torch.tensor(list(m[name]), dtype=torch.float32) for m in members], width)
        for name in ("token_advantages", "token_weights", "token_mask")
    )
    judged = rewards.clone()
    if keep is not None:
        kept = choose_varied(rewards, min(keep, len(rewards)))  # a resumed run may have had smaller groups before
        judged[[m for m in range(len(rewards)) if m not in kept]] = math.nan
    advantages = group_advantages(judged[None])[0][:, None] * mask
    following: dict[int, list[int]] = {}
    for number, step in enumerate(tree.steps):
        following.setdefault(step.parent, []).append(number)
    last = [
        int(row[len(m["step_ids"]) - 1]) if len(m["step_ids"]) else -1
        for m, row in zip(members, tree.step_ids, strict=True)
    ]

    def build(number: int, depth: int = 1) -> StepNode:
        step, below = tree.steps[number], following.get(number, [])
        first, (start, end) = members[step.members[0]], step.spans[0]
        ends = [0, *first["text_ends"]]
        grpo = _sum_push(step, advantages)
        training = sum(bool(mask[m, a:b].any()) for m, (a, b) in zip(step.members, step.spans, strict=True))
        cut = depth == DEEPEST and bool(below)
        return StepNode(
            text=first["completion"][ends[start] : ends[end]] + " … (deeper steps are left out)" * cut,
            tokens=end - start,
            set_size=len(step.members),
            reward=average([float(rewards[m]) for m in step.members]),
            own=_sum_push(step, own * weights * mask),
            grpo=grpo,
            lambda_grpo=grpo / max(training, 1),
            endings=tuple(_build_ending(members[m]) for m in step.members if cut or last[m] == number),
            children=_sort([] if cut else [build(child, depth + 1) for child in below]),
        )

    return _sort([build(number) for number in following.get(-1, [])])


def _build_tree(step_ids: Sequence[Sequence[int]]) -> ProcessTree:
    keys = [list(dict.fromkeys(row)) for row in step_ids]
    return ProcessTree.from_steps(keys, [[key.index(i) for i in row] for key, row in zip(keys, step_ids, strict=True)])


def _sum_push(step: Step, values: Tensor) -> float:
    """The sum over the members of a step of the mean of ``values`` ``[G, T]`` over its tokens."""
    sums = [values[m, start:end].mean() for m, (start, end) in zip(step.members, step.spans, strict=True)]
    return round(float(torch.stack(sums).sum()), 6) + 0.0  # rounding is no push


def _build_ending(row: Mapping[Hashable, Any]) -> Ending:
    return Ending(
        member=int(row["member"]),
        reward=float(row["reward"]),
        advantage=float(row["advantage"]),
        finish_reason=str(row["finish_reason"]),
        text=str(row["completion"]),
    )


def _sort(steps: Sequence[StepNode]) -> tuple[StepNode, ...]:
    return tuple(sorted(steps, key=lambda s: (-s.set_size, -s.reward if s.reward == s.reward else math.inf)))
