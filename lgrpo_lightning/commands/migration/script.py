"""A Python script as text: its calls, names and literals. Nothing of it is run."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from lgrpo_lightning.errors import UserError

DTYPES = ("float32", "float16", "bfloat16")


class NotLiteralError(Exception):
    """A value that only running the script would tell."""


class Script:
    """The syntax tree of a script, and what its names stand for.

    Raises:
        ValueError: It is no Python.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError) as error:
            line = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
            raise UserError(f"{path}{line}: not Python: {error}") from error
        self.assigned: dict[str, list[ast.Assign]] = {}
        self.functions: dict[str, ast.FunctionDef | ast.AsyncFunctionDef] = {}
        self.classes: dict[str, ast.ClassDef] = {}
        self.imports: dict[str, str] = {}
        for node in ast.walk(self.tree):
            self._note(node)

    def _note(self, node: ast.AST) -> None:
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            self.assigned.setdefault(node.targets[0].id, []).append(node)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            self.functions[node.name] = node
        elif isinstance(node, ast.ClassDef):
            self.classes[node.name] = node
        elif isinstance(node, ast.ImportFrom) and not node.level:
            self.imports |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}

    def place(self, node: ast.AST) -> str:
        """Where a node stands, such as "train.py, line 3"."""
        return f"{self.path}, line {getattr(node, 'lineno', 1)}"

    def calls(self, name: str) -> list[ast.Call]:
        """Every call of a function or class called so, in order."""
        found = [n for n in ast.walk(self.tree) if isinstance(n, ast.Call) and called(n) == name]
        return sorted(found, key=lambda call: call.lineno)

    def latest(self, name: str, before: int) -> ast.Assign | None:
        """The last assignment to a name above a line."""
        earlier = [node for node in self.assigned.get(name, []) if node.lineno < before]
        return max(earlier, key=lambda node: node.lineno, default=None)

    def value(self, node: ast.expr) -> Any:
        """What an expression of literals stands for, with names that are assigned once.

        Raises:
            NotLiteralError: Only running the script would tell.
        """
        if isinstance(node, ast.Name) and len(self.assigned.get(node.id, [])) == 1:
            return self.value(self.assigned[node.id][0].value)
        if isinstance(node, ast.Attribute) and node.attr in DTYPES:  # torch.bfloat16
            return node.attr
        if isinstance(node, ast.List | ast.Tuple):
            return [self.value(item) for item in node.elts]
        if isinstance(node, ast.Dict) and all(key is not None for key in node.keys):
            return {self.value(k): self.value(v) for k, v in zip(node.keys, node.values, strict=True) if k}
        if isinstance(node, ast.Call) and called(node) == "dict" and not node.args:
            return {k.arg: self.value(k.value) for k in node.keywords if k.arg}
        try:
            return ast.literal_eval(node)
        except (ValueError, TypeError, SyntaxError) as error:
            raise NotLiteralError(ast.unparse(node)) from error

    @property
    def trains_on_import(self) -> bool:
        """Whether importing it calls ``GRPOTrainer``, or a function of its own that may."""
        starts = {"GRPOTrainer", *self.functions}
        deferred = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
        return any(
            isinstance(inner, ast.Call) and called(inner) in starts
            for node in self.tree.body
            if not isinstance(node, deferred) and not _is_guard(node)
            for inner in ast.walk(node)
        )

    def literal(self, node: ast.expr | None) -> Any:
        """The value, or None where there is none that can be read."""
        try:
            return None if node is None else self.value(node)
        except NotLiteralError:
            return None


def _is_guard(node: ast.stmt) -> bool:
    """Whether it is ``if __name__ == "__main__":``."""
    return isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"


def called(call: ast.Call) -> str:
    """The last part of what is called: ``GRPOConfig`` of ``trl.GRPOConfig(…)``."""
    function = call.func
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def keyword(call: ast.Call, name: str, position: int | None = None) -> ast.expr | None:
    """An argument by name, or by position where it has one."""
    for given in call.keywords:
        if given.arg == name:
            return given.value
    return call.args[position] if position is not None and position < len(call.args) else None
