"""The functions and classes that a script hands to ``GRPOTrainer``: rewards, tools, environments."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping

from lgrpo_lightning.commands.migration.recipe import Imported
from lgrpo_lightning.commands.migration.script import Script


def listed(script: Script, node: ast.expr | None, kind: str) -> tuple[Imported, ...]:
    """What a list of functions, or one function, names.

    Args:
        kind: "rewards" or "tools"; the ending of the module that functions of the script itself have to move to.
    """
    node = _assigned(script, node)
    items = node.elts if isinstance(node, ast.List | ast.Tuple) else [] if node is None else [node]
    return tuple(_imported(script, item, kind) for item in items)


def environments(script: Script, node: ast.expr | None, remarks: list[str]) -> Mapping[str, Imported]:
    """What makes environments, by name; "" where it is one for all rows. A name that is no literal is told."""
    node = _assigned(script, node)
    if node is None:
        return {}
    if not isinstance(node, ast.Dict):
        return {"": _imported(script, node, "environments")}
    found = dict[str, Imported]()
    for key, value in zip(node.keys, node.values, strict=True):
        if isinstance(name := script.literal(key), str):
            found[name] = _imported(script, value, "environments")
        else:
            shown = "**" if key is None else ast.unparse(key)
            remarks.append(
                f"environment_factory ({script.place(value)}): the name {shown} is no literal; add it."
            )
    return found


def pay(script: Script, node: ast.expr | None) -> bool:
    """Whether an environment has rewards, as far as the script tells: one that is imported may."""
    node = _assigned(script, node)
    made = node.values if isinstance(node, ast.Dict) else [] if node is None else [node]
    classes = [script.classes.get(n.id) if isinstance(n, ast.Name) else None for n in made]
    return any(c is None or _defines(c, "get_reward") or c.bases for c in classes)


def reads_environments(script: Script) -> list[str]:
    """Functions of the script that take TRL's ``environments``."""
    return [
        name
        for name, function in script.functions.items()
        if "environments" in [a.arg for a in (*function.args.args, *function.args.kwonlyargs)]
    ]


def _defines(made: ast.ClassDef, method: str) -> bool:
    return any(isinstance(n, ast.FunctionDef) and n.name == method for n in made.body)


def _assigned(script: Script, node: ast.expr | None) -> ast.expr | None:
    """What a name that is neither imported nor defined stands for."""
    if isinstance(node, ast.Name) and node.id not in (script.functions | script.classes | script.imports):
        assigned = script.latest(node.id, node.lineno)
        return assigned.value if assigned is not None else node
    return node


def _imported(script: Script, node: ast.expr, kind: str) -> Imported:
    place, text = script.place(node), ast.unparse(node)
    if isinstance(node, ast.Name) and node.id in script.imports:
        return Imported(path=script.imports[node.id])
    if isinstance(node, ast.Name) and node.id in (own := script.functions | script.classes):
        if script.path.stem.isidentifier() and not script.trains_on_import:
            return Imported(path=f"{script.path.stem}.{text}")
        module = re.sub(r"\W", "_", f"{script.path.stem}_{kind}")
        said = f"{text} ({script.place(own[text])}): put it into {module}.py; "
        return Imported(
            path=f"{module}.{text}", said=f"{said}importing {script.path.name} would start its training."
        )
    if kind == "rewards" and isinstance(node, ast.Constant):
        return Imported(
            path=None,
            said=f"{text} ({place}): no reward model of its own here; write one, or name a function.",
        )
    what = "function" if kind != "environments" else "class"
    return Imported(path=None, said=f"{text} ({place}): not read, or name a {what}.")
