"""What ``--vary`` and ``--seeds`` stand for."""

from __future__ import annotations

import re
from dataclasses import dataclass

import yaml

from lgrpo_lightning.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One value of one key of the configuration, as a flag writes it, and what tables call it."""

    key: str
    value: str
    name: str

    @property
    def flag(self) -> str:
        """What sets it on the command line."""
        return f"--{self.key}={self.value}"


def parse_choices(option: str, text: str) -> list[Choice]:
    """The values of ``KEY=A,B,…``; commas inside brackets and quotes divide nothing. Errors name the ``option``.

    >>> [c.name for c in parse_choices("--vary", "model.advantage_estimator=GRPO,LambdaGRPO")]
    ['GRPO', 'LambdaGRPO']
    >>> [c.name for c in parse_choices("--vary", "model.e={class_path: LambdaGRPO, init_args: {power: 0.5}},GRPO")]
    ['LambdaGRPO power=0.5', 'GRPO']
    """
    key, equals, written = text.partition("=")
    key = key.lstrip("-")
    if not equals or not key:
        raise UserError(f"{option} {text}: write {option} KEY=A,B, such as {option} model.group_size=4,8.")
    values = _split(written)
    if not all(values) or len(set(values)) < len(values):
        raise UserError(f"{option} {text}: each value is to be there once, and none is empty: {values}.")
    return [Choice(key=key, value=value, name=_shorten(value)) for value in values]


def parse_seeds(text: str) -> list[int]:
    """The numbers of a list with ranges.

    >>> parse_seeds("0-2,7")
    [0, 1, 2, 7]
    """
    numbers: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:\s*-\s*(\d+))?\s*", part)
        if not match or (match[2] and int(match[2]) < int(match[1])):
            raise UserError(f"Seeds are {text!r}; write numbers and ranges, such as 0-9 or 0,1,5.")
        numbers.extend(range(int(match[1]), int(match[2] or match[1]) + 1))
    if len(set(numbers)) < len(numbers):
        raise UserError(f"Seeds are {text!r}, which has a number twice.")
    return numbers


def _split(text: str) -> list[str]:
    """What stands between the commas, each as it is written; commas inside brackets and quotes divide nothing."""
    try:
        node = yaml.compose(f"[{text}]", Loader=yaml.SafeLoader)
    except yaml.YAMLError:  # an empty value, or one that is no YAML
        return [part.strip() for part in text.split(",")]
    parts = [text[item.start_mark.index - 1 : item.end_mark.index - 1].strip() for item in (node.value if node else ())]
    return [*parts, ""] if not parts or text.rstrip().endswith(",") else parts


def _shorten(value: str) -> str:
    """A short name: of a class with arguments, its name and they."""
    try:
        meant = yaml.safe_load(value)
    except yaml.YAMLError:
        return value
    if not isinstance(meant, dict) or not isinstance(meant.get("class_path"), str):
        return value
    arguments = meant.get("init_args") or {}
    return " ".join([meant["class_path"].rpartition(".")[2], *(f"{k}={v}" for k, v in arguments.items())])
