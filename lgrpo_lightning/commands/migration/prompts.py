"""Prompts → ``data``; reward functions → ``model.reward_model``."""

from __future__ import annotations

from typing import Any

from lgrpo_lightning.commands.migration.draft import Draft
from lgrpo_lightning.commands.migration.recipe import DataSet
from lgrpo_lightning.data.readers import READERS


def write_data(draft: Draft) -> None:
    """The keys ``data``."""
    draft.asked.update(("dataset_name", "dataset_config", "dataset_train_split", "dataset_test_split", "datasets"))
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
    if draft.get("max_prompt_length") is not None:
        draft.put("data.max_prompt_length", draft.get("max_prompt_length"), "max_prompt_length")
        draft.put("data.long_prompts", "drop", "TRL cut them")


def _write_set(draft: Draft, key: str, data: DataSet) -> None:
    """A prompt source."""
    hub = not data.path.endswith(tuple(READERS))
    options: dict[str, Any] = {
        "path": data.path,
        "subset": data.subset if hub else None,
        "split": data.split if hub else None,
        "prompt_column": data.column if data.column != "prompt" else None,
        "limit": data.limit,
    }
    draft.put(f"{key}.class_path", "PromptFile")
    for name, value in options.items():
        if value is not None:
            draft.put(f"{key}.init_args.{name}", value)


def write_rewards(draft: Draft) -> None:
    """The keys ``model.reward_model`` and ``model.reward_weights``; a reward without a match loses its weight too."""
    draft.asked.update(("reward_funcs", "reward_model_name_or_path"))
    recipe, rewards, weights = draft.recipe, draft.recipe.rewards, draft.get("reward_weights")
    if rewards and weights is not None and len(weights) != len(rewards):
        raise recipe.refuse("reward_weights", f"one weight for each of {len(rewards)} reward functions")
    draft.remarks += [reward.said for reward in rewards if reward.said]
    models: list[Any] = [
        {"class_path": "RewardFunction", "init_args": {"function": reward.path}} for reward in rewards if reward.path
    ]
    kept = [w for w, reward in zip(weights or (), rewards, strict=False) if reward.path]
    if recipe.environments_reward:
        models.append("EnvironmentReward")
        kept.append(1.0)
    if models:
        said = "reward_funcs" + ("; get_reward of the environment" if recipe.environments_reward else "")
        draft.put("model.reward_model", models, said)
    else:
        draft.remark("model.reward_model: required; name one, such as ExactMatch.")
    if rewards and weights is not None:
        draft.carry("reward_weights", "model.reward_weights", kept)
