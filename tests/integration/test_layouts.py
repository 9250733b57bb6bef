"""Whole runs under trees, and with each prompt once, equal those under padded rows."""

from pathlib import Path

import pytest
import torch

from tests.runs import checkpoint, fit, rollouts, train_metrics

OPTIONS = {
    "model__updates__iterations": 3,
    "model__objective__kl_coef": 0.04,
    "model__optimizer__init_args__lr": 2e-3,
    "model__optimizer__init_args__eps": 1e-5,
    "trainer__max_steps": 3,
    "trainer__limit_val_batches": 0,
}


def run(root: Path, layout: str, **extra: object) -> Path:
    return fit(root / layout, model__policy__layout=layout, **(OPTIONS | extra))


@pytest.mark.parametrize(
    "extra",
    [
        pytest.param({}, id="exact steps", marks=pytest.mark.long),
        pytest.param({"model__segmenter": "DelimiterSegmenter"}, id="text steps"),
        pytest.param({"model__policy__micro_batch_tokens": 60}, id="divided groups", marks=pytest.mark.long),
    ],
)
def test_several_updates_with_clipping_and_a_reference(extra: dict[str, object], tmp_path: Path) -> None:
    padded = run(tmp_path, "padded", **extra)
    a = train_metrics(padded)
    assert a["clip_ratio/region_mean"][0] > 0
    assert a["tree/token_ratio"][0] == 1
    for layout, ratio in {"tree": 0.6, "prefix": 0.8}.items():
        other = run(tmp_path, layout, **extra)
        assert list(rollouts(padded)["completion"]) == list(rollouts(other)["completion"])
        b = train_metrics(other)
        for name in ("loss", "grad_norm", "kl", "entropy", "clip_ratio/region_mean"):
            torch.testing.assert_close(a[name][0], b[name][0], rtol=1e-3, atol=1e-6)
        assert b["tree/token_ratio"][0] < ratio
        weights = [checkpoint(root)["state_dict"] for root in (padded, other)]
        for name, tensor in weights[0].items():  # type: ignore[attr-defined]
            assert (tensor - weights[1][name]).abs().max() < 1e-4, name  # type: ignore[index]


@pytest.mark.long
def test_bf16_mixed(tmp_path: Path) -> None:
    padded, *others = (
        run(
            tmp_path,
            layout,
            trainer__precision="bf16-mixed",
            trainer__max_steps=1,
            model__updates__iterations=1,
        )
        for layout in ("padded", "tree", "prefix")
    )
    a = train_metrics(padded)
    for other in others:
        assert list(rollouts(padded)["completion"]) == list(rollouts(other)["completion"])
        b = train_metrics(other)
        assert abs(a["loss"][0] - b["loss"][0]) < 5e-3
        assert abs(a["grad_norm"][0] - b["grad_norm"][0]) < 0.1 * a["grad_norm"][0]
