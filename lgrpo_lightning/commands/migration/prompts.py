"""Prompts → ``data``; reward functions → ``model.reward_model``."""

from __future__ import annotations

from typing import Any

from lgrpo_lightning.commands.migration.draft import DataSet, Draft
from lgrpo_lightning.data.readers import READERS


def write_data(draft: Draft) -> None:
    """The keys ``data``."""
    recipe, train = draft.recipe, draft.recipe.train
    if train is None:
        draft.remark(f"data.train: {recipe.name} does not tell where its prompts are; name them here.")
    else:
        _write_set(draft, "data.train", train)
    if draft.get("eval_strategy") != "no":
        if recipe.evaluation is None:
            draft.remark(f"data.validation: {recipe.name} does not tell which prompts it evaluates on.")
        else:
            _write_set(draft, "data.validation", recipe.evaluation)
    if train is not None and train.chat:
        draft.put("data.chat", True, "prompts are lists of messages there")
        if train.system_prompt is not None:
            draft.put("data.system_prompt", train.system_prompt)
    if (longest := draft.get("max_prompt_length")) is not None:
        draft.put("data.max_prompt_length", longest, "max_prompt_length")
        draft.put("data.long_prompts", "drop", "TRL cut them")


def _write_set(draft: Draft, key: str, data: DataSet) -> None:
    """A prompt source."""
    of_hub = () if data.path.endswith(tuple(READERS)) else ("subset", "split")
    draft.put(f"{key}.class_path", "PromptFile")
    for name in ("path", *of_hub, "prompt_column", "limit"):
        if (value := getattr(data, name)) not in (None, "prompt"):
            draft.put(f"{key}.init_args.{name}", value)


def write_rewards(draft: Draft) -> None:
    """The keys ``model.reward_model`` and ``model.reward_weights``; a reward without a match loses its weight too."""
    recipe, rewards, weights = draft.recipe, draft.recipe.rewards, draft.get("reward_weights")
    if rewards and weights is not None and not (isinstance(weights, list) and len(weights) == len(rewards)):
        raise draft.refuse("reward_weights", f"one weight for each of {len(rewards)} reward functions")
    draft.remarks += [reward.said for reward in rewards if reward.said]
    models: list[Any] = [
        {"class_path": "RewardFunction", "init_args": {"function": reward.path}} for reward in rewards if reward.path
    ]
    said = "reward_funcs"
    if recipe.environments_reward:
        models.append("EnvironmentReward")
        said += "; get_reward of the environment"
    if models:
        draft.put("model.reward_model", models, said)
    else:
        draft.remark("model.reward_model: required; name one, such as ExactMatch.")
    if rewards and weights is not None:
        kept = [weight for weight, reward in zip(weights, rewards, strict=True) if reward.path]
        draft.carry("reward_weights", "model.reward_weights", kept + [1.0] * recipe.environments_reward)
