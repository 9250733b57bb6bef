"""A checkpoint of text and images: trained on text through the command line, exported whole with its processor."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lgrpo_lightning import cli
from tests.architectures.trial import write_model
from tests.integration.test_export import TRAIN
from tests.reliability.processes import finished_pair
from tests.runs import fit

LORA = {"model__policy__lora__rank": 2}


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("gemma3", {}),
        ("qwen3_vl", LORA),
        pytest.param("llama4", {}, marks=pytest.mark.slow),
        pytest.param("qwen3_5", LORA, marks=pytest.mark.slow),
    ],
)
def test_train_and_export(family: str, options: dict[str, object], tmp_path: Path) -> None:
    write_model(family, tmp_path / "model")
    processor = {"image_processor_type": "Something", "size": 28}
    (tmp_path / "model" / "preprocessor_config.json").write_text(json.dumps(processor))
    run = fit(tmp_path / "run", model__policy__path=tmp_path / "model", **TRAIN, **options)
    assert cli.main(["export", str(run), str(tmp_path / "out")]) == 0
    before, after = (load_file(tmp_path / folder / "model.safetensors") for folder in ("model", "out"))
    assert before.keys() == after.keys()
    moved = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert not [name for name in moved if "vision" in name or "visual" in name or "projector" in name]
    assert len(moved) > 4
    assert json.loads((tmp_path / "out" / "preprocessor_config.json").read_text()) == processor


@pytest.mark.long
def test_two_processes(tmp_path: Path) -> None:
    """Weights without a gradient do not stop ``ddp``."""
    write_model("gemma3", tmp_path / "model")
    options = TRAIN | {"trainer__strategy": "ddp", "model__policy__path": tmp_path / "model"}
    finished_pair(tmp_path / "run", **options)
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").is_file()
