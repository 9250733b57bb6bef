"""Which group stands where after a refill, on any number of ranks."""

from types import SimpleNamespace

import pytest
import torch

from lgrpo_lightning.distributed.ranks import DataRank
from lgrpo_lightning.rollouts.refill import ScoredGroups, replace_equal_groups
from lgrpo_lightning.testing import toy_group, toy_tree
from lgrpo_lightning.training.settings import check_data
from lgrpo_lightning.types import Prompt, Rewards

POOL = [f"f{n}" for n in range(20)]


def scored(uids: list[str], equal: set[str]) -> ScoredGroups:
    groups = tuple(toy_group(["1", "2"], uid=uid) for uid in uids)
    outcomes = [torch.tensor([0.0, float(uid not in equal)]) for uid in uids]
    return ScoredGroups(
        groups=groups,
        trees=tuple(toy_tree(g) for g in groups),
        rewards=tuple(Rewards(outcome=o) for o in outcomes),
        equal=tuple(uid in equal for uid in uids),
    )


def uids(batch: ScoredGroups) -> list[str]:
    return [group.prompt.uid for group in batch.groups]


def refilled(first: list[str], equal: set[str], *, rounds: int, size: int) -> tuple[list[str], set[str], int]:
    """(final prompts in the order of the batch, those replaced, rounds), with ``size`` ranks taken in turn."""
    ranks = [scored(first[r::size], equal) for r in range(size)]
    replaced: set[str] = set()
    made = 0
    for _ in range(rounds):  # a round of one, on every rank, before the next
        seen = replaced | {u for rank in ranks for u in uids(rank)}

        def further(count: int, without: set[str], seen: set[str] = seen) -> list[Prompt]:
            left = [u for u in POOL if u not in without | seen]
            return [Prompt(uid=u, text="x", token_ids=(1,)) for u in left[:count]]

        everyone = [[(g.prompt.uid, e) for g, e in zip(rank.groups, rank.equal, strict=True)] for rank in ranks]
        after = [
            replace_equal_groups(
                rank,
                rounds=1,
                rank=DataRank(rank=r, size=size),
                gather=lambda own, told=everyone: told,
                further=further,
                draw=lambda prompts: scored([p.uid for p in prompts], equal),
            )
            for r, rank in enumerate(ranks)
        ]
        made += any(len(gone) for _, gone in after)
        replaced |= {u for _, gone in after for u in uids(gone)}
        ranks = [kept for kept, _ in after]
    whole = [uids(ranks[i % size])[i // size] for i in range(len(first))]
    return whole, replaced, made


def test_by_hand() -> None:
    """b and d are equal; f0 and f1 come for them; f0 is equal, too, and gives way to f2."""
    first, equal = ["a", "b", "c", "d"], {"b", "d", "f0"}
    assert refilled(first, equal, rounds=1, size=1) == (["a", "f0", "c", "f1"], {"b", "d"}, 1)
    assert refilled(first, equal, rounds=9, size=1) == (["a", "f2", "c", "f1"], {"b", "d", "f0"}, 2)


def test_the_number_of_ranks_changes_nothing() -> None:
    first = [f"p{n}" for n in range(12)]
    equal = {"p0", "p1", "p2", "p5", "p6", "p10", *POOL[::3]}
    alone = refilled(first, equal, rounds=3, size=1)
    for size in (2, 3, 4, 6):
        assert refilled(first, equal, rounds=3, size=size) == alone


def test_several_rounds_in_one_call_sample_nothing_twice() -> None:
    asked: list[set[str]] = []

    def further(count: int, without: set[str]) -> list[Prompt]:
        asked.append(set(without))
        left = [u for u in POOL if u not in without]
        return [Prompt(uid=u, text="x", token_ids=(1,)) for u in left[:count]]

    equal = {"b", *POOL[:5]}
    kept, replaced = replace_equal_groups(
        scored(["a", "b"], equal),
        rounds=3,
        rank=DataRank(rank=0, size=1),
        gather=lambda own: [own],
        further=further,
        draw=lambda prompts: scored([p.uid for p in prompts], equal),
    )
    assert uids(kept) == ["a", "f2"]
    assert uids(replaced) == ["b", "f0", "f1"]
    assert asked == [{"a", "b"}, {"a", "b", "f0"}, {"a", "b", "f0", "f1"}]


def test_nothing_further_is_no_error() -> None:
    whole = scored(["a"], {"a"})
    kept, replaced = replace_equal_groups(
        whole,
        rounds=5,
        rank=DataRank(rank=0, size=1),
        gather=lambda own: [own],
        further=lambda n, w: [],
        draw=lambda p: ScoredGroups(),
    )
    assert (kept, len(replaced), replaced.as_untrained_rollout(0)) == (whole, 0, None)


def test_a_data_module_without_further_prompts_is_refused() -> None:
    trainer = SimpleNamespace(datamodule=SimpleNamespace(validation_names=()), state=SimpleNamespace(fn="fit"))
    check_data(trainer)
    with pytest.raises(ValueError, match=r"asks the data module for further prompts.*refill_rounds: 0"):
        check_data(trainer, refill=True)
