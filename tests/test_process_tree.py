import json
import time
from pathlib import Path

import pytest
import torch

from lgrpo_lightning.process_tree import ProcessTree, Trie
from tests.reference import naive
from tests.reference.groups import random_group

GOLDEN = json.loads((Path(__file__).parent / "golden" / "process_set_sizes.json").read_text())["cases"]


def trimmed(tree, sequences):
    """Set sizes without padding; the padding must be 0."""
    sizes = tree.set_sizes()
    assert sizes.dtype == torch.long
    assert sizes.shape == (len(sequences), max(map(len, sequences), default=0))
    assert all((row[len(y) :] == 0).all() for row, y in zip(sizes, sequences, strict=True))
    return [row[: len(y)].tolist() for row, y in zip(sizes, sequences, strict=True)]


def test_by_hand():
    tree = ProcessTree.from_sequences([[1, 2, 3], [1, 2, 4], [5]])
    assert tree.set_sizes().tolist() == [[2, 2, 1], [2, 2, 1], [1, 0, 0]]
    assert tree.step_ids.tolist() == [[0, 0, 1], [0, 0, 2], [3, -1, -1]]
    assert [(s.parent, s.members, s.spans) for s in tree.steps] == [
        (-1, (0, 1), ((0, 2), (0, 2))),
        (0, (0,), ((2, 3),)),
        (0, (1,), ((2, 3),)),
        (-1, (2,), ((0, 1),)),
    ]
    assert tree.num_nodes == 5
    assert tree.path_depth().tolist() == [1, 1, 0]
    assert tree.intermediate_proportion().tolist() == pytest.approx([2 / 3, 2 / 3, 0.0])


@pytest.mark.parametrize("case", GOLDEN, ids=range(len(GOLDEN)))
def test_golden(case):
    sequences = case["completions"]
    assert trimmed(ProcessTree.from_sequences(sequences), sequences) == case["set_sizes"]


def test_definition_on_500_random_groups():
    for seed in range(500):
        group = random_group(seed)
        tree = ProcessTree.from_sequences(group)
        assert trimmed(tree, group) == naive.set_sizes(group), group
        assert tree.num_nodes == naive.num_nodes(group), group
        assert tree.path_depth().tolist() == naive.path_depth(group), group
        assert tree.intermediate_proportion().tolist() == pytest.approx(naive.intermediate_proportion(group)), group


def test_steps_are_the_maximal_runs_of_one_process_set():
    for seed in range(200):
        group = random_group(seed)
        tree = ProcessTree.from_sequences(group)
        spans = [
            sorted(x for s in tree.steps for m, x in zip(s.members, s.spans, strict=True) if m == i)
            for i in range(len(group))
        ]
        assert spans == naive.step_runs(group), group
        for number, step in enumerate(tree.steps):
            start, end = step.spans[0]
            assert set(step.spans) == {(start, end)}
            assert step.members == tuple(sorted(naive.process_set(group, step.members[0], start)))
            assert all((tree.step_ids[m, start:end] == number).all() for m in step.members)
            above = tree.step_ids[step.members[0], start - 1].item() if start else -1
            assert step.parent == above < number


@pytest.mark.parametrize("group", [[], [[]], [[], []], [[0]], [[0], []], [[0, 0], [0, 0]]])
def test_degenerate_groups(group):
    tree = ProcessTree.from_sequences(group)
    assert trimmed(tree, group) == naive.set_sizes(group)
    assert tree.path_depth().tolist() == naive.path_depth(group)
    assert len(tree.steps) == len(tree.step_ids[tree.step_ids >= 0].unique())


def test_trie_order_is_depth_first():
    for seed in range(200):
        group = random_group(seed)
        trie = Trie.from_sequences(group)
        prefix = {}
        for i, y in enumerate(group):
            for t in range(len(y)):
                assert prefix.setdefault(trie.node_ids[i, t].item(), tuple(y[: t + 1])) == tuple(y[: t + 1])
        assert sorted(prefix) == list(range(len(trie)))
        for k, path in prefix.items():
            assert trie.ids[k] == path[-1]
            assert trie.depths[k] == len(path) - 1
            assert trie.parents[k] == (-1 if len(path) == 1 else {v: n for n, v in prefix.items()}[path[:-1]])
            assert trie.members()[k] == sum(tuple(y[: len(path)]) == path for y in group)
            for q, other in prefix.items():
                assert (k <= q < trie.subtree_end[k]) == (other[: len(path)] == path), (group, k, q)


def test_from_steps_with_the_tokens_as_keys_is_from_sequences():
    for seed in range(100):
        group = random_group(seed)
        steps = ProcessTree.from_steps(group, [list(range(len(y))) for y in group])
        assert torch.equal(steps.set_sizes(), ProcessTree.from_sequences(group).set_sizes())
        assert steps.num_nodes == naive.num_nodes(group)
        assert steps.path_depth().tolist() == naive.path_depth(group)


def test_from_steps_needs_equal_steps_before():
    tree = ProcessTree.from_steps([["a", "x"], ["b", "x"], ["a", "y"]], [[0, 1, 1], [0, 1], [0, 0, 1]])
    assert tree.set_sizes().tolist() == [[2, 1, 1], [1, 1, 0], [2, 2, 1]]
    assert [s.members for s in tree.steps] == [(0, 2), (0,), (2,), (1,), (1,)]
    assert tree.steps[0].spans == ((0, 1), (0, 2))


@pytest.mark.parametrize("steps", [[0, 0], [1, 0], [0, 1, 2], []])
def test_from_steps_refuses_steps_without_tokens_or_order(steps):
    with pytest.raises(ValueError, match="Completion 1 has 2 steps"):
        ProcessTree.from_steps([["a"], ["a", "b"]], [[0], steps])


def test_a_hundredth_of_the_loop_time_at_64_by_4096():
    generator = torch.Generator().manual_seed(0)
    size, length = 64, 4096
    trunk = torch.randint(0, 1000, (length,), generator=generator)
    group = []
    for i in range(size):
        row = torch.randint(0, 1000, (length,), generator=generator)
        shared = length * (i % 8) // 8
        row[:shared] = trunk[:shared]
        group.append(row.tolist())
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        sizes = ProcessTree.from_sequences(group).set_sizes()
        best = min(best, time.perf_counter() - start)
    tokens = [(i, t) for i in range(0, size, 8) for t in range(0, length, 128)]
    start = time.perf_counter()
    expected = [len(naive.process_set(group, i, t)) for i, t in tokens]
    loop = (time.perf_counter() - start) * size * length / len(tokens)  # the sample is even over rows and positions
    assert [sizes[i, t].item() for i, t in tokens] == expected
    assert best <= loop / 100, f"{best:.3f} s against {loop:.1f} s"


def test_a_mask_of_another_shape_is_refused():
    tree = ProcessTree.from_sequences([[1, 2], [1]])
    with pytest.raises(ValueError, match=r"mask has shape \[1, 2\]; the tree's is \[2, 2\]"):
        tree.masked(torch.ones(1, 2, dtype=torch.bool))
