"""Reads a YAML file for ``trl grpo --config``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from lgrpo_lightning.commands.migration.draft import DataSet, Given, Imported, Recipe
from lgrpo_lightning.commands.migration.whose import OURS, advise, find_library
from lgrpo_lightning.commands.yaml_text import compose_mapping
from lgrpo_lightning.errors import UserError

OF_TRL = ("accuracy_reward", "reasoning_accuracy_reward", "think_format_reward")
"""Reward functions that ``trl grpo`` knows by name."""
PUNISHMENT = "get_soft_overlong_punishment"
READ = (
    *("dataset_name", "dataset_config", "dataset_train_split", "dataset_test_split", "datasets"),
    *("reward_funcs", "reward_model_name_or_path"),
)
"""Options that become prompts and rewards of the recipe."""
OPTIONS = "A file for `trl grpo --config` has one option a line: beta: 0.04"


class Loader(yaml.SafeLoader):
    """Takes ``1e-6`` for a number, as TRL's parser does; YAML 1.1 takes it for text."""


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+$"), list("+-0123456789")
)


def read_yaml(path: Path) -> Recipe:
    """What the file asks for."""
    lines = {key.value: key.start_mark.line + 1 for key, _ in compose_mapping(path, OPTIONS).value}
    values = {str(name): value for name, value in yaml.load(path.read_text(encoding="utf-8"), Loader=Loader).items()}
    given = {name: Given(value, f"{path}, line {lines.get(name, 1)}") for name, value in values.items()}
    if (library := find_library(given)) != "TRL":
        if set(given) & OURS and library is None:
            raise UserError(f"{path} is no file for TRL: its keys are those of `lgrpo fit --config {path}`.")
        written = f"is written for {library}" if library else "has no option of TRL's GRPO"
        raise UserError(f"{path} {written}. {advise(library, str(path)) if library else OPTIONS}")
    train = evaluation = None
    if name := values.get("dataset_name"):
        splits = values.get("dataset_train_split", "train"), values.get("dataset_test_split", "test")
        train, evaluation = (
            DataSet(path=str(name), subset=values.get("dataset_config"), split=split) for split in splits
        )
    remarks: tuple[str, ...] = ()
    if sets := values.get("datasets"):
        train, evaluation = _read_mixture(sets), None
        if train is None:
            remarks = (f"datasets ({given['datasets'].place}): one set of prompts here; join them in a file.",)
    rewards = tuple(_read_rewards(given))
    others = {name: one for name, one in given.items() if name not in READ}
    return Recipe(name=str(path), given=others, rewards=rewards, train=train, evaluation=evaluation, remarks=remarks)


def _read_mixture(sets: Any) -> DataSet | None:
    """The prompts of ``datasets``, where it is one set."""
    if not (isinstance(sets, list) and len(sets) == 1 and isinstance(sets[0], dict)):
        return None
    only: Mapping[str, Any] = sets[0]
    path = only.get("data_files") or only.get("path")
    if not isinstance(path, str):
        return None
    return DataSet(path=path, subset=only.get("name"), split=only.get("split", "train"))


def _read_rewards(given: Mapping[str, Given]) -> list[Imported]:
    """The reward model, then the functions, in TRL's order."""
    rewards = list[Imported]()
    model, functions = given.get("reward_model_name_or_path"), given.get("reward_funcs")
    if model and model.value:
        said = f"reward_model_name_or_path ({model.place}): no such component; write a reward."
        rewards.append(Imported(path=None, said=said))
    if functions and functions.value:
        names = functions.value if isinstance(functions.value, list) else [functions.value]
        rewards += [_read_reward(str(name), functions.place) for name in names]
    return rewards


def _read_reward(name: str, place: str) -> Imported:
    if name in OF_TRL:
        said = f"{name} ({place}): taken from TRL, which has to be installed."
        return Imported(path=f"trl.rewards.{name}", said=said)
    if "." in name:
        return Imported(path=name)
    if name == PUNISHMENT:
        said = "it makes a function; name the one that it makes in a module of your own."
        return Imported(path=None, said=f"{name} ({place}): {said}")
    raise UserError(
        f"{place}: reward_funcs has {name!r}; TRL takes {', '.join(OF_TRL)}, {PUNISHMENT}, or an import path such as "
        "my_rewards.brevity."
    )
