"""Columns of a row that say how its prompt is shown, as in TRL's formats: ``tools``, ``chat_template_kwargs``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lgrpo_lightning.data.chats import drop_nulls
from lgrpo_lightning.data.json_text import change_function, parse_json
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


def check_template_kwargs(kwargs: Mapping[str, Any], where: str = "data.chat_template_kwargs") -> None:
    """Refuse arguments of the chat template that are settled here."""
    if clash := sorted(set(SETTLED) & set(kwargs)):
        raise UserError(
            f"{where} has {', '.join(clash)}, which is settled here: a turn of the assistant is "
            "opened, or gone on with where the last message is the assistant's. Leave it out."
        )


def read_template_arguments(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Arguments for the chat template that the row itself has; they go before the run's.

    >>> read_template_arguments({"answer": 2, "chat_template_kwargs": {"enable_thinking": False}}, "row 0")
    {'enable_thinking': False}
    """
    arguments = _read_column(row, "chat_template_kwargs") or {}
    if not isinstance(arguments, Mapping):
        raise UserError(f"{where}: column 'chat_template_kwargs' is {arguments!r}; it must be an object.")
    check_template_kwargs(arguments, f"{where}: column 'chat_template_kwargs'")
    tools = _read_column(row, "tools")
    if not tools:
        return dict(arguments)
    if not isinstance(tools, list | tuple) or not all(isinstance(tool, Mapping) for tool in tools):
        raise UserError(
            f"{where}: column 'tools' is {tools!r}; it must be a list of objects that describe functions, which the "
            "chat template shows to the model. Give the column another name where it is for the rewards."
        )
    return {**arguments, "tools": [change_function(tool, _parse_parameters) for tool in tools]}


def _read_column(row: Mapping[str, Any], name: str) -> Any:
    """A column, also where it, or what is in it, is JSON text; tables fill objects up with nulls."""
    value = row.get(name)
    if isinstance(value, list | tuple):
        return [parse_json(item) if isinstance(item, str) else drop_nulls(item) for item in value]
    return parse_json(value) if isinstance(value, str) else drop_nulls(value)


def _parse_parameters(function: Mapping[str, Any]) -> dict[str, Any]:
    return {name: parse_json(value) if name == "parameters" else value for name, value in function.items()}


def refuse_images(row: Mapping[str, Any], where: str) -> None:
    """Refuse a row with images: the model would read its text alone."""
    for name in ("image", "images"):
        if (images := row.get(name)) is not None and images != [] and images != "":
            raise UserError(
                f"{where}: column {name!r} holds a {type(images).__name__}, and models read text only here. Leave the "
                "column out of the data, or give it another name where it is for the rewards."
            )
