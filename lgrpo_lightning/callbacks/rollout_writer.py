"""Every completion of a run, on disk."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import LightningModule, Trainer

from lgrpo_lightning.callbacks.rollout_callback import RolloutCallback, count_rollouts, is_dry_run
from lgrpo_lightning.distributed.ranks import find_data_rank
from lgrpo_lightning.distributed.terminal import say
from lgrpo_lightning.rollouts.names import ROLLOUT_FILE, ROLLOUTS, set_aside, show_path
from lgrpo_lightning.rollouts.whole_files import make_folder, whole_file
from lgrpo_lightning.types import Rollout


class RolloutWriter(RolloutCallback):
    """Writes each rollout to ``<default_root_dir>/rollouts/``, one Parquet file per rollout and rank.

    A file is written beside under a hidden name and renamed, so ``pandas.read_parquet("rollouts")`` works
    at any time, also while the run goes on; its columns are those of ``build_table``. It is written
    before the update, so the completions that made an update fail are there to be looked at.

    On resume the rollouts after the checkpoint are removed, as they are sampled again. A fresh run keeps the
    rollouts of an older one in ``rollouts.old-<n>``. Nothing is written under ``fast_dev_run``.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set an older run aside; remove what this one samples again, and files whose writing was cut off."""
        folder = Path(trainer.default_root_dir) / ROLLOUTS
        if trainer.is_global_zero and not is_dry_run(trainer):
            done = count_rollouts(pl_module)
            files = sorted(folder.iterdir()) if folder.is_dir() else []
            if done == 0 and any(ROLLOUT_FILE.fullmatch(file.name) for file in files):
                kept, files = set_aside(folder), []
                say(trainer, f"The rollouts of an older run are kept in {show_path(kept)}.")
            for file in files:
                match = ROLLOUT_FILE.fullmatch(file.name)
                if file.name.endswith(".parquet.part") or (match and int(match[1]) >= done):
                    file.unlink()
            make_folder(folder)
        trainer.strategy.barrier("RolloutWriter.on_train_start")

    def on_rollout_end(self, trainer: Trainer, pl_module: LightningModule, rollout: Rollout) -> None:
        data = find_data_rank(trainer)
        if is_dry_run(trainer) or not data.first:
            return
        import pyarrow.parquet as pq

        from lgrpo_lightning.rollouts.rollout_rows import build_table

        name = f"rollout-{rollout.index:06d}-rank-{data.rank:03d}.parquet"
        path = Path(trainer.default_root_dir) / ROLLOUTS / name
        with whole_file(path) as hidden:
            pq.write_table(build_table(rollout), hidden)
