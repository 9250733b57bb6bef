"""Checkpoints of the best validations."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import LightningModule, Trainer

from lgrpo_lightning.callbacks.rollout_callback import count_rollouts, is_dry_run
from lgrpo_lightning.callbacks.rollout_state import RolloutState, check_monitored, is_fitting
from lgrpo_lightning.distributed.terminal import say
from lgrpo_lightning.errors import UserError, require
from lgrpo_lightning.rollouts.names import show_path

Kept = tuple[str, float, int]
"""File name, score and rollouts done."""


class BestCheckpoint(RolloutState):
    """Keeps the state at the best validations: ``best.ckpt``, from which a run resumes exactly.

    It is written at the end of a validation whose score is better than those kept; of equal scores the first stays.
    The validation before the first rollout counts too. What is kept is remembered in every checkpoint. With
    ``save_top_k`` above 1 the files are ``best-rollout-<n>.ckpt``.

    Args:
        monitor: The validation metric, such as ``val/avg@k`` or, of one set, ``val/hard/accuracy``.
        mode: "max" where more is better, else "min".
        save_top_k: How many are kept; -1 keeps every validation's.
        filename: Beginning of the file names. A second ``BestCheckpoint`` needs another.
        dirpath: The folder; null is ``<default_root_dir>/checkpoints``.
    """

    def __init__(
        self,
        monitor: str = "val/avg@k",
        mode: Literal["max", "min"] = "max",
        save_top_k: int = 1,
        filename: str = "best",
        dirpath: str | None = None,
    ) -> None:
        super().__init__(dirpath)
        possible = filename and Path(filename).name == filename and filename != "last"
        require(
            "BestCheckpoint: ",
            locals(),
            (mode in ("max", "min"), "mode", "'max' or 'min'"),
            (save_top_k >= 1 or save_top_k == -1, "save_top_k", "at least 1, or -1 for all"),
            (bool(possible), "filename", "a file name, and not 'last'"),
        )
        self.monitor, self.mode, self.save_top_k, self.filename = monitor, mode, save_top_k, filename
        self.kept: list[Kept] = []  # the best first
        self._before: Any = None  # the metric as it was before the validation that runs

    @property
    def state_key(self) -> str:
        """Its own state for each metric and file."""
        return f"{type(self).__name__}:{self.monitor}:{self.mode}:{self.filename}"

    @property
    def best_score(self) -> float | None:
        """The best score kept."""
        return self.kept[0][1] if self.kept else None

    def list_files(self, folder: Path) -> list[Path]:
        named = folder / f"{self.filename}.ckpt"
        return [*([named] if named.exists() else []), *sorted(folder.glob(f"{self.filename}-rollout-*.ckpt"))]

    def begin(self, trainer: Trainer) -> None:
        """Forget files that are gone."""
        folder = self.get_folder(trainer)
        if gone := [name for name, _, _ in self.kept if not (folder / name).exists()]:
            say(trainer, f"BestCheckpoint: {', '.join(gone)} is no longer in {show_path(folder)}, and forgotten.")
        self.kept = [kept for kept in self.kept if kept[0] not in gone]
        self._name_best(folder)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a metric that the module is known not to log, and a second one that writes the same file."""
        if is_dry_run(trainer):
            return
        if known := getattr(pl_module, "validation_metrics", ()):
            check_monitored(self, known)
        for other in trainer.callbacks:  # type: ignore[attr-defined]
            same = isinstance(other, BestCheckpoint) and other.filename == self.filename
            if same and other is not self and other.get_folder(trainer) == self.get_folder(trainer):
                raise UserError(
                    f"Two BestCheckpoint ({self.monitor}, {other.monitor}) would both write {self.filename}.ckpt; "
                    "give one of them another filename."
                )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a run that validates nothing."""
        if is_dry_run(trainer):
            return
        options: Any = trainer
        if not (options.limit_val_batches and trainer.enable_validation and sum(trainer.num_val_batches)):
            off = not options.limit_val_batches
            reason = "trainer.limit_val_batches is 0" if off else "there is no validation set"
            raise UserError(
                f"BestCheckpoint monitors {self.monitor!r}, but {reason}, so that nothing is ever measured. Set "
                "data.validation, or use RolloutCheckpoint, which needs none."
            )
        super().on_train_start(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember the old value, which Lightning keeps where none comes."""
        self._before = trainer.callback_metrics.get(self.monitor)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not is_fitting(trainer):
            return
        self._begin(trainer, pl_module)
        self._held.renew(trainer, count_rollouts(pl_module))
        score = self._read_score(trainer, pl_module)
        if not math.isnan(score):
            self._keep(trainer, pl_module, score)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self.kept and not is_dry_run(trainer):
            say(
                trainer,
                f"BestCheckpoint: no validation measured {self.monitor!r}, so nothing was kept. Set "
                "model.validation.at_end, or trainer.val_check_interval to fewer rollouts.",
            )

    def state_dict(self) -> dict[str, Any]:
        return {"kept": [list(kept) for kept in self.kept]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.kept = [(name, score, rollouts) for name, score, rollouts in state_dict["kept"]]

    def _read_score(self, trainer: Trainer, pl_module: LightningModule) -> float:
        """The score just measured, the same on every rank; NaN where there is none."""
        metrics = trainer.callback_metrics
        if self.monitor not in metrics and not getattr(pl_module, "validation_metrics", ()):
            check_monitored(self, [name for name in metrics if name != "step"])
        value = metrics.get(self.monitor)
        # Lightning keeps the tensor of the validation before where this one logged nothing
        score = math.nan if value is None or value is self._before else float(value)
        return float(trainer.strategy.broadcast(score))

    def _keep(self, trainer: Trainer, pl_module: LightningModule, score: float) -> None:
        """Write the state if it is among the best, with itself among them in it; then remove what it displaces."""
        rollouts = count_rollouts(pl_module)
        name = f"{self.filename}{'' if self.save_top_k == 1 else f'-rollout-{rollouts:06d}'}.ckpt"
        new = (name, score, rollouts)
        others = [kept for kept in self.kept if kept[2] != rollouts]  # this rollout may be measured a second time
        # stable: of equal scores the first stays
        ranked = sorted([*others, new], key=lambda kept: -kept[1] if self.mode == "max" else kept[1])
        most = len(ranked) if self.save_top_k == -1 else self.save_top_k
        if new not in ranked[:most]:
            return
        self.kept = ranked[:most]
        folder = self.get_folder(trainer)
        self._name_best(folder)
        self._write(trainer, pl_module, folder / name)
        for old, _, _ in ranked[most:]:
            if old != name:
                trainer.strategy.remove_checkpoint(str(folder / old))
        if self.kept[0] is new:
            say(trainer, f"Best {self.monitor} so far, {score:.4g}, is in {show_path(folder / name)}.")

    def _name_best(self, folder: Path) -> None:
        self.best_model_path = str(folder / self.kept[0][0]) if self.kept else ""
