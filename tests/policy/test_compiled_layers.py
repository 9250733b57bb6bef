"""Compiled decoder layers give the numbers of eager ones, in every layout, with a bounded number of graphs."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters

from lgrpo_lightning.functional.sampling import Sampling
from lgrpo_lightning.policy import Lora, Policy, PolicyConfig
from lgrpo_lightning.policy.compiled_layers import compile_forward, compile_layers, explain_not_compiled, restore_layers
from lgrpo_lightning.samplers.decoding import Decoding, Request
from tests.architectures.trial import write_model
from tests.policy.test_tree import Rows, forest, scored

LAYOUTS = ("padded", "tree", "prefix")
ROWS = [[5] * 9] * 2 + [[6] * 7] * 2, [[9, 10, 11] * 3, [12] * 5, [13, 14] * 2, [9] * 8]


@pytest.fixture(autouse=True)
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Layers are captured as graphs, which run as they are ("eager"), or with their derivative ("aot_eager")."""
    torch._dynamo.reset()
    compile_forward.cache_clear()
    counters.clear()
    torch.compiler.set_default_backend(name := getattr(request, "param", "eager"))
    yield name
    torch.compiler.set_default_backend(None)
    compile_forward.cache_clear()


def count_graphs() -> int:
    return int(counters["stats"]["unique_graphs"])


def check_same(policy: Policy, rows: Rows, layout: str) -> None:
    upstream = torch.randn(len(rows[0]), max(map(len, rows[1])))
    eager = scored(policy, rows, layout, upstream)
    names = set(policy.state_dict())
    compile_layers(policy.model)
    compiled = scored(policy, rows, layout, upstream)
    assert set(policy.state_dict()) == names
    assert count_graphs() > 0
    torch.testing.assert_close(compiled[0], eager[0], atol=1e-5, rtol=0)
    for a, b in zip(compiled[1], eager[1], strict=True):
        assert float((a - b).norm()) <= 1e-5 * float(b.norm()) + 1e-7


@pytest.mark.parametrize(
    "backend", ["eager", *(pytest.param(b, marks=pytest.mark.slow) for b in ("aot_eager", "inductor"))], indirect=True
)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_numbers_of_eager_layers(layout: str, model_folder: Callable[..., Path]) -> None:
    check_same(Policy(PolicyConfig(path=str(model_folder()))), ROWS, layout)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "architecture", [pytest.param(a, marks=pytest.mark.slow) for a in ("gemma3", "qwen2", "qwen3", "mistral", "gpt2")]
)
def test_architectures(architecture: str, layout: str, model_folder: Callable[..., Path]) -> None:
    check_same(Policy(PolicyConfig(path=str(model_folder(architecture)))), forest(5), layout)


@pytest.mark.parametrize("backend", ["eager", pytest.param("aot_eager", marks=pytest.mark.slow)], indirect=True)
@pytest.mark.parametrize(
    ("layout", "options"),
    [
        ("tree", {"lora": Lora(rank=4), "gradient_checkpointing": True}),
        pytest.param("padded", {"gradient_checkpointing": True}, marks=pytest.mark.slow),
        pytest.param("prefix", {"lora": Lora(rank=4)}, marks=pytest.mark.slow),
        pytest.param("tree", {"dtype": "bfloat16"}, marks=pytest.mark.slow),
    ],
)
def test_with_adapters_and_recomputed_activations(
    layout: str, options: dict[str, object], model_folder: Callable[..., Path]
) -> None:
    policy = Policy(PolicyConfig(path=str(model_folder()), **options))  # type: ignore[arg-type]
    check_same(policy, ROWS, layout)


@pytest.mark.parametrize("layout", ["tree", *(pytest.param(x, marks=pytest.mark.slow) for x in ("padded", "prefix"))])
def test_a_mixture_of_experts(layout: str, tmp_path: Path) -> None:
    write_model("qwen3_moe", tmp_path)
    policy = Policy(PolicyConfig(path=str(tmp_path), dtype="bfloat16"))
    assert explain_not_compiled(policy.model) is None
    check_same(policy, ROWS, layout)


@pytest.mark.parametrize("layout", ["tree", *(pytest.param(x, marks=pytest.mark.slow) for x in ("padded", "prefix"))])
def test_mixed_precision(layout: str, model_folder: Callable[..., Path]) -> None:
    policy = Policy(
        PolicyConfig(path=str(model_folder()), lora=Lora(rank=4), gradient_checkpointing=layout != "prefix")
    )
    with torch.autocast("cpu", torch.bfloat16):
        check_same(policy, ROWS, layout)


@pytest.mark.parametrize(
    ("layout", "most"),
    [pytest.param(*x, marks=pytest.mark.long) for x in (("padded", 6), ("tree", 10), ("prefix", 12))],
)
def test_nothing_is_compiled_after_the_tenth_rollout(
    layout: str, most: int, tmp_path: Path, model_folder: Callable[..., Path]
) -> None:
    """Every layer has the same graphs, with gradients and without."""
    policy = Policy(PolicyConfig(path=str(model_folder())))
    compile_layers(policy.model)
    rng = random.Random(0)

    def run_rollout() -> None:
        groups = [([rng.randrange(3, 30)] * rng.randint(2, 30), rng.randint(2, 4)) for _ in range(rng.randint(1, 3))]
        prompts = [prompt for prompt, size in groups for _ in range(size)]
        rows = prompts, [[rng.randrange(3, 30) for _ in range(rng.randint(2, 40))] for _ in prompts]
        with torch.no_grad():
            policy(*rows, layout=layout)
        policy(*rows, layout=layout).logprobs.sum().backward()

    for _ in range(10):
        run_rollout()
    with torch.compiler.set_stance("fail_on_recompile"):
        for _ in range(40):
            run_rollout()
    assert 0 < count_graphs() <= most


def test_sampling_compiles_nothing(model_folder: Callable[..., Path]) -> None:
    policy = Policy(PolicyConfig(path=str(model_folder())))
    compile_layers(policy.model)
    with policy.generation_model() as model:
        Decoding(model, None, (1,), Sampling(max_new_tokens=6)).run([[5, 6, 7]], [Request(prompt=0, key=1)])
    assert count_graphs() == 0


def test_a_copy_has_weights_of_its_own(model_folder: Callable[..., Path]) -> None:
    policy = Policy(PolicyConfig(path=str(model_folder())))
    compile_layers(policy.model)
    frozen, before = policy.copy_frozen(), copy.deepcopy(policy).eval()
    restore_layers(before.model)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(0.5)
        assert frozen(*ROWS).logprobs.allclose(before(*ROWS).logprobs, atol=1e-5)
    assert count_graphs() == 1


def test_states_of_another_kind_are_not_compiled(tmp_path: Path) -> None:
    write_model("qwen3_next", tmp_path)
    reason = explain_not_compiled(Policy(PolicyConfig(path=str(tmp_path))).model)
    assert "linear_attention" in str(reason)


def test_attention_that_takes_no_trees_is_not_compiled(model_folder: Callable[..., Path]) -> None:
    policy = Policy(PolicyConfig(path=str(model_folder()), attn_implementation="eager"))
    assert "only layers whose attention takes trees are compiled" in str(explain_not_compiled(policy.model))


def test_experts_in_fp32_are_not_compiled(tmp_path: Path) -> None:
    write_model("qwen3_moe", tmp_path)
    reason = explain_not_compiled(Policy(PolicyConfig(path=str(tmp_path))).model)
    assert "has them in float32 (policy.dtype: bfloat16)" in str(reason)
    batched = PolicyConfig(path=str(tmp_path), model_kwargs={"experts_implementation": "batched_mm"})
    assert explain_not_compiled(Policy(batched).model) is None
