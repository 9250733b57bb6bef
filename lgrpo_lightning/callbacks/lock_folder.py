"""Two runs in one folder would overwrite each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from lgrpo_lightning.callbacks.rollout_callback import is_dry_run
from lgrpo_lightning.distributed.ranks import gather
from lgrpo_lightning.distributed.terminal import say
from lgrpo_lightning.rollouts.lock import FolderLock, is_taken_by
from lgrpo_lightning.rollouts.names import show_path
from lgrpo_lightning.rollouts.whole_files import make_folder


class LockFolder(Callback):
    """Refuses a fit whose ``default_root_dir`` another run is writing into; says where its machines do not share it."""

    def __init__(self) -> None:
        self._lock = FolderLock()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit" or is_dry_run(trainer):
            return
        root = Path(trainer.default_root_dir)
        if trainer.is_global_zero:
            self._lock.take(root)
        holder = trainer.strategy.broadcast(self._lock.holder)
        shared = gather(trainer, trainer.is_global_zero or not holder or is_taken_by(root, holder))
        if apart := [str(rank) for rank, same in enumerate(shared) if not same]:
            say(
                trainer,
                f"{show_path(root)} (trainer.default_root_dir) is another folder for rank {', '.join(apart)} than for "
                "rank 0. The rollouts of these ranks stay on their machines, and the run cannot be resumed: they do "
                "not see its checkpoints. Use a folder that all machines share.",
            )

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        """Take it again where somebody removed or moved it."""
        if self._lock.is_lost():
            root = Path(trainer.default_root_dir)
            self._lock.release()
            self._lock.take(root)
            for logger in trainer.loggers:
                if isinstance(logger, TensorBoardLogger):  # its thread would fail, and the run with it
                    make_folder(Path(logger.log_dir))
            say(
                trainer,
                f"{show_path(root)} was removed, moved or emptied (trainer.default_root_dir). The run goes on there: "
                "what it wrote before is missing, what it writes from now on, checkpoints among it, is not.",
            )

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._lock.release()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._lock.release()
