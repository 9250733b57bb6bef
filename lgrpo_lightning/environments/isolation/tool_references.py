"""The tools of an environment by module and name: the training process describes them, and runs nothing it is sent."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from types import MethodType
from typing import Any

from lgrpo_lightning.errors import UserError


def refer_to_tools(tools: Sequence[Callable[..., Any]]) -> list[dict[str, Any]]:
    """References to functions or methods, for ``find_tool``; an error where a name does not lead to the tool."""
    references = []
    for tool in tools:
        owner = getattr(tool, "__self__", None)
        method = owner is not None and not isinstance(owner, type) and hasattr(tool, "__func__")
        function = tool.__func__ if method else tool  # type: ignore[attr-defined]
        module = str(getattr(function, "__module__", ""))
        name = str(getattr(function, "__qualname__", ""))
        try:
            if _find(module, name) != function:
                raise LookupError("it is not what has this name")
        except (LookupError, AttributeError) as error:
            shown = getattr(tool, "__name__", repr(tool))
            raise UserError(
                f"the tool {shown!r} cannot be described to another process ({error}): define it as a function of a "
                "module, or as a method of a class there"
            ) from error
        references.append({"module": module, "name": name, "method": method})
    return references


def find_tool(reference: Mapping[str, Any]) -> Callable[..., Any]:
    """A function, or method of nothing, with a tool's name, signature and docstring; not to be called.

    It is looked for in modules that are imported already: what a process of environments says imports nothing.
    """
    try:
        function = _find(str(reference["module"]), str(reference["name"]))
    except (LookupError, AttributeError) as error:
        raise UserError(
            f"the tool {reference['name']!r} of module {reference['module']!r} cannot be described ({error!r}): import "
            "its module where the environment's class is defined"
        ) from error
    return MethodType(function, object()) if reference["method"] else function


def _find(module: str, name: str) -> Any:
    value: Any = sys.modules[module]
    for part in name.split("."):
        value = getattr(value, part)
    return value
