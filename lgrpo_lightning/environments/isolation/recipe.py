"""What a process makes its environments from."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MethodType
from typing import Any

from lgrpo_lightning.environments.environment import Environment
from lgrpo_lightning.environments.tools import Tools
from lgrpo_lightning.errors import UserError
from lgrpo_lightning.registry.import_path import import_object


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """An environment that can be sent: pickled, or by import paths.

    Attributes:
        pickled: An ``Environment``; None: there are tools.
        functions: Import paths of functions that are tools.
        factory: Import path of what makes an object whose methods are tools; None: there is no object.
    """

    pickled: bytes | None = None
    functions: tuple[str, ...] = ()
    factory: str | None = None

    def make(self) -> ServedEnvironment | ServedTools:
        """A new one, in the process where it is to live."""
        if self.pickled is not None:
            return ServedEnvironment(pickle.loads(self.pickled))
        factory = None if self.factory is None else import_object(self.factory)
        return ServedTools(Tools([import_object(path) for path in self.functions], factory))


class ServedEnvironment:
    """An ``Environment`` in its process: what may be asked of it."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        self.respond, self.reward, self.close = environment.respond, environment.reward, environment.close

    @property
    def metrics(self) -> Mapping[str, float]:
        """What it counts."""
        return dict(getattr(self.environment, "metrics", {}))

    def reset(self, seed: int, columns: Mapping[str, Any]) -> tuple[str | None, list[dict[str, Any]]]:
        """(What it says first, its tools)."""
        self.environment.seed = seed
        observation = self.environment.reset(columns)
        return observation, refer_to_tools(self.environment.tools)


class ServedTools:
    """Tools in their process: what may be asked of them."""

    metrics: Mapping[str, float] = {}

    def __init__(self, tools: Tools) -> None:
        self.tools, self.call, self.reward = tools, tools.call, tools.reward

    def reset(self, seed: int, columns: Mapping[str, Any]) -> tuple[str | None, list[dict[str, Any]]]:
        """(What their object says first, no tools: they are known)."""
        return self.tools.reset(columns), []

    def close(self) -> None:
        """Nothing: an object of TRL's conventions has no end."""


def refer_to_tools(tools: Sequence[Callable[..., Any]]) -> list[dict[str, Any]]:
    """The tools of an environment by their modules and names, as ``find_tool`` reads them.

    Raises:
        TypeError: One cannot be found by its name in another process.
    """
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

    Raises:
        TypeError: It is not there.
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
