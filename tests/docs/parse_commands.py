"""Runs as a process of its own: parses command lines and builds configurations, which come as JSON on stdin.

Each task is ``{"id", "folder", "argv"}`` or ``{"id", "folder", "config"}``; printed is ``{id: error or ""}``.
"""

from __future__ import annotations

import io
import json
import os
import sys
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

from lgrpo_lightning import cli
from lgrpo_lightning.commands import compare, export
from lgrpo_lightning.commands.messages import quieten
from lgrpo_lightning.commands.run import TRAINER_DEFAULTS, RunCLI
from lgrpo_lightning.datamodule import PromptDataModule
from lgrpo_lightning.module import GRPOModule
from lgrpo_lightning.registry import lookup


def parsed(argv: list[str]) -> int | str | None:
    """The exit status of ``lgrpo`` with these words; runs print their configuration, nothing else is done."""
    export.find_named_checkpoint = lambda name, folder: folder / (name or "last.ckpt")
    export.export_checkpoint = lambda *arguments, **options: None
    if argv[0] in ("tree", "doctor", "report", "init", "new-plugin", "import-trl") and "--help" not in argv:
        cli.import_command(argv[0]).build_parser().parse_args(argv[1:])
        return 0
    compare.Comparison.run = lambda self, runs: []
    compare.tune = lambda options, measure, comparison, configs: dict.fromkeys(configs, ())
    runs = argv[0] in ("fit", "validate", "test", "predict") and "--help" not in argv
    if argv[0] == "serve":
        return cli.main([*argv, "--dry_run"])
    return cli.main([*argv, "--print_config"] if runs else argv)


class BuildCLI(RunCLI):
    """Makes trainer, module and data module, and stops there."""

    def _run_subcommand(self, subcommand: str) -> None:
        pass


def built(config: str) -> None:
    """Make what a configuration describes."""
    BuildCLI(
        GRPOModule,
        PromptDataModule,
        args=["fit", "--config", config, "--trainer.accelerator=cpu"],
        save_config_callback=None,
        seed_everything_default=0,
        trainer_defaults=TRAINER_DEFAULTS,
    )


def outcome(task: dict[str, Any]) -> str:
    """Empty where all went well, else what was said."""
    os.chdir(task["folder"])
    said = io.StringIO()
    try:
        with redirect_stderr(said), redirect_stdout(io.StringIO()):
            status = built(task["config"]) if "config" in task else parsed(task["argv"])
    except SystemExit as stop:
        status = stop.code
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return f"status {status}: {said.getvalue()}" if status else ""


if __name__ == "__main__":
    quieten()
    lookup.components()
    print(json.dumps({task["id"]: outcome(task) for task in json.load(sys.stdin)}))
