"""Layers divided over two processes, and two such pairs: the training, the checkpoints and the files of one process."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.integration.test_exact_devices import check_golden, check_same
from tests.integration.test_fsdp2 import (
    EXPORT,
    command,
    exported,
    largest_difference,
    one,
    predictions,
    strategy,
    weights,
)
from tests.models import make_model
from tests.recorded.run import Outcome, fit
from tests.recorded.run import several as fit_several
from tests.runs import lgrpo, rollouts, train_metrics
from tests.several import commands, ranks

TENSOR = {"tensor_parallel_size": 2}
RECORDED = {
    "padded": {"micro_batch_tokens": 480},
    "tree": {"micro_batch_tokens": 320},
    "prefix": {"micro_batch_tokens": 320},
}
DRAWN = ("llama_tied", "qwen3", "beyond")
"""Models with tied weights, with norms that each process applies to its own heads, with ids that have no text."""


@pytest.fixture(scope="module")
def fits(model_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, object]]:
    """Recorded rollouts in every layout, and completions that each model draws, judged by their digits."""
    replayed = {layout: {"policy": {"layout": layout} | policy} for layout, policy in RECORDED.items()}
    folders = {name: model_folder(name) for name in DRAWN if name != "beyond"}
    folders["beyond"] = make_model("llama", tmp_path_factory.mktemp("beyond"), vocab_size=64)
    free = {
        name: {"free": True, "digits": True, "steps": 4, "policy": {"path": str(folder)}}
        for name, folder in folders.items()
    }
    return {**replayed, **free}


@pytest.fixture(scope="module")
def alone(fits: dict[str, dict[str, object]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    return {name: fit(tmp_path_factory.mktemp(name), **options) for name, options in fits.items()}  # type: ignore[arg-type]


def several(processes: int, fits: dict[str, dict[str, object]], folder: Path) -> dict[str, Outcome]:
    out = folder / "outcomes.pt"
    ranks(processes, fit_several, str(out), [o | {"strategy": TENSOR} for o in fits.values()])
    return dict(zip(fits, (Outcome(**o) for o in torch.load(out, weights_only=True)), strict=True))


def check(found: dict[str, Outcome], alone: dict[str, Outcome]) -> None:
    for name, outcome in found.items():
        check_same(outcome, alone[name], gradients=4e-6)  # rows are summed in two parts
        assert outcome.completions == alone[name].completions
        assert outcome.losses == pytest.approx(alone[name].losses, rel=1e-4, abs=1e-6)
        if name in RECORDED:
            check_golden(outcome)
        else:
            assert float(max(g.abs().max() for g in outcome.gradients.values())) > 1e-3


@pytest.mark.long
def test_two_processes(fits: dict[str, dict[str, object]], tmp_path: Path) -> None:
    some = {name: fits[name] for name in ("tree", "prefix", "llama_tied")}
    alone = {name: fit(tmp_path / name, **options) for name, options in some.items()}  # type: ignore[arg-type]
    check(several(2, some, tmp_path), alone)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_every_model(
    processes: int, fits: dict[str, dict[str, object]], alone: dict[str, Outcome], tmp_path: Path
) -> None:
    check(several(processes, fits, tmp_path), alone)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a checkpoint in one file, and the same in two parts with folders; drawn from after."""
    root = tmp_path_factory.mktemp("tensor")
    file, folder = root / "file", root / "folder"
    divided, shards = strategy(**TENSOR), strategy(**TENSOR, save_distributed_checkpoint=True)
    drawn = {"data__predict": "ArithmeticTasks", "data__predict__count": 4, "ckpt_path": "last"}
    one("fit", root / "one", trainer__max_steps=4)
    shutil.copytree(root / "one", root / "on")
    commands([
        command("fit", file, trainer__max_steps=4, trainer__strategy=divided, trainer__callbacks=EXPORT),
        command("predict", file, trainer__strategy=divided, **drawn),
        command("fit", folder, trainer__max_steps=2, trainer__strategy=shards),
        command("fit", folder, trainer__max_steps=4, trainer__strategy=shards, ckpt_path="last"),
        command("fit", root / "on", trainer__max_steps=6, trainer__strategy=divided, ckpt_path="last"),
    ])  # fmt: skip
    one("predict", root / "one", **drawn)
    return root


@pytest.mark.slow
def test_checkpoints_and_files_are_those_of_one_process(runs: Path) -> None:
    assert largest_difference(weights(runs / "file"), weights(runs / "folder")) == 0
    assert largest_difference(weights(runs / "file"), weights(runs / "one")) < 5e-6
    ours, theirs = rollouts(runs / "file"), rollouts(runs / "one")
    assert len(ours) == 32 == len(theirs)
    assert list(ours["completion"]) == list(theirs["completion"])
    pd.testing.assert_frame_equal(ours, rollouts(runs / "folder"))
    assert list(predictions(runs / "file")["completion"]) == list(predictions(runs / "one")["completion"])


@pytest.mark.slow
def test_metrics_are_those_of_one_process(runs: Path) -> None:
    ours, theirs = (train_metrics(runs / name).select_dtypes("number") for name in ("file", "one"))
    timed = [name for name in ours if name.startswith("time/") or name == "tokens_per_second"]
    assert set(ours) == set(theirs)
    assert {"rewards/ExactMatch/std", "loss", "grad_norm", "tree/token_ratio"} <= set(ours)
    pd.testing.assert_frame_equal(
        ours.drop(columns=timed), theirs.drop(columns=timed), rtol=1e-3, atol=1e-5, check_like=True
    )


@pytest.mark.slow
def test_both_go_on_from_each_other(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "file", tmp_path / "file")
    one("fit", tmp_path / "file", ckpt_path="last", trainer__max_steps=6)
    whole = one("fit", tmp_path / "whole", trainer__max_steps=6)
    assert largest_difference(weights(runs / "on"), weights(whole)) < 5e-6
    assert largest_difference(weights(tmp_path / "file"), weights(whole)) < 5e-6


@pytest.mark.slow
def test_exports(runs: Path, tmp_path: Path) -> None:
    ids = torch.tensor([[5, 6, 7, 8]])
    models = [exported(runs / name, tmp_path / name) for name in ("file", "folder", "one")]
    models.append(AutoModelForCausalLM.from_pretrained(runs / "file" / "exports" / "rollout-000004"))
    with torch.no_grad():
        first, *others = (model(ids).logits for model in models)
    for other in others:
        torch.testing.assert_close(first, other, atol=1e-4, rtol=1e-5)


@pytest.mark.slow
def test_engines_in_the_process_are_refused(tmp_path: Path) -> None:
    options = {"trainer__strategy": strategy(**TENSOR), "model__sampler": "VLLMSampler"}
    with pytest.raises(AssertionError, match="VLLMSampler does not go with tensor_parallel_size: 2 of the training"):
        commands([command("fit", tmp_path, **options)])


def test_devices_that_do_not_fall_into_groups(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = {"trainer__strategy": strategy(tensor_parallel_size=3), "trainer__devices": 4}
    assert lgrpo("fit", tmp_path, trainer__accelerator="cpu", **options) == 2
    assert "does not divide the 4 devices of a node (trainer.devices). Possible are 1, 2, 4" in capsys.readouterr().err
