"""Reads a script with a ``GRPOConfig`` and a ``GRPOTrainer``. It is parsed, never run."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from pathlib import Path

from lgrpo_lightning.commands.migration.recipe import Given, Recipe
from lgrpo_lightning.commands.migration.script import NotLiteralError, Script, called, keyword
from lgrpo_lightning.commands.migration.script_data import DataReader
from lgrpo_lightning.commands.migration.script_parts import environments, listed, pay, reads_environments
from lgrpo_lightning.errors import UserError

LORA = {
    "r": "lora_r",
    "lora_alpha": "lora_alpha",
    "lora_dropout": "lora_dropout",
    "target_modules": "lora_target_modules",
    "use_rslora": "use_rslora",
    "use_dora": "use_dora",
    "modules_to_save": "lora_modules_to_save",
}
PEFT = {"lora_r": 8, "lora_alpha": 8, "lora_dropout": 0.0}
"""peft's own defaults, which are not those of ``trl grpo``."""
NEEDED = ("model_name_or_path", "deepspeed", "fsdp")
"""Options for which TRL's default is never taken in place of what the script has."""
READ = (
    *("model", "reward_funcs", "args", "train_dataset", "eval_dataset", "peft_config"),
    *("tools", "environment_factory"),
)
"""Arguments of ``GRPOTrainer`` that are read; of the others there is only the name."""


@dataclass(kw_only=True)
class Options:
    """What the calls set.

    Attributes:
        given: The options that are literals.
        unread: The names of the others.
        remarks: What could not be read, and where.
    """

    given: dict[str, Given] = field(default_factory=dict)
    unread: set[str] = field(default_factory=set)
    remarks: list[str] = field(default_factory=list)


def read_python(path: Path) -> Recipe:
    """What the script asks for.

    Raises:
        ValueError: It is no Python, or has not one ``GRPOConfig(…)`` or ``GRPOTrainer(…)``.
    """
    script = Script(path)
    config, trainer = (_only(script, name) for name in ("GRPOConfig", "GRPOTrainer"))
    if config is None and trainer is None:
        raise UserError(
            f"{path}: no call of GRPOConfig or GRPOTrainer. Where the options come from the command line, write them "
            "as YAML, one a line, as for `trl grpo --config`, and import that."
        )
    found, data = Options(), DataReader(script)
    if config is not None:
        _read_arguments(script, config, found)
    if trainer is None:
        return Recipe(name=str(path), given=found.given, unread=found.unread, remarks=tuple(found.remarks))
    _read_trainer(script, trainer, found)
    if config is None and keyword(trainer, "args", 2) is not None:
        said = "args is no GRPOConfig(…) of this file; TRL's defaults are taken."
        found.remarks.append(f"{script.place(trainer)}: {said}")
    for name in reads_environments(script):
        said = "environments are not handed to rewards here; what it reads of them, get_reward of the environment"
        found.remarks.append(f"{name} ({script.place(script.functions[name])}): {said} returns.")
    return Recipe(
        name=str(path),
        given=found.given,
        unread=found.unread,
        rewards=listed(script, keyword(trainer, "reward_funcs", 1), "rewards"),
        tools=listed(script, keyword(trainer, "tools"), "tools"),
        environments=environments(script, made := keyword(trainer, "environment_factory"), found.remarks),
        environments_pay=pay(script, made),
        train=data.read(keyword(trainer, "train_dataset", 3)),
        evaluation=data.read(keyword(trainer, "eval_dataset", 4)),
        remarks=(*found.remarks, *dict.fromkeys(data.remarks)),
    )


def _only(script: Script, name: str) -> ast.Call | None:
    found = script.calls(name)
    if len(found) > 1:
        lines = ", ".join(str(call.lineno) for call in found)
        raise UserError(f"{script.path}, lines {lines}: {name} is called {len(found)} times; leave one.")
    return found[0] if found else None


def _read_arguments(script: Script, config: ast.Call, found: Options) -> None:
    """The arguments of ``GRPOConfig``, and what is assigned to attributes of it below."""
    first = [("output_dir", config.args[0])] if config.args else []
    pairs = [*first, *((k.arg or "**", k.value) for k in config.keywords)]
    names = [n for n, nodes in script.assigned.items() if any(node.value is config for node in nodes)]
    for node in ast.walk(script.tree):
        if not isinstance(node, ast.Assign) or not isinstance(target := node.targets[0], ast.Attribute):
            continue
        if isinstance(target.value, ast.Name) and target.value.id in names:
            pairs.append((target.attr, node.value))
    for name, value in pairs:
        _read(script, name, value, found)


def _read(script: Script, name: str, node: ast.expr, found: Options) -> None:
    """One option; one that is no literal is told."""
    try:
        found.given[name] = Given(value=script.value(node), place=script.place(node))
    except NotLiteralError as error:
        found.unread.add(name)
        taken = "" if name in NEEDED else ", and TRL's default is taken"
        found.remarks.append(f"{name} ({script.place(node)}): {error} is no literal{taken}; set it here.")


def _read_trainer(script: Script, trainer: ast.Call, found: Options) -> None:
    """The model, the adapter, and the names of what is not read."""
    model = keyword(trainer, "model", 0)
    assigned = script.latest(model.id, trainer.lineno) if isinstance(model, ast.Name) else None
    made = assigned.value if assigned is not None else model
    if isinstance(made, ast.Call) and called(made) == "from_pretrained" and made.args:
        found.remarks.append(f"{script.place(made)}: of from_pretrained only the name is read.")
        model = made.args[0]
    if model is not None:
        _read(script, "model_name_or_path", model, found)
    lora = keyword(trainer, "peft_config")
    if isinstance(lora, ast.Name) and (line := script.latest(lora.id, trainer.lineno)) is not None:
        lora = line.value
    if isinstance(lora, ast.Call) and called(lora) == "LoraConfig":
        found.given |= {
            n: Given(value=v, place=f"{script.place(lora)}, peft's default") for n, v in PEFT.items()
        }
        found.given["use_peft"] = Given(value=True, place=script.place(lora))
        for argument in lora.keywords:
            if argument.arg in LORA:
                _read(script, LORA[argument.arg], argument.value, found)
    elif lora is not None:
        found.unread.add("use_peft")
        found.remarks.append(
            f"peft_config ({script.place(lora)}): no LoraConfig(…) of this file; set it here."
        )
    for argument in trainer.keywords:
        if argument.arg not in READ:
            found.remarks.append(f"{argument.arg} of GRPOTrainer ({script.place(argument.value)}): not read.")
