"""The functions and classes that a script hands to ``GRPOTrainer``: rewards, tools, environments."""

from __future__ import annotations

import ast
import re

from lgrpo_lightning.commands.migration.draft import Imported
from lgrpo_lightning.commands.migration.script import Script


def find_functions(script: Script, node: ast.expr | None, kind: str) -> tuple[Imported, ...]:
    """What a list of functions, or one function, names.

    Args:
        kind: "rewards" or "tools"; the ending of the module that functions of the script itself have to move to.
    """
    node = _resolve(script, node)
    items = node.elts if isinstance(node, ast.List | ast.Tuple) else [] if node is None else [node]
    return tuple(_find_import(script, item, kind) for item in items)


def find_environments(script: Script, node: ast.expr | None) -> tuple[dict[str, Imported], bool]:
    """What makes environments, by name ("" where it is one for all rows), and whether one of them may have rewards."""
    node, makers = _resolve(script, node), dict[str, Imported]()
    if node is None:
        return makers, False
    keys, values = (node.keys, node.values) if isinstance(node, ast.Dict) else ([ast.Constant("")], [node])
    for key, value in zip(keys, values, strict=True):
        if isinstance(name := script.evaluate_or_none(key), str):
            makers[name] = _find_import(script, value, "environments")
        else:
            shown = "**" if key is None else ast.unparse(key)
            script.remark(f"environment_factory ({{}}): the name {shown} is no literal; add it.", value)
    return makers, any(_may_reward(script, value) for value in values)


def _may_reward(script: Script, maker: ast.expr) -> bool:
    """Whether an environment has rewards, as far as the script tells: one that is imported may."""
    made = script.definitions.get(maker.id) if isinstance(maker, ast.Name) else None
    if not isinstance(made, ast.ClassDef) or made.bases:
        return True
    return any(isinstance(node, ast.FunctionDef) and node.name == "get_reward" for node in made.body)


def remark_environments(script: Script) -> None:
    """Tell of functions of the script that take TRL's ``environments``."""
    for name, function in script.definitions.items():
        if isinstance(function, ast.ClassDef):
            continue
        if "environments" in [a.arg for a in (*function.args.args, *function.args.kwonlyargs)]:
            said = "environments are not handed to rewards here; what it reads of them, get_reward of the environment"
            script.remark(f"{name} ({{}}): {said} returns.", function)


def _resolve(script: Script, node: ast.expr | None) -> ast.expr | None:
    """What a name that is neither imported nor defined stands for."""
    if isinstance(node, ast.Name) and node.id not in {*script.definitions, *script.imports}:
        return script.resolve(node, node.lineno)
    return node


def _find_import(script: Script, node: ast.expr, kind: str) -> Imported:
    text, path = ast.unparse(node), script.path
    if text in script.imports:
        return Imported(path=script.imports[text])
    if text in script.definitions:
        inside = script.definitions[text] not in script.tree.body
        if path.stem.isidentifier() and not script.trains_on_import and not inside:
            return Imported(path=f"{path.stem}.{text}")
        module = re.sub(r"\W", "_", f"{path.stem}_{kind}")
        why = (
            f"{path.name} defines it inside other code" if inside else f"importing {path.name} would start its training"
        )
        said = f"put it into {module}.py; {why}."
        return Imported(path=f"{module}.{text}", said=f"{text} ({script.place(script.definitions[text])}): {said}")
    said = f"not read, or name a {'class' if kind == 'environments' else 'function'}."
    if kind == "rewards" and isinstance(node, ast.Constant):
        said = "no reward model of its own here; write one, or name a function."
    return Imported(path=None, said=f"{text} ({script.place(node)}): {said}")
