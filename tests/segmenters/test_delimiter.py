import pytest
import torch

from lgrpo_lightning.process_tree import ProcessTree
from lgrpo_lightning.segmenters import DelimiterSegmenter, TokenPrefixSegmenter
from lgrpo_lightning.testing import check_segmenter, toy_group
from lgrpo_lightning.types import Completion, Group, Prompt
from tests.reference.groups import random_group


def rollout(pieces):
    """A completion whose tokens have these texts."""
    ends = torch.tensor([len(p) for p in pieces], dtype=torch.long).cumsum(0).tolist()
    return Completion(
        token_ids=tuple(range(len(pieces))),
        logprobs=torch.zeros(len(pieces)),
        text="".join(pieces),
        text_ends=tuple(ends),
        finish_reason="stop",
        mask=torch.ones(len(pieces), dtype=torch.bool),
    )


def group(*completions):
    return Group(prompt=Prompt(uid="p", text="", token_ids=()), completions=tuple(map(rollout, completions)))


def steps(segmenter, pieces):
    return segmenter.segment(group(pieces)).step_ids[0].tolist()


@pytest.mark.parametrize(
    "segmenter",
    [
        TokenPrefixSegmenter(),
        DelimiterSegmenter(),
        DelimiterSegmenter("paragraph"),
        DelimiterSegmenter(r"\+", normalize="none"),
    ],
)
def test_keeps_the_contract(segmenter):
    check_segmenter(segmenter)
    check_segmenter(segmenter, toy_group(["a\n\nb", "a\n\nb\n", "\n", "\n\na", "a"], eos=True))


def test_token_prefix_is_the_tree_of_exact_tokens():
    for seed in range(20):
        sequences = random_group(seed)
        got = TokenPrefixSegmenter().segment(toy_group(sequences))
        assert torch.equal(got.set_sizes(), ProcessTree.from_sequences(sequences).set_sizes())


def test_lines_by_hand():
    tree = DelimiterSegmenter().segment(toy_group(["1+2\n=3", "1+2\n=4", "1+3\n=3"]))
    assert tree.set_sizes().tolist() == [[2, 2, 2, 2, 1, 1], [2, 2, 2, 2, 1, 1], [1] * 6]
    assert [s.members for s in tree.steps] == [(0, 1), (0,), (1,), (2,), (2,)]


def test_other_tokenisation_white_space_and_end_of_sequence_are_forgiven():
    tree = DelimiterSegmenter().segment(group(["ab", "c", "\n", "d", ""], [" a", "bc \n", "\n", "d"]))
    assert tree.set_sizes().tolist() == [[2, 2, 2, 2, 2], [2, 2, 2, 2, 0]]
    exact = DelimiterSegmenter(normalize="none").segment(group(["abc\n", "d"], ["abc \n", "d"]))
    assert exact.set_sizes().max() == 1


def test_collapse_and_case():
    completions = group(["A  b\n", "c"], ["a b\n", "c"])
    assert DelimiterSegmenter().segment(completions).set_sizes().max() == 1
    assert DelimiterSegmenter(normalize="collapse").segment(completions).set_sizes().max() == 1
    both = DelimiterSegmenter(normalize="collapse", ignore_case=True)
    assert both.segment(completions).set_sizes().min() == 2


def test_equal_steps_after_different_ones_are_not_shared():
    tree = DelimiterSegmenter().segment(toy_group(["a\nc", "b\nc"]))
    assert tree.set_sizes().max() == 1


@pytest.mark.parametrize(
    ("delimiter", "pieces", "expected"),
    [
        ("line", ["a", "\n", "b", "\n"], [0, 0, 1, 1]),  # a step ends after its delimiter
        ("line", ["a", "\n", "\n", "b"], [0, 0, 0, 1]),  # blank lines join the step before
        ("line", ["\n", "a", "\n", "b"], [0, 0, 0, 1]),  # or, at the start, the step after
        ("line", ["a\nb", "\nc"], [0, 1]),  # the first character counts; no token begins in the line of "c"
        ("line", ["a\nb", "c"], [0, 1]),
        ("line", ["", "a", "", "\n", "", "b", "", ""], [0, 0, 0, 0, 0, 1, 1, 1]),  # tokens without text
        ("line", ["", ""], [0, 0]),
        ("line", [], []),
        ("paragraph", ["a", "\n", "b", "\n \n", "c"], [0, 0, 0, 0, 1]),
        (r"(?<=[.!?])\s", ["One.", " ", "Two", "?", " 3.5"], [0, 0, 1, 1, 1]),
        (r"(?=Step \d)", ["Hm ", "Step 1", " x ", "Step 2", " y"], [0, 1, 1, 2, 2]),
    ],
)
def test_where_tokens_go(delimiter, pieces, expected):
    assert steps(DelimiterSegmenter(delimiter), pieces) == expected


def test_every_step_has_a_token_and_ids_are_dense():
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        completions = []
        for _ in range(4):
            text = "".join("a\n b"[i] for i in torch.randint(0, 4, (12,), generator=generator))
            cuts = sorted(torch.randint(0, 13, (5,), generator=generator).tolist())
            completions.append([text[a:b] for a, b in zip([0, *cuts], [*cuts, 12], strict=True)])
        made = group(*completions)
        for segmenter in (DelimiterSegmenter(), DelimiterSegmenter(normalize="none")):
            tree = check_segmenter(segmenter, made)
            assert len(tree.steps) == tree.num_nodes == tree.step_ids.max() + 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"delimiter": "("}, "no valid regular expression.*'line', 'paragraph'"),
        ({"delimiter": "x*"}, "empty string at every position"),
        ({"normalize": "all"}, "'none', 'strip' and 'collapse'"),
    ],
)
def test_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        DelimiterSegmenter(**options)
