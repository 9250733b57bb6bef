"""``lgrpo fit|validate|test|predict``: LightningCLI over ``GRPOModule`` and ``PromptDataModule``."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback

from lgrpo_lightning.callbacks import complete_trainer
from lgrpo_lightning.checkpoints.lookup import find_checkpoint_folder, find_named_checkpoint, list_checkpoints
from lgrpo_lightning.commands.checks import check_numbers, limit_imports, refuse_calls
from lgrpo_lightning.commands.entries import START, Entry, read_entries
from lgrpo_lightning.commands.explanations import explain, explain_maker
from lgrpo_lightning.commands.messages import lasting_output, quieten, report
from lgrpo_lightning.commands.parser import PAGE, ArgumentParser, ConfigFile, RefusedError, list_components
from lgrpo_lightning.commands.resume import KEYWORDS, resume_under_slurm, tell_changes
from lgrpo_lightning.commands.yaml_text import use_yaml_text
from lgrpo_lightning.datamodule import PromptDataModule
from lgrpo_lightning.distributed.component_call import keep_directory
from lgrpo_lightning.distributed.interruption import PEER_LOST, explain_lost_peer
from lgrpo_lightning.errors import MissingPackageError, NotFoundError, UserError
from lgrpo_lightning.module import GRPOModule
from lgrpo_lightning.registry import lookup
from lgrpo_lightning.registry.import_path import search_working_directory
from lgrpo_lightning.rollouts.names import CONFIG
from lgrpo_lightning.rollouts.whole_files import write_whole
from lgrpo_lightning.training import settings

TRAINER_DEFAULTS: dict[str, Any] = {
    "log_every_n_steps": 1,
    "num_sanity_val_steps": 0,
    "enable_model_summary": False,
    "max_epochs": -1,
    "check_val_every_n_epoch": None,  # val_check_interval counts rollouts across epochs then
    "use_distributed_sampler": False,  # the data module divides the prompts over the ranks itself
}
"""Where a run of rollouts wants something else than Lightning's own defaults."""


COMPONENTS = {
    "model.sampler": "TransformersSampler",
    "model.segmenter": "TokenPrefixSegmenter",
    "model.advantage_estimator": "LambdaGRPO",
    "model.loss": "ClippedSurrogate",
    "model.optimizer": "torch.optim.AdamW",
}
"""The components a run gets by default; named here so that ``config.yaml`` and ``--help`` show them."""


class SaveRunConfig(SaveConfigCallback):
    """Writes ``config.yaml``, complete, into the run's folder; only a fit does, once nothing refuses it."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Nothing yet: the checkpoint that the run resumes from may not fit."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write it before the first step."""
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            text = self.parser.dump(complete_path(self.config), skip_none=False)
            write_whole(Path(trainer.default_root_dir) / CONFIG, text, private=True)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Have it beside the checkpoint, where somebody removed it."""
        if not (Path(trainer.default_root_dir) / CONFIG).exists():
            self.on_train_start(trainer, pl_module)


def complete_path(config: Any) -> Any:
    """A configuration as it is written down: the run may be read from another folder."""
    config = config.clone()
    if os.path.isdir(path := config.model.policy.path):
        config.model.policy.path = os.path.abspath(path)
    return config


class RunCLI(LightningCLI):
    """The command line of a run."""

    def __init__(self, module: type, data: type, *, args: list[str], **options: Any) -> None:
        possible = self.subcommands()
        if args and args[0] in possible:  # the options of all four would take a second more
            self.subcommands = lambda: {args[0]: possible[args[0]]}  # type: ignore[method-assign]
            options["parser_kwargs"] = {args[0]: {"usage": PAGE.format(command=args[0])}}
        super().__init__(module, data, args=args, **options)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Show the components a run gets by default."""
        defaults: dict[str, Any] = {key: {"class_path": name} for key, name in COMPONENTS.items()}
        defaults["model.optimizer"]["init_args"] = {"lr": 1e-6, "weight_decay": 0.0}
        parser.set_defaults(defaults)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, or say what is wrong, where, and what is possible."""
        defaults = [Entry(key=key, value=name, place="") for key, name in COMPONENTS.items()]
        if list_components(args[-1]):
            raise ParserExit(0)
        if len(args) == 1:
            raise UserError(f"lgrpo {args[0]} needs a configuration: --config FILE. {START}")
        use_yaml_text()
        written = self._written = defaults + read_entries(args[1:])
        limit_imports(written)  # before the parser, which imports what values name
        try:
            super().parse_arguments(parser, args)
        except SystemExit as done:
            raise ParserExit(done.code) from done
        except RefusedError as refused:
            command: Any = self._subcommand_parsers.get(args[0], parser)
            keys = [action.dest for action in command._actions if not action.dest.endswith("help")]
            raise UserError(explain(str(refused), written, keys)) from refused
        command_options = self.config[self.config.subcommand]
        options = command_options.as_dict()
        refuse_calls(options, written)
        check_numbers(options, written)
        if args[0] == "fit":
            resume_under_slurm(command_options)
        root = command_options.trainer.default_root_dir
        folder = find_checkpoint_folder(command_options.trainer)
        command_options["ckpt_path"] = find_checkpoint(command_options.get("ckpt_path"), folder)
        if args[0] == "fit" and command_options.get("ckpt_path"):
            shown = self._parser("fit").dump(complete_path(command_options), skip_none=False)
            tell_changes(command_options.ckpt_path, root, shown)

    def _parse_ckpt_path(self) -> None:
        """Nothing: a run's checkpoint holds no options, and Lightning would read all of it to look for some."""

    def instantiate_classes(self) -> None:
        """Make the components and the trainer; none of them moves the run to another directory."""
        with keep_directory():
            try:
                super().instantiate_classes()
            except (ImportError, ValueError) as error:
                cause: BaseException = error
                while cause.__cause__ is not None:  # the parser wraps it
                    cause = cause.__cause__
                if isinstance(cause, ImportError):
                    raise MissingPackageError(f"{explain_maker(cause, self._written)}{cause}") from error
                raise

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The trainer with what a run needs, before ``--ckpt_path last`` is looked up."""
        options = self._get(self.config_init, "trainer")
        settings.check_machine(*map(options.get, ("strategy", "accelerator", "precision", "devices")))
        try:
            trainer: Trainer = super().instantiate_trainer(**kwargs)
        except (ValueError, TypeError, MisconfigurationException) as error:
            raise UserError(f"The Trainer refuses its options (trainer.*): {error}") from error
        if options.overfit_batches and not options.fast_dev_run and options.limit_val_batches is not None:
            trainer.limit_val_batches = options.limit_val_batches  # else Lightning takes overfit_batches
        complete_trainer(trainer)  # here: before a process group or the model starts threads
        return trainer

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """The parser that explains its errors."""
        kwargs.setdefault("dump_header", ["lgrpo_lightning"])
        kwargs["allow_abbrev"] = False  # half a name is a mistake, not a guess
        parser = ArgumentParser(**kwargs)
        parser.add_argument("-c", "--config", action=ConfigFile, help="Path to a configuration file (YAML).")
        return parser


def find_checkpoint(path: str | None, folder: Path) -> str | None:
    """The checkpoint of ``--ckpt_path``; a bare name is one of the run's."""
    if path is None or path in KEYWORDS or "://" in path:
        return path
    if path == "best" and not Path(path).exists():
        raise UserError(f"--ckpt_path best: name the file that BestCheckpoint wrote. {list_checkpoints(folder)}.")
    try:
        return str(find_named_checkpoint(path, folder))
    except FileNotFoundError as error:
        said = str(error)
        raise NotFoundError(
            f"--ckpt_path: {said[0].lower()}{said[1:]} `--ckpt_path last` takes the last one."
        ) from error


class ParserExit(SystemExit):
    """The parser is done: it has shown its help."""


@lasting_output()
def main(argv: Sequence[str]) -> int:
    """Parse ``argv`` (its first word is the subcommand) and run it."""
    quieten()
    search_working_directory()  # a component of one's own goes by its import path
    try:
        lookup.components()  # jsonargparse knows a component by its class name once it is imported
        RunCLI(
            GRPOModule,
            PromptDataModule,
            args=list(argv),
            save_config_callback=SaveRunConfig,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            trainer_defaults=TRAINER_DEFAULTS,
        )
    except SystemExit as error:
        if type(error) is not SystemExit:  # a stop in good order, or the parser's
            raise
        traceback.print_exception(error)
        print(f"lgrpo: Something called sys.exit({error.code!r}) before the run was over.", file=sys.stderr)
        return error.code if isinstance(error.code, int) and error.code else 1
    except Exception as error:
        if not explain_lost_peer():
            return report(error)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(PEER_LOST)  # at an ordinary exit torch may wait for the process that is gone
    return 0
