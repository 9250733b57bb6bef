"""Writing a checkpoint on all ranks: beside, flushed to the disk and renamed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer

from lgrpo_lightning.checkpoints.checkpoint_file import put_in_place
from lgrpo_lightning.distributed.activity import doing
from lgrpo_lightning.run_folder.whole_files import explain_if_unwritable, make_folder


def write_checkpoint(
    trainer: Trainer,
    state: dict[str, Any],
    path: Path,
    *,
    put: Callable[[Path, Path], None] = put_in_place,
    wait: bool = True,
) -> None:
    """Write ``state`` to ``path``; whatever was there stays whole until that is done. Collective.

    Args:
        put: Called on rank 0 with what was written and ``path``, to put it there.
        wait: Whether all ranks are here.

    Raises:
        UnwritableError: With the reason; there is no room, say.
    """
    partial = path.with_name(f".{path.name}.part")
    doing(f"writing {path.name}", waits=True, saves=True)
    with explain_if_unwritable(path):
        make_folder(path.parent)
        trainer.strategy.save_checkpoint(state, str(partial))
    doing(f"waiting for {path.name}", waits=True)
    if wait:
        trainer.strategy.barrier(f"{path.name} written")
    if trainer.is_global_zero:
        put(partial, path)
    if wait:
        trainer.strategy.barrier(f"{path.name} renamed")
    doing("going on")
