"""Old import paths of modules that have moved: they lead to the new ones, with a ``DeprecationWarning``."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

ROOT = "lgrpo_lightning"

MOVED: Mapping[str, str] = {
    "activity": "processes.activity",
    "hookspecs": "plugins.hookspecs",
    "interruption": "processes.interruption",
    "loggers": "records.metrics_csv",
    "plugin_loading": "plugins.loading",
    "registry": "plugins.registry",
    "whole_files": "run_folder.whole_files",
    "callbacks.alarm_rules": "diagnosis.rules",
    "callbacks.alarms": "display.alarms",
    "callbacks.best_checkpoint": "checkpoints.best_checkpoint",
    "callbacks.checkpoint_check": "checkpoints.checkpoint_check",
    "callbacks.checkpoint_file": "checkpoints.checkpoint_file",
    "callbacks.checkpoint_io": "checkpoints.checkpoint_io",
    "callbacks.completion_table": "display.completion_table",
    "callbacks.export_model": "checkpoints.export_model",
    "callbacks.held_state": "checkpoints.held_state",
    "callbacks.last_checkpoint": "checkpoints.last_checkpoint",
    "callbacks.metrics_file": "records.metric_series",
    "callbacks.prediction_writer": "records.prediction_writer",
    "callbacks.progress": "display.progress",
    "callbacks.rank_watch": "processes.rank_watch",
    "callbacks.reward_plot": "display.reward_plot",
    "callbacks.rollout_callback": "trainer.rollout_callback",
    "callbacks.rollout_checkpoint": "checkpoints.rollout_checkpoint",
    "callbacks.rollout_rows": "records.rollout_rows",
    "callbacks.rollout_state": "checkpoints.rollout_state",
    "callbacks.rollout_window": "diagnosis.window",
    "display.alarm_rules": "diagnosis.rules",
    "display.rollout_window": "diagnosis.window",
    "callbacks.rollout_writer": "records.rollout_writer",
    "callbacks.run_summary": "display.run_summary",
    "callbacks.slurm": "processes.slurm",
    "callbacks.stop_signals": "processes.stop_signals",
    "callbacks.terminal": "trainer.terminal",
    "callbacks.validate_at_ends": "training.validate_at_ends",
    "training.checkpoint_io": "strategies.sharded_checkpoint",
    "training.fsdp2": "strategies.fsdp2",
    "training.parallel": "strategies.ranks",
    "training.precision": "strategies.precision",
    "training.report": "processes.report",
    "training.resume": "checkpoints.resume",
    "training.state": "checkpoints.state",
    "training.stopping": "processes.stopping",
    "training.watch": "processes.watch",
    "policy.sharding": "strategies.sharding",
    "policy.tensor_parallel": "strategies.tensor_parallel",
    "rewards.import_path": "import_path",
    "rewards.worker_thread": "worker_thread",
    "samplers.vllm_check": "samplers.vllm.check",
    "samplers.vllm_engine": "samplers.vllm.engine",
    "samplers.vllm_feed": "samplers.vllm.feed",
    "samplers.vllm_http": "samplers.vllm.http",
    "samplers.vllm_install": "samplers.vllm.install",
    "samplers.vllm_isolation": "samplers.vllm.isolation",
    "samplers.vllm_lora": "samplers.vllm.lora",
    "samplers.vllm_options": "samplers.vllm.options",
    "samplers.vllm_server": "samplers.vllm.server",
    "samplers.vllm_transport": "samplers.vllm.transport",
    "samplers.vllm_weights": "samplers.vllm.weights",
    "samplers.vllm_worker": "samplers.vllm.worker",
}
"""Old module → new one, below the package."""


class MovedModules(MetaPathFinder, Loader):
    """Imports a moved module under its old name: the same objects, so that ``isinstance`` agrees."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """A spec where the name is an old one; None for all others."""
        old = fullname.removeprefix(f"{ROOT}.")
        return ModuleSpec(fullname, self) if old in MOVED and old != fullname else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """A module of the old name with everything that the new one has."""
        new = f"{ROOT}.{MOVED[spec.name.removeprefix(f'{ROOT}.')]}"
        warnings.warn(f"{spec.name} is {new} now.", DeprecationWarning, stacklevel=2)
        made, there = ModuleType(spec.name), import_module(new)
        vars(made).update({k: v for k, v in vars(there).items() if not k.startswith("__") or k == "__doc__"})
        return made

    def exec_module(self, module: ModuleType) -> None:
        """Nothing: it is complete."""


def install() -> None:
    """Have the old names found, after all else was looked through."""
    if not any(isinstance(finder, MovedModules) for finder in sys.meta_path):
        sys.meta_path.append(MovedModules())
