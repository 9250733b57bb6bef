"""Trees equal padded rows: log-probs, gradients, whatever the model, the tree and the packing."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lgrpo_lightning.policy import Lora, Policy, PolicyConfig
from lgrpo_lightning.policy.attention import attend_by_segments
from lgrpo_lightning.policy.choice import choose_layout, explain_no_tree
from lgrpo_lightning.policy.flex_attention import attend_by_flex
from lgrpo_lightning.policy.packing import count_tree_tokens, pack_groups
from lgrpo_lightning.policy.tree_layout import make_tree_layout
from lgrpo_lightning.policy.verification import verify
from lgrpo_lightning.process_tree import Trie
from tests.models import SMALL

Rows = tuple[list[list[int]], list[list[int]]]


def forest(seed: int, groups: int = 3) -> Rows:
    """Groups with much, little and no overlap, duplicates, proper prefixes, one-token completions, G = 1."""
    rng = random.Random(seed)
    draw = lambda n, top=SMALL["vocab_size"]: [rng.randrange(3, top) for _ in range(n)]  # noqa: E731
    prompts, completions = [], []
    for _ in range(groups):
        prompt, few = draw(rng.randint(1, 20)), rng.choice([5, SMALL["vocab_size"]])
        members = [draw(rng.randint(1, 24), few) for _ in range(rng.choice([1, 3, 6]))]
        members += [members[0], members[0][: rng.randint(1, len(members[0]))], members[-1][:1]]
        if rng.random() < 0.3:
            members = [members[0]] * 3
        rng.shuffle(members)
        prompts += [prompt] * len(members)
        completions += members
    return prompts, completions


def scored(policy: Policy, rows: Rows, layout: Any, upstream: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    policy.zero_grad()
    scores = policy(*rows, temperature=0.9, layout=layout)
    (scores.logprobs * upstream).sum().backward()
    return scores.logprobs.detach(), [p.grad.clone() for p in policy.parameters() if p.grad is not None]


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "gemma3", "mistral", "gpt2", "granite"])
@pytest.mark.parametrize("seed", range(3))
def test_log_probs_and_gradients(architecture: str, seed: int, model_folder: Callable[..., Path]) -> None:
    policy = Policy(PolicyConfig(path=str(model_folder(architecture))))
    assert explain_no_tree(policy.model) is None
    rows = forest(seed)
    upstream = torch.randn(len(rows[0]), max(map(len, rows[1])))
    padded, tree = (scored(policy, rows, layout, upstream) for layout in ("padded", "tree"))
    torch.testing.assert_close(tree[0], padded[0], atol=1e-4, rtol=0)
    for a, b in zip(tree[1], padded[1], strict=True):
        assert float((a - b).norm()) <= 1e-5 * float(b.norm()) + 1e-7


@pytest.mark.parametrize("options", [{"gradient_checkpointing": True}, {"lora": Lora(rank=4)}])
def test_with_checkpointing_and_lora(options: dict[str, Any], model_folder: Callable[..., Path]) -> None:
    policy = Policy(PolicyConfig(path=str(model_folder("llama")), **options))
    rows = forest(7)
    upstream = torch.randn(len(rows[0]), max(map(len, rows[1])))
    padded, tree = (scored(policy, rows, layout, upstream) for layout in ("padded", "tree"))
    torch.testing.assert_close(tree[0], padded[0], atol=1e-4, rtol=0)
    for a, b in zip(tree[1], padded[1], strict=True):
        assert float((a - b).norm()) <= 1e-5 * float(b.norm()) + 1e-7


@pytest.mark.parametrize("window", [None, 5])
def test_flex_attention_equals_the_segments(window: int | None) -> None:
    """The block mask of the CUDA kernel, in its forward pass on the CPU."""
    layout = make_tree_layout(*forest(3))
    length = layout.input_ids.shape[1]
    query, key, value = (
        torch.randn(1, 4, length, 16),
        torch.randn(1, 2, length, 16),
        torch.randn(1, 2, length, 16),
    )
    a = attend_by_segments(query, key, value, layout.plan, scale=0.3, window=window)
    b = attend_by_flex(query, key, value, layout.plan, scale=0.3, window=window)
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("budget", [1, 12, 30, 60, 1000])
def test_packs_cover_every_row_within_the_budget(budget: int) -> None:
    prompts, completions = forest(11, groups=6)
    packs = pack_groups(prompts, completions, budget)
    assert sorted(i for p in packs for i in p) == list(range(len(prompts)))
    sizes = [count_tree_tokens([prompts[i] for i in p], [completions[i] for i in p]) for p in packs]
    for pack, size in zip(packs, sizes, strict=True):
        assert (
            size <= budget
            or len(pack) == 1
            or len({str((prompts[i], completions[i])) for i in pack}) == 1
            or all(len(prompts[i]) + len(completions[i]) >= budget for i in pack[:1])
        )
    assert sizes[0] == max(sizes)


def test_token_count_is_that_of_the_tries() -> None:
    prompts, completions = forest(5, groups=4)
    layout = make_tree_layout(prompts, completions)
    assert count_tree_tokens(prompts, completions) == layout.num_tokens
    by_prompt = {tuple(p): [c for q, c in zip(prompts, completions, strict=True) if q == p] for p in prompts}
    assert layout.num_tokens == sum(len(p) + len(Trie.from_sequences(c)) for p, c in by_prompt.items())


def test_split_groups_give_the_same_gradient(model_folder: Callable[..., Path]) -> None:
    policy = Policy(PolicyConfig(path=str(model_folder("llama"))))
    prompts, completions = forest(2, groups=2)
    upstream = torch.randn(len(prompts), max(map(len, completions)))
    _, whole = scored(policy, (prompts, completions), "tree", upstream)
    policy.zero_grad()
    for pack in pack_groups(prompts, completions, 25):
        rows = [prompts[i] for i in pack], [completions[i] for i in pack]
        scores = policy(*rows, temperature=0.9, layout="tree").logprobs
        (scores * upstream[pack][:, : scores.shape[1]]).sum().backward()
    for a, p in zip(whole, (p for p in policy.parameters() if p.grad is not None), strict=True):
        assert float((a - p.grad).norm()) <= 1e-5 * float(a.norm()) + 1e-7


def test_two_backward_passes_are_bit_identical(model_folder: Callable[..., Path]) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        policy = Policy(PolicyConfig(path=str(model_folder("llama"))))
        rows = forest(1, groups=12)
        upstream = torch.randn(len(rows[0]), max(map(len, rows[1])))
        first = scored(policy, rows, "tree", upstream)[1]
        for _ in range(4):
            assert all(a.equal(b) for a, b in zip(first, scored(policy, rows, "tree", upstream)[1], strict=True))
    finally:
        torch.set_num_threads(threads)


def test_auto_takes_what_is_cheapest(model_folder: Callable[..., Path]) -> None:
    model = Policy(PolicyConfig(path=str(model_folder("llama")))).model
    rng = random.Random(0)

    def shape(prompt: int, completion: int, *, alike: int = 0) -> Rows:
        completions = [[9] * alike + [rng.randrange(3, 40) for _ in range(completion - alike)] for _ in range(8)]
        return [[5] * prompt] * 8, completions

    def chosen(wanted: str, rows: Rows, *cannot: str) -> str:
        reasons: Any = dict.fromkeys(cannot, "it is a state-space model")
        return choose_layout(model, wanted, *rows, unsupported=reasons).layout

    assert chosen("auto", shape(50, 50, alike=30)) == "tree"
    assert chosen("auto", shape(100, 10)) == "tree"
    assert chosen("auto", shape(100, 10), "tree") == "prefix"
    assert chosen("auto", shape(100, 10), "tree", "prefix") == "padded"
    assert chosen("auto", shape(4, 100)) == "padded"
    assert chosen("tree", shape(4, 100)) == "tree"
    assert chosen("prefix", shape(4, 100), "tree") == "prefix"
    with pytest.raises(ValueError, match=r"state-space.*policy.layout: padded"):
        chosen("tree", shape(1, 1), "tree")


def test_models_that_cannot_are_recognised(model_folder: Callable[..., Path]) -> None:
    eager = Policy(PolicyConfig(path=str(model_folder("llama")), attn_implementation="eager"))
    assert "eager" in str(explain_no_tree(eager.model))
    hybrid = Policy(PolicyConfig(path=str(model_folder("qwen3"))))
    hybrid.model.config.layer_types = ["linear_attention", "full_attention"]
    assert "linear_attention" in str(explain_no_tree(hybrid.model))
    assert hybrid.choose_layout([[5] * 50] * 4, [[6]] * 4).layout == "prefix"


def test_a_mismatch_stops_the_run(model_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    policy = Policy(PolicyConfig(path=str(model_folder("llama")), layout="tree"))
    prompts, completions = forest(0, groups=1)
    policy.choose_layout(prompts, completions)
    monkeypatch.setattr(
        "lgrpo_lightning.policy.attention.attend_by_segments",
        lambda *a, **k: attend_by_segments(*a, **k) * 1.1,
    )
    with pytest.raises(ValueError, match="layout: padded"):
        verify(policy, prompts, completions)
