"""The picture of a run: reward and validation accuracy against steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from lgrpo_lightning.callbacks.rollout_callback import RolloutCallback, is_dry_run
from lgrpo_lightning.errors import require
from lgrpo_lightning.monitoring.charts import draw_curve, style_axes
from lgrpo_lightning.rollouts.metric_series import (
    Series,
    build_metric_series,
    find_validation_metrics,
    read_metric_rows,
)
from lgrpo_lightning.rollouts.metrics_csv import writes_metrics
from lgrpo_lightning.rollouts.names import METRICS, PLOT
from lgrpo_lightning.rollouts.whole_files import whole_file
from lgrpo_lightning.types import Rollout

COLOURS = ("#d95f02", "#1b9e77", "#7570b3", "#e7298a")
BLUE, GREY = "#2b6cb0", "#555555"


class RewardPlot(RolloutCallback):
    """Draws ``<default_root_dir>/reward.png`` from ``metrics.csv`` when fitting ends, well or not.

    The reward of every rollout is the thin line, its running mean the thick one; validation accuracy and
    avg@k are the lines with marks. Without ``metrics.csv`` nothing is drawn.

    Args:
        every_n_rollouts: Draw while the run goes on, too; 0 only at the end. Drawing takes about half a
        second.
    """

    def __init__(self, every_n_rollouts: int = 0) -> None:
        require("RewardPlot: ", locals(), (every_n_rollouts >= 0, "every_n_rollouts", "at least 0 (only at the end)"))
        self.every_n_rollouts = every_n_rollouts

    def on_rollout_end(self, trainer: Trainer, pl_module: LightningModule, rollout: Rollout) -> None:
        if self.every_n_rollouts and rollout.index and rollout.index % self.every_n_rollouts == 0:
            self._draw(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._draw(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            self._draw(trainer)

    def _draw(self, trainer: Trainer) -> None:
        root = Path(trainer.default_root_dir)
        if trainer.is_global_zero and not is_dry_run(trainer) and writes_metrics(trainer):
            draw_run(build_metric_series(read_metric_rows(root / METRICS)[0]), root / PLOT)


def draw_run(metrics: dict[str, Series], path: Path) -> bool:
    """Draw reward and validation accuracy into the PNG ``path``; whether there was anything to draw."""
    validation = find_validation_metrics(metrics)
    if "reward" not in metrics and not validation:
        return False
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), dpi=160, layout="constrained")
    axes = figure.add_subplot()
    rewards = metrics.get("reward", ([], []))
    rate = not rewards[1] or (min(rewards[1]) >= 0 and max(rewards[1]) <= 1)
    if rewards[1]:
        draw_curve(axes, *rewards, color=BLUE, label="reward")
    right = axes if rate or not validation else axes.twinx()
    for name, colour in zip(validation, COLOURS * len(validation), strict=False):
        style: dict[str, Any] = {"linewidth": 1.8, "marker": "o", "markersize": 5, "markeredgecolor": "white"}
        right.plot(*metrics[name], color=colour, label=name.removeprefix("val/") + " (validation)", **style)
    _label_axes(axes, right, rate=rate, validation=bool(validation))
    with whole_file(path) as hidden:
        figure.savefig(hidden, format="png")
    return True


def _label_axes(axes: Any, right: Any, *, rate: bool, validation: bool) -> None:
    """Names, limits, grid, and one legend above the picture, where it covers nothing.

    ``rate``: the reward shares the axis from 0 to 1 with the accuracy.
    """
    axes.set_xlabel("optimizer step", color=GREY)
    axes.set_ylabel("reward and accuracy" if rate and validation else "reward", color=GREY)
    axes.xaxis.get_major_locator().set_params(integer=True)
    if right is not axes:
        right.set_ylabel("accuracy", color=GREY)
    if rate or validation:
        right.set_ylim(-0.02, 1.02)
    for side in {axes, right}:
        style_axes(side, GREY)
        side.grid(side is axes)
    lines = [line for side in dict.fromkeys((axes, right)) for line in side.get_lines()]
    named = [line for line in lines if not line.get_label().startswith("_")]
    axes.legend(handles=named, loc="lower left", bbox_to_anchor=(0, 1), ncols=4, frameon=False, borderaxespad=0.2)
