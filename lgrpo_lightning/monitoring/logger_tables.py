"""Tables, trees and reports in Lightning's loggers, each by the interface of its package."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from textwrap import wrap
from typing import Any

from lightning.pytorch.loggers import Logger

from lgrpo_lightning.monitoring.completion_sheet import WIDTH, CompletionSheet

TABLES_IN_A_FILE = 50
"""MLflow lists the tables of a run in one tag, which holds about 130 names, and appends to a file by reading it."""


@dataclass(frozen=True, kw_only=True)
class LoggerWriter:
    """How one package takes them. Both functions get Lightning's logger first.

    Attributes:
        log_sheet: Takes the table and the tree of a rollout, and the number of tables before it.
        log_file: Takes a file of the run; None where the package holds no files.
    """

    log_sheet: Callable[[Any, CompletionSheet, int], None]
    log_file: Callable[[Any, Path], None] | None


def find_writer(logger: Logger) -> LoggerWriter | None:
    """What fits the ``experiment`` of a logger, whatever the logger's own class; None for other packages."""
    experiment = getattr(logger, "experiment", None)  # which a logger need not have
    return WRITERS.get(type(experiment).__module__.partition(".")[0])


def _log_to_wandb(logger: Any, sheet: CompletionSheet, number: int) -> None:
    import wandb

    logger.experiment.log(
        {
            "completions": wandb.Table(columns=list(sheet.columns), data=[list(row) for row in sheet.rows]),
            "tree": wandb.Html(sheet.page),
            "trainer/global_step": sheet.step,  # the axis of Lightning's metrics
        }
    )


def _save_in_wandb(logger: Any, path: Path) -> None:
    import wandb

    artifact = wandb.Artifact(f"report-{logger.experiment.id}", type="report")
    artifact.add_file(str(path))
    logger.experiment.log_artifact(artifact)


def _log_to_mlflow(logger: Any, sheet: CompletionSheet, number: int) -> None:
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # it would run through the run's own
    columns = {name: [row[i] for row in sheet.rows] for i, name in enumerate(sheet.columns)}
    file = f"completions-{number // TABLES_IN_A_FILE:03d}.json"
    logger.experiment.log_table(logger.run_id, columns, file)
    logger.experiment.log_text(logger.run_id, sheet.page, f"trees/rollout-{sheet.rollout:06d}.html")


def _save_in_mlflow(logger: Any, path: Path) -> None:
    logger.experiment.log_artifact(logger.run_id, str(path))


def _log_to_comet(logger: Any, sheet: CompletionSheet, number: int) -> None:
    name = f"rollout-{sheet.rollout:06d}"
    logger.experiment.log_table(f"completions/{name}.csv", [list(r) for r in sheet.rows], headers=list(sheet.columns))
    logger.experiment.log_asset_data(sheet.page, name=f"trees/{name}.html", overwrite=True, step=sheet.step)


def _save_in_comet(logger: Any, path: Path) -> None:
    logger.experiment.log_asset(str(path), file_name=path.name, overwrite=True)


def _log_to_trackio(logger: Any, sheet: CompletionSheet, number: int) -> None:
    import trackio

    table = trackio.Table(columns=list(sheet.columns), data=[list(row) for row in sheet.rows])
    logger.experiment.log({"completions": table, "tree": trackio.Html(sheet.page)}, step=sheet.step)


def _save_in_trackio(logger: Any, path: Path) -> None:
    logger.experiment.log_artifact(path, name="report", type="report")


def _log_to_tensorboard(logger: Any, sheet: CompletionSheet, number: int) -> None:
    """As text: TensorBoard shows the tags of HTML that make tables and preformatted text."""
    cards = "".join(_write_card(dict(zip(sheet.columns, row, strict=True))) for row in sheet.rows)
    logger.experiment.add_text("completions", f"<table>{cards}</table>", sheet.step)
    logger.experiment.add_text("tree", f"<pre>{escape(sheet.tree)}</pre>", sheet.step)


def _write_card(row: dict[str, Any]) -> str:
    """A row of two cells, its numbers and its texts: in a column for each, TensorBoard breaks texts into syllables."""
    texts = [f"<strong>{name}</strong>\n{_fold(row.pop(name))}" for name in ("prompt", "completion")]
    numbers = [f"{escape(name)} <strong>{escape(str(value))}</strong>" for name, value in row.items()]
    cells = ("\n".join(numbers), "\n\n".join(texts))
    return f"<tr>{''.join(f'<td><pre>{cell}</pre></td>' for cell in cells)}</tr>"


def _fold(text: str) -> str:
    lines = (wrap(line, WIDTH, drop_whitespace=False, replace_whitespace=False) or [""] for line in text.split("\n"))
    return escape("\n".join(part for line in lines for part in line))


_TENSORBOARD = LoggerWriter(log_sheet=_log_to_tensorboard, log_file=None)

WRITERS = {
    "wandb": LoggerWriter(log_sheet=_log_to_wandb, log_file=_save_in_wandb),
    "mlflow": LoggerWriter(log_sheet=_log_to_mlflow, log_file=_save_in_mlflow),
    "comet_ml": LoggerWriter(log_sheet=_log_to_comet, log_file=_save_in_comet),
    "trackio": LoggerWriter(log_sheet=_log_to_trackio, log_file=_save_in_trackio),
    "torch": _TENSORBOARD,
    "tensorboardX": _TENSORBOARD,
}
"""Package of a logger's ``experiment`` → how it takes tables and files."""
