"""The correction for the engine in whole runs: its ratios are 1 in float32, whether it is applied or not."""

from pathlib import Path

import pytest

from tests.runs import fit, rollouts, train_metrics
from tests.samplers.vllm.engines import needs_vllm

pytestmark = needs_vllm
CONFIG = Path(__file__).parents[3] / "configs" / "quickstart_vllm.yaml"
RATIO = "sampling/importance_sampling_ratio"


@pytest.mark.parametrize("importance", ["none", "token_truncate", "sequence_mask"])
def test_float32(importance: str, tmp_path: Path) -> None:
    run = fit(tmp_path, config=CONFIG, model__objective__importance=importance)
    table = train_metrics(run)
    assert len(table) == 3
    for end in ("mean", "min", "max"):
        assert (table[f"{RATIO}/{end}"] - 1).abs().max() < 1e-3, end
    assert table["sampling/sampling_logp_difference/max"].max() < 1e-3
    assert (table["sampling/weight_lag"] == 0).all()
    assert (rollouts(run)["weight_version"] == rollouts(run)["rollout"]).all()


def test_bfloat16_engine(tmp_path: Path) -> None:
    """A coarser engine shows in the ratios, and masked sequences among them are 0."""
    run = fit(tmp_path, config=CONFIG, model__sampler__init_args__engine__dtype="bfloat16")
    table = train_metrics(run)
    assert table["sampling/sampling_logp_difference/mean"].between(1e-4, 0.1).all()
    assert table[f"{RATIO}/max"].max() <= 3.0
    assert (table[f"{RATIO}/mean"] - 1).abs().max() < 0.3
