"""Reads a YAML file for ``trl grpo --config``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from lgrpo_lightning.commands.migration.recipe import DataSet, Given, Imported, Recipe
from lgrpo_lightning.commands.migration.whose import OURS, advise, find_library
from lgrpo_lightning.commands.yaml_text import compose_mapping
from lgrpo_lightning.errors import UserError

RATE = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")
"""A number that YAML takes for text, and TRL's parser for a number: ``1e-6``."""
OF_TRL = ("accuracy_reward", "reasoning_accuracy_reward", "think_format_reward")
"""Reward functions that ``trl grpo`` knows by name."""
PUNISHMENT = "get_soft_overlong_punishment"
OPTIONS = "A file for `trl grpo --config` has one option a line: beta: 0.04"


def read_yaml(path: Path) -> Recipe:
    """What the file asks for.

    Raises:
        ValueError: It is no YAML, no mapping, or no file of TRL's.
    """
    given = _read_keys(path)
    if (library := find_library(given)) != "TRL":
        if set(given) & OURS and library is None:
            raise UserError(f"{path} is no file for TRL: its keys are those of `lgrpo fit --config {path}`.")
        written = f"is written for {library}" if library else "has no option of TRL's GRPO"
        raise UserError(f"{path} {written}. {advise(library, str(path)) if library else OPTIONS}")
    values = {name: one.value for name, one in given.items()}
    train = evaluation = None
    if values.get("dataset_name"):
        splits = values.get("dataset_train_split", "train"), values.get("dataset_test_split", "test")
        name, subset = str(values["dataset_name"]), values.get("dataset_config")
        train, evaluation = (DataSet(path=name, subset=subset, split=split) for split in splits)
    remarks = list[str]()
    if values.get("datasets"):
        train, evaluation = _read_mixture(values["datasets"]), None
        if train is None:
            place = given["datasets"].place
            remarks.append(f"datasets ({place}): one set of prompts here; join them in a file.")
    return Recipe(
        name=str(path),
        given=given,
        rewards=tuple(_read_rewards(given)),
        train=train,
        evaluation=evaluation,
        remarks=tuple(remarks),
    )


def _read_keys(path: Path) -> dict[str, Given]:
    """The keys with their values and lines."""
    text = path.read_text(encoding="utf-8")
    node = compose_mapping(path, OPTIONS)
    lines = {key.value: key.start_mark.line + 1 for key, _ in node.value}
    return {
        str(name): Given(value=_read_number(value), place=f"{path}, line {lines.get(str(name), 1)}")
        for name, value in yaml.safe_load(text).items()
    }


def _read_number(value: Any) -> Any:
    """``value``; a number that YAML takes for text as a number.

    >>> _read_number("1e-6"), _read_number("a")
    (1e-06, 'a')
    """
    if isinstance(value, dict):
        return {name: _read_number(inner) for name, inner in value.items()}
    return float(value) if isinstance(value, str) and RATE.fullmatch(value) else value


def _read_mixture(sets: Any) -> DataSet | None:
    """The prompts of ``datasets``, where it is one set."""
    if not (isinstance(sets, list) and len(sets) == 1 and isinstance(sets[0], dict)):
        return None
    only: Mapping[str, Any] = sets[0]
    files = only.get("data_files")
    if not isinstance(files, str | None):
        return None
    path, split = str(files or only.get("path")), only.get("split", "train")
    return DataSet(path=path, subset=only.get("name"), split=split)


def _read_rewards(given: Mapping[str, Given]) -> list[Imported]:
    """The reward model, then the functions, in TRL's order."""
    rewards = list[Imported]()
    model, functions = given.get("reward_model_name_or_path"), given.get("reward_funcs")
    if model and model.value:
        said = f"reward_model_name_or_path ({model.place}): no such component; write a reward."
        rewards.append(Imported(path=None, said=said))
    if functions:
        names = functions.value or []
        names = [names] if isinstance(names, str) else names
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
