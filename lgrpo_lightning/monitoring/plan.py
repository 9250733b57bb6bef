"""The runs of a comparison: arms × settings × seeds, and where each of them lies."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from lgrpo_lightning.errors import UserError
from lgrpo_lightning.monitoring.variations import Choice

FINISHED = "finished"
"""Written into a run's folder when the run has come to its end."""
LOG = "log.txt"
"""What a run wrote to the terminal."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """What is compared, in one setting."""

    name: str  # of what is compared: a value of the first ``--vary``, or a configuration
    config: str  # the configuration file that it starts from
    choices: tuple[Choice, ...]  # what is set on top of it
    setting: str = ""  # the values of the further ``--vary``, as ``name_choices`` writes them
    tuned: str = ""  # the same of what tuning chose

    @property
    def place(self) -> Path:
        """Its folder below that of the runs."""
        return Path(*(make_slug(part) for part in (self.name, self.setting, self.tuned) if part))

    @property
    def label(self) -> str:
        """Name and setting."""
        return f"{self.name} ({self.setting})" if self.setting else self.name


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of an arm."""

    arm: Arm
    seed: int
    folder: Path  # its ``trainer.default_root_dir``
    config: Path  # its complete configuration but for seed and folder
    extra: tuple[Choice, ...] = ()  # flags on top of that

    @property
    def finished(self) -> bool:
        return (self.folder / FINISHED).is_file()

    @property
    def label(self) -> str:
        """What a person calls it."""
        return " ".join([self.arm.label, *(name_choices([c]) for c in self.extra), f"seed {self.seed}"])


def build_arms(configs: Sequence[str], axes: Sequence[Sequence[Choice]]) -> list[Arm]:
    """The arms of a comparison, setting by setting; the first of a setting is what others are compared with.

    Several configurations are what is compared, else the values of the first axis are; every further axis repeats
    the comparison in another setting.
    """
    if len(configs) > 1:
        compared = [Arm(name=n, config=c, choices=()) for n, c in zip(_name_configs(configs), configs, strict=True)]
    elif axes:
        # a class goes by its name, another value stands behind that of its key
        names = [c.name if c.name[:1].isupper() else name_choices([c]) for c in axes[0]]
        compared = [Arm(name=n, config=configs[0], choices=(c,)) for n, c in zip(names, axes[0], strict=True)]
        axes = axes[1:]
    else:
        compared = [Arm(name=Path(configs[0]).stem, config=configs[0], choices=())]
    return [
        Arm(name=arm.name, config=arm.config, choices=(*arm.choices, *setting), setting=name_choices(setting))
        for setting, arm in product(product(*axes), compared)
    ]


def name_choices(choices: Sequence[Choice]) -> str:
    """Choices in a line, each behind the last part of its key; "" for none."""
    return ", ".join(f"{c.key.rpartition('.')[2]}={c.name}" for c in choices)


def make_slug(text: str) -> str:
    """A text as the name of a folder.

    >>> make_slug("LambdaGRPO power=0.5, n=1")
    'LambdaGRPO_power=0.5_n=1'
    """
    return re.sub(r"[^\w.=+-]+", "_", text).strip("_.") or "arm"


def _name_configs(configs: Sequence[str]) -> list[str]:
    """Names of configurations: of their files, with as many folders as it takes to tell them apart."""
    paths = [Path(config).with_suffix("") for config in configs]
    for depth in range(1, max(len(p.parts) for p in paths) + 1):
        names = ["/".join(p.parts[-depth:]) for p in paths]
        if len(set(names)) == len(names):
            return names
    raise UserError(f"--config names the same file twice: {', '.join(configs)}.")
