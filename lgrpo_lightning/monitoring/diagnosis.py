"""What is wrong with a recorded run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lgrpo_lightning.errors import UserError
from lgrpo_lightning.monitoring.alarm_rules import Rule, complete_thresholds
from lgrpo_lightning.monitoring.recorded_run import RecordedRun
from lgrpo_lightning.monitoring.tracker import Tracker
from lgrpo_lightning.monitoring.window import Facts, share_repeated
from lgrpo_lightning.rollouts.reading import mask_secrets

FEWEST = 6
"""Rollouts below which nothing is said."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is wrong: in words, and key to change → its value in this run (None: not known)."""

    rule: Rule
    text: str
    settings: Mapping[str, Any]

    @property
    def link(self) -> str:
        """Where more is said."""
        return f"docs/doctor.md#{self.rule.name}"


def diagnose(run: RecordedRun, *, patience: int | None = None) -> list[Finding]:
    """What was wrong at the end of the run, causes before what follows from them.

    Thresholds are those of the run's own ``Alarms``. A short run is judged by a quarter of its rollouts.
    """
    rows = run.rollout_metrics
    if len(rows) < FEWEST:
        raise UserError(f"{run.folder} has {len(rows)} rollouts so far; at least {FEWEST} are needed to judge it.")
    own = _read_alarms(run)
    wanted = patience or int(own.get("patience", 20))
    tracker = Tracker(max(2, min(wanted, len(rows) // 4)), complete_thresholds(own.get("thresholds")))
    tracker.window.facts = gather_facts(run)
    for row in rows:
        tracker.see(row)
    return [
        Finding(rule=rule, text=text, settings={key: mask_secrets(run.get_option(key), key) for key in rule.settings})
        for rule, text in tracker.findings
    ]


def gather_facts(run: RecordedRun) -> Facts:
    """What rules know of a run beside its metrics."""
    estimator = run.get_option("model.advantage_estimator") or {"class_path": "LambdaGRPO"}
    options = estimator.get("init_args") or {}
    lambda_grpo = str(estimator.get("class_path")).endswith("LambdaGRPO")
    power = options.get("power", 1.0) if lambda_grpo else options.get("lambda_power", 0.0)
    power = max(power.values()) if isinstance(power, dict) else power  # of blame and of praise
    texts: dict[str, str] = {}
    if run.rollout_numbers:
        table = run.read_rollouts(["prompt_uid", "prompt"])
        texts = dict(zip(table["prompt_uid"], table["prompt"], strict=True))
    return Facts(weighs_sets=power > 0, reward_weights=_read_weights(run), repeated=share_repeated(texts))


def _read_weights(run: RecordedRun) -> dict[str, float]:
    """Name of a reward → its weight, by the configuration."""
    models, weights = run.get_option("model.reward_model"), run.get_option("model.reward_weights")
    if not isinstance(models, list) or not isinstance(weights, list):
        return {}
    names = [str(model.get("class_path")).rpartition(".")[2] for model in models]
    return {name: float(weight) for name, weight in zip(names, weights, strict=False)}


def _read_alarms(run: RecordedRun) -> Mapping[str, Any]:
    callbacks = run.get_option("trainer.callbacks") or []
    for callback in callbacks if isinstance(callbacks, list) else [callbacks]:
        if isinstance(callback, Mapping) and str(callback.get("class_path")).endswith("Alarms"):
            return callback.get("init_args") or {}
    return {}
