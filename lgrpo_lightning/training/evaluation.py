"""Accuracy, avg@k and pass@k of one set of prompts, through torchmetrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torchmetrics import MeanMetric

from lgrpo_lightning.functional import reaches
from lgrpo_lightning.functional.sampling import Sampling
from lgrpo_lightning.rollouts.components import Components
from lgrpo_lightning.rollouts.refill import ScoredGroups
from lgrpo_lightning.training.options import Validation
from lgrpo_lightning.types import Group, Prompt, Rewards


class Evaluations:
    """Measures the policy on every validation or test set."""

    def __init__(self, options: Validation, components: Components, sampling: Sampling) -> None:
        self.options = options
        self.components = components
        self.sampling = sampling
        self.sets: dict[str, Evaluation] = {}

    def start(self, names: Sequence[str], device: torch.device | str) -> None:
        """Begin anew with these sets."""
        self.sets = {name: Evaluation(self.options, device) for name in names}

    def measure(self, number: int, prompts: Sequence[Prompt]) -> None:
        """Decode greedily, and draw k samples, for prompts of the set of this number.

        The noise is the same at every evaluation.
        """
        evaluation = list(self.sets.values())[number]
        if self.options.greedy:
            evaluation.add_greedy(self.draw(prompts, 1, self.sampling.greedy, "greedy").rewards)
        if self.options.k:
            scored = self.draw(prompts, self.options.k, self.sampling, "validation")
            evaluation.add_samples(scored.groups, scored.rewards)

    def draw(self, prompts: Sequence[Prompt], count: int, sampling: Sampling, phase: str) -> ScoredGroups:
        """Groups of ``count`` completions with their rewards; a completion's noise depends on phase and prompt."""
        random_key = self.components.random_key(phase)
        groups = self.components.sample_groups(prompts, count, sampling, random_key)
        return self.components.score_groups(groups, random_key)


class Evaluation:
    """Running metrics of one set; exact over ranks, whatever the number of prompts on each.

    ``accuracy`` is that of greedy decoding, ``avg@k`` the mean success of k samples per prompt, ``pass@k`` the
    share of prompts with at least one success among them (Chen et al. 2021 with n = k). A completion to which no
    reward applies (NaN) counts in none of them.
    """

    def __init__(self, options: Validation, device: torch.device | str) -> None:
        self.options = options
        self.metrics = {name: MeanMetric().to(device) for name in _list_metrics(options)}

    def add_greedy(self, rewards: Sequence[Rewards]) -> None:
        """Count one greedy completion per prompt."""
        for r in rewards:
            self.metrics["accuracy"].update(self._success(r.outcome))

    def add_samples(self, groups: Sequence[Group], rewards: Sequence[Rewards]) -> None:
        """Count k sampled completions per prompt."""
        for group, r in zip(groups, rewards, strict=True):
            success = self._success(r.outcome)
            self.metrics["avg@k"].update(success)
            if len(success):
                self.metrics["pass@k"].update(success.max())
            self.metrics["reward"].update(r.outcome[~r.outcome.isnan()])
            lengths = torch.tensor([float(len(x)) for x in group.completions if x.applies])
            self.metrics["completions/mean_length"].update(lengths)
            if not self.options.greedy:
                self.metrics["accuracy"].update(success)

    def values(self) -> dict[str, Tensor]:
        """Name → value over all ranks; NaN where no reward applied."""
        return {name: metric.compute() for name, metric in self.metrics.items()}

    def _success(self, outcome: Tensor) -> Tensor:
        return reaches(outcome[~outcome.isnan()], self.options.success_threshold).float()


def _list_metrics(options: Validation) -> list[str]:
    return ["accuracy", *(["avg@k", "pass@k", "reward", "completions/mean_length"] if options.k else [])]


def evaluation_names(sets: Sequence[str], options: Validation, prefix: str) -> tuple[str, ...]:
    """The names that ``evaluation_metrics`` gives, without measuring anything.

    >>> evaluation_names(["easy", "hard"], Validation(k=0), "val")
    ('val/accuracy', 'val/easy/accuracy', 'val/hard/accuracy')
    """
    places = [prefix, *(f"{prefix}/{name}" for name in sets)] if len(sets) > 1 else [prefix] * len(sets)
    return tuple(f"{place}/{metric}" for place in places for metric in _list_metrics(options))


def evaluation_metrics(evaluations: Mapping[str, Evaluation], prefix: str) -> dict[str, Tensor]:
    """``<prefix>/<metric>``, the mean over the sets; of several sets each under its name, too.

    What is NaN, as no reward applied, is left out.
    """
    values = {name: evaluation.values() for name, evaluation in evaluations.items()}
    metrics = list(next(iter(values.values()), {}))
    out = {f"{prefix}/{m}": torch.stack([v[m] for v in values.values()]).mean() for m in metrics}
    if len(values) > 1:
        out |= {f"{prefix}/{name}/{m}": v[m] for name, v in values.items() for m in metrics}
    return {name: value for name, value in out.items() if not bool(value.isnan())}
