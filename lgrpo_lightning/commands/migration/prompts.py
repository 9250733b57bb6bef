"""Prompts → ``data``; reward functions → ``model.reward_model``."""

from __future__ import annotations

from typing import Any

from lgrpo_lightning.commands.migration.draft import Draft
from lgrpo_lightning.commands.migration.recipe import DataSet
from lgrpo_lightning.data.readers import READERS


def write_data(draft: Draft) -> None:
    """The keys ``data``."""
    draft.asked.update(
        ("dataset_name", "dataset_config", "dataset_train_split", "dataset_test_split", "datasets")
    )
    recipe = draft.recipe
    if recipe.train is None:
        draft.remark(f"data.train: {recipe.name} does not tell where its prompts are; name them here.")
    else:
        _write_set(draft, "data.train", recipe.train)
    if draft.value("eval_strategy") != "no":
        if recipe.evaluation is None:
            draft.remark(f"data.validation: {recipe.name} does not tell which prompts it evaluates on.")
        else:
            _write_set(draft, "data.validation", recipe.evaluation)
    if recipe.train is not None and recipe.train.chat:
        draft.put("data.chat", True, "prompts are lists of messages there")
        if recipe.train.system_prompt is not None:
            draft.put("data.system_prompt", recipe.train.system_prompt)
    draft.carry("shuffle_dataset", "data.shuffle")
    draft.carry("chat_template_kwargs", "data.chat_template_kwargs")
    if draft.value("max_prompt_length") is not None:
        draft.put("data.max_prompt_length", draft.value("max_prompt_length"), "max_prompt_length")
        draft.put("data.long_prompts", "drop", "TRL cut them")


def _write_set(draft: Draft, key: str, found: DataSet) -> None:
    """A prompt source."""
    file = found.path.endswith(tuple(READERS))
    options: dict[str, Any] = {"path": found.path}
    if not file:
        options |= {"subset": found.subset, "split": found.split}
    options["prompt_column"] = found.column if found.column != "prompt" else None
    options["limit"] = found.limit
    draft.put(f"{key}.class_path", "PromptFile")
    for name, value in options.items():
        if value is not None:
            draft.put(f"{key}.init_args.{name}", value)


def write_rewards(draft: Draft) -> None:
    """The keys ``model.reward_model`` and ``model.reward_weights``; a reward without a match loses its weight too."""
    draft.asked.update(("reward_funcs", "reward_model_name_or_path"))
    rewards, weights = draft.recipe.rewards, draft.value("reward_weights")
    if weights is not None and len(weights) != len(rewards):
        if rewards:
            raise draft.recipe.refuse(
                "reward_weights", f"one weight for each of {len(rewards)} reward functions"
            )
        weights = None
    for reward in rewards:
        if reward.said:
            draft.remark(reward.said)
    kept = [i for i, reward in enumerate(rewards) if reward.path is not None]
    found: list[Any] = [
        {"class_path": "RewardFunction", "init_args": {"function": rewards[i].path}} for i in kept
    ]
    if draft.recipe.environments_pay:
        found.append("EnvironmentReward")
        kept = [*kept, len(rewards)]
        weights = None if weights is None else [*weights, 1.0]
    if not found:
        draft.remark("model.reward_model: required; name one, such as ExactMatch.")
    else:
        said = "reward_funcs" + ("; get_reward of the environment" if draft.recipe.environments_pay else "")
        draft.put("model.reward_model", found, said)
    if weights is not None:
        draft.carry("reward_weights", "model.reward_weights", [weights[i] for i in kept])
