"""The parser of a run's configuration files and flags, and the first page of its help."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import ActionConfigFile, Namespace, get_loader
from lightning.pytorch.cli import LightningArgumentParser

from lgrpo_lightning.commands.explanations import KINDS
from lgrpo_lightning.registry import lookup

PAGE = """lgrpo {command} --config FILE [--KEY=VALUE ...]

  lgrpo {command} --config configs/quickstart.yaml
  ... --trainer.max_steps=50 --model.sampling.temperature=0.7   any key below, over the file
  ... --model.advantage_estimator=GRPO                          a component by its name
  ... --print_config                                            the whole configuration, and nothing is run

  --model.advantage_estimator.help         the components that can stand there (every key of a component has this)
  --model.advantage_estimator.help GRPO    the options of one

Keys that are set most often:
  data.train, data.prompts_per_step        prompts, and how many of them a rollout has
  model.policy.path                        the model
  model.group_size, model.sampling         completions of a prompt, and how they are drawn
  model.reward_model                       what they are worth
  model.advantage_estimator                the algorithm
  model.optimizer.lr, model.updates        the optimizer steps
  trainer.max_steps                        how many of them
  trainer.default_root_dir                 the folder of the run

All keys, those of the trainer first:"""
"""What ``lgrpo fit``, ``validate``, ``test`` and ``predict`` say first of their options."""


class RefusedError(Exception):
    """The parser does not understand the configuration."""


class ArgumentParser(LightningArgumentParser):
    """Leaves its errors to ``RunCLI``, and takes a path of the data for data, never for more configuration."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise what is wrong."""
        raise RefusedError(str(ex) if ex else message) from ex

    def add_class_arguments(self, theclass: type, nested_key: str | None = None, **options: Any) -> Any:
        """Add the options of a class; a file of prompts that exists must not be read as YAML."""
        if nested_key == "data":
            options["sub_configs"] = False
        return super().add_class_arguments(theclass, nested_key, **options)


class ConfigFile(ActionConfigFile):  # type: ignore[misc]
    """``--config``: a list in a file stands for itself, with nothing of what an earlier file had in its place."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: Any = None) -> None:
        """Read it on top of the files before."""
        path = Path(str(values)).expanduser()
        given = get_loader("yaml")(path.read_text(encoding="utf-8") if path.is_file() else str(values))
        if isinstance(given, dict):
            _remove_lists(cfg, given)  # jsonargparse would give the items of both lists each other's options
        super().__call__(parser, cfg, values, option_string)


def _remove_lists(before: Namespace, given: dict[str, Any]) -> None:
    """Take out of ``before`` what ``given`` has a list for."""
    for key, value in given.items():
        if isinstance(value, list):
            before.pop(key, None)
        elif isinstance(value, dict) and isinstance(inner := before.get(key), Namespace):
            _remove_lists(inner, value)


def list_components(word: str) -> bool:
    """Whether ``word`` asks what can stand under the key of a component, as ``--model.loss.help``; printed then."""
    key = word.removeprefix("--").removesuffix(".help")
    if not word.endswith(".help") or key not in KINDS:
        return False
    for component in sorted(lookup.components().values(), key=lambda c: c.name):
        if component.kind == KINDS[key]:
            print(f"  {component.name:<26} {component.summary}")
    print(f"--{key}.help NAME shows the options of one.")
    return True
