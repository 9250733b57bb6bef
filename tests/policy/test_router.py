"""The load-balancing loss of every mixture of experts: transformers' own number, or a refusal with the reason."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lgrpo_lightning.policy import Policy, PolicyConfig
from lgrpo_lightning.policy.layout import make_padded_layout
from lgrpo_lightning.policy.multimodal import choose_auto_class
from lgrpo_lightning.policy.router import check_router, compute_router_loss
from tests.architectures.__main__ import model_types
from tests.architectures.tiny import tiny
from tests.architectures.trial import NOT_TRIED, write_model
from tests.docs.markdown import ROOT, section

UNTRIED = {"qwen3_omni_moe_thinker": "transformers' own forward pass fails on text alone"}

PROMPTS = [(5, 6, 7), (5, 6, 7), (8, 9, 10, 11, 12)]
COMPLETIONS = [(5, 6, 7, 8), (9, 10), (11, 12, 13, 14, 15, 16)]
ROUTER = re.compile(r"(gate|router|wg)(\.|_)(?!proj|up)|router")
REASONS = (
    "has no load-balancing loss in transformers",
    "is of a kind of its own",
    "gives no router logits here",
)


def code(model_type: str) -> str:
    """The source of its model."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    module = sys.modules[CONFIG_MAPPING[model_type].__module__]
    path = Path(str(module.__file__).replace("configuration_", "modeling_"))
    return path.read_text(encoding="utf-8") if path.exists() else ""


def experts() -> list[str]:
    """Every model type whose code has experts or router logits."""
    words = ("experts", "router_logits")
    return [n for n in model_types() if n not in NOT_TRIED and any(w in code(n) for w in words)]


def made(model_type: str, folder: Path, **options: Any) -> Policy:
    """A tiny model; skips where there is none."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    try:
        config = tiny(CONFIG_MAPPING[model_type])
        with torch.device("meta"):
            size = sum(p.numel() for p in choose_auto_class(config).from_config(config).parameters())
        if size > 50e6:
            pytest.skip(f"no tiny model of it: {size / 1e6:.0f} million weights")
        folder.mkdir()
        write_model(model_type, folder)
        return Policy(PolicyConfig(path=str(folder), **options))
    except Exception as error:  # docs/models.md lists what no tiny model is made of
        pytest.skip(f"no tiny model of it: {type(error).__name__}: {error}")


def documented() -> set[str]:
    """The model types that the docs say have such a loss."""
    text = section(ROOT / "docs" / "configuration.md", "Mixtures of experts")
    return set(re.findall(r"`(\w+)`", text.partition("have one:")[2]))


def why_not(policy: Policy) -> str:
    """Why it is refused, at the start of a run or in its first pass."""
    try:
        check_router(policy.model)
        policy(PROMPTS, COMPLETIONS, layout="padded", with_router_loss=True)
    except ValueError as refused:
        return str(refused)
    return ""


@pytest.mark.parametrize("model_type", experts())
def test_every_mixture_of_experts(model_type: str, tmp_path: Path) -> None:
    if model_type in UNTRIED:
        pytest.skip(UNTRIED[model_type])
    policy = made(model_type, tmp_path / "model")
    policy.train()
    if refusal := why_not(policy):
        assert any(reason in refusal for reason in REASONS)
        assert "objective.router_aux_coef: 0" in refusal
        assert model_type not in documented()
        return
    scores = policy(PROMPTS, COMPLETIONS, layout="padded", with_router_loss=True)
    rows = make_padded_layout(PROMPTS, COMPLETIONS, pad=0, device=policy.device)
    theirs = policy.model(
        input_ids=rows.input_ids,
        attention_mask=rows.attention_mask,
        output_router_logits=True,
        use_cache=False,
    ).aux_loss
    assert scores.router_loss is not None
    torch.testing.assert_close(scores.router_loss, theirs, rtol=1e-5, atol=1e-6)
    scores.router_loss.backward()
    routers = [n for n, p in policy.named_parameters() if p.grad is not None and bool(p.grad.any())]
    assert any(ROUTER.search(n) for n in routers), routers
    assert model_type in documented(), "docs/configuration.md does not list it"


@pytest.mark.parametrize("model_type", ["mixtral", "qwen3_moe", "gpt_oss"])
def test_recomputed_activations_change_nothing(model_type: str, tmp_path: Path) -> None:
    """Each router counts once, though its layer runs twice."""
    found = []
    for number, checkpointing in enumerate((False, True)):
        policy = made(model_type, tmp_path / str(number), gradient_checkpointing=checkpointing)
        policy.train()
        loss = policy(PROMPTS, COMPLETIONS, layout="padded", with_router_loss=True).router_loss
        assert loss is not None
        loss.backward()  # type: ignore[no-untyped-call]
        found.append({n: p.grad for n, p in policy.named_parameters() if p.grad is not None} | {"loss": loss})
    assert found[0].keys() == found[1].keys()
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name], rtol=1e-4, atol=1e-6)


def test_trees_balance_each_distinct_token_once(tmp_path: Path) -> None:
    """By hand: over the distinct tokens of a tree, every row of which is one completion by itself."""
    policy = made("mixtral", tmp_path / "model")
    apart = [(5, 6, 7)], [(8, 9)]
    with torch.no_grad():
        rows, tree = (policy(*apart, layout=layout, with_router_loss=True).router_loss for layout in ("padded", "tree"))
        twice = policy(apart[0] * 2, apart[1] * 2, layout="tree", with_router_loss=True).router_loss
    torch.testing.assert_close(rows, tree, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(twice, tree, rtol=1e-5, atol=1e-6)


def test_prompts_computed_once_balance_each_token_that_is_computed_once(tmp_path: Path) -> None:
    """Those of a tree without the last token of each completion, which predicts nothing; padding does not count."""
    policy = made("mixtral", tmp_path / "model")
    shorter = [c[:-1] for c in COMPLETIONS]
    prefix = policy(PROMPTS, COMPLETIONS, layout="prefix", with_router_loss=True).router_loss
    tree = policy(PROMPTS, shorter, layout="tree", with_router_loss=True).router_loss
    torch.testing.assert_close(prefix, tree, rtol=1e-5, atol=1e-6)
    assert prefix is not None
    prefix.backward()  # type: ignore[no-untyped-call]
    assert any(bool(p.grad.any()) for n, p in policy.named_parameters() if ROUTER.search(n) and p.grad is not None)


def test_a_pass_without_router_logits_is_refused(tmp_path: Path) -> None:
    policy = made("mixtral", tmp_path / "model")
    with pytest.raises(ValueError, match="gives no router logits here"):
        compute_router_loss(policy.model, SimpleNamespace(router_logits=None), None)
