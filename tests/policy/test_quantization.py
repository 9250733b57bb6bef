"""A base model in 4 or 8 bits under LoRA."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from lgrpo_lightning.policy import Lora, Policy, PolicyConfig, PolicySource, make_reference
from lgrpo_lightning.policy.choice import count_linear_parameters
from lgrpo_lightning.policy.export import PREFIX, export, load_weights
from lgrpo_lightning.policy.lora import is_adapter_weight
from lgrpo_lightning.policy.quantization import BYTES, is_quantised, make_quantization_config
from lgrpo_lightning.training.estimate import build_policy, measure_shape
from tests.models import tokenizer
from tests.policy.test_policy import rows

LORA = Lora(rank=4, alpha=8)
needs_bitsandbytes = pytest.mark.skipif(
    find_spec("bitsandbytes") is None, reason="needs bitsandbytes (the extra quantization)"
)
both = pytest.mark.parametrize("kind", ["nf4", "int8"])


def quantised(folder: Path, kind: str, **options: object) -> Policy:
    """A policy whose adapter is far from nothing."""
    torch.manual_seed(0)
    policy = Policy(PolicyConfig(path=str(folder), lora=LORA, quantization=kind, **options))
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return policy


def load_adapter(into: Policy, policy: Policy) -> None:
    load_weights(into, {f"{PREFIX}{n}": t for n, t in policy.model.state_dict().items() if is_adapter_weight(n)})


@needs_bitsandbytes
@both
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_logprobs_are_those_of_the_dequantised_weights(
    architecture: str, kind: str, model_folder: Callable[..., Path]
) -> None:
    """In both modes, and equal to the model's own forward pass; the plain model's are others."""
    policy = quantised(model_folder(architecture), kind)
    layers = [m for n, m in policy.named_modules() if is_quantised(m) and not hasattr(m, "base_layer")]
    assert len(layers) >= 8
    found = policy(*rows()).logprobs.detach()
    with torch.no_grad():
        assert policy(*rows()).logprobs.equal(found)  # in evaluation mode
    prompt, completion = (list(r[0]) for r in rows())
    ids = torch.tensor([[*prompt, *completion]])
    own = policy.model(input_ids=ids).logits[0].log_softmax(-1)
    own = own[len(prompt) - 1 : -1].gather(1, torch.tensor(completion)[:, None])[:, 0]
    torch.testing.assert_close(found[0, : len(completion)], own, atol=1e-5, rtol=0)
    source = PolicySource(policy, tokenizer=tokenizer(), eos_token_ids=(1,), version=lambda: 0)
    plain = Policy(PolicyConfig(path=str(model_folder(architecture))))
    assert count_linear_parameters(plain.model) == count_linear_parameters(policy.model) - sum(
        p.numel() for n, p in policy.model.named_parameters() if "lora_" in n
    )
    before = plain.model.state_dict()
    base = dict(source.stored(source.base_weights()))
    assert list(base) == [n for n in dict(source.stored(before.items())) if n in base]
    assert all(base[n].dtype == before[n].dtype and base[n].shape == before[n].shape for n in base)
    away = found - plain(*rows()).logprobs
    plain.model.load_state_dict(dict(source.weights()), strict=True)
    torch.testing.assert_close(plain(*rows()).logprobs, found, atol=1e-5, rtol=0)
    assert float(away.abs().max()) > 1e-3


@needs_bitsandbytes
@both
def test_layouts_and_checkpointing_give_the_same_gradients(kind: str, model_folder: Callable[..., Path]) -> None:
    results = {}
    for name in ("padded", "prefix", "tree", "checkpointing"):
        policy = quantised(model_folder("llama"), kind, gradient_checkpointing=name == "checkpointing")
        scores = policy.score(*rows(), temperature=1.0, layout="padded" if name == "checkpointing" else name)
        scores.logprobs.sum().backward()
        gradients = [p.grad.flatten() for p in policy.parameters() if p.requires_grad]
        results[name] = scores.logprobs.detach(), torch.cat(gradients)
    logprobs, gradient = results["padded"]
    for found, grad in results.values():
        torch.testing.assert_close(found, logprobs, atol=1e-5, rtol=0)
        torch.testing.assert_close(grad, gradient, atol=1e-4, rtol=1e-4)


@needs_bitsandbytes
@both
def test_gradients_are_those_of_the_dequantised_model(kind: str, model_folder: Callable[..., Path]) -> None:
    policy = quantised(model_folder("llama"), kind)
    source = PolicySource(policy, tokenizer=tokenizer(), eos_token_ids=(1,), version=lambda: 0)
    whole = Policy(replace(policy.config, quantization=None))
    load_adapter(whole, policy)
    targets = dict(whole.model.named_parameters())
    with torch.no_grad():
        for name, tensor in source.base_weights():
            for there in (name, name.replace(".weight", ".base_layer.weight")):
                if there in targets:
                    targets[there].copy_(tensor)
    for each in (policy, whole):
        each(*rows()).logprobs.sum().backward()
    expected = {n: p.grad for n, p in whole.named_parameters() if p.requires_grad}
    for name, parameter in policy.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, expected[name], atol=1e-4, rtol=1e-5)


@needs_bitsandbytes
@both
def test_references(kind: str, model_folder: Callable[..., Path], tmp_path: Path) -> None:
    """The adapter switched off, and a frozen copy beside one that goes on from an adapter."""
    policy = quantised(model_folder("llama"), kind)
    base = Policy(replace(policy.config))  # its adapter adds nothing yet
    expected = base(*rows()).logprobs
    torch.testing.assert_close(make_reference(policy)(*rows()).logprobs, expected, atol=1e-6, rtol=0)
    export(policy, tokenizer(), tmp_path / "adapter", adapter=True)
    further = Policy(replace(policy.config, lora=Lora(from_adapter=str(tmp_path / "adapter"))))
    torch.testing.assert_close(further(*rows()).logprobs, policy(*rows()).logprobs, atol=1e-6, rtol=0)
    assert make_reference(further)(*rows()).logprobs.equal(deepcopy(further)(*rows()).logprobs)


@needs_bitsandbytes
@both
def test_export_merges_into_the_base_of_the_files(kind: str, model_folder: Callable[..., Path], tmp_path: Path) -> None:
    folder = model_folder("llama")
    policy = quantised(folder, kind)
    export(policy, tokenizer(), tmp_path / "merged")
    found = Policy(PolicyConfig(path=str(tmp_path / "merged"))).model.state_dict()
    expected = Policy(PolicyConfig(path=str(folder))).model.state_dict()
    weights = policy.model.state_dict()
    for name in [n for n in weights if ".lora_A." in n]:
        delta = weights[name.replace("lora_A", "lora_B")] @ weights[name] * (LORA.alpha / LORA.rank)
        expected[name.replace(".lora_A.default", "")] += delta
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-6, rtol=1e-5)
    assert "quantization" not in (tmp_path / "merged" / "config.json").read_text(encoding="utf-8")


@needs_bitsandbytes
@both
def test_estimated_bytes_are_those_of_the_weights(kind: str, model_folder: Callable[..., Path]) -> None:
    policy = quantised(model_folder("llama"), kind)
    expected = sum(p.nbytes for p in policy.model.parameters())
    estimated = measure_shape(build_policy(policy.config).model, kind).weights
    layers = [m for m in policy.modules() if is_quantised(m) and not hasattr(m, "base_layer")]
    scales = sum(m.in_features * m.out_features for m in layers) * (BYTES["nf4"] - 0.5) * (kind == "nf4")
    assert estimated == pytest.approx(expected + scales, abs=16)


def test_mistakes(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"policy.quantization is 'nf4', and quantised weights cannot be trained"):
        PolicyConfig(quantization="nf4")
    with pytest.raises(ValueError, match=r"policy.quantization is 'fp8'; possible are 'nf4', 'int8' and null"):
        PolicyConfig(quantization="fp8", lora=LORA)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"policy.compile is 'layers'"):
        PolicyConfig(quantization="int8", lora=LORA, compile="layers")
    with pytest.raises(ValueError, match=r"policy.weights is 'random'"):
        Policy(PolicyConfig(quantization="nf4", lora=LORA, weights="random"))
    monkeypatch.setattr("lgrpo_lightning.policy.quantization.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "lgrpo_lightning\[quantization\]"'):
        make_quantization_config("nf4", torch.float32)


@needs_bitsandbytes
def test_checkpoints_hold_the_adapter(model_folder: Callable[..., Path]) -> None:
    policy, other = (quantised(model_folder("llama"), "nf4") for _ in range(2))
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            if "lora_B" in name:
                parameter.zero_()
    load_adapter(other, policy)
    assert other(*rows()).logprobs.equal(policy(*rows()).logprobs)  # quantised anew from the same file, to the bit
