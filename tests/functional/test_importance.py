"""The correction for the sampler against the lines of TRL's trainer, and by hand."""

import ast
import inspect
import math
import textwrap
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lgrpo_lightning.functional.importance import check_importance, importance_values, importance_weights

MODES = ["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(policy, sampler, mask): some ratios are far from 1, and one token has no log-prob."""
    generator = torch.Generator().manual_seed(0)
    policy = -3 * torch.rand(12, 7, generator=generator)
    sampler = policy + 0.6 * torch.randn(12, 7, generator=generator)
    mask = torch.arange(7) < torch.randint(1, 8, (12,), generator=generator)[:, None]
    sampler[2, 0] = torch.nan
    return policy, sampler, mask


def trl_lines(first: str, *, inside: type[ast.If] = ast.If) -> str:
    """The source of the `if` of TRL's trainer that starts with the assignment of ``first``."""
    trl = pytest.importorskip("trl.trainer.grpo_trainer")
    method = trl.GRPOTrainer._generate_and_score_completions
    source = textwrap.dedent(inspect.getsource(method))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, inside):
            names = [ast.unparse(t) for s in node.body if isinstance(s, ast.Assign) for t in s.targets]
            if first in names:
                return "\n".join(ast.unparse(statement) for statement in node.body)
    raise AssertionError(f"TRL no longer assigns {first} there.")


def trl_result(
    pair: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    mode: str,
    maximum: float | None,
    minimum: float | None,
) -> tuple[torch.Tensor, dict[str, float]]:
    """(ratio, metrics) that TRL's own lines give."""
    policy, sampler, mask = pair
    trl = pytest.importorskip("trl.trainer.grpo_trainer")
    stub = SimpleNamespace(
        vllm_importance_sampling_mode=mode,
        vllm_importance_sampling_clip_max=maximum,
        vllm_importance_sampling_clip_min=minimum,
        accelerator=SimpleNamespace(gather=lambda x: x),
        _metrics={"train": defaultdict(list)},
    )
    names: dict[str, Any] = {
        **vars(trl), "math": math, "self": stub, "mode": "train", "device": "cpu", "tool_mask": None,
        "completion_mask": mask.long(), "old_per_token_logps": policy, "sampling_per_token_logps": sampler,
    }  # fmt: skip
    exec(trl_lines("vllm_importance_sampling_ratio"), names)
    exec(trl_lines("mean_delta"), names)
    metrics = {name: values[0] for name, values in stub._metrics["train"].items()}
    return names["vllm_importance_sampling_ratio"], metrics


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("maximum", "minimum"), [(3.0, None), (1.5, 0.5), (None, 0.7)])
def test_weights_and_metrics_are_trls(
    pair: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    mode: Any,
    maximum: float | None,
    minimum: float | None,
) -> None:
    theirs, metrics = trl_result(pair, mode, maximum, minimum)
    ours = importance_weights(*pair, mode=mode, maximum=maximum, minimum=minimum)
    assert ours.shape == pair[0].shape
    torch.testing.assert_close(ours, theirs.expand_as(ours), atol=1e-6, rtol=1e-6)
    values = importance_values(pair[0], pair[1], ours, pair[2], mode=mode)
    known = {name: found[~found.isnan()] for name, found in values.items()}
    for name in ("sampling/sampling_logp_difference", "sampling/importance_sampling_ratio"):
        assert metrics[f"{name}/mean"] == pytest.approx(known[name].mean().item(), rel=1e-5)
        assert metrics[f"{name}/max"] == pytest.approx(known[name].max().item(), rel=1e-5)
    smallest = known["sampling/importance_sampling_ratio"].min().item()
    assert metrics["sampling/importance_sampling_ratio/min"] == pytest.approx(smallest, rel=1e-5)


def test_the_bounds_bite(pair: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> None:
    """Otherwise the test above would compare nothing but exponentials."""
    for mode in MODES:
        free = importance_weights(*pair, mode=mode, maximum=1e9, minimum=None)  # type: ignore[arg-type]
        bound = importance_weights(*pair, mode=mode, maximum=1.5, minimum=0.5)  # type: ignore[arg-type]
        assert not torch.equal(free, bound)


def test_defaults_are_trls() -> None:
    config = pytest.importorskip("trl.trainer.grpo_config").GRPOConfig
    ours = inspect.signature(importance_weights).parameters
    for name, theirs in (("mode", "mode"), ("maximum", "clip_max"), ("minimum", "clip_min")):
        assert ours[name].default == config.__dataclass_fields__[f"vllm_importance_sampling_{theirs}"].default


def test_by_hand() -> None:
    policy = torch.tensor([[0.6, 0.5, 0.1], [0.2, 0.2, 0.9]]).log()
    sampler = torch.tensor([[0.3, 0.5, 0.9], [0.4, 0.1, 0.1]]).log()
    mask = torch.tensor([[True, True, False], [True, True, False]])
    token = importance_weights(policy, sampler, mask, mode="token_truncate", maximum=1.5)
    torch.testing.assert_close(token, torch.tensor([[1.5, 1.0, 1.0], [0.5, 1.5, 1.0]]))
    sequence = importance_weights(policy, sampler, mask, mode="sequence_mask", maximum=1.5)
    torch.testing.assert_close(sequence, torch.tensor([[0.0] * 3, [1.0] * 3]))  # 2 x 1 and 0.5 x 2
    assert importance_weights(policy, sampler, mask, mode="none").tolist() == [[1.0] * 3] * 2


def test_no_gradient(pair: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> None:
    policy = pair[0].clone().requires_grad_()
    assert not importance_weights(policy, *pair[1:]).requires_grad


@pytest.mark.parametrize(
    ("mode", "maximum", "minimum", "message"),
    [
        ("sequence", 3.0, None, "possible are none, token_truncate"),
        ("token_mask", 1.0, 1.0, "the minimum must be the smaller"),
        ("token_truncate", None, None, "needs a maximum or a minimum"),
    ],
)
def test_bad_options(mode: str, maximum: float | None, minimum: float | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_importance(mode, maximum, minimum)
