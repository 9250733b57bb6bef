"""A Python script as text: its calls, names and literals. Nothing of it is run."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from lgrpo_lightning.errors import UserError

DTYPES = ("float32", "float16", "bfloat16")
DEFINITION = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


class NotLiteralError(Exception):
    """A value that only running the script would tell."""


class Script:
    """The syntax tree of a script, and what its names stand for.

    Attributes:
        remarks: What could not be read, and where.

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
        self.remarks: list[str] = []
        self.assignments: list[ast.Assign] = []
        self.definitions: dict[str, DEFINITION] = {}
        self.imports: dict[str, str] = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Assign) and len(node.targets) == 1:
                self.assignments.append(node)
            elif isinstance(node, DEFINITION):
                self.definitions[node.name] = node
            elif isinstance(node, ast.ImportFrom) and not node.level:
                self.imports |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}

    def remark(self, text: str, node: ast.AST) -> None:
        """Say what could not be read at a node, once; ``{}`` in ``text`` becomes its place."""
        said = text.replace("{}", self.place(node))
        if said not in self.remarks:
            self.remarks.append(said)

    def place(self, node: ast.AST) -> str:
        """Where a node stands, such as "train.py, line 3"."""
        return f"{self.path}, line {getattr(node, 'lineno', 1)}"

    def find_call(self, name: str) -> ast.Call | None:
        """The only call of a function or class of this name.

        Raises:
            ValueError: There are several.
        """
        calls = [n for n in ast.walk(self.tree) if isinstance(n, ast.Call) and get_callee(n) == name]
        if len(calls) > 1:
            lines = ", ".join(str(line) for line in sorted(call.lineno for call in calls))
            raise UserError(f"{self.path}, lines {lines}: {name} is called {len(calls)} times; leave one.")
        return calls[0] if calls else None

    def find_assignment(self, name: str, before: int = 10**9) -> ast.Assign | None:
        """The last assignment to a name above a line."""
        earlier = [a for a in self._find_assignments(name) if a.lineno < before]
        return max(earlier, key=lambda a: a.lineno, default=None)

    def _find_assignments(self, name: str) -> list[ast.Assign]:
        return [a for a in self.assignments if isinstance(t := a.targets[0], ast.Name) and t.id == name]

    def resolve(self, node: ast.expr | None, before: int = 10**9) -> ast.expr | None:
        """What was last assigned above a line to the name ``node``; another node, or a name of none, itself."""
        assigned = self.find_assignment(node.id, before) if isinstance(node, ast.Name) else None
        return node if assigned is None else assigned.value

    def evaluate(self, node: ast.expr) -> Any:
        """What an expression of literals stands for, with names that are assigned once.

        Raises:
            NotLiteralError: Only running the script would tell.
        """
        if isinstance(node, ast.Name) and len(assigned := self._find_assignments(node.id)) == 1:
            return self.evaluate(assigned[0].value)
        if isinstance(node, ast.Attribute) and node.attr in DTYPES:  # torch.bfloat16
            return node.attr
        if isinstance(node, ast.List | ast.Tuple):
            return [self.evaluate(item) for item in node.elts]
        if isinstance(node, ast.Dict):
            pairs = zip(node.keys, node.values, strict=True)
            if all(node.keys):
                return {self.evaluate(k): self.evaluate(v) for k, v in pairs if k}
        if isinstance(node, ast.Call) and get_callee(node) == "dict" and not node.args:
            return {k.arg: self.evaluate(k.value) for k in node.keywords if k.arg}
        try:
            return ast.literal_eval(node)
        except (ValueError, TypeError, SyntaxError) as error:
            raise NotLiteralError(ast.unparse(node)) from error

    def evaluate_or_none(self, node: ast.expr | None) -> Any:
        """The value, or None where there is none that can be read."""
        try:
            return None if node is None else self.evaluate(node)
        except NotLiteralError:
            return None

    @property
    def trains_on_import(self) -> bool:
        """Whether importing it calls ``GRPOTrainer``, or a function of its own that may."""
        starts = {"GRPOTrainer", *(n for n, d in self.definitions.items() if not isinstance(d, ast.ClassDef))}
        return any(
            isinstance(inner, ast.Call) and get_callee(inner) in starts
            for node in self.tree.body
            if not isinstance(node, DEFINITION) and not _is_guard(node)
            for inner in ast.walk(node)
        )


def _is_guard(node: ast.stmt) -> bool:
    """Whether it is ``if __name__ == "__main__":``."""
    return isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"


def get_callee(call: ast.expr | None) -> str:
    """The last part of what is called: ``GRPOConfig`` of ``trl.GRPOConfig(…)``; "" where nothing is."""
    return ast.unparse(call.func).rpartition(".")[2] if isinstance(call, ast.Call) else ""


def get_argument(call: ast.Call, name: str, position: int | None = None) -> ast.expr | None:
    """An argument by name, or by position where it has one."""
    named = next((given.value for given in call.keywords if given.arg == name), None)
    if named is None and position is not None and position < len(call.args):
        return call.args[position]
    return named
