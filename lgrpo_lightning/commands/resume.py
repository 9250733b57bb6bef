"""Before a run goes on: what differs from the run that wrote the checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lightning_utilities.core.rank_zero import rank_zero_only

from lgrpo_lightning.checkpoints.checkpoint_file import CheckpointFile
from lgrpo_lightning.checkpoints.lookup import find_checkpoint_folder
from lgrpo_lightning.commands.yaml_text import load
from lgrpo_lightning.distributed.slurm import count_restarts
from lgrpo_lightning.errors import UserError
from lgrpo_lightning.rollouts.names import CONFIG, show_path
from lgrpo_lightning.rollouts.reading import mask_secrets
from lgrpo_lightning.training.optimizers import TAKEN_OVER

KEYWORDS = ("last", "hpc")
"""What ``--ckpt_path`` may be beside a path."""
FREE = ("ckpt_path", "config", "trainer.default_root_dir", "trainer.max_steps", "trainer.max_epochs")
"""Keys that a resumed run is expected to change."""
OPTIMIZER = "model.optimizer."
"""Without the old value of its keys the checkpoint's state means nothing, but for ``TAKEN_OVER``."""


def resume_under_slurm(options: Any) -> None:
    """Have a job that SLURM started again resume from its last checkpoint, where none is named."""
    restarted = options.get("ckpt_path") is None and count_restarts() > 0
    if restarted and CheckpointFile(find_checkpoint_folder(options.trainer)).find_newest():
        options["ckpt_path"] = "last"
        _say(f"SLURM started this job again (SLURM_RESTART_COUNT={count_restarts()}): resuming with --ckpt_path last.")


def tell_changes(ckpt_path: str, root: str | None, configuration: str) -> None:
    """Say in which keys this run, of a ``configuration`` in YAML, differs from the one that wrote the checkpoint."""
    folder = Path(root or ".") if ckpt_path in KEYWORDS else Path(ckpt_path).resolve().parent.parent
    if not (folder / CONFIG).is_file():
        return
    written = load((folder / CONFIG).read_text(encoding="utf-8"))
    if not isinstance(written, Mapping):
        _say(f"{show_path(folder / CONFIG)} holds no configuration: what this run changes cannot be told.")
        return
    before, now = dict(flatten(written)), dict(flatten(load(configuration)))
    changed = {
        key: (before.get(key), now.get(key))
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key) and key not in FREE
    }
    for key, (was, given) in changed.items():
        if key.startswith(OPTIMIZER) and key.rpartition(".")[2] not in TAKEN_OVER:
            raise UserError(
                f"{key} is {given}, but the checkpoint has the state of {was}. Set it as it was, or start without "
                "--ckpt_path in another trainer.default_root_dir."
            )
    if changed:
        lines = [f"  {k}: {mask_secrets(was, k)} -> {mask_secrets(given, k)}" for k, (was, given) in changed.items()]
        _say("\n".join([f"Going on with another configuration than {show_path(folder / CONFIG)}:", *lines]))


def flatten(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of every leaf."""
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from flatten(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        for i, item in enumerate(value):
            yield from flatten(item, f"{key}[{i}]")
    else:
        yield key, value


@rank_zero_only  # type: ignore[untyped-decorator,unused-ignore]
def _say(text: str) -> None:
    print(text, flush=True)
