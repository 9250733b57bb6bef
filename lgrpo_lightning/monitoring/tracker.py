"""Follows a run rollout by rollout and says what is wrong, once for each cause."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lgrpo_lightning.monitoring.alarm_rules import RULES, Rule
from lgrpo_lightning.monitoring.window import Window


class Tracker:
    """Which rules hold, once they have held for ``patience`` rollouts in a row; until they have not for as many.

    A rule that has no threshold is off.
    """

    def __init__(self, patience: int, thresholds: Mapping[str, float]) -> None:
        self.patience = patience
        self.thresholds = dict(thresholds)
        self.window = Window(patience)
        self.there = dict.fromkeys(thresholds, 0)  # rollouts in a row: with the cause or, once named, without it
        self.said: dict[str, str] = {}  # what is named and not gone

    def see(self, metrics: Mapping[str, float]) -> list[str]:
        """Take the metrics of a rollout; what is newly wrong."""
        # without validation's, which a resumed run does not have before it validates
        own = {name: float(value) for name, value in metrics.items() if not name.startswith("val/")}
        self.window.add(own)
        return [text for rule in RULES if rule.name in self.thresholds and (text := self._apply(rule))]

    def _apply(self, rule: Rule) -> str | None:
        text = rule.says(self.window, self.thresholds[rule.name])
        named = rule.name in self.said
        if named and text is not None:
            self.said[rule.name] = text
        self.there[rule.name] = self.there[rule.name] + 1 if (text is None) == named else 0
        if self.there[rule.name] < self.patience:
            return None
        self.there[rule.name] = 0
        if named:
            del self.said[rule.name]
            return None
        self.said[rule.name] = text or ""
        return text

    @property
    def findings(self) -> list[tuple[Rule, str]]:
        """What is wrong now, causes first."""
        return [(rule, self.said[rule.name]) for rule in RULES if rule.name in self.said]

    def state_dict(self) -> dict[str, Any]:
        return {"window": self.window.state_dict(), "there": dict(self.there), "named": dict(self.said)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what ``state_dict`` gave; thresholds may have been switched on or off since."""
        self.window.load_state_dict(state["window"])
        self.there.update({name: n for name, n in state["there"].items() if name in self.there})
        self.said = {name: text for name, text in state["named"].items() if name in self.there}
