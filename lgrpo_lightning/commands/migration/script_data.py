"""The prompts of a script: ``load_dataset`` and what is made of its rows."""

from __future__ import annotations

import ast
from dataclasses import replace

from lgrpo_lightning.commands.migration.recipe import DataSet
from lgrpo_lightning.commands.migration.script import Script, get_argument, get_callee

BUILDERS = ("json", "parquet", "csv")
HARMLESS = ("remove_columns", "select_columns", "shuffle", "to_iterable_dataset", "with_format")
"""Methods of a data set that leave the prompts as they are."""


def read_data(script: Script, node: ast.expr | None, before: int = 10**9) -> DataSet | None:
    """The data set that an expression stands for, followed back to ``load_dataset``.

    Args:
        before: Names stand for what was assigned above this line.
    """
    if isinstance(node, ast.Name):
        assigned = script.find_assignment(node.id, before)
        return None if assigned is None else read_data(script, assigned.value, assigned.lineno)
    if isinstance(node, ast.Subscript):
        loaded, split = read_data(script, node.value, before), script.evaluate_or_none(node.slice)
        return replace(loaded, split=split) if loaded is not None and isinstance(split, str) else loaded
    if isinstance(node, ast.Call) and get_callee(node) == "load_dataset":
        return _read_load(script, node)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        loaded = read_data(script, node.func.value, before)
        return None if loaded is None else _apply_method(script, loaded, node, node.func.attr)
    return None


def _read_load(script: Script, call: ast.Call) -> DataSet | None:
    path, subset, split, files = (
        script.evaluate_or_none(get_argument(call, name, position))
        for name, position in (("path", 0), ("name", 1), ("split", None), ("data_files", None))
    )
    if path in BUILDERS and isinstance(files, str):
        return DataSet(path=files)
    if not isinstance(path, str) or not isinstance(split, str | None):
        script.remark("{}: what load_dataset loads is no literal.", call)
        return None
    return DataSet(path=path, subset=subset, split=split)


def _apply_method(script: Script, data: DataSet, call: ast.Call, method: str) -> DataSet:
    """The data set after ``.map`` and the like."""
    first = call.args[0] if call.args else None
    value = script.evaluate_or_none(first)
    if method in HARMLESS:
        return data
    if method == "map":
        return _apply_map(script, data, call)
    new_name = script.evaluate_or_none(get_argument(call, "new_column_name", 1))
    if method == "rename_column" and new_name == "prompt":
        return replace(data, column=str(value))
    if method == "take" and isinstance(value, int):
        return replace(data, limit=value)
    in_range = isinstance(first, ast.Call) and get_callee(first) == "range" and len(first.args) == 1
    if method == "select" and isinstance(first, ast.Call) and in_range:
        return replace(data, limit=script.evaluate_or_none(first.args[0]))
    script.remark(
        f"{{}}: .{method}(…) is not repeated here; write its result to a file and name that in data.train.",
        call,
    )
    return data


def _apply_map(script: Script, data: DataSet, call: ast.Call) -> DataSet:
    """Rows made anew: the prompt of a column, or of a system and a user message."""
    made = _find_returned(script, get_argument(call, "function", 0))
    changed = _read_prompt(script, data, made["prompt"]) if "prompt" in made else None
    if changed is None:
        script.remark(
            "{}: what .map makes of a row cannot be read; write its result, with a column prompt, to a file.",
            call,
        )
        return data
    if others := [name for name in made if name != "prompt"]:
        script.remark(
            f"{{}}: .map also makes {', '.join(others)}; here rewards get the data's own columns, so write these to "
            "the file, or have the reward read what is there.",
            call,
        )
    return changed


def _find_returned(script: Script, node: ast.expr | None) -> dict[str, ast.expr]:
    """The entries of the dictionary that a function returns."""
    body: ast.expr | None = node.body if isinstance(node, ast.Lambda) else None
    if isinstance(node, ast.Name) and node.id in script.definitions:
        last = script.definitions[node.id].body[-1]
        body = last.value if isinstance(last, ast.Return) else None
    return _get_entries(body)


def _read_prompt(script: Script, data: DataSet, made: ast.expr) -> DataSet | None:
    if column := _find_column(script, made):
        return replace(data, column=column)
    system: str | None = None
    for message in made.elts if isinstance(made, ast.List) else ():
        entries = _get_entries(message)
        role, content = script.evaluate_or_none(entries.get("role")), entries.get("content")
        if role == "system" and isinstance(text := script.evaluate_or_none(content), str):
            system = text
        elif role == "user" and (column := _find_column(script, content)) and message is made.elts[-1]:  # type: ignore[attr-defined]
            return replace(data, column=column, chat=True, system_prompt=system)
        else:
            return None
    return None


def _find_column(script: Script, node: ast.expr | None) -> str | None:
    """The column in ``row["column"]``."""
    column = script.evaluate_or_none(node.slice) if isinstance(node, ast.Subscript) else None
    return column if isinstance(column, str) else None


def _get_entries(node: ast.expr | None) -> dict[str, ast.expr]:
    """The entries of a dictionary whose keys are text; none of anything else."""
    if not isinstance(node, ast.Dict) or not all(isinstance(key, ast.Constant) for key in node.keys):
        return {}
    keys = [str(key.value) for key in node.keys if isinstance(key, ast.Constant)]
    return dict(zip(keys, node.values, strict=True))
