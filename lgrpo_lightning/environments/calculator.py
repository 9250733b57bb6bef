"""A calculator as a tool, by TRL's conventions: ``tools: [lgrpo_lightning.environments.calculator.calculate]``."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping
from fractions import Fraction

LONGEST = 200
"""Characters of the longest expression."""

OPERATIONS: Mapping[type, Callable[..., Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}


def calculate(expression: str) -> str:
    """Work out an expression of numbers, +, -, *, / and brackets.

    Args:
        expression: What to work out.

    Returns:
        Its value, exactly; a fraction where it is no whole number.

    Raises:
        ValueError: It is no such expression, it is too long, or it divides by zero.

    >>> calculate("12+7*(30-5)"), calculate("1/2+0.25")
    ('187', '3/4')
    """
    if len(expression) > LONGEST:
        raise ValueError(f"the expression has {len(expression)} characters; at most {LONGEST} are possible")
    expression = expression.strip()
    try:
        return str(_evaluate(ast.parse(expression, mode="eval").body, expression))
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"{expression!r} is no expression") from error
    except ZeroDivisionError as error:
        raise ValueError(f"{expression!r} divides by zero") from error


def _evaluate(node: ast.expr, expression: str) -> Fraction:
    """The value of a part of ``expression``; nothing but numbers and the operations is run."""
    if isinstance(node, ast.Constant):
        written = ast.get_source_segment(expression, node) or ""
        if re.fullmatch(r"\d+\.?\d*|\.\d+", written, re.ASCII):  # as it is written, so that 0.1 is a tenth
            return Fraction(written)
    if isinstance(node, ast.BinOp) and (operation := OPERATIONS.get(type(node.op))):
        return operation(_evaluate(node.left, expression), _evaluate(node.right, expression))
    if isinstance(node, ast.UnaryOp) and (operation := OPERATIONS.get(type(node.op))):
        return operation(_evaluate(node.operand, expression))
    raise ValueError(f"{expression!r} has something else in it than numbers, +, -, *, / and brackets")
