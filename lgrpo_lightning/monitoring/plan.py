"""The runs of a comparison: arms × settings × seeds, and where each of them lies."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from lgrpo_lightning.errors import UserError
from lgrpo_lightning.monitoring.variations import Choice, combine

ARMS, RUNS, TUNING = "arms", "runs", "tuning"
FINISHED = "finished"
"""Written into a run's folder when the run has come to its end."""
LOG = "log.txt"
"""What a run wrote to the terminal."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """What is compared, in one setting.

    Attributes:
        name: Of what is compared: a value of the first ``--vary``, or a configuration.
        setting: The values of the further ``--vary``.
        config: The configuration file that it starts from.
        choices: What is set on top of it.
        tuned: What tuning chose.
    """

    name: str
    config: str
    choices: tuple[Choice, ...]
    setting: tuple[Choice, ...] = ()
    tuned: tuple[Choice, ...] = ()

    @property
    def place(self) -> Path:
        """Its folder below that of the runs."""
        parts = [self.name, name_setting(self.setting), name_setting(self.tuned)]
        return Path(*(make_slug(part) for part in parts if part))

    @property
    def label(self) -> str:
        """Name and setting."""
        return f"{self.name} ({name_setting(self.setting)})" if self.setting else self.name


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of an arm.

    Attributes:
        arm: Whose.
        seed: Its ``seed_everything``.
        folder: Its ``trainer.default_root_dir``.
        config: Its complete configuration but for seed and folder.
        extra: Flags on top of that.
    """

    arm: Arm
    seed: int
    folder: Path
    config: Path
    extra: tuple[Choice, ...] = ()

    @property
    def finished(self) -> bool:
        """Whether it has come to its end."""
        return (self.folder / FINISHED).is_file()

    @property
    def label(self) -> str:
        """What a person calls it."""
        tried = "".join(f" {c.key.rpartition('.')[2]}={c.name}" for c in self.extra)
        return f"{self.arm.label}{tried} seed {self.seed}"


def build_arms(configs: Sequence[str], axes: Sequence[Sequence[Choice]]) -> list[Arm]:
    """The arms of a comparison, setting by setting; the first of a setting is what others are compared with.

    Several configurations are what is compared, else the values of the first axis are; every further axis repeats
    the comparison in another setting.
    """
    compared: list[tuple[str, str, tuple[Choice, ...]]]
    if len(configs) > 1:
        compared = [(name, config, ()) for name, config in zip(_name_configs(configs), configs, strict=True)]
        rest = axes
    else:
        first = axes[0] if axes else ()
        compared = [(_name_choice(c), configs[0], (c,)) for c in first] or [(Path(configs[0]).stem, configs[0], ())]
        rest = axes[1:]
    return [
        Arm(name=name, config=config, choices=(*own, *setting), setting=setting)
        for setting, (name, config, own) in product(combine(rest), compared)
    ]


def name_setting(setting: Sequence[Choice]) -> str:
    """The values of a setting in a line; nothing where there is one setting only."""
    return ", ".join(f"{c.key.rpartition('.')[2]}={c.name}" for c in setting)


def make_slug(text: str) -> str:
    """A text as the name of a folder.

    >>> make_slug("LambdaGRPO power=0.5, n=1")
    'LambdaGRPO_power=0.5_n=1'
    """
    return re.sub(r"[^\w.=+-]+", "_", text).strip("_.") or "arm"


def _name_choice(choice: Choice) -> str:
    return choice.name if choice.name[:1].isupper() else name_setting((choice,))


def _name_configs(configs: Sequence[str]) -> list[str]:
    """Names of configurations: of their files, with as many folders as it takes to tell them apart."""
    paths = [Path(config).with_suffix("") for config in configs]
    for depth in range(1, max(len(p.parts) for p in paths) + 1):
        names = ["/".join(p.parts[-depth:]) for p in paths]
        if len(set(names)) == len(names):
            return names
    raise UserError(f"--config names the same file twice: {', '.join(configs)}.")
