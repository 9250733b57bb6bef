"""Checks that a component fulfils its contract, also where a run would not notice a violation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lgrpo_lightning.contracts import (
    CONTRACTS,
    AdvantageEstimator,
    PromptSource,
    RandomKey,
    RewardModel,
    Sampler,
    StepSegmenter,
)
from lgrpo_lightning.data.sources import read_rows
from lgrpo_lightning.functional.sampling import Sampling
from lgrpo_lightning.process_tree import ProcessTree
from lgrpo_lightning.rewards.checks import check_rewards
from lgrpo_lightning.rollouts.checks import check_credits, check_trees
from lgrpo_lightning.testing.toys import toy_group, toy_tree
from lgrpo_lightning.types import Credit, Group, Prompt, Rewards


def check_reward_model(
    model: RewardModel, group: Group | None = None, *, ordered: bool = True, tolerance: float = 1e-5
) -> Rewards:
    """Assert that ``model`` fulfils its contract, and return its rewards for ``group``.

    Checked are what a run refuses (shapes, values), that two groups at once give what each gives alone, that a second
    call gives the same, that permuting the completions permutes the rewards, and that a group of one and an empty
    completion are scored.

    Args:
        group: What to score; by default four short texts whose ``model.columns`` are all "2".
        ordered: Whether to check order and repetition (not for rewards that draw random numbers).
        tolerance: Largest difference that counts as rounding.
    """
    columns = dict.fromkeys(model.columns, "2")
    if group is None:
        group = toy_group(["2", "3", "so 2\nor 3", ""], columns=columns)
    flipped, single = _permute(group), Group(prompt=group.prompt, completions=group.completions[:1])
    trees = [toy_tree(g) for g in (group, flipped, single)]
    first, second, _ = (_score(model, [g], [t])[0] for g, t in zip((group, flipped, single), trees, strict=True))
    if ordered:
        together = _score(model, [group, flipped], trees[:2])
        assert _same(together[0].outcome, first.outcome, tolerance), f"{model.name}: groups influence each other"
        assert _same(second.outcome, first.outcome.flip(0), tolerance), f"{model.name}: the order of members matters"
        again = _score(model, [group], trees[:1])[0]
        assert _same(again.outcome, first.outcome, tolerance), f"{model.name}: a second call gives something else"
    return first


def check_segmenter(segmenter: StepSegmenter, group: Group | None = None) -> ProcessTree:
    """Assert that ``segmenter`` fulfils its contract, and return its tree of ``group``."""
    if group is None:
        group = toy_group(["1+2\n=3", "1+2\n=4", "1+2", "", "1+2\n=3"], eos=True)
        check_segmenter(segmenter, toy_group(["1+2\n=3", "", "1+2"]))  # a completion without any token
    who = type(segmenter).__name__
    single = Group(prompt=group.prompt, completions=group.completions[:1])
    alone = segmenter.segment(single)
    with _raise_assertions():
        check_trees(segmenter, [group, single], [tree := segmenter.segment(group), alone])
    sizes, steps = tree.set_sizes(), tree.step_ids
    for number, step in enumerate(tree.steps):
        assert step.parent < number, f"{who}: parents come before their children"
        for member, (start, end) in zip(step.members, step.spans, strict=True):
            assert (steps[member, start:end] == number).all(), f"{who}: step_ids index steps"
            assert (sizes[member, start:end] == len(step.members)).all(), f"{who}: a set's size is its member count"
    flipped = segmenter.segment(_permute(group)).set_sizes()
    assert torch.equal(flipped, sizes.flip(0)), f"{who}: the order of members matters"
    assert bool((alone.set_sizes() <= 1).all()), f"{who}: a completion by itself is in sets of one"
    return tree


def check_estimator(estimator: AdvantageEstimator, *, tolerance: float = 1e-5) -> list[Credit]:
    """Assert that ``estimator`` fulfils its contract, and return its credit of two groups.

    Checked are what a run refuses (shapes, values), NaN rewards, that permuting the completions permutes the credit,
    that small groups are taken, and that tokens which are not trained change nothing.
    """
    who = type(estimator).__name__
    groups = [toy_group([[1, 2, 3], [1, 2], [1, 2, 3], [0]]), toy_group([[1], [2, 2]])]
    outcomes = [torch.tensor([1.0, 0.0, torch.nan, 0.5]), torch.tensor([0.7, 0.7])]
    credits = _credits(estimator, outcomes, groups)
    for credit, outcome in zip(credits, outcomes, strict=True):
        if tuple(estimator.reads) == ("outcome",):
            assert (credit.advantages[outcome.isnan()] == 0).all(), f"{who}: a NaN reward must give advantage 0"
    flipped = _credits(estimator, [o.flip(0) for o in outcomes], [_permute(g) for g in groups])
    for a, b in zip(credits, flipped, strict=True):
        same = _same(a.advantages.flip(0), b.advantages, tolerance) and _same(a.weights.flip(0), b.weights, tolerance)
        assert same, f"{who}: the order of members matters"
    for outcome in (torch.tensor([1.0]), torch.tensor([torch.nan])):
        _credits(estimator, [outcome], [toy_group([[1, 2]])])
    _credits(estimator, [torch.tensor([1.0, 0.0, 0.5])], [toy_group([[1, 2], [], [1]])])
    _check_trained(estimator, tolerance)
    return credits


def _check_trained(estimator: AdvantageEstimator, tolerance: float) -> None:
    """Assert that untrained tokens and members change nothing."""

    def assign(second: list[int], mask: list[bool], third: int) -> tuple[Group, Credit]:
        group = toy_group([[1, 2, 3], second, [third]])
        changed = replace(group.completions[1], mask=torch.tensor(mask))
        group = replace(group, completions=(group.completions[0], changed, group.completions[2]))
        return group, _credits(estimator, [torch.tensor([1.0, 0.0, 0.5])], [group])[0]

    who = type(estimator).__name__
    short, without = assign([1, 2], [True, True], 4)
    _, behind = assign([1, 2, 9, 9, 9], [True, True, False, False, False], 4)
    for name, value in vars(without).items():
        found = torch.where(short.mask, getattr(behind, name)[:, :3], 0.0)
        assert _same(value, found, tolerance), (
            f"{who}: {name} change with tokens that are not trained, such as a tool's output; count ProcessTree.trained"
        )
    apart, shared = (assign(other, [False, False, True], 6) for other in ([7, 8, 4], [1, 2, 4]))
    assert _same(apart[1].weights[apart[0].mask], shared[1].weights[shared[0].mask], tolerance), (
        f"{who}: weights count members of a process set that do not train the token; take ProcessTree.weights() or "
        "set_sizes()"
    )


def check_sampler(sampler: Sampler, path: str = "lgrpo:arithmetic") -> list[Group]:
    """Assert that ``sampler`` fulfils its contract with a real model, and return the groups that it samples.

    Checked are numbers, lengths and texts, that the log-probs are the policy's, that the same random key gives the same
    completions again, in another order too, and that another one gives others.

    Args:
        path: The model, as in ``policy.path``.
    """
    from lgrpo_lightning.policy import Policy, PolicyConfig, PolicySource
    from lgrpo_lightning.policy.end_of_sequence import list_eos_token_ids
    from lgrpo_lightning.policy.loading import load_tokenizer

    who, config = type(sampler).__name__, PolicyConfig(path=path)
    policy, tokenizer = Policy(config), load_tokenizer(config)
    ends = list_eos_token_ids(config, tokenizer)
    sampler.setup(PolicySource(policy, tokenizer=tokenizer, eos_token_ids=ends, version=lambda: 0))
    sampler.sync(0)
    sampling, texts = Sampling(max_new_tokens=12), ["1+2=", "12+7+3="]
    prompts = [Prompt(uid=f"toy/{i}", text=t, token_ids=tuple(tokenizer(t)["input_ids"])) for i, t in enumerate(texts)]

    def draw(asked: Sequence[Prompt], counter: int = 0) -> list[Group]:
        return sampler.sample(asked, 3, sampling=sampling, random_key=RandomKey(0, "train", counter))

    groups = draw(prompts)
    assert [g.prompt.uid for g in groups] == [p.uid for p in prompts], f"{who}: one group per prompt, in order"
    for group in groups:
        assert len(group) == 3, f"{who}: group_size is 3, a group has {len(group)} completions"
        for completion in group.completions:
            assert 0 < len(completion) <= 12, f"{who}: a completion has {len(completion)} tokens, of at most 12"
            assert completion.text_ends[-1] == len(completion.text), f"{who}: text_ends do not end at the text's end"
        logprobs = policy([group.prompt.token_ids] * 3, group.sequences).logprobs
        for row, completion in zip(logprobs, group.completions, strict=True):
            apart = float((row[: len(completion)] - completion.logprobs).abs().max())
            assert apart < 1e-2 or not sampler.is_policy, f"{who}: log-probs are {apart:.2g} from the policy's"
    again, backwards = draw(prompts), draw(prompts[::-1])[::-1]
    for other, what in ((again, "a second call"), (backwards, "another order of prompts")):
        assert [g.sequences for g in other] == [g.sequences for g in groups], f"{who}: {what} draws something else"
    assert [g.sequences for g in draw(prompts, 1)] != [g.sequences for g in groups], (
        f"{who}: another random key draws the same"
    )
    return groups


def check_prompt_source(source: PromptSource) -> Sequence[Mapping[str, Any]]:
    """Assert that ``source`` fulfils its contract, and return its rows."""
    who = type(source).__name__
    with _raise_assertions():
        rows = read_rows(source.rows(), who)
    assert len(rows) > 0, f"{who}: there are no rows"
    for number, row in enumerate(rows):
        prompt = row.get("prompt")
        assert isinstance(prompt, str | list), f"{who}: row {number} has no prompt, a text or messages"
        assert prompt, f"{who}: the prompt of row {number} is empty"
    assert [dict(r) for r in read_rows(source.rows(), who)] == [dict(r) for r in rows], (
        f"{who}: a second call gives other rows"
    )
    return rows


def check_component(component: Any, options: Mapping[str, Any] | None = None) -> None:
    """Assert that a component can be sent to another process, and made again from YAML with the same arguments.

    Args:
        options: The arguments that it was made with.
    """
    import pickle

    import yaml
    from jsonargparse import ArgumentParser

    kind = type(component)
    copy = pickle.loads(pickle.dumps(component))
    assert type(copy) is kind, f"{kind.__name__}: a pickled copy is a {type(copy).__name__}"
    contract = next((c for c in CONTRACTS.values() if isinstance(component, c)), None)
    assert contract is not None, f"{kind.__name__} derives from no contract"
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(contract, "component")
    named = {"class_path": f"{kind.__module__}.{kind.__qualname__}", "init_args": dict(options or {})}
    made = parser.instantiate_classes(parser.parse_string(yaml.safe_dump({"component": named}))).component
    for name, value in vars(component).items():
        if isinstance(value, bool | int | float | str | tuple | list):
            again = vars(made).get(name)
            assert again == value, f"{kind.__name__}: made from YAML, {name} is {again!r} and not {value!r}"


def _score(model: RewardModel, groups: Sequence[Group], trees: Sequence[ProcessTree]) -> list[Rewards]:
    with _raise_assertions():
        return check_rewards(model, groups, trees, model.score_batch(groups, trees))


def _credits(estimator: AdvantageEstimator, outcomes: list[Tensor], groups: list[Group]) -> list[Credit]:
    trees = [toy_tree(g) for g in groups]
    rewards = [Rewards(outcome=o, parts={"toy": o}) for o in outcomes]
    if "steps" in estimator.reads:  # rewards that do not depend on the order of members
        sizes = [torch.tensor([float(len(step.members)) for step in tree.steps]) for tree in trees]
        rewards = [replace(r, steps=s) for r, s in zip(rewards, sizes, strict=True)]
    elif "tokens" in estimator.reads:
        counts = [tree.set_sizes().float() for tree in trees]
        rewards = [replace(r, tokens=torch.where(c > 0, c, torch.nan)) for r, c in zip(rewards, counts, strict=True)]
    credits = estimator.estimate_batch(rewards, trees, reduce=lambda x: x)
    with _raise_assertions():
        check_credits(estimator, groups, credits)
    return credits


@contextmanager
def _raise_assertions() -> Iterator[None]:
    """A context that turns errors of a run into failed assertions."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise AssertionError(str(error)) from error


def _permute(group: Group) -> Group:
    """The group with its members in reverse order."""
    return Group(prompt=group.prompt, completions=group.completions[::-1])


def _same(a: Tensor, b: Tensor, tolerance: float) -> bool:
    return torch.allclose(a.float(), b.float(), rtol=tolerance, atol=tolerance, equal_nan=True)
