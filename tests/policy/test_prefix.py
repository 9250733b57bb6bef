"""Prompts computed once: log-probs and gradients are those of padded rows."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.cache_utils import DynamicLayer

from lgrpo_lightning.policy import Lora, Policy, PolicyConfig
from lgrpo_lightning.policy.packing import count_prefix_tokens, pack_prompts
from lgrpo_lightning.policy.prefix_layout import PrefixLayout, make_prefix_layout
from lgrpo_lightning.policy.verification import verify
from tests.architectures.trial import write_model
from tests.policy.test_tree import Rows, forest, scored


def check_same(policy: Policy, rows: Rows) -> None:
    upstream = torch.randn(len(rows[0]), max(map(len, rows[1])))
    padded, prefix = (scored(policy, rows, layout, upstream) for layout in ("padded", "prefix"))
    torch.testing.assert_close(prefix[0], padded[0], atol=1e-4, rtol=0)
    for a, b in zip(prefix[1], padded[1], strict=True):
        assert float((a - b).norm()) <= 1e-5 * float(b.norm()) + 1e-7


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gemma3", "mistral", "gpt2", "granite"])
@pytest.mark.parametrize("seed", range(2))
def test_log_probs_and_gradients(architecture: str, seed: int, model_folder: Callable[..., Path]) -> None:
    check_same(Policy(PolicyConfig(path=str(model_folder(architecture)))), forest(seed))


def test_not_unchecked(model_folder: Callable[..., Path]) -> None:
    """Some models continue a cache wrongly: without the check of the first batch it has to be asked for."""
    rows = [[5] * 50] * 4, [[9, 10]] * 4
    for options, layout in (({}, "padded"), ({"layout": "prefix"}, "prefix")):
        config = PolicyConfig(path=str(model_folder("llama")), attn_implementation="eager", verify=False, **options)
        assert Policy(config).choose_layout(*rows).layout == layout


def test_with_an_adapter(model_folder: Callable[..., Path]) -> None:
    check_same(Policy(PolicyConfig(path=str(model_folder("llama")), lora=Lora(rank=4))), forest(7))


def test_completions_of_one_token(model_folder: Callable[..., Path]) -> None:
    rows = [[5, 6, 7], [5, 6, 7], [8]], [[9], [10], [9]]
    check_same(Policy(PolicyConfig(path=str(model_folder("llama")))), rows)


def test_what_is_computed() -> None:
    prompts, completions = [[5, 6, 7], [5, 6, 7], [8]], [[9, 10, 11], [12], [13, 14]]
    layout = make_prefix_layout(prompts, completions, pad=0)
    assert layout.prompt_ids.tolist() == [[5, 6, 7], [0, 0, 8]]
    assert layout.prompt_positions.tolist() == [[0, 1, 2], [0, 0, 0]]
    assert layout.input_ids.tolist() == [
        [9, 10],
        [12, 0],
        [13, 14],
    ]  # the third token of a row predicts nothing
    assert layout.position_ids.tolist() == [[3, 4], [3, 4], [1, 2]]
    assert layout.owners.tolist() == [0, 0, 1]
    assert layout.targets.tolist() == [9, 10, 11, 12, 13, 14]
    assert layout.predictors.tolist() == [2, 6, 7, 2, 5, 10]
    assert count_prefix_tokens(prompts, completions) == 4 + 6


@pytest.mark.parametrize("budget", [1, 12, 30, 60, 1000])
def test_packs_cover_every_row_within_the_budget(budget: int) -> None:
    prompts, completions = forest(11, groups=6)
    packs = pack_prompts(prompts, completions, budget)
    assert sorted(i for pack in packs for i in pack) == list(range(len(prompts)))
    for pack in packs:
        layout = make_prefix_layout([prompts[i] for i in pack], [completions[i] for i in pack], pad=0)
        assert layout.num_tokens <= budget or len(pack) == 1
        cached = len(pack) * (layout.prompt_ids.shape[1] + max(len(completions[i]) for i in pack))
        assert cached <= 4 * budget or len(pack) == 1


def test_a_long_prompt_does_not_widen_short_ones() -> None:
    prompts = [[5] * 90, *([[n, 6] * 4 for n in range(7, 27)])]
    packs = pack_prompts(prompts, [[9, 10]] * 21, 220)
    assert sum(90 in {len(prompts[i]) for i in pack} for pack in packs) == 1
    assert len(packs) == 2


def test_not_with_checkpointing(model_folder: Callable[..., Path]) -> None:
    options: dict[str, Any] = {"path": str(model_folder("llama")), "gradient_checkpointing": True}
    rng = random.Random(0)
    rows = [[5] * 50] * 4, [[rng.randrange(3, 40) for _ in range(10)] for _ in range(4)]
    assert Policy(PolicyConfig(**options)).choose_layout(*rows).layout == "tree"
    with pytest.raises(ValueError, match="gradient_checkpointing turns the model's cache off"):
        Policy(PolicyConfig(layout="prefix", **options)).choose_layout(*rows)


@pytest.mark.parametrize(
    ("model_type", "works"), [("bloom", True), ("bart", False), ("mamba2", True), ("mamba", False)]
)
def test_models_that_cannot_are_found_out(
    model_type: str, works: bool, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    """Whatever the first batch has: prompts of one length here, of which a decoder of BART's counts positions right."""
    write_model(model_type, tmp_path)
    policy = Policy(PolicyConfig(path=str(tmp_path)))
    rows = [[5, 6, 7, 8] * 10] * 4, [[9, 10], [11, 12], [13], [14]]
    assert policy.choose_layout(*rows).layout == "prefix"
    verify(policy, *rows)
    assert policy.choose_layout(*rows).layout == ("prefix" if works else "padded")
    assert any("log-probs of the prefix layout differ" in str(w.message) for w in recwarn) != works


def test_a_cache_that_is_not_exact(model_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    policy = Policy(PolicyConfig(path=str(model_folder("gpt2")), layout="prefix"))
    rows = [[5, 6, 7, 8] * 10] * 3, [[9, 10], [11, 12], [13]]
    select = DynamicLayer.batch_select_indices

    def scale(self: Any, indices: torch.Tensor) -> None:
        select(self, indices)
        self.values = self.values * 1.5

    assert policy.choose_layout(*rows).layout == "prefix"
    verify(policy, *rows)
    policy.verified.clear()
    monkeypatch.setattr(DynamicLayer, "batch_select_indices", scale)
    with pytest.raises(ValueError, match=r"prefix layout differ.*layout: padded"):
        verify(policy, *rows)


def test_a_layout_that_is_taken_later_is_checked_then(
    model_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = Policy(PolicyConfig(path=str(model_folder("gpt2"))))
    apart, shared = ([[5, 6]], [[7, 8]]), ([[5, 6, 7, 8] * 10] * 3, [[9, 10], [11, 12], [13]])
    assert policy.choose_layout(*apart).layout == "padded"
    verify(policy, *apart)
    assert policy.verified == {"padded"}
    policy.take_layout("tree", *shared, reason="a test")
    verify(policy, *shared)
    assert policy.verified == {"padded", "tree"}
    monkeypatch.setattr(PrefixLayout, "run", lambda self, model: (_ for _ in ()).throw(RuntimeError("no such kernel")))
    policy.take_layout("prefix", *shared, reason="a test")
    with pytest.warns(UserWarning, match="prefix layout cannot be computed"):
        verify(policy, *shared)
    assert policy.verified == {"padded", "tree"}
    assert "prefix" in policy.failed
