"""The prompts of a script: ``load_dataset`` and what is made of its rows."""

from __future__ import annotations

import ast
from dataclasses import replace

from lgrpo_lightning.commands.migration.recipe import DataSet
from lgrpo_lightning.commands.migration.script import Script, called, keyword

BUILDERS = ("json", "parquet", "csv")
HARMLESS = ("remove_columns", "select_columns", "shuffle", "to_iterable_dataset", "with_format")
"""Methods of a data set that leave the prompts as they are."""


class DataReader:
    """Follows an expression back to ``load_dataset``.

    Attributes:
        remarks: What was on the way and could not be read.
    """

    def __init__(self, script: Script) -> None:
        self.script = script
        self.remarks: list[str] = []

    def read(self, node: ast.expr | None, before: int = 10**9) -> DataSet | None:
        """The data set that an expression stands for.

        Args:
            before: Names stand for what was assigned above this line.
        """
        if isinstance(node, ast.Name):
            assigned = self.script.latest(node.id, before)
            return None if assigned is None else self.read(assigned.value, assigned.lineno)
        if isinstance(node, ast.Subscript):
            found, split = self.read(node.value, before), self.script.literal(node.slice)
            return replace(found, split=split) if found is not None and isinstance(split, str) else found
        if not isinstance(node, ast.Call):
            return None
        if called(node) == "load_dataset":
            return self._loaded(node)
        if isinstance(node.func, ast.Attribute):
            found = self.read(node.func.value, before)
            return None if found is None else self._changed(found, node, node.func.attr)
        return None

    def _loaded(self, call: ast.Call) -> DataSet | None:
        path, subset, split = (
            self.script.literal(keyword(call, name, position))
            for name, position in (("path", 0), ("name", 1), ("split", None))
        )
        files = self.script.literal(keyword(call, "data_files"))
        if path in BUILDERS and isinstance(files, str):
            return DataSet(path=files)
        if not isinstance(path, str) or not isinstance(split, str | None):
            self.remarks.append(f"{self.script.place(call)}: what load_dataset loads is no literal.")
            return None
        return DataSet(path=path, subset=subset, split=split)

    def _changed(self, found: DataSet, call: ast.Call, method: str) -> DataSet:
        """The data set after ``.map`` and the like."""
        if method in HARMLESS:
            return found
        first = call.args[0] if call.args else None
        if method == "map":
            return self._mapped(found, call)
        if method == "rename_column" and self.script.literal(keyword(call, "new_column_name", 1)) == "prompt":
            return replace(found, column=str(self.script.literal(first)))
        if method == "take" and isinstance(count := self.script.literal(first), int):
            return replace(found, limit=count)
        if (
            method == "select"
            and isinstance(first, ast.Call)
            and called(first) == "range"
            and len(first.args) == 1
        ):
            return replace(found, limit=self.script.literal(first.args[0]))
        self.remarks.append(
            f"{self.script.place(call)}: .{method}(…) is not repeated here; write its result to a file and name that "
            "in data.train."
        )
        return found

    def _mapped(self, found: DataSet, call: ast.Call) -> DataSet:
        """Rows made anew: the prompt of a column, or of a system and a user message."""
        where, made = self.script.place(call), self._returned(keyword(call, "function", 0))
        known = made is not None and "prompt" in made
        changed = self._prompt(found, made["prompt"]) if made is not None and known else None
        if changed is None or made is None:
            self.remarks.append(
                f"{where}: what .map makes of a row cannot be read; write its result, with a column prompt, to a file."
            )
            return found
        if others := [name for name in made if name != "prompt"]:
            self.remarks.append(
                f"{where}: .map also makes {', '.join(others)}; here rewards get the data's own columns, so write "
                "these to the file, or have the reward read what is there."
            )
        return changed

    def _returned(self, node: ast.expr | None) -> dict[str, ast.expr] | None:
        """The entries of the dictionary that a function returns."""
        body: ast.expr | None = None
        if isinstance(node, ast.Lambda):
            body = node.body
        elif isinstance(node, ast.Name) and node.id in self.script.functions:
            last = self.script.functions[node.id].body[-1]
            body = last.value if isinstance(last, ast.Return) else None
        return entries(body)

    def _prompt(self, found: DataSet, made: ast.expr) -> DataSet | None:
        if column := self._column(made):
            return replace(found, column=column)
        if not isinstance(made, ast.List):
            return None
        system: str | None = None
        for message in made.elts:
            said = entries(message) or {}
            role, content = self.script.literal(said.get("role")), said.get("content")
            if role == "system" and isinstance(text := self.script.literal(content), str):
                system = text
            elif role == "user" and message is made.elts[-1] and (column := self._column(content)):
                return replace(found, column=column, chat=True, system_prompt=system)
            else:
                return None
        return None

    def _column(self, node: ast.expr | None) -> str | None:
        """The column in ``row["column"]``."""
        column = self.script.literal(node.slice) if isinstance(node, ast.Subscript) else None
        return column if isinstance(column, str) else None


def entries(node: ast.expr | None) -> dict[str, ast.expr] | None:
    """The entries of a dictionary whose keys are text."""
    if not isinstance(node, ast.Dict) or not all(isinstance(key, ast.Constant) for key in node.keys):
        return None
    keys = [str(key.value) for key in node.keys if isinstance(key, ast.Constant)]
    return dict(zip(keys, node.values, strict=True))
