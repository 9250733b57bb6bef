"""Two runs in one folder would overwrite each other."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from lgrpo_lightning.run_folder.lock import FolderLock
from lgrpo_lightning.trainer.rollout_callback import dry_run


class LockFolder(Callback):
    """Refuses a fit whose ``default_root_dir`` another run is writing into."""

    def __init__(self) -> None:
        self._lock = FolderLock()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take the folder, on rank 0.

        Raises:
            ValueError: Another run writes there.
        """
        if stage == "fit" and trainer.is_global_zero and not dry_run(trainer):
            self._lock.take(Path(trainer.default_root_dir))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let it go."""
        self._lock.release()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Let it go."""
        self._lock.release()
