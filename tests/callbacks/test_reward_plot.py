from pathlib import Path

import pytest

from lgrpo_lightning.callbacks import RewardPlot
from lgrpo_lightning.callbacks.reward_plot import draw_run
from tests.callbacks.stub import FailureError, StubModule, fit

PNG = b"\x89PNG"
pytestmark = pytest.mark.usefixtures("real_pictures")


def test_drawn_at_the_end_of_fit(tmp_path: Path) -> None:
    fit(tmp_path, limit_val_batches=1)
    assert (tmp_path / "reward.png").read_bytes().startswith(PNG)


def test_drawn_when_the_run_fails(tmp_path: Path) -> None:
    with pytest.raises(FailureError):
        fit(tmp_path, module=StubModule(fail=(3, "sample")))
    assert (tmp_path / "reward.png").exists()


def test_drawn_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setattr("lgrpo_lightning.callbacks.reward_plot.draw_run", lambda *args: drawn.append(args))
    fit(tmp_path, RewardPlot(every_n_rollouts=2))
    assert [len(metrics["reward"][0]) for metrics, _ in drawn] == [2, 4, 5]


def test_nothing_to_draw(tmp_path: Path) -> None:
    fit(tmp_path, logger=False)
    assert not (tmp_path / "reward.png").exists()
    assert not draw_run({"loss": ([1], [1.0])}, tmp_path / "x.png")


@pytest.mark.parametrize(
    "metrics",
    [
        {"reward": ([1], [0.5])},
        {"val/accuracy": ([0, 5], [0.1, 0.2])},
        {"reward": (list(range(40)), [i / 20 - 1 for i in range(40)]), "val/accuracy": ([0], [0.1])},
    ],
    ids=["one point", "validation only", "two axes"],
)
def test_any_shape_of_run(tmp_path: Path, metrics: dict) -> None:
    assert draw_run(metrics, tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes().startswith(PNG)


def test_impossible_settings() -> None:
    with pytest.raises(ValueError, match="at least 0"):
        RewardPlot(every_n_rollouts=-1)
