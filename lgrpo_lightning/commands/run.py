"""``lgrpo fit|validate|test|predict``: LightningCLI over ``GRPOModule`` and ``PromptDataModule``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback

from lgrpo_lightning import registry
from lgrpo_lightning.callbacks import complete_trainer
from lgrpo_lightning.commands.messages import explained, report
from lgrpo_lightning.commands.quiet import quieten
from lgrpo_lightning.datamodule import PromptDataModule
from lgrpo_lightning.module import GRPOModule

TRAINER_DEFAULTS: dict[str, Any] = {
    "log_every_n_steps": 1,
    "num_sanity_val_steps": 0,
    "enable_model_summary": False,
    "max_epochs": -1,
    "check_val_every_n_epoch": None,
    "use_distributed_sampler": False,
}
"""Where a run of rollouts wants something else than Lightning's own defaults."""


class ArgumentParser(LightningArgumentParser):
    """Explains names that do not resolve and keys that do not exist."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print what is wrong and what is possible; exit with status 2."""
        keys = [action.dest for action in self._actions]
        print(f"lgrpo: {explained(str(ex) if ex else message, keys)}", file=sys.stderr)
        sys.exit(2)


class SaveRunConfig(SaveConfigCallback):
    """Writes ``config.yaml``, complete, into the run's folder; only a fit does."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write it before the first step."""
        if stage != "fit" or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        if trainer.is_global_zero:
            from pathlib import Path

            root = Path(trainer.default_root_dir)
            root.mkdir(parents=True, exist_ok=True)
            self.parser.save(
                self.config, str(root / "config.yaml"), skip_none=False, overwrite=True, multifile=False
            )


class RunCLI(LightningCLI):
    """The command line of a run."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Show the components a run gets by default."""
        parser.set_defaults(
            {
                "model.sampler": {"class_path": "TransformersSampler"},
                "model.segmenter": {"class_path": "TokenPrefixSegmenter"},
                "model.advantage_estimator": {"class_path": "LambdaGRPO"},
                "model.optimizer": {
                    "class_path": "torch.optim.AdamW",
                    "init_args": {"lr": 1e-6, "weight_decay": 0.0},
                },
            }
        )

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The trainer with what a run needs, before ``--ckpt_path last`` is looked up."""
        trainer: Trainer = super().instantiate_trainer(**kwargs)
        complete_trainer(trainer)
        return trainer

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """The parser that explains its errors."""
        kwargs.setdefault("dump_header", ["lgrpo_lightning"])
        parser = ArgumentParser(**kwargs)
        parser.add_argument("-c", "--config", action="config", help="Path to a configuration file (YAML).")
        return parser


def main(argv: Sequence[str]) -> int:
    """Parse ``argv`` (its first word is the subcommand) and run it."""
    quieten()
    try:
        registry.components()  # jsonargparse knows a component by its class name once it is imported
        RunCLI(
            GRPOModule,
            PromptDataModule,
            args=list(argv),
            save_config_callback=SaveRunConfig,
            seed_everything_default=0,
            trainer_defaults=TRAINER_DEFAULTS,
        )
    except Exception as error:
        return report(error)
    return 0
