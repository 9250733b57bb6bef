"""Merged adapters: whatever they adapt, the exported folder gives the logits of the model that was trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

from lgrpo_lightning.policy import Lora, Policy, PolicyConfig, PolicySource
from lgrpo_lightning.policy import export as exporting
from lgrpo_lightning.policy.export import export
from lgrpo_lightning.policy.merging import find_adapted_weights, merge_weights
from tests.models import SMALL, make_model, tokenizer

EXPERTS = {"num_experts_per_tok": 2}
MIXTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "mixtral": ("MixtralConfig", EXPERTS | {"num_local_experts": 4}),
    "qwen2_moe": (
        "Qwen2MoeConfig",
        EXPERTS | {"num_experts": 4, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32},
    ),
    "qwen3_moe": (
        "Qwen3MoeConfig",
        EXPERTS | {"num_experts": 4, "moe_intermediate_size": 32, "head_dim": 16},
    ),
    "olmoe": ("OlmoeConfig", EXPERTS | {"num_experts": 4}),
    "gpt_oss": ("GptOssConfig", EXPERTS | {"num_local_experts": 4, "head_dim": 16}),
    "phimoe": ("PhimoeConfig", EXPERTS | {"num_local_experts": 4}),
    "granitemoe": ("GraniteMoeConfig", EXPERTS | {"num_local_experts": 4}),
    "ernie4_5_moe": (
        "Ernie4_5_MoeConfig",
        {"moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 32, "moe_layer_start_index": 0},
    ),
}
"""Mixtures of experts: configuration class and what it needs beside ``SMALL``."""
DENSE = ("llama", "llama_tied", "gpt2", "gemma3", "qwen2")
TARGETS: dict[str, Any] = {
    "all-linear": "all-linear",
    "embeddings": ["embed_tokens"],
    "head": ["lm_head"],
    "both": ["q_proj", "embed_tokens", "lm_head"],
}


def folder_of(architecture: str, path: Path, *, tied: bool = False) -> Path:
    """A tiny model as a folder."""
    if architecture in DENSE:
        return make_model(architecture, path)
    name, extra = MIXTURES[architecture]
    config = getattr(transformers, name)(**SMALL | extra, tie_word_embeddings=tied)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(path)
    tokenizer().save_pretrained(path)
    return path


def adapted(path: Path, **options: Any) -> Policy:
    """A policy whose adapter is far from nothing."""
    attention = "eager" if "gpt_oss" in str(path) else "sdpa"
    config = PolicyConfig(path=str(path), lora=Lora(rank=2, **options), attn_implementation=attention)
    policy = Policy(config)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.1 if options.get("rslora") else 0.2)
    return policy


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=torch.tensor([[5, 6, 7, 8, 9, 10]]), use_cache=False).logits


@pytest.mark.filterwarnings("ignore:Model with `tie_word_embeddings")
@pytest.mark.parametrize("targets", TARGETS)
@pytest.mark.parametrize("architecture", [*DENSE, *MIXTURES])
def test_exported_equals_trained(architecture: str, targets: str, tmp_path: Path) -> None:
    names = TARGETS[targets]
    if architecture == "gpt2" and targets != "all-linear":
        names = [{"embed_tokens": "wte", "q_proj": "c_attn"}.get(n, n) for n in names]
    tied = architecture in ("olmoe", "qwen3_moe")
    folder = folder_of(architecture, tmp_path / architecture, tied=tied)
    policy = adapted(folder, targets=names, rslora=tied)
    expected, base = logits(policy.model), logits(AutoModelForCausalLM.from_pretrained(folder))
    assert (expected - base).abs().max() > 1e-3
    export(policy, tokenizer(), tmp_path / "out")
    torch.testing.assert_close(logits(policy.model), expected, atol=0, rtol=0)
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    largest = float(expected.abs().max())
    torch.testing.assert_close(logits(exported), expected, atol=1e-5 * max(2.0, largest), rtol=0)


@pytest.mark.parametrize("architecture", ["mixtral", "qwen3_moe", "llama"])
def test_an_adapter_alone(architecture: str, tmp_path: Path) -> None:
    policy = adapted(folder_of(architecture, tmp_path / "base"))
    export(policy, tokenizer(), tmp_path / "adapter", adapter=True)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    model.load_adapter(str(tmp_path / "adapter"))
    torch.testing.assert_close(logits(model), logits(policy.model), atol=2e-5, rtol=1e-5)


def test_experts_are_among_what_is_merged(tmp_path: Path) -> None:
    policy = adapted(folder_of("mixtral", tmp_path / "base"))
    names = set(find_adapted_weights(policy.model))
    assert {"model.layers.0.mlp.experts.down_proj", "model.layers.0.mlp.experts.gate_up_proj"} <= names
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base").state_dict()
    assert {name for name, _ in merge_weights(policy.model)} == set(base)


def test_a_merge_that_is_wrong_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_folder: Callable[..., Path]
) -> None:
    policy = adapted(model_folder("llama"))

    def wrong(model: Any) -> Any:
        for name, tensor in merge_weights(model):
            yield name, tensor * (1.5 if name.endswith("0.self_attn.q_proj.weight") else 1)

    monkeypatch.setattr(exporting, "merge_weights", wrong)
    with pytest.raises(ValueError, match="other logits than the model with its adapter: they differ by"):
        export(policy, tokenizer(), tmp_path / "out")
    monkeypatch.setattr(exporting, "merge_weights", lambda m: list(merge_weights(m))[1:])
    with pytest.raises(ValueError, match=r"lost 1 weights, such as model\.embed_tokens\.weight"):
        export(policy, tokenizer(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("ignore:Model with `tie_word_embeddings")
def test_an_engine_is_not_fed_what_it_would_tie(model_folder: Callable[..., Path]) -> None:
    policy = adapted(model_folder("llama_tied"), targets=["embed_tokens"])
    source = PolicySource(policy, tokenizer=tokenizer(), eos_token_ids=(1,), version=lambda: 0)
    with pytest.raises(ValueError, match="adapts embeddings or head of a model that ties them"):
        dict(source.weights())
