"""Reads a script with a ``GRPOConfig`` and a ``GRPOTrainer``. It is parsed, never run."""

from __future__ import annotations

import ast
from pathlib import Path

from lgrpo_lightning.commands.migration.draft import Given, Recipe
from lgrpo_lightning.commands.migration.fields import DEFAULTS
from lgrpo_lightning.commands.migration.script import NotLiteralError, Script, get_argument, get_callee
from lgrpo_lightning.commands.migration.script_data import read_data
from lgrpo_lightning.commands.migration.script_parts import (
    find_environments,
    find_functions,
    may_reward,
    remark_environments,
)
from lgrpo_lightning.errors import UserError

PEFT = {"use_peft": True, "lora_r": 8, "lora_alpha": 8, "lora_dropout": 0.0}
"""peft's own defaults, which are not those of ``trl grpo``."""
NEEDED = ("model_name_or_path", "deepspeed", "fsdp")
"""Options for which TRL's default is never taken in place of what the script has."""
READ = (
    *("model", "reward_funcs", "args", "train_dataset", "eval_dataset", "peft_config"),
    *("tools", "environment_factory"),
)
"""Arguments of ``GRPOTrainer`` that are read; of the others there is only the name."""


class Options:
    """The options that a script sets.

    Attributes:
        given: Those that are literals.
        unread: The names of the others.
    """

    def __init__(self, script: Script) -> None:
        self.script = script
        self.given: dict[str, Given] = {}
        self.unread: set[str] = set()

    def read(self, name: str, node: ast.expr) -> None:
        """Take one; one that is no literal is told."""
        try:
            self.given[name] = Given(self.script.evaluate(node), self.script.place(node))
        except NotLiteralError as error:
            self.unread.add(name)
            taken = "" if name in NEEDED else ", and TRL's default is taken"
            self.script.remark(f"{name} ({{}}): {error} is no literal{taken}; set it here.", node)

    def read_config(self, config: ast.Call) -> None:
        """The arguments of ``GRPOConfig``, and what is assigned to attributes of it below."""
        for node in config.args[:1]:
            self.read("output_dir", node)
        for argument in config.keywords:
            self.read(argument.arg or "**", argument.value)
        for assignment in self.script.assignments:
            target = assignment.targets[0]
            if isinstance(target, ast.Attribute) and self.script.resolve(target.value) is config:
                self.read(target.attr, assignment.value)

    def read_trainer(self, trainer: ast.Call) -> None:
        """The model, the adapter, and the names of what is not read."""
        model = get_argument(trainer, "model", 0)
        made = self.script.resolve(model, trainer.lineno)
        if isinstance(made, ast.Call) and get_callee(made) == "from_pretrained" and made.args:
            self.script.remark("{}: of from_pretrained only the name is read.", made)
            model = made.args[0]
        if model is not None:
            self.read("model_name_or_path", model)
        lora = self.script.resolve(get_argument(trainer, "peft_config"), trainer.lineno)
        if isinstance(lora, ast.Call) and get_callee(lora) == "LoraConfig":
            place = f"{self.script.place(lora)}, peft's default"
            self.given |= {name: Given(value, place) for name, value in PEFT.items()}
            for argument in lora.keywords:
                name = argument.arg or "**"
                self.read(f"lora_{name}" if f"lora_{name}" in DEFAULTS else name, argument.value)
        elif lora is not None:
            self.unread.add("use_peft")
            self.script.remark("peft_config ({}): no LoraConfig(…) of this file; set it here.", lora)
        for argument in trainer.keywords:
            if argument.arg not in READ:
                self.script.remark(f"{argument.arg} of GRPOTrainer ({{}}): not read.", argument.value)


def read_python(path: Path) -> Recipe:
    """What the script asks for."""
    script = Script(path)
    config, trainer = script.find_call("GRPOConfig"), script.find_call("GRPOTrainer")
    if config is None and trainer is None:
        raise UserError(
            f"{path}: no call of GRPOConfig or GRPOTrainer. Where the options come from the command line, write them "
            "as YAML, one a line, as for `trl grpo --config`, and import that."
        )
    options = Options(script)
    if config is not None:
        options.read_config(config)
    if trainer is None:
        trainer = ast.Call(ast.Name("GRPOTrainer"), [], [], lineno=1)
    elif config is None and get_argument(trainer, "args", 2) is not None:
        script.remark("{}: args is no GRPOConfig(…) of this file; TRL's defaults are taken.", trainer)
    options.read_trainer(trainer)
    remark_environments(script)
    makers = get_argument(trainer, "environment_factory")
    rewards = find_functions(script, get_argument(trainer, "reward_funcs", 1), "rewards")
    tools = find_functions(script, get_argument(trainer, "tools"), "tools")
    environments = find_environments(script, makers)
    train = read_data(script, get_argument(trainer, "train_dataset", 3))
    evaluation = read_data(script, get_argument(trainer, "eval_dataset", 4))
    return Recipe(
        name=str(path),
        given=options.given,
        unread=options.unread,
        rewards=rewards,
        tools=tools,
        environments=environments,
        environments_reward=may_reward(script, makers),
        train=train,
        evaluation=evaluation,
        remarks=tuple(script.remarks),
    )
