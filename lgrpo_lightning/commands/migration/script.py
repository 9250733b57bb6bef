"""A Python script as text: its calls, names and literals. Nothing of it is run."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any, NamedTuple

from lgrpo_lightning.commands.migration.draft import Given
from lgrpo_lightning.errors import UserError

DEFINITION = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
NEEDED = ("model_name_or_path", "deepspeed", "fsdp")
"""Options for which TRL's default is never taken in place of what the script has."""
END = 10**9
"""A line below every script."""


class NotLiteralError(Exception):
    """A value that only running the script would tell."""


class Column(NamedTuple):
    """What a script writes as ``row["name"]``."""

    name: str


class Script:
    """The syntax tree of a script, and what its names stand for.

    Attributes:
        given: The options that it sets to literals, as far as they were read.
        unread: The names of the others.
        remarks: What could not be read, and where.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError) as error:
            line = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
            raise UserError(f"{path}{line}: not Python: {error}") from error
        self.given: dict[str, Given] = {}
        self.unread: set[str] = set()
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

    def read(self, name: str, node: ast.expr) -> None:
        """Take an option; one that is no literal is told."""
        try:
            self.given[name] = Given(self.evaluate(node), self.place(node))
        except NotLiteralError as error:
            self.unread.add(name)
            taken = "" if name in NEEDED else ", and TRL's default is taken"
            self.remark(f"{name} ({{}}): {error} is no literal{taken}; set it here.", node)

    def remark(self, text: str, node: ast.AST) -> None:
        """Say what could not be read at a node, once; ``{}`` in ``text`` becomes its place."""
        said = text.replace("{}", self.place(node))
        if said not in self.remarks:
            self.remarks.append(said)

    def place(self, node: ast.AST) -> str:
        """Where a node stands, such as "train.py, line 3"."""
        return f"{self.path}, line {getattr(node, 'lineno', 1)}"

    def find_call(self, name: str) -> ast.Call | None:
        """The only call of a function or class of this name."""
        calls = [n for n in ast.walk(self.tree) if isinstance(n, ast.Call) and get_callee(n) == name]
        if len(calls) > 1:
            lines = ", ".join(str(line) for line in sorted(call.lineno for call in calls))
            raise UserError(f"{self.path}, lines {lines}: {name} is called {len(calls)} times; leave one.")
        return calls[0] if calls else None

    def find_assignments(self, name: str, before: int = END) -> list[ast.Assign]:
        """The assignments to a name above a line, the last one last."""
        found = [a for a in self.assignments if ast.unparse(a.targets[0]) == name and a.lineno < before]
        return sorted(found, key=lambda a: a.lineno)

    def resolve(self, node: ast.expr | None, before: int = END) -> ast.expr | None:
        """What was last assigned above a line to the name ``node``; another node, or a name of none, itself."""
        assigned = self.find_assignments(node.id, before) if isinstance(node, ast.Name) else []
        return assigned[-1].value if assigned else node

    def evaluate(self, node: ast.expr, *, columns: bool = False) -> Any:
        """What an expression of literals stands for, with names that are assigned once.

        Args:
            columns: Whether ``row["name"]`` may stand in it, as a ``Column``.
        """

        def inner(node: ast.expr) -> Any:
            return self.evaluate(node, columns=columns)

        match node:
            case ast.Name(id=name) if len(assigned := self.find_assignments(name)) == 1:
                return inner(assigned[0].value)
            case ast.Attribute(attr="float32" | "float16" | "bfloat16"):  # of torch
                return node.attr
            case ast.List(elts=items) | ast.Tuple(elts=items):
                return [inner(item) for item in items]
            case ast.Dict(keys=keys, values=values) if all(keys):
                return {inner(key): inner(value) for key, value in zip(keys, values, strict=True) if key}
            case ast.Call(func=ast.Name(id="dict"), args=[], keywords=given):
                return {k.arg: inner(k.value) for k in given if k.arg}
            case ast.Subscript(slice=ast.Constant(value=str(name))) if columns:
                return Column(name)
        try:
            return ast.literal_eval(node)
        except (ValueError, TypeError, SyntaxError) as error:
            raise NotLiteralError(ast.unparse(node)) from error

    def evaluate_or_none(self, node: ast.expr | None, *, columns: bool = False) -> Any:
        """The value, or None where there is none that can be read."""
        try:
            return None if node is None else self.evaluate(node, columns=columns)
        except NotLiteralError:
            return None

    @property
    def trains_on_import(self) -> bool:
        """Whether importing it calls ``GRPOTrainer``, or a function of its own that may."""
        starts = {"GRPOTrainer", *(n for n, d in self.definitions.items() if not isinstance(d, ast.ClassDef))}
        guard = "__name__ == '__main__'"
        return any(
            isinstance(inner, ast.Call) and get_callee(inner) in starts
            for node in self.tree.body
            if not isinstance(node, DEFINITION) and not (isinstance(node, ast.If) and ast.unparse(node.test) == guard)
            for inner in ast.walk(node)
        )


def get_callee(call: ast.expr | None) -> str:
    """The last part of what is called: ``GRPOConfig`` of ``trl.GRPOConfig(…)``; "" where nothing is."""
    return ast.unparse(call.func).rpartition(".")[2] if isinstance(call, ast.Call) else ""


def get_argument(call: ast.Call, name: str, position: int = END) -> ast.expr | None:
    """An argument by name, or by position where it has one."""
    named = next((given.value for given in call.keywords if given.arg == name), None)
    return call.args[position] if named is None and position < len(call.args) else named
