"""Packed linear layers give the numbers of those that are not, and are gone afterwards."""

from pathlib import Path

import pytest
import torch
from torch import nn

from lgrpo_lightning.policy import Lora, Policy, PolicyConfig
from lgrpo_lightning.policy.packed_layers import pack_linear_layers
from tests.architectures.trial import write_model

IDS = torch.arange(14).view(2, 7) + 5


def compute(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False).logits  # type: ignore[no-any-return]


def list_packed(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if "forward" in vars(module)]


@pytest.mark.parametrize("family", ["llama", "phi", "gpt2", "qwen3_moe", "bloom", "mamba2"])  # phi's layers have a bias
@pytest.mark.parametrize("lora", [None, Lora(rank=2)])
def test_packed_layers_change_nothing(family: str, lora: Lora | None, tmp_path: Path) -> None:
    write_model(family, tmp_path)
    model = Policy(PolicyConfig(path=str(tmp_path), lora=lora)).model.eval()
    for parameter in model.parameters():  # an adapter starts with zeros
        nn.init.normal_(parameter, std=0.05)
    expected = compute(model)
    with pack_linear_layers(model):
        layers = list_packed(model)
        assert model.get_output_embeddings() in layers
        assert len(layers) > 4
        torch.testing.assert_close(compute(model), expected, atol=1e-5, rtol=1e-5)
        with pack_linear_layers(model):
            assert list_packed(model) == layers
        assert list_packed(model) == layers
    assert not list_packed(model)
    assert torch.equal(compute(model), expected)


def test_new_weights_are_packed_anew(tmp_path: Path) -> None:
    write_model("llama", tmp_path)
    model = Policy(PolicyConfig(path=str(tmp_path))).model.eval()
    with pack_linear_layers(model):
        compute(model)
    for parameter in model.parameters():
        parameter.data.mul_(1.5)
    expected = compute(model)
    with pack_linear_layers(model):
        torch.testing.assert_close(compute(model), expected, atol=1e-5, rtol=1e-5)
    with pytest.raises(IndexError), pack_linear_layers(model):
        model(input_ids=torch.tensor([[10**6]]))
    assert not list_packed(model)


def test_what_is_left_alone(tmp_path: Path) -> None:
    write_model("llama", tmp_path)
    model = Policy(PolicyConfig(path=str(tmp_path))).model
    with torch.autocast("cpu", torch.bfloat16), pack_linear_layers(model):
        assert not list_packed(model)
    with pack_linear_layers(model.bfloat16()):
        assert not list_packed(model)

    class Own(nn.Linear):
        pass

    layers = nn.Sequential(Own(4, 4), nn.Linear(4, 4), nn.Linear(4, 4, device="meta"))
    with pack_linear_layers(layers):
        assert list_packed(layers) == [layers[1]]
