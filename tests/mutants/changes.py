"""Mutants of the package's source: one operator, number or statement changed."""

from __future__ import annotations

import ast
import copy
import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

OPERATORS: dict[type[ast.AST], type[ast.AST]] = {
    ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult,
}  # fmt: skip
for one, other in [
    (ast.Lt, ast.LtE), (ast.Gt, ast.GtE), (ast.Eq, ast.NotEq), (ast.Is, ast.IsNot), (ast.In, ast.NotIn),
    (ast.Add, ast.Sub), (ast.Mult, ast.Div), (ast.And, ast.Or), (ast.BitAnd, ast.BitOr),
]:  # fmt: skip
    OPERATORS |= {one: other, other: one}
NAMES = {"min": "max", "minimum": "maximum", "amin": "amax", "all": "any", "argmin": "argmax"}
NAMES |= {new: old for old, new in NAMES.items()}
MESSAGES = {
    "UserError",
    "warn",
    "rank_zero_warn",
    "rank_zero_info",
    "info",
    "debug",
    "print",
    "require",
    "TypeVar",
}
FIELDS = {"annotation", "returns", "decorator_list", "type_params"}  # not searched


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """One change of one file.

    Attributes:
        path: From the root of the checkout.
        kind: Of the change.
        line: Where it is.
        statement: Lines of its statement; of the whole file where that runs at import.
        text: All of the file, changed.
    """

    path: Path
    kind: str
    line: int
    statement: range
    text: str


def propose_changes(node: ast.AST) -> Iterator[tuple[str, ast.AST, ast.AST]]:
    """(kind, what is replaced, by what) of this node alone."""
    match node:
        case ast.Compare(left=left, ops=[operator], comparators=right):
            yield "compare", node, ast.Compare(left, [OPERATORS[type(operator)]()], right)
        case ast.BinOp(left=left, op=operator, right=right) if type(operator) in OPERATORS:
            yield "arithmetic", node, ast.BinOp(left, OPERATORS[type(operator)](), right)
        case ast.BoolOp(op=operator, values=values):
            yield "and/or", node, ast.BoolOp(OPERATORS[type(operator)](), values)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield "not", node, operand
        case ast.Constant(value=bool(value)):
            yield "flag", node, ast.Constant(not value)
        case ast.Constant(value=int(value)):
            yield "number", node, ast.Constant(value + 1)
        case ast.Constant(value=float(value)):
            yield "number", node, ast.Constant(2 * value or 1.0)
        case ast.keyword(arg="dim", value=value):
            yield "dim", value, ast.Constant(-1 if ast.unparse(value) == "0" else 0)
        case ast.Name(id=name) if name in NAMES:
            yield "min/max", node, ast.Name(NAMES[name])
        case ast.Attribute(value=value, attr=name) if name in NAMES:
            yield "min/max", node, ast.Attribute(value, NAMES[name])
        case ast.IfExp(test=test, body=body, orelse=orelse):
            yield "branches", node, ast.IfExp(test, orelse, body)
        case ast.If(body=[ast.Raise()], orelse=[]):
            yield "dropped", node, ast.Pass()
        case ast.If(test=test):
            yield "branches", test, ast.UnaryOp(ast.Not(), test)
        case ast.Expr(value=ast.Call() | ast.Await()) | ast.AugAssign():
            yield "dropped", node, ast.Pass()
        case ast.Assign(targets=[ast.Attribute(value=ast.Name(id="self"))]):
            yield "dropped", node, ast.Pass()
        case ast.Return(value=ast.expr() as value) if not isinstance(value, ast.Constant):
            yield "returned", value, ast.Constant(None)


def is_skipped(node: ast.AST) -> bool:
    """Messages and what makes them, docstrings, abstract methods, checks of types and of lengths that always agree."""
    match node:
        case ast.Raise() | ast.Assert() | ast.JoinedStr() | ast.ImportFrom():
            return True
        case ast.Expr(value=value):
            return is_skipped(value) or isinstance(value, ast.Constant)
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)):
            return name in MESSAGES or name == "isinstance"
        case ast.keyword(arg=name):
            return name == "strict"
        case ast.FunctionDef(name=name, decorator_list=decorators):
            return name in ("__repr__", "__str__") or "abstractmethod" in map(ast.unparse, decorators)
        case ast.IfExp(body=body, orelse=orelse):
            return any(
                isinstance(part, ast.JoinedStr) or " " in str(getattr(part, "value", "")) for part in (body, orelse)
            )
        case ast.If(test=test):
            return ast.unparse(test) == "TYPE_CHECKING"
    return False


def walk(
    node: ast.AST, statement: ast.stmt | None = None, function: str = ""
) -> Iterator[tuple[ast.AST, ast.stmt | None, str]]:
    """Every node that may be changed, with its innermost statement and function."""
    if is_skipped(node):
        return
    statement = node if isinstance(node, ast.stmt) else statement
    yield node, statement, function
    for name, value in ast.iter_fields(node):
        inner = node.name if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and name == "body" else function
        if name not in FIELDS and not (isinstance(node, ast.AnnAssign) and name == "target"):
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from walk(child, statement, inner)


def make_mutants(path: Path) -> Iterator[Mutant]:
    """Every mutant of one file."""
    source = path.read_bytes()
    tree, rows = ast.parse(source), source.splitlines(keepends=True)
    for node, statement, function in walk(tree):
        for kind, old, new in propose_changes(node):
            if kind == "dropped" and function == "__init__" and not isinstance(old, ast.If):
                continue  # an attribute that is missing is found by whatever reads it
            code = ast.unparse(ast.fix_missing_locations(copy.deepcopy(new)))
            if not isinstance(new, ast.stmt | ast.Constant | ast.Name | ast.Attribute):
                code = f"({code})"
            begin = sum(map(len, rows[: old.lineno - 1])) + old.col_offset
            end = sum(map(len, rows[: old.end_lineno - 1])) + old.end_col_offset
            text = (source[:begin] + code.encode() + source[end:]).decode()
            lines = range(statement.lineno, old.end_lineno + 1) if function else range(1, len(rows) + 1)
            yield Mutant(path=path, kind=kind, line=old.lineno, statement=lines, text=text)


def choose_mutants(files: list[Path], number: int, seed: str) -> list[Mutant]:
    """A number of mutants of these files, as many of each kind as there are, no two of one line."""
    shuffle, kinds = random.Random(seed).shuffle, defaultdict[str, list[Mutant]](list)
    for mutant in (mutant for file in files for mutant in make_mutants(file)):
        kinds[mutant.kind].append(mutant)
    for mutants in kinds.values():
        shuffle(mutants)
    chosen = dict[tuple[Path, int], Mutant]()
    while any(kinds.values()):
        order = sorted(kind for kind, mutants in kinds.items() if mutants)
        shuffle(order)
        for kind in order:
            mutant = kinds[kind].pop()
            ast.parse(mutant.text)
            chosen.setdefault((mutant.path, mutant.line), mutant)
            if len(chosen) == number:
                return list(chosen.values())
    return list(chosen.values())
