"""What ``predict`` leaves on disk."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import Callback, LightningModule, Trainer

from lgrpo_lightning.callbacks.rollout_callback import is_dry_run
from lgrpo_lightning.distributed.ranks import find_data_rank
from lgrpo_lightning.distributed.terminal import say
from lgrpo_lightning.errors import UserError
from lgrpo_lightning.rollouts.names import set_aside, show_path
from lgrpo_lightning.rollouts.plain import to_json
from lgrpo_lightning.rollouts.whole_files import whole_file
from lgrpo_lightning.types import Rollout


class PredictionWriter(Callback):
    """Writes the completions and rewards of ``predict`` to one file, with the columns of the rollouts.

    The rows of all ranks are in it, batch after batch and within a batch rank after rank; the ranks hand
    theirs over as hidden files beside it, so the folder must be one that all of them see. A file that is
    there already is kept as ``<name>.old-<n>``. Nothing is written under ``fast_dev_run``.

    Args:
        format: "parquet" or "jsonl". In JSON lines ``columns`` and ``extras`` are objects, and NaN and infinities null.
        path: The file; None is ``<default_root_dir>/predictions.<format>``.
    """

    def __init__(self, format: Literal["parquet", "jsonl"] = "parquet", path: str | None = None) -> None:
        if format not in ("parquet", "jsonl"):
            raise UserError(f'PredictionWriter(format={format!r}) must be "parquet" or "jsonl".')
        self.format = format
        self.path = path
        self._tables: list[Any] = []

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._tables = []

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        from lgrpo_lightning.rollouts.rollout_rows import build_table

        if not isinstance(outputs, Rollout):
            raise UserError(
                "PredictionWriter writes what predict_step returns, a Rollout; "
                f"{type(pl_module).__name__}.predict_step returned {type(outputs).__name__}."
            )
        self._tables.append(build_table(outputs))

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if is_dry_run(trainer):
            return
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = Path(self.path or os.path.join(trainer.default_root_dir, f"predictions.{self.format}"))
        path.parent.mkdir(parents=True, exist_ok=True)
        data = find_data_rank(trainer)
        parts = [path.with_name(f".{path.name}.rank-{rank}.part") for rank in range(data.size)]
        if self._tables and data.first:
            pq.write_table(pa.concat_tables(self._tables, promote_options="default"), parts[data.rank])
        trainer.strategy.barrier("PredictionWriter: every rank has written")
        if trainer.is_global_zero and (written := [part for part in parts if part.exists()]):
            self._merge(trainer, [pq.read_table(part) for part in written], path)
            for part in written:
                part.unlink()
        trainer.strategy.barrier("PredictionWriter: merged")

    def _merge(self, trainer: Trainer, tables: list[Any], path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.concat_tables(tables, promote_options="default")
        table = table.take(pa.array(sorted(range(len(table)), key=table["rollout"].to_pylist().__getitem__)))
        with whole_file(path) as hidden:
            if self.format == "parquet":
                pq.write_table(table, hidden)
            else:
                hidden.write_text("".join(f"{line}\n" for line in write_json_lines(table)), encoding="utf-8")
            if path.exists():
                set_aside(path)
        say(trainer, f"{len(table)} completions are in {show_path(path)}.")


def write_json_lines(table: Any) -> Iterator[str]:
    """The rows of a ``build_table`` as JSON objects, one a line."""
    for row in table.to_pylist():
        yield to_json(row | {name: json.loads(row[name]) for name in ("columns", "extras")})
