"""Sentences, tags, windows, undecided tokens."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lgrpo_lightning.contracts import StepSegmenter
from lgrpo_lightning.segmenters import EntropySegmenter, SentenceSegmenter, TagSegmenter, WindowSegmenter
from lgrpo_lightning.segmenters.entropy import find_high_entropy
from lgrpo_lightning.testing import check_segmenter, toy_group
from lgrpo_lightning.types import Group
from tests.reference.groups import random_group


def texts(segmenter: StepSegmenter, text: str) -> list[str]:
    """The steps of one completion, a token a character."""
    group = toy_group([text])
    tree = segmenter.segment(group)
    return [text[a:b] for step in tree.steps for a, b in step.spans]


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("It is 3.5. So what? Yes!", ["It is 3.5. ", "So what? ", "Yes!"]),
        ('He said "no." Then left.', ['He said "no." ', "Then left."]),
        ("One…  two\nthree", ["One…  ", "two\n", "three"]),
        ("第一。第二！", ["第一。", "第二！"]),
        ("no end", ["no end"]),
    ],
)
def test_sentences(text: str, steps: list[str]) -> None:
    assert texts(SentenceSegmenter(), text) == steps


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("<think>a b</think>\n7", ["<think>a b</think>\n", "7"]),
        ("so <step>1</step><step n=2>2</step> end", ["so ", "<step>1</step>", "<step n=2>2</step> ", "end"]),
        ("<THINK>a</THINK>b", ["<THINK>a</THINK>", "b"]),
        ("<thinking>a</thinking>", ["<thinking>a</thinking>"]),
        ("a<think>never closed", ["a", "<think>never closed"]),
    ],
)
def test_tags(text: str, steps: list[str]) -> None:
    assert texts(TagSegmenter(), text) == steps


def test_tags_of_ones_own() -> None:
    assert texts(TagSegmenter(["plan"]), "<plan>a</plan><think>b</think>") == [
        "<plan>a</plan>",
        "<think>b</think>",
    ]
    for tags, says in ((["plan", "<think>"], "without brackets"), ([], "at least one")):
        with pytest.raises(ValueError, match=says):
            TagSegmenter(tags)
    with pytest.raises(ValueError, match=r"write \['think'\]"):
        TagSegmenter("think")  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("seed", range(20))
def test_windows_against_the_definition(seed: int, size: int) -> None:
    sequences = random_group(seed)
    sizes = WindowSegmenter(size).segment(toy_group(sequences)).set_sizes()
    for i, own in enumerate(sequences):
        for t in range(len(own)):
            end = (t // size + 1) * size
            assert sizes[i, t] == sum(other[:end] == own[:end] for other in sequences)


def with_entropies(sequences: list[list[int]], entropies: list[list[float]]) -> Group:
    group = toy_group(sequences)
    rollouts = zip(group.completions, entropies, strict=True)
    return replace(group, completions=tuple(replace(r, entropies=torch.tensor(e)) for r, e in rollouts))


def test_steps_begin_at_undecided_tokens() -> None:
    """Entropies of the six distinct tokens: .1 .2 3 .1 4 .1; the upper third begins a step."""
    group = with_entropies([[1, 2, 3, 4], [1, 2, 5, 6]], [[0.1, 0.2, 3.0, 0.1], [0.1, 0.2, 4.0, 0.1]])
    tree = EntropySegmenter(quantile=0.6).segment(group)
    assert find_high_entropy(group, 0.6) == [[False, False, True, False]] * 2
    assert [step.members for step in tree.steps] == [(0, 1), (0,), (1,)]
    assert [step.spans[0] for step in tree.steps] == [(0, 2), (2, 4), (2, 4)]


def test_rounding_of_a_shared_prefix_parts_nobody() -> None:
    group = with_entropies([[1, 2, 3], [1, 2, 4]], [[0.1, 1.0, 0.3], [0.1, 1.0 + 1e-6, 0.2]])
    first, second = find_high_entropy(group, 0.5)
    assert first[:2] == second[:2]


def test_without_entropies_it_says_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"init_args: \{entropies: true\}"):
        EntropySegmenter().segment(toy_group(["ab"]))


@pytest.mark.parametrize("segmenter", [SentenceSegmenter(), TagSegmenter(), WindowSegmenter(), WindowSegmenter(2)])
def test_the_contract(segmenter: StepSegmenter) -> None:
    check_segmenter(segmenter)
    check_segmenter(segmenter, toy_group(["<think>a. b</think> c", "", "<think>a. b</think> d", "x"], eos=True))


def test_the_contract_with_entropies() -> None:
    group = with_entropies([[1, 2, 3], [1, 2], [4], [1, 2, 3]], [[0.1, 2.0, 1.0], [0.1, 2.0], [0.3], [0.1, 2.0, 1.0]])
    check_segmenter(EntropySegmenter(quantile=0.3), group)


@pytest.mark.parametrize(
    ("make", "says"),
    [(lambda: WindowSegmenter(0), "size is 0"), (lambda: EntropySegmenter(1.5), "quantile is 1.5")],
)
def test_impossible_options(make: object, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make()  # type: ignore[operator]


@pytest.mark.parametrize("seed", range(20))
def test_entropies_of_tokens_that_are_not_trained_count_nowhere(seed: int) -> None:
    """The quantile over the distinct trained prefixes, each with the mean of who trains it, as a loop."""
    draw = torch.Generator().manual_seed(seed)
    group = toy_group(random_group(seed))
    rollouts = [
        replace(r, entropies=torch.rand(len(r), generator=draw), mask=torch.rand(len(r), generator=draw) < 0.6)
        for r in group.completions
    ]
    told: dict[tuple[int, ...], list[float]] = {}
    for r in rollouts:
        assert r.entropies is not None
        for t in range(len(r)):
            if r.mask[t]:
                told.setdefault(r.token_ids[: t + 1], []).append(float(r.entropies[t]))
    means = {prefix: sum(v) / len(v) for prefix, v in told.items()}
    bound = float(torch.tensor(list(means.values())).quantile(0.5)) if means else 0.0
    wanted = [[means.get(r.token_ids[: t + 1], -1.0) > bound + 1e-6 for t in range(len(r))] for r in rollouts]
    at_bound = any(abs(m - bound) < 1e-6 for m in means.values()) and len(means) % 2 == 0
    found = find_high_entropy(replace(group, completions=tuple(rollouts)), 0.5)
    assert at_bound or found == wanted
    blind = tuple(replace(r, entropies=None, mask=torch.zeros(len(r), dtype=torch.bool)) for r in rollouts)
    assert not any(map(any, find_high_entropy(replace(group, completions=blind), 0.5)))
