"""λ, statistics and discounts over the tokens that are trained, as loops; and random groups in which some are not."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import replace

import torch

from lgrpo_lightning.process_tree import ProcessTree
from lgrpo_lightning.testing import toy_group
from lgrpo_lightning.types import Completion, Group, Turn
from tests.reference import naive
from tests.reference.naive_estimators import NAN, focal, max_rl, pass_at_k, preferences, rloo
from tests.reference.naive_process import mean_std

SCENARIOS = ("masked", "dropped", "environment", "forked", "truncated")
PIECES = ("a", "b", "\n", " ", ". ", "<step>", "</step>")


def trained_group(seed: int, scenario: str, *, uid: str = "toy/0") -> Group:
    """Completions with much in common, of which some tokens are not trained; "truncated": by ``mask_truncated``."""
    draw = random.Random(f"{seed}/{scenario}/{uid}")
    texts: list[list[str]] = []
    for _ in range(draw.randint(3, 6)):
        start = list(draw.choice(texts)) if texts and draw.random() < 0.7 else []
        more = [draw.choice(PIECES) for _ in range(draw.randint(1, 6))]
        texts.append([*start[: draw.randint(0, len(start))], *more])
    group = toy_group([[PIECES.index(p) + 1 for p in text] for text in texts], uid=uid, columns={"answer": "a"})
    rollouts = [_spelled(r, text, draw) for r, text in zip(group.completions, texts, strict=True)]
    return replace(group, completions=tuple(_changed(rollouts, i, scenario, draw) for i in range(len(rollouts))))


def _spelled(rollout: Completion, pieces: Sequence[str], draw: random.Random) -> Completion:
    ends = torch.tensor([len(p) for p in pieces]).cumsum(0).tolist()
    entropies = torch.tensor([draw.choice([0.1, 0.5, 0.9, 2.0]) for _ in pieces])
    return replace(rollout, text="".join(pieces), text_ends=tuple(ends), entropies=entropies, finish_reason="stop")


def _changed(rollouts: Sequence[Completion], i: int, scenario: str, draw: random.Random) -> Completion:
    own = rollouts[i]
    size, mask = len(own), own.mask.clone()
    if scenario == "masked":
        mask = torch.tensor([draw.random() < 0.7 for _ in range(size)])
    if scenario == "dropped" and draw.random() < 0.4:
        return replace(own, applies=False, mask=mask if draw.random() < 0.5 else torch.zeros_like(mask))
    if scenario == "environment":
        cuts = sorted({0, size, *(draw.randint(0, size) for _ in range(3))})
        roles = ("assistant", "environment")
        turns = [Turn(role=roles[n % 2], start=a, end=b, messages=()) for n, (a, b) in enumerate(_pairs(cuts))]
        for turn in turns:
            mask[turn.start : turn.end] = turn.role == "assistant"
        return replace(own, mask=mask, turns=tuple(turns))
    if scenario == "forked" and i:
        other = draw.choice(rollouts[:i]).token_ids
        mask[: next((t for t, (a, b) in enumerate(zip(own.token_ids, other, strict=False)) if a != b), 0)] = False
    if scenario == "truncated" and draw.random() < 0.4:
        return replace(own, finish_reason="length")
    return replace(own, mask=mask)


def _pairs(cuts: Sequence[int]) -> list[tuple[int, int]]:
    return list(itertools.pairwise(cuts))


class Trained:
    """The definitions over one group. ``steps``: the steps as sampled, whoever trains them."""

    def __init__(self, group: Group, steps: ProcessTree, outcome: Sequence[float], *, truncated: bool) -> None:
        self.lengths = [len(r) for r in group.completions]
        self.mask = [
            [bool(m) and r.applies and not (truncated and r.finish_reason == "length") for m in r.mask]
            for r in group.completions
        ]
        self.steps = steps.steps
        self.ids = steps.step_ids.tolist()
        self.rewards = [o if r.applies else NAN for o, r in zip(outcome, group.completions, strict=True)]
        self.own = naive.advantages(self.rewards)

    def span(self, i: int, t: int) -> tuple[int, int]:
        """The span of the step of token t in completion i."""
        step = self.steps[self.ids[i][t]]
        return step.spans[step.members.index(i)]

    def process_set(self, i: int, t: int) -> list[int]:
        """λ(i, t): members of the step that train the token at its place; all where nobody does."""
        step, place = self.steps[self.ids[i][t]], t - self.span(i, t)[0]
        trains = [j for j, (a, b) in zip(step.members, step.spans, strict=True) if self.mask[j][min(a + place, b - 1)]]
        return trains or list(step.members)

    def count(self, i: int) -> int:
        return sum(self.mask[i])

    def rows(self, value: object) -> list[list[float]]:
        """``value(i, t)`` at every token."""
        return [[value(i, t) for t in range(n)] for i, n in enumerate(self.lengths)]  # type: ignore[operator]

    def whole(self, values: Sequence[float]) -> list[list[float]]:
        return self.rows(lambda i, t: values[i])

    # -------------------------------------------------------------------------------------- estimators, by name

    def grpo(self) -> list[list[float]]:
        return self.whole(self.own)

    def rloo(self) -> list[list[float]]:
        return self.whole(rloo(self.rewards))

    def max_rl(self) -> list[list[float]]:
        return self.whole(max_rl(self.rewards, 1e-6))

    def pass_at_k(self) -> list[list[float]]:
        return self.whole(pass_at_k(self.rewards, 2, 1.0))

    def tree_adv(self, q: float) -> list[list[float]]:
        def value(i: int, t: int) -> float:
            told = [self.own[j] for j in self.process_set(i, t) if not math.isnan(self.rewards[j])]
            return sum(told) / len(told) ** q if told and not math.isnan(self.rewards[i]) else 0.0

        return self.rows(value)

    def gtpo(self) -> list[list[float]]:
        def value(i: int, t: int) -> float:
            sharing = [self.own[j] for j in self.process_set(i, t)]
            conflict = min(sharing) < 0 < max(sharing)
            return self.own[i] * ((2.0 if self.own[i] > 0 else 0.0) if conflict else 1.0)

        return self.rows(value)

    def traces(self, decay: float) -> list[list[float]]:
        return self.rows(lambda i, t: self.own[i] * decay ** sum(self.mask[i][t + 1 :]))

    def tempo(self) -> list[list[float]]:
        std = mean_std(self.rewards)[1]

        def after(i: int, t: int) -> float:
            members = range(len(self.rewards)) if t < 0 else self.steps[self.ids[i][t]].members
            return mean_std([self.rewards[j] for j in members])[0]

        def value(i: int, t: int) -> float:
            if math.isnan(self.rewards[i]):
                return 0.0
            return self.own[i] + (after(i, t) - after(i, t - 1)) / (std + 1e-4)

        return self.rows(value)

    def focal(self) -> list[list[float]]:
        return self.whole(focal(self.rewards, 1.0, 1.0))

    def gae(self, decay: float) -> list[list[float]]:
        """TreeGAE, by the sums of its definition."""
        everyone = range(len(self.rewards))

        def advantages_of(i: int) -> dict[tuple[int, int], float]:
            spans = sorted({self.span(i, t) for t in range(self.lengths[i])})
            states = [list(everyone), *(list(self.steps[self.ids[i][a]].members) for a, _ in spans)]
            others = [[self.own[j] for j in s if j != i and not math.isnan(self.rewards[j])] for s in states]
            nearest = [next((naive.mean(o) for o in others[k::-1] if o), 0.0) for k in range(len(others))]
            steps = [k for k, (a, b) in enumerate(spans) if any(self.mask[i][a:b])]
            values = [*(nearest[k] for k in steps), self.own[i]]
            return {
                spans[k]: sum(decay ** (m - n) * (values[m + 1] - values[m]) for m in range(n, len(steps)))
                for n, k in enumerate(steps)
            }

        own = [advantages_of(i) for i in everyone]
        return self.rows(lambda i, t: 0.0 if math.isnan(self.rewards[i]) else own[i].get(self.span(i, t), 0.0))

    def process(self, rewards: Sequence[float]) -> list[list[float]]:
        """ProcessGRPO of step rewards."""
        paid = [
            [(self.span(i, t)[1], rewards[s]) for t, s in enumerate(row[:n]) if self.mask[i][t]]
            for i, (row, n) in enumerate(zip(self.ids, self.lengths, strict=True))
        ]
        each = [sorted(set(row)) for row in paid]  # once a step that the completion trains
        pool = [r for row in each for _, r in row]
        mean, std = mean_std(pool)
        there = {r for r in pool if not math.isnan(r)}
        return self.rows(
            lambda i, t: sum(
                (r - mean) / (std + 1e-4) for end, r in each[i] if end > t and not math.isnan(r) and len(there) > 1
            )
        )

    def preferences(self, preference: float) -> list[float]:
        """f of LearnableTokenPreference; 0 where nothing is trained."""
        counted = [i for i in range(len(self.lengths)) if self.count(i)]
        told = preferences([[0] * self.count(i) for i in counted], preference, 1 / 9) if counted else []
        found = dict(zip(counted, told, strict=True))
        return [found.get(i, 0.0) for i in range(len(self.lengths))]
