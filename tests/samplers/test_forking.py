"""Forks: a tree where completions share nothing, right log-probs, the free members as they were, exact on resume."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lgrpo_lightning.contracts import RandomKey
from lgrpo_lightning.functional.sampling import Sampling
from lgrpo_lightning.policy import Policy, PolicyConfig, PolicySource
from lgrpo_lightning.process_tree import ProcessTree
from lgrpo_lightning.samplers import ForkingSampler, TransformersSampler
from lgrpo_lightning.types import Group
from tests.models import tokenizer
from tests.runs import checkpoint, fit, rollouts
from tests.samplers.test_transformers import RANDOM_KEY, ids, prompts

SAMPLING = Sampling(max_new_tokens=24)


@pytest.fixture(scope="module")
def policy(model_folder: Callable[[str], Path]) -> Policy:
    return Policy(PolicyConfig(path=str(model_folder("llama"))))


def forking(policy: Policy, **options: Any) -> ForkingSampler:
    made = ForkingSampler(options.pop("sampler", None), **options)
    made.setup(PolicySource(policy, tokenizer=tokenizer(), eos_token_ids=(1,), version=lambda: 0))
    return made


def drawn(policy: Policy, random_key: RandomKey = RANDOM_KEY, size: int = 8, **options: Any) -> list[Group]:
    return forking(policy, **options).sample(prompts(), size, sampling=SAMPLING, random_key=random_key)


def shared(groups: list[Group]) -> float:
    trees = [ProcessTree.from_sequences(g.sequences) for g in groups]
    return float(torch.cat([t.intermediate_proportion() for t in trees]).mean())


def test_the_tree_has_structure_and_free_members_are_as_they_were(policy: Policy) -> None:
    free = TransformersSampler()
    free.setup(PolicySource(policy, tokenizer=tokenizer(), eos_token_ids=(1,), version=lambda: 0))
    plain = free.sample(prompts(), 8, sampling=SAMPLING, random_key=RANDOM_KEY)
    groups = drawn(policy)
    assert [len(g) for g in groups] == [8] * 4
    assert shared(groups) > shared(plain) + 0.2
    assert [g[:4] for g in ids(groups)] == [g[:4] for g in ids(plain)]
    assert [r.fork is None for r in groups[0].completions] == [True] * 4 + [False] * 4
    assert [g.prompt.uid for g in groups] == [p.uid for p in prompts()]


def test_a_fork_is_its_members_prefix_and_then_its_own(policy: Policy) -> None:
    for group in drawn(policy, share=0.75, depth=2):
        for rollout in group.completions:
            assert len(rollout) <= SAMPLING.max_new_tokens
            if rollout.fork is None:
                continue
            source, at = group.completions[rollout.fork.member], rollout.fork.position
            assert 0 < at < len(source)
            assert rollout.token_ids[:at] == source.token_ids[:at]
            assert torch.equal(rollout.logprobs[:at], source.logprobs[:at])
            assert rollout.text_ends[-1] == len(rollout.text)
            assert rollout.mask.all()
        second = [r for r in group.completions if r.fork and group.completions[r.fork.member].fork]
        assert len(group) == 8
        assert all(r.fork.member >= 2 for r in second if r.fork)


def test_logprobs_equal_a_teacher_forced_pass(policy: Policy) -> None:
    for group in drawn(policy, share=0.6):
        scores = policy([group.prompt.token_ids] * len(group), group.sequences).logprobs
        for row, rollout in zip(scores, group.completions, strict=True):
            torch.testing.assert_close(row[: len(rollout)], rollout.logprobs, atol=1e-4, rtol=0)


def test_the_same_for_any_batch_and_order(policy: Policy) -> None:
    together = drawn(policy)
    backwards = forking(policy).sample(prompts()[::-1], 8, sampling=SAMPLING, random_key=RANDOM_KEY)
    assert ids(together) == ids(backwards)[::-1]
    one = forking(policy, sampler=TransformersSampler(max_batch_tokens=1))
    assert ids(together) == ids(one.sample(prompts(), 8, sampling=SAMPLING, random_key=RANDOM_KEY))
    assert ids(together) != ids(drawn(policy, RandomKey(0, "train", 1)))


def test_what_is_measured_is_not_forked(policy: Policy) -> None:
    assert all(r.fork is None for g in drawn(policy, RandomKey(0, "validation", 0)) for r in g.completions)


def test_cuts_at_lines_and_at_undecided_tokens(policy: Policy) -> None:
    for group in drawn(policy, cut="line"):
        for rollout in group.completions:
            if rollout.fork is not None:
                text = group.completions[rollout.fork.member].text
                assert text[: group.completions[rollout.fork.member].text_ends[rollout.fork.position - 1]].endswith(
                    "\n"
                )
    with pytest.raises(ValueError, match=r"needs Completion.entropies"):
        drawn(policy, cut="entropy")
    undecided = drawn(policy, cut="entropy", sampler=TransformersSampler(entropies=True))
    assert any(rollout.fork for group in undecided for rollout in group.completions)
    for group in undecided:
        for rollout in group.completions:
            if rollout.fork is not None:
                entropies = group.completions[rollout.fork.member].entropies
                assert entropies is not None
                rank = int((entropies > entropies[rollout.fork.position]).sum())
                assert rank < max(1, len(entropies) // 10)
                assert rollout.entropies is not None
                assert len(rollout.entropies) == len(rollout)


def test_the_prefix_may_be_masked(policy: Policy) -> None:
    for group in drawn(policy, train_prefix=False):
        for rollout in group.completions:
            at = rollout.fork.position if rollout.fork else 0
            assert rollout.mask.tolist() == [False] * at + [True] * (len(rollout) - at)


@pytest.mark.parametrize(
    ("options", "says"),
    [({"share": 1.0}, "share is 1.0"), ({"depth": 0}, "depth is 0"), ({"cut": "word"}, "cut is 'word'")],
)
def test_impossible_options(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=f"ForkingSampler: {says}"):
        ForkingSampler(**options)


def test_entropies_are_those_of_what_was_drawn_from(policy: Policy) -> None:
    sample = TransformersSampler(entropies=True)
    sample.setup(PolicySource(policy, tokenizer=tokenizer(), eos_token_ids=(1,), version=lambda: 0))
    for sampling in (SAMPLING, Sampling(max_new_tokens=24, temperature=0.6)):
        for group in sample.sample(prompts(), 3, sampling=sampling, random_key=RANDOM_KEY):
            scores = policy([group.prompt.token_ids] * 3, group.sequences, temperature=sampling.temperature)
            for row, rollout in zip(scores.entropies, group.completions, strict=True):
                assert rollout.entropies is not None
                torch.testing.assert_close(row[: len(rollout)], rollout.entropies, atol=1e-4, rtol=0)


FORKS = "{class_path: ForkingSampler, init_args: {sampler: TransformersSampler, share: 0.5}}"


def test_prefixes_that_are_not_trained_are_in_no_process_set(tmp_path: Path) -> None:
    """The recorded mean of |λ|, from the recorded tokens: members that share the prefix and train the token."""
    table = rollouts(fit(tmp_path, model__sampler=FORKS[:-2] + ", train_prefix: false}}", trainer__max_steps=1))
    for _, group in table.groupby(["rollout", "prompt_uid"]):
        ids = [list(row) for row in group["token_ids"]]
        first = [0 if position != position else int(position) for position in group["fork_position"]]
        for i, own in enumerate(ids):
            sizes = [
                sum(other[: t + 1] == own[: t + 1] and t >= start for other, start in zip(ids, first, strict=True))
                for t in range(first[i], len(own))
            ]
            assert group["set_size_mean"].iloc[i] == pytest.approx(sum(sizes) / len(sizes))


@pytest.mark.long
def test_a_run_with_forks_resumes_exactly(tmp_path: Path) -> None:
    whole = fit(tmp_path / "whole", model__sampler=FORKS, trainer__max_steps=2)
    cut = fit(tmp_path / "cut", model__sampler=FORKS, trainer__max_steps=1)
    fit(cut, model__sampler=FORKS, trainer__max_steps=2, ckpt_path="last")
    table = rollouts(whole)
    assert table["fork_member"].notna().sum() == len(table) // 2
    assert (table["fork_position"].dropna() > 0).all()
    assert table["token_ids"].map(list).tolist() == rollouts(cut)["token_ids"].map(list).tolist()
    for name, tensor in checkpoint(whole)["state_dict"].items():  # type: ignore[attr-defined]
        assert torch.equal(tensor, checkpoint(cut)["state_dict"][name])  # type: ignore[index]


def test_a_stop_string_that_begins_in_the_prefix_ends_the_fork(policy: Policy) -> None:
    """Whatever two characters follow each other across the cut, as well as elsewhere."""
    free = drawn(policy, share=0.75)
    across = [r.text[at - 1 : at + 1] for g in free for r in g.completions if r.fork and (at := r.fork.position)]
    stop = next(s for s in across if len(s) == 2)
    found = forking(policy, share=0.75).sample(
        prompts(), 8, sampling=Sampling(max_new_tokens=24, stop=(stop,)), random_key=RANDOM_KEY
    )
    ended = [r for g in found for r in g.completions if stop in r.text]
    assert any(r.fork and len(r) == r.fork.position + 1 for r in ended)
    for rollout in ended:
        assert rollout.finish_reason == "stop"
        assert rollout.text.index(stop) + 2 == len(rollout.text) == rollout.text_ends[-1]
        assert stop not in rollout.text[: rollout.text_ends[-2]]
        assert len(rollout.logprobs) == len(rollout.mask) == len(rollout)
