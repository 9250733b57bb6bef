"""LoRA: the base untouched, its own reference, merged equal to the adapter."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import FalconConfig, FalconForCausalLM

from lgrpo_lightning.policy import Lora, Policy, PolicyConfig, PolicySource, make_reference
from lgrpo_lightning.policy.export import export
from lgrpo_lightning.policy.lora_targets import find_excluded
from tests.models import tokenizer
from tests.policy.test_policy import rows

LORA = Lora(rank=4, alpha=8)


def trained(folder: Path) -> Policy:
    """A policy whose adapter is far from nothing."""
    policy = Policy(PolicyConfig(path=str(folder), lora=LORA))
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return policy


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gpt2", "gemma3"])
def test_only_the_adapter_is_trained(architecture: str, model_folder: Callable[..., Path]) -> None:
    policy = Policy(PolicyConfig(path=str(model_folder(architecture)), lora=LORA))
    before = {n: p.clone() for n, p in policy.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in policy.parameters() if p.requires_grad], lr=0.1)
    policy(*rows()).logprobs.sum().backward()
    optimizer.step()
    changed = {n for n, p in policy.named_parameters() if not torch.equal(p, before[n])}
    assert changed
    assert all("lora_" in n for n in changed)


def test_the_reference_is_the_base_model(model_folder: Callable[..., Path]) -> None:
    base = Policy(PolicyConfig(path=str(model_folder("llama"))))
    policy = trained(model_folder("llama"))
    assert not torch.allclose(policy(*rows()).logprobs, base(*rows()).logprobs, atol=1e-2)
    found = make_reference(policy)(*rows(), temperature=0.7).logprobs
    torch.testing.assert_close(found, base(*rows(), temperature=0.7).logprobs, atol=1e-6, rtol=0)
    assert not torch.allclose(policy(*rows(), temperature=0.7).logprobs, found, atol=1e-2)


@pytest.mark.parametrize("architecture", ["llama", "llama_tied", "gpt2"])
def test_merged_equals_the_adapter(architecture: str, model_folder: Callable[..., Path], tmp_path: Path) -> None:
    import transformers

    policy = trained(model_folder(architecture))
    expected = policy(*rows()).logprobs.detach()
    source = PolicySource(policy, tokenizer=tokenizer(), eos_token_ids=(1,), version=lambda: 0)
    streamed = dict(source.weights())
    assert policy(*rows()).logprobs.equal(expected)  # streaming left the policy as it was
    plain = Policy(PolicyConfig(path=str(model_folder(architecture))))
    plain.model.load_state_dict(streamed)
    torch.testing.assert_close(plain(*rows()).logprobs, expected, atol=1e-5, rtol=0)
    export(policy, tokenizer(), tmp_path)
    exported = Policy(PolicyConfig(path=str(tmp_path)))
    assert not any("lora" in n for n, _ in exported.named_parameters())
    torch.testing.assert_close(exported(*rows()).logprobs, expected, atol=1e-5, rtol=0)
    assert transformers.AutoTokenizer.from_pretrained(tmp_path).eos_token == "<eos>"


def test_the_adapter_alone_is_what_peft_loads(model_folder: Callable[..., Path], tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    policy = trained(model_folder("llama"))
    export(policy, tokenizer(), tmp_path, adapter=True)
    assert sum(f.stat().st_size for f in tmp_path.glob("*.safetensors")) < 100_000
    base = AutoModelForCausalLM.from_pretrained(model_folder("llama"))
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        adapted = PeftModel.from_pretrained(base, tmp_path)(ids).logits
        torch.testing.assert_close(adapted, policy.model(ids).logits, atol=1e-5, rtol=0)


def test_an_adapter_needs_lora(model_folder: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no adapter to export"):
        export(Policy(PolicyConfig(path=str(model_folder("llama")))), tokenizer(), tmp_path, adapter=True)


def test_export_leaves_the_policy_as_it_is(model_folder: Callable[..., Path], tmp_path: Path) -> None:
    policy = trained(model_folder("llama"))
    before = {name: tensor.clone() for name, tensor in policy.model.state_dict().items()}
    export(policy, tokenizer(), tmp_path)
    assert before.keys() == policy.model.state_dict().keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in policy.model.state_dict().items())


@pytest.mark.parametrize(("options", "message"), [({"rank": 0}, "rank"), ({"dropout": 1.0}, "dropout")])
def test_bad_options(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Lora(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(("device", "dtype"), [("meta", torch.float32), ("cpu", torch.bfloat16)])
def test_layers_derived_from_a_linear_one_get_an_adapter_on_every_device(device: str, dtype: torch.dtype) -> None:
    with torch.device(device):
        model = FalconForCausalLM(
            FalconConfig(hidden_size=64, num_hidden_layers=1, num_attention_heads=4, vocab_size=40)
        )
    assert find_excluded(model.to(dtype), "all-linear") == []
