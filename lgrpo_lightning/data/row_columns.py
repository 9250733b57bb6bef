"""Columns of a row that say how its prompt is shown, as in TRL's formats: ``tools``, ``chat_template_kwargs``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lgrpo_lightning.data.chats import without_nulls
from lgrpo_lightning.data.json_text import parsed
from lgrpo_lightning.errors import UserError

SETTLED = (
    "add_generation_prompt",
    "continue_final_message",
    "conversation",
    "return_dict",
    "return_tensors",
    "tokenize",
)
"""Arguments of ``apply_chat_template`` that are this library's."""


def check_template_kwargs(given: Mapping[str, Any], where: str = "data.chat_template_kwargs") -> None:
    """Refuse arguments of the chat template that are settled here.

    Raises:
        ValueError: Naming them.
    """
    if clash := sorted(set(SETTLED) & set(given)):
        raise UserError(
            f"{where} has {', '.join(clash)}, which is settled here: a turn of the assistant is "
            "opened, or gone on with where the last message is the assistant's. Leave it out."
        )


def template_arguments(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Arguments for the chat template that the row itself has; they go before the run's.

    Raises:
        ValueError: A column is of another form, or has what no template takes; naming ``where``.

    >>> template_arguments({"answer": 2, "chat_template_kwargs": {"enable_thinking": False}}, "row 0")
    {'enable_thinking': False}
    """
    found = _column(row, "chat_template_kwargs") or {}
    if not isinstance(found, Mapping):
        raise UserError(f"{where}: column 'chat_template_kwargs' is {found!r}; it must be an object.")
    check_template_kwargs(found, f"{where}: column 'chat_template_kwargs'")
    tools = _column(row, "tools")
    if not tools:
        return dict(found)
    if not isinstance(tools, list | tuple) or not all(isinstance(tool, Mapping) for tool in tools):
        raise UserError(
            f"{where}: column 'tools' is {tools!r}; it must be a list of objects that describe functions, which the "
            "chat template shows to the model. Give the column another name where it is for the rewards."
        )
    return {**found, "tools": [_described(tool) for tool in tools]}


def _column(row: Mapping[str, Any], name: str) -> Any:
    """A column, also where it, or what is in it, is JSON text; tables fill objects up with nulls."""
    given = row.get(name)
    if isinstance(given, list | tuple):
        return [parsed(item) if isinstance(item, str) else without_nulls(item) for item in given]
    return parsed(given) if isinstance(given, str) else without_nulls(given)


def _described(tool: Mapping[str, Any]) -> dict[str, Any]:
    """A tool with its parameters as an object."""
    inner = tool.get("function")
    if isinstance(inner, Mapping):
        return {**tool, "function": _described(inner)}
    return {**tool, **({"parameters": parsed(tool["parameters"])} if "parameters" in tool else {})}


def refuse_images(row: Mapping[str, Any], where: str) -> None:
    """Refuse a row with images: the model would read its text alone.

    Raises:
        ValueError: Naming the column.
    """
    for name in ("image", "images"):
        if (given := row.get(name)) is not None and given != [] and given != "":
            raise UserError(
                f"{where}: column {name!r} holds a {type(given).__name__}, and models read text only here. Leave the "
                "column out of the data, or give it another name where it is for the rewards."
            )
