"""Prompts with more context, which only a teacher reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from string import Formatter
from typing import Any

from lgrpo_lightning.errors import UserError
from lgrpo_lightning.types import Message


def complete_context(key: str, context: str) -> str:
    r"""The template of a context: itself, or that of a column's name.

    >>> complete_context("context", "solution")
    '{prompt}\n\n{solution}'
    """
    template = context if {"{", "}"} & {*context} else f"{{prompt}}\n\n{{{context}}}"
    try:
        names = {name for _, name in _parse(template) if name is not None}
    except ValueError as error:
        raise UserError(
            f"{key} is {context!r}, which is no template: {error}. A brace itself is {{{{ or }}}}."
        ) from error
    if "prompt" not in names or len(names) == 1:
        raise UserError(
            f"{key} is {context!r}; it must be the name of a column, such as solution, or a template with {{prompt}} "
            "and at least one column, such as '{prompt}\\n\\nSolution: {solution}'."
        )
    return template


def list_columns(template: str) -> tuple[str, ...]:
    """The columns that a template names.

    >>> list_columns("{prompt} is {answer}, as {solution}")
    ('answer', 'solution')
    """
    return tuple(dict.fromkeys(name for _, name in _parse(template) if name not in (None, "prompt")))


def check_context(owner: str, template: str, row: Mapping[str, Any]) -> None:
    """Refuse a row that has nothing to say in one of the columns."""
    for column in list_columns(template):
        value = row[column]
        if isinstance(value, bool) or not isinstance(value, str | int | float) or not str(value).strip():
            raise UserError(
                f"{owner} reads column {column!r}, which is {value!r}; it must be a text that is not empty, or a "
                "number. Fill it, or leave the row out."
            )


def add_context(
    template: str, prompt: str, messages: Sequence[Message] | None, row: Mapping[str, Any], where: str
) -> tuple[str, tuple[Message, ...] | None]:
    """(the text, the messages) of a prompt with its context; in a chat that is part of the last user message."""
    if messages is None:
        return _fill(template, prompt, row), None
    at = max((i for i, message in enumerate(messages) if message["role"] == "user"), default=None)
    if at is None:
        raise UserError(f"{where}: no message is a user's, so that there is none to add a teacher's context to.")
    told = {**messages[at], "content": _fill(template, messages[at]["content"], row)}
    return prompt, (*messages[:at], told, *messages[at + 1 :])


def _fill(template: str, prompt: str, row: Mapping[str, Any]) -> str:
    values = {**row, "prompt": prompt}
    return "".join(text + ("" if name is None else str(values[name])) for text, name in _parse(template))


def _parse(template: str) -> Iterator[tuple[str, str | None]]:
    """(literal text, the column after it)."""
    for text, name, form, conversion in Formatter().parse(template):
        if name == "" or form or conversion:
            raise ValueError("braces hold the name of a column and nothing else")
        yield text, name
