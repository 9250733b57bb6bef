"""What a rule is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lgrpo_lightning.monitoring.window import Window

Says = Callable[[Window, float], str | None]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One thing that can be wrong.

    Attributes:
        name: That of its function, its threshold in ``Alarms``, and its heading in ``docs/doctor.md``.
        title: It in a few words.
        threshold: From where on, by default; what it means is up to ``says``.
        says: What is wrong, with numbers, and what to change; None where it is not.
        settings: Keys of the configuration to change.
    """

    name: str
    title: str
    threshold: float
    says: Says
    settings: tuple[str, ...] = ()


RULES: list[Rule] = []


def rule(title: str, threshold: float, *settings: str) -> Callable[[Says], Says]:
    """Add the decorated function to ``RULES``."""

    def add(says: Says) -> Says:
        RULES.append(Rule(name=says.__name__, title=title, threshold=threshold, says=says, settings=settings))
        return says

    return add
