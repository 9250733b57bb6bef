"""A rollout as a table: one row per completion, the same columns in every file."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any

import pyarrow as pa

from lgrpo_lightning.rollouts.plain import clean, to_json
from lgrpo_lightning.types import Completion, Prompt, Rewards, Rollout

BEFORE = (
    ("rollout", pa.int64()),
    ("prompt_uid", pa.string()),
    ("member", pa.int64()),
    ("prompt", pa.string()),
    ("completion", pa.string()),
    ("token_ids", pa.list_(pa.int64())),
    ("length", pa.int64()),
    ("finish_reason", pa.string()),
    ("reward", pa.float32()),
)
AFTER = (
    ("advantage", pa.float32()),
    ("weight_version", pa.int64()),
    ("trained", pa.bool_()),
    ("set_size_mean", pa.float32()),
    ("shared_tokens", pa.int64()),
    ("path_depth", pa.int64()),
    ("step_rewards", pa.list_(pa.float32())),
    ("text_ends", pa.list_(pa.int64())),
    ("step_ids", pa.list_(pa.int64())),
    ("token_advantages", pa.list_(pa.float32())),
    ("token_weights", pa.list_(pa.float32())),
    ("token_mask", pa.list_(pa.bool_())),
    ("fork_member", pa.int64()),
    ("fork_position", pa.int64()),
    ("turns", pa.string()),
    ("columns", pa.string()),
    ("extras", pa.string()),
)


def build_table(rollout: Rollout) -> pa.Table:
    """One row per completion, group after group; those of replaced groups come last.

    docs/configuration.md describes the columns, which are the same in every file of a run but for a ``reward/<name>``
    of each named part. A reward that does not apply is NaN.
    """
    parts = list(dict.fromkeys(name for rewards in rollout.sampled.rewards for name in rewards.parts))
    schema = pa.schema([*BEFORE, *((clean(f"reward/{name}"), pa.float32()) for name in parts), *AFTER])
    return pa.Table.from_pylist(list(build_rows(rollout)), schema=schema)


def build_rows(rollout: Rollout) -> Iterator[dict[str, Any]]:
    """The rows of ``build_table`` as dictionaries; a reward part that a group lacks is left out."""
    rollout = rollout.sampled
    for at, group in enumerate(rollout.groups):
        prompt = {
            "rollout": rollout.index,
            "prompt_uid": clean(group.prompt.uid),
            "prompt": clean(group.prompt.text),
            "columns": to_json(_list_columns(group.prompt)),
        }
        for member, completion in enumerate(group.completions):
            yield {
                **prompt,
                "member": member,
                **_describe_completion(completion),
                **_describe_rewards(rollout.rewards[at], member),
                "trained": rollout.takes_part(at, member),
                **_describe_credit(rollout, at, member),
            }


def _list_columns(prompt: Prompt) -> Mapping[str, Any]:
    """The data columns, and the files of the images."""
    return {**prompt.columns, "images": [str(image) for image in prompt.images]} if prompt.images else prompt.columns


def _describe_completion(completion: Completion) -> dict[str, Any]:
    """Columns of one completion from the sampler."""
    fork = completion.fork
    return {
        "completion": clean(completion.text),
        "token_ids": list(completion.token_ids),
        "length": len(completion),
        "text_ends": list(completion.text_ends),
        "fork_member": None if fork is None else fork.member,
        "fork_position": None if fork is None else fork.position,
        "turns": to_json([vars(turn) for turn in completion.turns]) if completion.turns else None,
        "finish_reason": completion.finish_reason,
        "weight_version": completion.weight_version,
    }


def _describe_rewards(rewards: Rewards, member: int) -> dict[str, Any]:
    """Columns of one completion from the reward models."""
    return {
        "reward": float(rewards.outcome[member]),
        **{clean(f"reward/{name}"): float(values[member]) for name, values in rewards.parts.items()},
        "extras": to_json({name: values[member] for name, values in rewards.extras.items()}),
    }


def _describe_credit(rollout: Rollout, at: int, member: int) -> dict[str, Any]:
    """Columns of one completion from the process tree and the estimator."""
    tree, steps, credit = rollout.trees[at], rollout.rewards[at].steps, rollout.credits[at]
    count = len(rollout.groups[at].completions[member])
    trained = tree.trained[member].nonzero().flatten()
    sizes = tree.set_sizes()[member][trained]
    taken = tree.step_ids[member].tolist()
    return {
        "step_ids": taken[:count],
        "token_advantages": credit.advantages[member, :count].tolist(),
        "token_weights": credit.weights[member, :count].tolist(),
        "token_mask": tree.trained[member, :count].tolist(),
        "advantage": float(credit.advantages[member, trained[0]]) if len(trained) else math.nan,
        "set_size_mean": float(sizes.float().mean()) if len(sizes) else math.nan,
        "shared_tokens": int((sizes > 1).sum()),
        "path_depth": int(tree.path_depth()[member]),
        "step_rewards": None if steps is None else [float(steps[s]) for s, _ in groupby(taken) if s >= 0],
    }


def select_over_rewards(rows: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """``count`` rows evenly spaced from the best to the worst reward; NaN last.

    >>> [row["reward"] for row in select_over_rewards([{"reward": r} for r in (0.5, 1.0, 0.0, 0.2, 0.9)], 3)]
    [1.0, 0.5, 0.0]
    """
    ordered = sorted(rows, key=lambda row: math.inf if math.isnan(row["reward"]) else -row["reward"])
    if len(ordered) <= count:
        return ordered
    return [ordered[round(i * (len(ordered) - 1) / max(count - 1, 1))] for i in range(count)]
