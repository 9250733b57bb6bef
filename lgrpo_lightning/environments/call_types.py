"""Arguments that a model writes as bare text, as what the tool's schema says they are."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from lgrpo_lightning.environments.tool_call import ToolCall

TYPES: Mapping[str, tuple[type, ...]] = {
    "integer": (int,), "number": (int, float), "boolean": (bool,), "object": (dict,), "array": (list,),
    "null": (type(None),),
}  # fmt: skip
PYTHON = {"True": True, "False": False, "None": None}


def describe_tools(tools: Sequence[Any]) -> list[dict[str, Any]]:
    """Tools as the chat template gets them: what is a function is described by its type hints and docstring."""
    from transformers.utils import get_json_schema

    return [dict(tool) if isinstance(tool, Mapping) else get_json_schema(tool) for tool in tools]


def list_names(tools: Sequence[Any]) -> list[str]:
    """The tools' names, without their descriptions being read."""
    return [str((t.get("function") or t).get("name")) if isinstance(t, Mapping) else t.__name__ for t in tools]


def convert_arguments(call: ToolCall, tools: Sequence[Any]) -> ToolCall:
    """``call``, whose arguments are texts, with each as its tool's schema says."""
    mine = [tool for tool, name in zip(tools, list_names(tools), strict=True) if name == call.name]
    if call.problem or not mine:
        return call
    function = describe_tools(mine)[0]
    known = (function.get("function") or function).get("parameters", {}).get("properties", {})
    return replace(call, arguments={k: convert(v, known.get(k, {})) for k, v in call.arguments.items()})


def convert(text: str, schema: Mapping[str, Any]) -> Any:
    """What ``text`` stands for. It stays text where the schema says so, or where it is not JSON.

    >>> convert("75001", {"type": "string"}), convert("75001", {"type": "integer"}), convert("True", {})
    ('75001', 75001, True)
    >>> convert("null", {"type": "string", "nullable": True}), convert("[1]", {})
    (None, [1])
    """
    kinds = _list_kinds(schema)
    try:
        parsed = PYTHON[text.strip()] if text.strip() in PYTHON else json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return text
    if "string" not in kinds:
        return parsed
    others = tuple(kind for name in kinds for kind in TYPES.get(name, ()))
    return parsed if type(parsed) in others else text


def _list_kinds(schema: Mapping[str, Any]) -> set[str]:
    """The types that a schema allows."""
    own = schema.get("type", [])
    kinds = {own} if isinstance(own, str) else set(own)
    for union in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
        kinds |= _list_kinds(union)
    return kinds | ({"null"} if schema.get("nullable") else set())
