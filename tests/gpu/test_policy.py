"""The policy on CUDA: trees through FlexAttention against padded rows, and the CPU's numbers."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lgrpo_lightning.functional.sampling import Sampling
from lgrpo_lightning.policy import Policy, PolicyConfig
from lgrpo_lightning.samplers.decoding import Decoding, Request
from tests.gpu.machine import DEVICE, needs_gpus
from tests.policy.test_tree import forest, scored

pytestmark = [pytest.mark.gpu, needs_gpus(1)]


@pytest.fixture(autouse=True)
def _exact() -> None:
    """fp32 products in fp32, not TF32."""
    torch.backends.cuda.matmul.allow_tf32 = False


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gemma3", "mistral"])
def test_trees_equal_padded_rows(architecture: str, model_folder: Callable[..., Path]) -> None:
    policy = Policy(PolicyConfig(path=str(model_folder(architecture)))).to(DEVICE)
    rows = forest(0)
    upstream = torch.randn(len(rows[0]), max(map(len, rows[1])), device=DEVICE)
    padded, tree = (scored(policy, rows, layout, upstream) for layout in ("padded", "tree"))
    torch.testing.assert_close(tree[0], padded[0], atol=1e-3, rtol=0)
    for a, b in zip(tree[1], padded[1], strict=True):
        assert float((a - b).norm()) <= 1e-3 * float(b.norm()) + 1e-6


def test_trees_in_mixed_precision(model_folder: Callable[..., Path]) -> None:
    policy = Policy(PolicyConfig(path=str(model_folder("llama")))).to(DEVICE)
    rows = forest(1)
    exact = policy(*rows, layout="padded").logprobs
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        tree = policy(*rows, layout="tree").logprobs
    assert tree.dtype == torch.float32
    assert (tree - exact).detach().abs().mean() < 0.1


def test_log_probs_are_those_of_the_cpu(model_folder: Callable[..., Path]) -> None:
    policy = Policy(PolicyConfig(path=str(model_folder("llama"))))
    rows = forest(2)
    cpu = policy(*rows).logprobs.detach()
    torch.testing.assert_close(policy.to(DEVICE)(*rows).logprobs.detach().cpu(), cpu, atol=1e-3, rtol=0)


def test_the_same_draws_as_on_the_cpu(model_folder: Callable[..., Path]) -> None:
    """The noise is a function of its key; only rounding of the logits may turn a draw."""
    policy = Policy(PolicyConfig(path=str(model_folder("llama"))))
    prompts = [[5, 6, 7], [8, 9, 10, 11, 12]]
    requests = [Request(prompt=i % 2, key=1000 + i) for i in range(64)]

    def drawn() -> list[tuple[int, ...]]:
        with policy.generation_model() as model:
            found = Decoding(model, None, (1,), Sampling(max_new_tokens=16)).run(prompts, requests)
        return [d.token_ids for d in found]

    cpu = drawn()
    policy.to(DEVICE)
    assert sum(a == b for a, b in zip(cpu, drawn(), strict=True)) >= 62
