"""The prompts of a script: ``load_dataset`` and what is made of its rows."""

from __future__ import annotations

import ast
from dataclasses import replace

from lgrpo_lightning.commands.migration.draft import DataSet
from lgrpo_lightning.commands.migration.script import END, Column, Script, get_argument, get_callee


def read_data(script: Script, node: ast.expr | None, before: int = END) -> DataSet | None:
    """The data set that an expression stands for, followed back to ``load_dataset``.

    Args:
        before: Names stand for what was assigned above this line.
    """
    match node:
        case ast.Name(id=name):
            assigned = script.find_assignments(name, before)
            return read_data(script, assigned[-1].value, assigned[-1].lineno) if assigned else None
        case ast.Subscript(value=loaded, slice=key):
            data, split = read_data(script, loaded, before), script.evaluate_or_none(key)
            return replace(data, split=split) if data is not None and isinstance(split, str) else data
        case ast.Call() if get_callee(node) == "load_dataset":
            return _read_load(script, node)
        case ast.Call(func=ast.Attribute(value=loaded, attr=method)):
            data = read_data(script, loaded, before)
            return None if data is None else _apply_method(script, data, node, method)
    return None


def _read_load(script: Script, call: ast.Call) -> DataSet | None:
    path, subset = (script.evaluate_or_none(get_argument(call, *at)) for at in (("path", 0), ("name", 1)))
    split, files = (script.evaluate_or_none(get_argument(call, name)) for name in ("split", "data_files"))
    if path in ("json", "parquet", "csv") and isinstance(files, str):
        return DataSet(path=files)
    if not isinstance(path, str) or not isinstance(split, str | None):
        script.remark("{}: what load_dataset loads is no literal.", call)
        return None
    return DataSet(path=path, subset=subset, split=split)


def _apply_method(script: Script, data: DataSet, call: ast.Call, method: str) -> DataSet:
    """The data set after ``.map`` and the like."""
    first = script.evaluate_or_none(call.args[0]) if call.args else None
    match method, call.args:
        case "remove_columns" | "select_columns" | "shuffle" | "to_iterable_dataset" | "with_format", _:
            return data  # the prompts stay as they are
        case "map", _:
            return _apply_map(script, data, call)
        case "rename_column", _ if script.evaluate_or_none(get_argument(call, "new_column_name", 1)) == "prompt":
            return replace(data, prompt_column=str(first))
        case "take", _ if isinstance(first, int):
            return replace(data, limit=first)
        case "select", [ast.Call(func=ast.Name(id="range"), args=[end])]:
            return replace(data, limit=script.evaluate_or_none(end))
    said = "is not repeated here; write its result to a file and name that in data.train."
    script.remark(f"{{}}: .{method}(…) {said}", call)
    return data


def _apply_map(script: Script, data: DataSet, call: ast.Call) -> DataSet:
    """Rows made anew: the prompt of a column, or of a system and a user message."""
    if _changes_images(script, get_argument(call, "function", 0)):
        return data  # whatever their mode or size: they are read as the model needs them
    made = _find_returned(script, get_argument(call, "function", 0))
    if others := [name for name in made if name != "prompt"]:
        script.remark(
            f"{{}}: .map also makes {', '.join(others)}; here rewards get the data's own columns, so write these to "
            "the file, or have the reward read what is there.",
            call,
        )
    match script.evaluate_or_none(made.get("prompt"), columns=True):
        case Column(name=column):
            return replace(data, prompt_column=column)
        case [{"role": "user", "content": Column(name=column)}]:
            return replace(data, prompt_column=column, chat=True)
        case [{"role": "system", "content": str(system)}, {"role": "user", "content": Column(name=column)}]:
            return replace(data, prompt_column=column, chat=True, system_prompt=system)
    said = "cannot be read; write its result, with a column prompt, to a file."
    script.remark(f"{{}}: what .map makes of a row {said}", call)
    return data


def _changes_images(script: Script, function: ast.expr | None) -> bool:
    """Whether a function gives its row back with its image in another mode or size, and does nothing else."""
    definition = script.definitions.get(function.id) if isinstance(function, ast.Name) else None
    if not isinstance(definition, ast.FunctionDef) or not isinstance(last := definition.body[-1], ast.Return):
        return False
    row = definition.args.args[0].arg if definition.args.args else ""
    nodes = list(ast.walk(definition))
    columns = [n for n in nodes if isinstance(n, ast.Subscript) and ast.unparse(n.value) == row]
    uses = [n for n in nodes if isinstance(n, ast.Name) and n.id == row]
    calls = {n.func.attr for n in nodes if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute)}
    return (
        isinstance(last.value, ast.Name)
        and last.value.id == row
        and len(uses) == len(columns) + 1  # and the return
        and any(isinstance(n.ctx, ast.Store) for n in columns)
        and {script.evaluate_or_none(n.slice) for n in columns} <= {"image", "images"}
        and calls <= {"convert", "resize", "thumbnail"}
    )


def _find_returned(script: Script, function: ast.expr | None) -> dict[str, ast.expr]:
    """The entries of the dictionary that a function returns; none where it returns something else."""
    body: ast.expr | None = function.body if isinstance(function, ast.Lambda) else None
    if isinstance(function, ast.Name) and function.id in script.definitions:
        last = script.definitions[function.id].body[-1]
        body = last.value if isinstance(last, ast.Return) else None
    if not isinstance(body, ast.Dict):
        return {}
    entries = zip(body.keys, body.values, strict=True)
    return {str(key.value): value for key, value in entries if isinstance(key, ast.Constant)}
