"""For plug-in authors: groups without a model, and checks that a component keeps its contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lgrpo_lightning.contracts import AdvantageEstimator, RewardModel, StepSegmenter
from lgrpo_lightning.options import refuse_text
from lgrpo_lightning.process_tree import ProcessTree
from lgrpo_lightning.types import Credit, Group, Message, Prompt, Rewards, Rollout

EOS = 0
"""Token id of the end of sequence in toy groups; it has no text."""


def toy_group(
    completions: Sequence[str] | Sequence[Sequence[int]],
    *,
    columns: Mapping[str, Any] | None = None,
    prompt: str = "1+1=",
    messages: Sequence[Message] | None = None,
    uid: str = "toy/0",
    eos: bool = False,
) -> Group:
    """A group made without a model.

    Args:
        completions: Texts, one token a character; or token ids, whose text is the ids with a space after
            each.
        columns: Data columns of the prompt.
        prompt: The prompt's text.
        messages: The chat behind the prompt, for reward functions that read messages.
        uid: The prompt's name.
        eos: Whether an end-of-sequence token is appended to each completion.

    >>> toy_group(["ab"], eos=True).rollouts[0].text_ends
    (1, 2, 2)
    """
    refuse_text("completions", completions)
    made = Prompt(
        uid=uid,
        text=prompt,
        token_ids=tuple(map(ord, prompt)),
        messages=None if messages is None else tuple(messages),
        columns=dict(columns or {}),
    )
    return Group(prompt=made, rollouts=tuple(_rollout(c, eos) for c in completions))


def _rollout(completion: str | Sequence[int], eos: bool) -> Rollout:
    pieces = list(completion) if isinstance(completion, str) else [f"{i} " for i in completion]
    ids = [ord(c) if isinstance(c, str) else c for c in completion]
    if eos:
        pieces.append("")
        ids.append(EOS)
    ends = torch.tensor([len(p) for p in pieces], dtype=torch.long).cumsum(0).tolist()
    return Rollout(
        token_ids=tuple(ids),
        logprobs=torch.full((len(ids),), -0.5),
        text="".join(pieces),
        text_ends=tuple(ends),
        finish_reason="stop" if eos else "length",
        mask=torch.ones(len(ids), dtype=torch.bool),
    )


def toy_tree(group: Group | Sequence[str] | Sequence[Sequence[int]]) -> ProcessTree:
    """The token-prefix tree of a group, or of the toy group with these completions.

    >>> toy_tree(["ab", "ac"]).set_sizes().tolist()
    [[2, 1], [2, 1]]
    """
    return ProcessTree.from_sequences((group if isinstance(group, Group) else toy_group(group)).sequences)


def check_reward_model(
    model: RewardModel, group: Group | None = None, *, ordered: bool = True, tolerance: float = 1e-5
) -> Rewards:
    """Assert that ``model`` keeps its contract, and return its rewards for ``group``.

    Checked are shapes and values, that two groups at once give what each gives alone, and that permuting the
    completions permutes the rewards.

    Args:
        group: What to score; by default four short texts whose ``model.columns`` are all "2".
        ordered: Whether to check the permutation (not for rewards that draw random numbers).
        tolerance: Largest difference that counts as rounding.
    """
    if group is None:
        group = toy_group(["2", "3", "so 2\nor 3", ""], columns=dict.fromkeys(model.columns, "2"))
    flipped = _permuted(group)
    trees = [toy_tree(group), toy_tree(flipped)]
    alone = [model.score_batch([g], [t]) for g, t in zip((group, flipped), trees, strict=True)]
    assert all(len(r) == 1 for r in alone), f"{model.name}: score_batch returns one Rewards per group"
    (first,), (second,) = alone
    for name, value in {"outcome": first.outcome, **first.parts}.items():
        assert value.shape == (len(group),), f"{model.name}: {name} has shape {tuple(value.shape)}, not [G]"
        assert not value.isinf().any(), f"{model.name}: {name} is infinite; use NaN for 'does not apply'"
    if first.steps is not None:
        assert first.steps.shape == (len(trees[0].steps),), (
            f"{model.name}: steps has one value per step of the tree"
        )
    if ordered:
        together = model.score_batch([group, flipped], trees)
        assert len(together) == 2, f"{model.name}: score_batch returns one Rewards per group"
        assert _same(together[0].outcome, first.outcome, tolerance), (
            f"{model.name}: groups influence each other"
        )
        assert _same(second.outcome, first.outcome.flip(0), tolerance), (
            f"{model.name}: the order of members matters"
        )
    return first


def check_segmenter(segmenter: StepSegmenter, group: Group | None = None) -> ProcessTree:
    """Assert that ``segmenter`` keeps its contract, and return its tree of ``group``."""
    group = group or toy_group(["1+2\n=3", "1+2\n=4", "1+2", "", "1+2\n=3"], eos=True)
    tree = segmenter.segment(group)
    who = type(segmenter).__name__
    lengths = torch.tensor([len(r) for r in group.rollouts])
    real = torch.arange(int(lengths.max())) < lengths[:, None]
    sizes, steps = tree.set_sizes(), tree.step_ids
    assert sizes.shape == steps.shape == real.shape, f"{who}: set_sizes and step_ids are [G, T]"
    assert torch.equal(sizes > 0, real), f"{who}: set sizes are 0 on padding and only there"
    assert torch.equal(steps >= 0, real), f"{who}: step ids are -1 on padding and only there"
    assert int(sizes.max()) <= len(group), f"{who}: a process set has at most G members"
    for number, step in enumerate(tree.steps):
        assert step.parent < number, f"{who}: parents come before their children"
        for member, (start, end) in zip(step.members, step.spans, strict=True):
            assert (steps[member, start:end] == number).all(), f"{who}: step_ids index steps"
            assert (sizes[member, start:end] == len(step.members)).all(), (
                f"{who}: a set's size is its member count"
            )
    flipped = segmenter.segment(_permuted(group)).set_sizes()
    assert torch.equal(flipped, sizes.flip(0)), f"{who}: the order of members matters"
    return tree


def check_estimator(estimator: AdvantageEstimator, *, tolerance: float = 1e-5) -> list[Credit]:
    """Assert that ``estimator`` keeps its contract, and return its credit of two groups."""
    who = type(estimator).__name__
    groups = [toy_group([[1, 2, 3], [1, 2], [1, 2, 3], [0]]), toy_group([[1], [2, 2]])]
    outcomes = [torch.tensor([1.0, 0.0, torch.nan, 0.5]), torch.tensor([0.7, 0.7])]
    credits = _credits(estimator, outcomes, groups)
    assert len(credits) == 2, f"{who}: estimate_batch returns one Credit per group"
    for credit, outcome, group in zip(credits, outcomes, groups, strict=True):
        real = toy_tree(group).set_sizes() > 0
        for name, value in (("advantages", credit.advantages), ("weights", credit.weights)):
            assert value.shape == real.shape, f"{who}: {name} has shape {tuple(value.shape)}, not [G, T]"
            assert value.dtype == torch.float32, f"{who}: {name} is {value.dtype}, not float32"
            assert value.isfinite().all(), f"{who}: {name} is not finite"
            assert (value[~real] == 0).all(), f"{who}: {name} is not 0 on padding"
        assert (credit.weights >= 0).all(), f"{who}: a weight is negative"
        assert (credit.advantages[outcome.isnan()] == 0).all(), f"{who}: a NaN reward must give advantage 0"
    flipped = _credits(estimator, [o.flip(0) for o in outcomes], [_permuted(g) for g in groups])
    for a, b in zip(credits, flipped, strict=True):
        same = _same(a.advantages.flip(0), b.advantages, tolerance) and _same(
            a.weights.flip(0), b.weights, tolerance
        )
        assert same, f"{who}: the order of members matters"
    return credits


def _credits(estimator: AdvantageEstimator, outcomes: list[Tensor], groups: list[Group]) -> list[Credit]:
    rewards = [Rewards(outcome=o, parts={"toy": o}) for o in outcomes]
    return estimator.estimate_batch(rewards, [toy_tree(g) for g in groups], reduce=lambda x: x)


def _permuted(group: Group) -> Group:
    """The group with its members in reverse order."""
    return Group(prompt=group.prompt, rollouts=group.rollouts[::-1])


def _same(a: Tensor, b: Tensor, tolerance: float) -> bool:
    return torch.allclose(a.float(), b.float(), rtol=tolerance, atol=tolerance, equal_nan=True)
