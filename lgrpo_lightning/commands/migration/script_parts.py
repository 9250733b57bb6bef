"""The functions and classes that a script hands to ``GRPOTrainer``: rewards, tools, environments."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping

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


def find_environments(script: Script, node: ast.expr | None) -> Mapping[str, Imported]:
    """What makes environments, by name; "" where it is one for all rows. A name that is no literal is told."""
    node = _resolve(script, node)
    if node is None:
        return {}
    if not isinstance(node, ast.Dict):
        return {"": _find_import(script, node, "environments")}
    makers = dict[str, Imported]()
    for key, value in zip(node.keys, node.values, strict=True):
        if isinstance(name := script.evaluate_or_none(key), str):
            makers[name] = _find_import(script, value, "environments")
        else:
            shown = "**" if key is None else ast.unparse(key)
            script.remark(f"environment_factory ({{}}): the name {shown} is no literal; add it.", value)
    return makers


def may_reward(script: Script, node: ast.expr | None) -> bool:
    """Whether an environment has rewards, as far as the script tells: one that is imported may."""
    node = _resolve(script, node)
    makers = node.values if isinstance(node, ast.Dict) else [] if node is None else [node]
    classes = [script.definitions.get(n.id) if isinstance(n, ast.Name) else None for n in makers]
    return any(
        not isinstance(c, ast.ClassDef)
        or c.bases
        or any(isinstance(n, ast.FunctionDef) and n.name == "get_reward" for n in c.body)
        for c in classes
    )


def remark_environments(script: Script) -> None:
    """Tell of functions of the script that take TRL's ``environments``."""
    for name, function in script.definitions.items():
        if isinstance(function, ast.ClassDef):
            continue
        if "environments" in [a.arg for a in (*function.args.args, *function.args.kwonlyargs)]:
            script.remark(
                f"{name} ({{}}): environments are not handed to rewards here; what it reads of them, get_reward of the "
                "environment returns.",
                function,
            )


def _resolve(script: Script, node: ast.expr | None) -> ast.expr | None:
    """What a name that is neither imported nor defined stands for."""
    if isinstance(node, ast.Name) and node.id not in {*script.definitions, *script.imports}:
        return script.resolve(node, node.lineno)
    return node


def _find_import(script: Script, node: ast.expr, kind: str) -> Imported:
    place, text = script.place(node), ast.unparse(node)
    if text in script.imports:
        return Imported(path=script.imports[text])
    if text in script.definitions:
        if script.path.stem.isidentifier() and not script.trains_on_import:
            return Imported(path=f"{script.path.stem}.{text}")
        module = re.sub(r"\W", "_", f"{script.path.stem}_{kind}")
        where = script.place(script.definitions[text])
        said = f"put it into {module}.py; importing {script.path.name} would start its training."
        return Imported(path=f"{module}.{text}", said=f"{text} ({where}): {said}")
    if kind == "rewards" and isinstance(node, ast.Constant):
        said = "no reward model of its own here; write one, or name a function."
    else:
        said = f"not read, or name a {'class' if kind == 'environments' else 'function'}."
    return Imported(path=None, said=f"{text} ({place}): {said}")
