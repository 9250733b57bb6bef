"""The functions and classes that a script hands to ``GRPOTrainer``: rewards, tools, environments."""

from __future__ import annotations

import ast
from collections.abc import Mapping

from lgrpo_lightning.migration.recipe import Imported
from lgrpo_lightning.migration.script import Script


def listed(script: Script, node: ast.expr | None, kind: str) -> tuple[Imported, ...]:
    """What a list of functions, or one function, names.

    Args:
        kind: "rewards" or "tools"; the ending of the module that functions of the script itself have to move to.
    """
    node = _assigned(script, node)
    items = node.elts if isinstance(node, ast.List | ast.Tuple) else [] if node is None else [node]
    return tuple(_imported(script, item, kind) for item in items)


def environments(script: Script, node: ast.expr | None) -> Mapping[str, Imported]:
    """What makes environments, by name; "" where it is one for all rows."""
    node = _assigned(script, node)
    if node is None:
        return {}
    if isinstance(node, ast.Dict):
        return {
            str(script.literal(key)): _imported(script, value, "environments")
            for key, value in zip(node.keys, node.values, strict=True)
        }
    return {"": _imported(script, node, "environments")}


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
        module = f"{script.path.stem}_{kind}"
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
