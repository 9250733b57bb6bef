"""Reads a script with a ``GRPOConfig`` and a ``GRPOTrainer``. It is parsed, never run."""

from __future__ import annotations

import ast
from pathlib import Path

from lgrpo_lightning.commands.migration.draft import Given, Recipe
from lgrpo_lightning.commands.migration.fields import DEFAULTS
from lgrpo_lightning.commands.migration.script import Script, get_argument, get_callee
from lgrpo_lightning.commands.migration.script_data import read_data
from lgrpo_lightning.commands.migration.script_parts import find_environments, find_functions, remark_environments
from lgrpo_lightning.errors import UserError

PEFT = {"use_peft": True, "lora_r": 8, "lora_alpha": 8, "lora_dropout": 0.0}
"""peft's own defaults, which are not those of ``trl grpo``."""
OF_EVERY_ADAPTER = ("task_type", "inference_mode")
"""Arguments of ``LoraConfig`` that are the same in every training."""
READ = (
    *("model", "reward_funcs", "args", "train_dataset", "eval_dataset", "peft_config"),
    *("tools", "environment_factory"),
)
"""Arguments of ``GRPOTrainer`` that are read; of the others there is only the name."""


def read_python(path: Path) -> Recipe:
    """What the script asks for."""
    script = Script(path)
    config, trainer = script.find_call("GRPOConfig"), script.find_call("GRPOTrainer")
    if config is None and trainer is None:
        raise UserError(
            f"{path}: no call of GRPOConfig or GRPOTrainer. Where the options come from the command line, write them "
            "as YAML, one a line, as for `trl grpo --config`, and import that."
        )
    if config is not None:
        _read_config(script, config)
    if trainer is None:
        trainer = ast.Call(ast.Name("GRPOTrainer"), [], [], lineno=1)
    elif config is None and get_argument(trainer, "args", 2) is not None:
        script.remark("{}: args is no GRPOConfig(…) of this file; TRL's defaults are taken.", trainer)
    _read_trainer(script, trainer)
    remark_environments(script)
    rewards = find_functions(script, get_argument(trainer, "reward_funcs", 1), "rewards")
    tools = find_functions(script, get_argument(trainer, "tools"), "tools")
    environments, environments_reward = find_environments(script, get_argument(trainer, "environment_factory"))
    train = read_data(script, get_argument(trainer, "train_dataset", 3))
    evaluation = read_data(script, get_argument(trainer, "eval_dataset", 4))
    return Recipe(
        name=str(path),
        given=script.given,
        unread=script.unread,
        rewards=rewards,
        tools=tools,
        environments=environments,
        environments_reward=environments_reward,
        train=train,
        evaluation=evaluation,
        remarks=tuple(script.remarks),
    )


def _read_config(script: Script, config: ast.Call) -> None:
    """The arguments of ``GRPOConfig``, and what is assigned to attributes of it below."""
    for node in config.args[:1]:
        script.read("output_dir", node)
    for argument in config.keywords:
        script.read(argument.arg or "**", argument.value)
    for assignment in script.assignments:
        target = assignment.targets[0]
        if isinstance(target, ast.Attribute) and script.resolve(target.value) is config:
            script.read(target.attr, assignment.value)


def _read_trainer(script: Script, trainer: ast.Call) -> None:
    """The model, the adapter, and the names of what is not read."""
    model = get_argument(trainer, "model", 0)
    made = script.resolve(model, trainer.lineno)
    if isinstance(made, ast.Call) and get_callee(made) == "from_pretrained" and made.args:
        script.remark("{}: of from_pretrained only the name is read.", made)
        model = made.args[0]
    if model is not None:
        script.read("model_name_or_path", model)
    lora = script.resolve(get_argument(trainer, "peft_config"), trainer.lineno)
    if isinstance(lora, ast.Call) and get_callee(lora) == "LoraConfig":
        place = f"{script.place(lora)}, peft's default"
        script.given |= {name: Given(value, place) for name, value in PEFT.items()}
        for argument in lora.keywords:
            name = argument.arg or "**"
            if name not in OF_EVERY_ADAPTER and ast.unparse(argument) != "bias='none'":
                script.read(f"lora_{name}" if f"lora_{name}" in DEFAULTS else name, argument.value)
    elif lora is not None:
        script.unread.add("use_peft")
        script.remark("peft_config ({}): no LoraConfig(…) of this file; set it here.", lora)
    for argument in trainer.keywords:
        if argument.arg not in READ:
            script.remark(f"{argument.arg} of GRPOTrainer ({{}}): not read.", argument.value)
