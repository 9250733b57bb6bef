"""Weights handed over as files."""

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoTokenizer

from lgrpo_lightning.samplers.vllm.weights import (
    cast,
    open_weights_folder,
    read_weights,
    write_description,
    write_weights,
)
from tests.models import make_model, tokenizer


def weights() -> dict[str, torch.Tensor]:
    shared = torch.arange(12.0).reshape(3, 4)
    return {"embed": shared, "norm": torch.rand(5), "ids": torch.arange(3), "head": shared}


@pytest.mark.parametrize("shard_bytes", [1, 60, 2**30])
def test_what_is_written_is_read(tmp_path: Path, shard_bytes: int) -> None:
    folder = write_weights(iter(weights().items()), tmp_path / "v1", shard_bytes=shard_bytes)
    found = dict(read_weights(folder))
    assert set(found) == set(weights())
    assert all(torch.equal(found[name], tensor) for name, tensor in weights().items() if name != "norm")
    assert len(list(folder.iterdir())) == {1: 4, 60: 2, 2**30: 1}[shard_bytes]
    assert [p.name for p in tmp_path.iterdir()] == ["v1"]


def test_the_folder_is_there_only_when_it_is_complete(tmp_path: Path) -> None:
    def breaking():
        yield "a", torch.zeros(3)
        raise RuntimeError("rank 1 is gone")

    with pytest.raises(RuntimeError, match="rank 1 is gone"):
        write_weights(breaking(), tmp_path / "v2", shard_bytes=1)
    assert not (tmp_path / "v2").exists()


def test_written_again(tmp_path: Path) -> None:
    write_weights(iter([("a", torch.zeros(3)), ("b", torch.zeros(3))]), tmp_path / "v1", shard_bytes=1)
    write_weights(iter([("a", torch.ones(3))]), tmp_path / "v1")
    assert {n: t.tolist() for n, t in read_weights(tmp_path / "v1")} == {"a": [1.0, 1.0, 1.0]}


def test_no_weights_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"sampler.server.weights_dir"):
        next(read_weights(tmp_path))


def test_cast_leaves_integers_and_gradients() -> None:
    source = {"w": torch.rand(3, requires_grad=True), "i": torch.arange(3)}
    found = dict(cast(iter(source.items()), "bfloat16"))
    assert found["w"].dtype == torch.bfloat16
    assert not found["w"].requires_grad
    assert found["i"].dtype == torch.int64


def test_the_folder_is_removed(tmp_path: Path) -> None:
    with open_weights_folder(str(tmp_path / "new")) as folder:
        (folder / "x").touch()
        assert folder.stat().st_mode & 0o077 == 0  # nobody else's
    assert not folder.exists()
    with open_weights_folder(None) as folder:
        assert folder.is_dir()


def test_description_has_no_weights(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(make_model("llama", tmp_path / "m")))
    model.config.architectures = None
    folder = write_description(model, tokenizer(), tmp_path / "d")
    assert not list(folder.glob("*.safetensors"))
    assert AutoConfig.from_pretrained(folder).architectures == ["LlamaForCausalLM"]
    assert AutoTokenizer.from_pretrained(folder)("1+1")["input_ids"] == tokenizer()("1+1")["input_ids"]
